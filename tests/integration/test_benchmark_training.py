"""The training benchmark runs, and its table and record belong together; no timing is tested."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/training.py"


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("training")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Output of a smoke run, and its record."""
    output = tmp_path_factory.mktemp("benchmark") / "new" / "training.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--threads", "1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=output.parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text())


@pytest.mark.slow
def test_every_variant_is_timed(smoke, benchmark):
    _, record = smoke
    assert record["benchmark"] == "training"
    assert record["threads"] == 1
    assert {"processor", "cores", "load_before"} <= set(record["hardware"])
    expected = [(case.name, list(case.losses)) for case in benchmark.all_cases()]
    found = [(case["name"], [r["loss"] for r in case["results"]]) for case in record["cases"]]
    assert found == expected
    assert [case["n_beads"] for case in record["cases"]] == [1, 1, 5, 5, 10]


@pytest.mark.slow
def test_columns_are_consistent(smoke, benchmark):
    _, record = smoke
    for case in record["cases"]:
        plain = case["results"][0]
        assert plain["loss"] == "denoising"
        for row in case["results"]:
            seconds = 1e-3 * row["ms_per_step"]
            assert row["samples_per_s"] == pytest.approx(case["batch_size"] / seconds)
            ratio = row["ms_per_step"] / plain["ms_per_step"]
            assert row["ratio_to_denoising"] == pytest.approx(ratio)
            rate = 1e9 * case["matrix_product_gflop_per_s"]
            assert row["utilisation"] == pytest.approx(row["flop_per_step"] / seconds / rate)
            assert len(row["samples_ms"]) == benchmark.SMOKE.rounds
            # The residual is more work.
            assert (row["flop_per_step"] > plain["flop_per_step"]) == (row is not plain)


@pytest.mark.slow
def test_table_fits_a_terminal(smoke):
    text, record = smoke
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for case in record["cases"]:
        assert case["name"] in text


def test_cases_are_those_of_the_examples_and_of_the_paper(benchmark):
    cases = {case.name: case.losses for case in benchmark.all_cases()}
    ours = cases["5 beads, both-fast"]["centred"]
    assert (ours.network.heads, ours.network.head_dim, ours.batch_size) == (4, 32, 256)
    assert ours.fokker_planck.fraction == 0.375
    regional = cases["5 beads, both-fast"]["regional"]
    assert regional.fokker_planck.region_alpha > 0.0
    assert regional.network == ours.network
    planar = cases["MLP, both-fast"]["centred"]
    assert (planar.network.hidden_dims, planar.batch_size) == ((92, 92, 92), 512)
    published = cases["10 beads, published"]["weak"]
    assert (published.network.hidden_dim, published.network.layers) == (128, 3)
    assert published.fokker_planck.fraction == 1.0
    for losses in cases.values():
        assert losses["denoising"].fokker_planck.alpha == 0.0


def test_operations_are_those_of_a_perceptron_counted_by_hand(benchmark, tmp_path):
    case = next(case for case in benchmark.all_cases() if case.name == "MLP, published")
    trainer = benchmark.make_trainer(case, case.losses["denoising"], benchmark.EAGER, tmp_path)
    # Forward; gradient of the energy; and twice both for the gradient of that.
    weights = 6 * 64 + 2 * 64 * 64 + 64
    assert benchmark.flop_per_step(trainer) == pytest.approx(12 * weights * 128, rel=0.05)


def test_public_code_is_asked_for_by_name(benchmark, tmp_path):
    with pytest.raises(SystemExit, match="takes a checkout of"):
        benchmark.training_jax.check(tmp_path)
    (tmp_path / "src" / "scoremd" / "models").mkdir(parents=True)
    if importlib.util.find_spec("jax") is None:
        with pytest.raises(SystemExit, match="needs jax"):
            benchmark.training_jax.check(tmp_path)
