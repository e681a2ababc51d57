"""Fokker-Planck errors of energies that are known, over time and frame by frame."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, InvalidInputError, NumericalError
from openmm_scoremd.evaluation.fokker_planck import error_table, fokker_planck_error, frame_errors
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture

SCHEDULE = VPSchedule()
TIMES = [1e-5, 1e-3, 0.03, 0.2, 0.7, 1.0]
#: Beads and dimensions of "mlp-beads" of conftest.py; its scale in nm.
N_BEADS, N_DIMS, SCALE = 3, 3, 0.09
D = N_BEADS * N_DIMS
#: Standard deviation of the data, standardised units.
WIDTH = 0.4


class NoisedGaussian(EnergyModel):
    """Energy of noised Gaussian data, times a factor, plus what a test adds."""

    translation_invariant = False

    def __init__(self, *, factor=1.0, extra=None, t_min=0.0, t_max=1.0):
        super().__init__(n_beads=N_BEADS, n_dims=N_DIMS, t_min=t_min, t_max=t_max)
        self.factor = factor
        self.extra = extra
        self.seen = []

    def __deepcopy__(self, memo):  # so that what the copy sees is seen here
        return self

    def energy(self, x, t, features=None):
        self.seen.append((x.detach(), t.detach()))
        variance = variance_at(t)
        constant = 0.5 * D * torch.log(2.0 * math.pi * variance)
        energy = self.factor * (0.5 * x.square().sum(dim=(1, 2)) / variance + constant)
        return energy if self.extra is None else energy + self.extra(x, t)


class Direct(ScoreModel):
    """A network without an energy, which nobody may ask."""

    translation_invariant = False

    def score(self, x, t, features=None):
        pytest.fail("a direct expert has no residual")


def variance_at(t):
    return (SCHEDULE.alpha(t) * WIDTH) ** 2 + SCHEDULE.sigma(t) ** 2


@pytest.fixture
def trained(make_trained):
    """Return a function that gives a model the description of a trained network."""
    return lambda model: dataclasses.replace(make_trained("mlp-beads"), model=model)


@pytest.fixture(scope="module")
def positions():
    return SCALE * WIDTH * np.random.default_rng(0).normal(size=(4000, N_BEADS, N_DIMS))


def residual_of_the_algebra(x, t, factor):
    """Of f log p: beta/2 (1 - f) (d - f s**2) with the score s of p."""
    squared = x.square().sum(dim=(1, 2)) / variance_at(t) ** 2
    return (0.5 * SCHEDULE.beta(t) * (1.0 - factor) * (D - factor * squared)).numpy() / D


# --- Over time -------------------------------------------------------------------------------


def test_the_exact_energy_has_no_error(trained, positions):
    found = fokker_planck_error(trained(NoisedGaussian()), positions, times=TIMES, n_frames=50)
    np.testing.assert_array_equal(found.t, TIMES)
    assert found.n_frames == 50
    for values in (found.mean_absolute, found.centred, found.standard_deviation):
        assert values.shape == (len(TIMES),)
        assert np.abs(values).max() < 1e-12


def test_a_scaled_energy_has_the_errors_of_the_algebra(trained, positions):
    model = NoisedGaussian(factor=1.1)
    found = fokker_planck_error(
        trained(model), positions, times=TIMES, n_frames=30, batch_size=30, seed=4
    )
    assert [float(t[0]) for _, t in model.seen] == TIMES
    for i, (x, t) in enumerate(model.seen):
        residual = residual_of_the_algebra(x, t, 1.1)
        centred = np.abs(residual - np.median(residual))
        expected = (
            np.abs(residual).mean(), np.abs(residual).std(ddof=1) / 30**0.5,
            centred.mean(), centred.std(ddof=1) / 30**0.5, residual.std(ddof=1),
        )  # fmt: skip
        columns = dataclasses.astuple(found)[2:]
        np.testing.assert_allclose([column[i] for column in columns], expected, rtol=1e-9)


def test_a_scaled_energy_has_the_expected_error_within_its_own(trained, positions):
    factor = 1.1
    found = fokker_planck_error(
        trained(NoisedGaussian(factor=factor)), positions, times=TIMES, n_frames=3000
    )
    # Of noised data, |x|**2 / variance is chi-square distributed.
    chi2 = stats.chi2(D)
    for i, t in enumerate(torch.tensor(TIMES, dtype=torch.float64)):
        variance, rate = float(variance_at(t)), 0.5 * float(SCHEDULE.beta(t)) * (factor - 1.0)
        plain = chi2.expect(lambda q, v=variance: abs(1.0 - factor * q / (D * v)))
        centred = chi2.expect(lambda q: abs(q - chi2.median())) * factor / (D * variance)
        assert abs(found.mean_absolute[i] - rate * plain) < 4.0 * found.mean_absolute_error[i]
        assert abs(found.centred[i] - rate * centred) < 4.0 * found.centred_error[i]
        assert found.centred_error[i] < 0.05 * found.centred[i]


def test_a_constant_that_changes_with_time_is_no_centred_error(trained, positions):
    def drifting(_, t):
        return 500.0 * torch.sin(3.0 * t)

    wrong = fokker_planck_error(
        trained(NoisedGaussian(factor=1.1, extra=drifting)), positions, times=TIMES, n_frames=40
    )
    without = fokker_planck_error(
        trained(NoisedGaussian(factor=1.1)), positions, times=TIMES, n_frames=40
    )
    np.testing.assert_allclose(wrong.centred, without.centred, rtol=1e-6)
    np.testing.assert_allclose(wrong.standard_deviation, without.standard_deviation, rtol=1e-6)
    shift = 1500.0 * np.abs(np.cos(3.0 * np.array(TIMES))) / D
    np.testing.assert_allclose(wrong.mean_absolute, shift, atol=2.0 * without.mean_absolute.max())
    assert wrong.mean_absolute.min() > 20.0


def test_frames_are_noised_data(trained, positions):
    model = NoisedGaussian()
    fokker_planck_error(trained(model), positions, times=TIMES, n_frames=2000, batch_size=2000)
    for x, t in model.seen:
        assert float(x.var()) == pytest.approx(float(variance_at(t[:1])), rel=0.05)
        assert len(x.unique(dim=0)) == 2000


def test_batches_change_nothing_and_the_seed_something(trained, positions):
    model = trained(NoisedGaussian(factor=1.1))
    options = {"times": TIMES[:3], "n_frames": 11}
    whole = fokker_planck_error(model, positions, **options)
    parts = fokker_planck_error(model, positions, batch_size=4, **options)
    other = fokker_planck_error(model, positions, seed=1, **options)
    np.testing.assert_allclose(parts.centred, whole.centred, rtol=1e-12)
    assert (np.abs(other.centred / whole.centred - 1.0) > 1e-3).all()


def test_more_frames_than_there_are(trained, positions):
    model = NoisedGaussian()
    fokker_planck_error(trained(model), positions[:5], times=[0.1], n_frames=20)
    ((x, _),) = model.seen
    assert len(x.unique(dim=0)) == 20  # each has noise of its own


def test_progress(trained, positions):
    calls = []
    fokker_planck_error(
        trained(NoisedGaussian()),
        positions,
        times=[0.1, 0.2],
        n_frames=2,
        progress=lambda *c: calls.append(c),
    )
    assert calls == [(1, 2), (2, 2)]


def test_networks_in_single_precision_are_measured_in_double(make_trained):
    single = make_trained("graph-noise-level")
    positions = 0.09 * np.random.default_rng(0).normal(size=(6, 5, 3))
    options = {"times": [1e-5, 0.1], "n_frames": 6}
    found = fokker_planck_error(single, positions, **options)
    expected = fokker_planck_error(
        dataclasses.replace(single, model=single.model.double()), positions, **options
    )
    np.testing.assert_array_equal(found.mean_absolute, expected.mean_absolute)
    single.model.float()
    assert all(p.requires_grad for p in single.model.parameters())


# --- Mixtures --------------------------------------------------------------------------------


@pytest.fixture
def mixture(trained):
    """Conservative experts with a direct one between them."""
    low, high = NoisedGaussian(factor=1.1), NoisedGaussian()
    direct = Direct(n_beads=N_BEADS, n_dims=N_DIMS, t_min=0.0, t_max=1.0)
    experts = [Expert(low, 1e-4, 0.1), Expert(direct, 0.1, 0.6), Expert(high, 0.6, 1.0)]
    return trained(TimePartitionedMixture(experts))


def test_the_expert_that_serves_a_time_is_measured_and_direct_ones_are_left_out(
    mixture, trained, positions
):
    times = [1e-5, 1e-4, 0.05, 0.1, 0.3, 0.6, 0.61, 1.0]
    found = fokker_planck_error(mixture, positions, times=times, n_frames=20)
    alone = fokker_planck_error(
        trained(NoisedGaussian(factor=1.1)), positions, times=times, n_frames=20
    )
    for name in ("mean_absolute", "centred", "centred_error", "standard_deviation"):
        values = getattr(found, name)
        assert np.isnan(values).tolist() == [True, *[False] * 3, True, True, False, False]
        np.testing.assert_allclose(values[1:4], getattr(alone, name)[1:4])
        assert values[6:].max() < 1e-12


def test_json_has_no_nan(mixture, positions):
    found = fokker_planck_error(mixture, positions, times=[0.05, 0.3], n_frames=4)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["t"] == [0.05, 0.3]
    assert content["n_frames"] == 4
    assert content["centred"] == [found.centred[0], None]
    assert len(content) == 7


def test_table(mixture, positions):
    found = fokker_planck_error(mixture, positions, times=np.geomspace(1e-4, 1, 9), n_frames=4)
    head, plain, centred = error_table({"some": found}).splitlines()
    assert head.split()[-5:] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert plain.split()[:2] == ["some", "plain"]
    assert centred.split()[2:] == [f"{v:.4g}" for v in found.centred[::2]]
    assert len({len(line) for line in (head, plain, centred)}) == 1


# --- Frame by frame --------------------------------------------------------------------------


def test_frames_in_a_wrong_region_stand_out(trained, positions):
    # The energy is wrong where the first coordinate is large.
    def bump(x, _):
        return 0.3 * torch.nn.functional.softplus(20.0 * (x[:, 0, 0] - 0.8))

    frames = positions[:200].copy()
    frames[::10, 0, 0] = 2.5 * SCALE
    frames[np.arange(200) % 10 != 0, 0, 0] = -0.5 * SCALE
    errors = frame_errors(trained(NoisedGaussian(extra=bump)), frames)
    assert errors.shape == (200,)
    assert errors[::10].min() > 100.0 * np.delete(errors, np.s_[::10]).max()


def test_frame_errors_are_means_over_draws(trained, positions):
    model = NoisedGaussian(factor=1.1)
    errors = frame_errors(trained(model), positions[:7], t=0.02, n_draws=3, seed=5)
    residuals = np.stack([residual_of_the_algebra(x, t, 1.1) for x, t in model.seen])
    assert residuals.shape == (3, 7)
    assert {float(t[0]) for _, t in model.seen} == {0.02}
    assert not torch.equal(model.seen[0][0], model.seen[1][0])
    expected = np.abs(residuals - np.median(residuals)).mean(axis=0)
    np.testing.assert_allclose(errors, expected, rtol=1e-9)


def test_frame_errors_of_a_mixture(mixture, trained, positions):
    found = frame_errors(mixture, positions[:9], t=0.05)
    alone = frame_errors(trained(NoisedGaussian(factor=1.1)), positions[:9], t=0.05)
    np.testing.assert_array_equal(found, alone)
    with pytest.raises(ConfigurationError, match=r"at diffusion time 0.3 has no energy"):
        frame_errors(mixture, positions[:9], t=0.3)
    with pytest.raises(InvalidInputError, match="outside every expert"):
        frame_errors(mixture, positions[:9], t=1e-5)


# --- Refused ---------------------------------------------------------------------------------


def test_no_conservative_network(make_trained):
    direct = make_trained("graph-direct")
    positions = np.zeros((4, 5, 3))
    message = "'toy' has no energy, so it has no Fokker"
    with pytest.raises(ConfigurationError, match=message):
        fokker_planck_error(direct, positions, times=[0.1])
    with pytest.raises(ConfigurationError, match=message):
        frame_errors(direct, positions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": []}, "times must be"),
        ({"times": [0.1, math.nan]}, "times must be"),
        ({"times": [0.1, 1.1]}, "times must be"),
        ({"times": [[0.1]]}, "times must be"),
        ({"n_frames": 1}, "n_frames is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"positions": np.zeros((4, 2, 3))}, r"shape \(4, 2, 3\); 'toy' takes frames of 3 beads"),
        ({"positions": np.zeros((0, 3, 3))}, "positions have shape"),
        ({"positions": np.full((4, 3, 3), np.inf)}, "NaN or infinity"),
    ],
)
def test_wrong_input(trained, positions, changes, message):
    options = {"times": [0.1], "n_frames": 4, "positions": positions, **changes}
    with pytest.raises(InvalidInputError, match=message):
        fokker_planck_error(trained(NoisedGaussian()), options.pop("positions"), **options)


def test_wrong_input_of_frame_errors(trained, positions):
    model = trained(NoisedGaussian())
    with pytest.raises(InvalidInputError, match="there is one frame"):
        frame_errors(model, positions[:1])
    with pytest.raises(InvalidInputError, match="n_draws is 0"):
        frame_errors(model, positions, n_draws=0)
    with pytest.raises(InvalidInputError, match=r"t is 1.5; the network takes"):
        frame_errors(model, positions, t=1.5)


def test_broken_networks(trained, positions):
    def broken(x, t):
        return torch.where(x[:, 0, 0] > 0.0, math.nan, 1.0) * t

    with pytest.raises(NumericalError, match=r"of 30 residuals at diffusion time 0.1 are not fin"):
        fokker_planck_error(
            trained(NoisedGaussian(extra=broken)), positions, times=[0.1], n_frames=30
        )
