"""The benchmark of false alarms: frames of the statistics it promises, a table of its record."""

import numpy as np
import pytest


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("false_alarms")


def test_frames_are_stationary_and_as_correlated_as_promised(benchmark):
    rng = np.random.default_rng(0)
    frames = benchmark.hopping(rng, 4000, 41, relaxation=20.0, right=0.3)
    right = frames[..., 0, 0] > 0.0
    for step in (0, 20, 40):
        assert right[:, step].mean() == pytest.approx(0.3, abs=0.03)
    correlation = np.corrcoef(right[:, 0], right[:, 40])[0, 1]
    assert correlation == pytest.approx(np.exp(-2.0), abs=0.06)
    assert frames[..., 0, 1].std() == pytest.approx(1.0, abs=0.03)


def test_verdicts_are_counted(benchmark):
    found = benchmark.measure(benchmark.DIFFERENT[0], 2)
    assert found["verdicts"] == {"NOT consistent": 2}
    assert 0.01 < found["visible_from"] < 0.1


def test_section_of_the_page(benchmark):
    entry = {
        "case": "a, b",
        "draws": 50,
        "verdicts": {"consistent": 48, "NOT consistent": 2},
        "visible_from": 0.061,
        "effective_frames": [1234.4, 17.2],
    }
    text = benchmark.text_of({"same": [entry, entry], "different": [entry]})
    assert "(4 false alarms in 100 draws, 4.0%)" in text
    assert text.count("| a, b | 1,234, 17 | 50 | 96.0% | 0.0% | 4.0% | 6% |") == 3
