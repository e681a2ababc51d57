"""Harmonic wells in d dimensions, for which everything is known."""

import os
import sys

import numpy as np
import pytest

from openmm_scoremd.analysis.statistics.reweighting import independent_frames, reweight
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.units import thermal_energy

KT = thermal_energy(300.0)
STIFFNESS, DIMENSIONS = 500.0, 3


def well(scale, n, *, seed=0):
    """Frames (n, d), nm, of a well whose potential has this factor, and their plain energies."""
    random = np.random.default_rng([seed, int(1000 * scale)])
    width = np.sqrt(KT / (scale * STIFFNESS))
    frames = random.normal(scale=width, size=(n, DIMENSIONS))
    return frames, 0.5 * STIFFNESS * (frames**2).sum(axis=1)


@pytest.fixture
def wells():
    """Factors, frames and energies of three runs."""
    scales = (0.4, 0.7, 1.4)
    return scales, *zip(*(well(scale, 2000) for scale in scales), strict=True)


@pytest.mark.parametrize("offset", [0.0, -1.1e6])
def test_free_energies_of_wells(wells, offset):
    scales, _, energies = wells
    found = reweight([run + offset for run in energies], scales, temperature=300.0)
    expected = 0.5 * DIMENSIONS * np.log(scales) + (np.array(scales) - 1.0) * offset / KT
    np.testing.assert_allclose(found.free_energies, expected, atol=4 * found.errors.max())
    assert 0.0 < found.errors.max() < 0.05


@pytest.mark.parametrize("target", [1.0, 0.8])
def test_averages_are_those_of_the_target(wells, target):
    scales, frames, energies = wells
    found = reweight(energies, scales, temperature=300.0, target=target)
    square = (np.concatenate(frames) ** 2).sum(axis=1)
    mean, error = found.average(square)
    expected = DIMENSIONS * KT / (target * STIFFNESS)
    assert error < 0.03 * expected
    assert abs(mean - expected) < 4 * error
    assert mean == pytest.approx(found.weights @ square)
    assert found.weights.sum() == pytest.approx(1.0)
    assert 1000 < found.effective_frames < 6000


def test_average_of_what_never_changes(wells):
    scales, _, energies = wells
    found = reweight(energies, scales, temperature=300.0)
    assert found.average(np.full(6000, 2.5)) == (2.5, 0.0)
    share, error = found.average(np.concatenate(wells[1])[:, 0] > 0.0)
    assert share == pytest.approx(0.5, abs=4 * error)


def test_errors_are_those_of_repetitions():
    means, errors = [], []
    for seed in range(20):
        runs = [well(scale, 300, seed=seed) for scale in (0.5, 0.8)]
        found = reweight([energies for _, energies in runs], (0.5, 0.8), temperature=300.0)
        mean, error = found.average(np.concatenate([frames for frames, _ in runs])[:, 0] ** 2)
        means.append(mean)
        errors.append(error)
    assert np.std(means, ddof=1) == pytest.approx(np.mean(errors), rel=0.6)


def test_runs_that_do_not_reach_the_target_are_told(caplog):
    _, energies = well(0.1, 200)
    reweight([energies], [0.1], temperature=300.0, target=1.0)
    assert "of 200 frames count for factor 1" in caplog.text


class TestOverlap:
    """A harmonic molecule: U is gamma-distributed, F = degrees / 2 ln(factor)."""

    DEGREES = 12

    def runs(self, scales, n=1000):
        random = np.random.default_rng(0)
        return [random.gamma(self.DEGREES / 2, KT / scale, size=n) for scale in scales]

    def test_runs_with_enough(self, caplog):
        found = reweight(self.runs((1.0, 0.5)), (1.0, 0.5), temperature=300.0)
        expected = self.DEGREES / 2 * np.log([1.0, 0.5])
        np.testing.assert_allclose(found.free_energies, expected, atol=4 * found.errors.max())
        assert caplog.text == ""

    def test_runs_without(self):
        # pymbar says 0 and -58 with errors of zero; -27.6 is true.
        with pytest.raises(InvalidInputError, match=r"factors 1 and at 0\.01 have no frames in"):
            reweight(self.runs((1.0, 0.01)), (1.0, 0.01), temperature=300.0)
        # Two groups that each hold together.
        scales = (1.0, 0.01, 0.7, 0.007)
        with pytest.raises(InvalidInputError, match=r"factors 1, 0\.7 and at 0\.01, 0\.007 have"):
            reweight(self.runs(scales), scales, temperature=300.0)
        far = [np.random.default_rng(0).normal(energy, 1.0, 500) for energy in (-1e3, 1e3)]
        with pytest.raises(InvalidInputError, match="no frames in common"):
            reweight(far, (1.0, 0.1), temperature=300.0)

    def test_a_run_in_between_links_them(self, caplog):
        scales = (1.0, 0.3, 0.1, 0.03, 0.01)
        found = reweight(self.runs(scales), scales, temperature=300.0)
        expected = self.DEGREES / 2 * np.log(scales)
        np.testing.assert_allclose(found.free_energies, expected, atol=4 * found.errors.max())
        assert caplog.text == ""

    def test_runs_with_few_are_told(self, caplog):
        found = reweight(self.runs((1.0, 0.1)), (1.0, 0.1), temperature=300.0)
        assert "fewer than 10 frames in common" in caplog.text
        expected = self.DEGREES / 2 * np.log(0.1)
        assert found.free_energies[1] == pytest.approx(expected, abs=4 * found.errors[1])

    def test_target_without(self):
        with pytest.raises(InvalidInputError, match="one of 1000 frames rules the average"):
            reweight(self.runs((0.01,)), (0.01,), temperature=300.0)


def test_correlated_series_are_thinned():
    random = np.random.default_rng(0)
    series = np.zeros(20_000)
    for i in range(1, len(series)):
        series[i] = 0.9 * series[i - 1] + random.normal()
    # Statistical inefficiency of this process: (1 + 0.9) / (1 - 0.9) = 19.
    assert len(independent_frames(series)) == pytest.approx(20_000 / 19, rel=0.3)
    assert list(independent_frames(np.ones(5))) == [0]


@pytest.mark.parametrize(
    ("energies", "scales", "message"),
    [
        ([], [], "there are no runs"),
        ([[1.0]], [1.0, 2.0], "1 runs and 2 factors"),
        ([[1.0, np.nan]], [1.0], "run 0 has shape"),
        ([[]], [1.0], "run 0 has shape"),
        ([[[1.0]]], [1.0], "run 0 has shape"),
        ([[1.0]], [0.0], "factor of a potential is 0"),
    ],
)
def test_bad_input(energies, scales, message):
    with pytest.raises(InvalidInputError, match=message):
        reweight(energies, scales, temperature=300.0)


def test_values_must_fit(wells):
    scales, _, energies = wells
    with pytest.raises(InvalidInputError, match="one finite number for each of 6000 frames"):
        reweight(energies, scales, temperature=300.0).average([1.0])


def test_environment_is_left_as_it_was(wells):
    before = dict(os.environ)
    reweight(wells[2], wells[0], temperature=300.0)
    assert dict(os.environ) == before


def test_without_pymbar(monkeypatch, wells):
    monkeypatch.setitem(sys.modules, "pymbar", None)
    with pytest.raises(MissingDependencyError, match=r"openmm-scoremd\[reweighting\]"):
        reweight(wells[2], wells[0], temperature=300.0)
