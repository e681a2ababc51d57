"""Invariant networks: invariance, smoothness, statistics of the levels, folding."""

import itertools

import numpy as np
import pytest
import torch

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.families import build_model, network_config
from openmm_scoremd.models.invariant.choice import WINDOW, choose_features
from openmm_scoremd.models.invariant.network import InvariantConfig, LevelFunctions
from openmm_scoremd.topology import BeadTopology

TIMES = (0.0, 1e-5, 0.1, 1.0)
#: All volumes, local ones, windows.
SIZES = (2, 3, 5, 9, 15)


def make_model(n_beads, dtype=torch.float64, **entries):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = network_config({"family": "invariant", "hidden_dim": 16, **entries})
        model = build_model(config, n_beads=n_beads, n_dims=3)
        model.prepare(make_frames(200, n_beads))
        with torch.no_grad():
            # The readout starts at zero, which would hide mistakes.
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    return model.to(dtype)


def make_frames(n_frames, n_beads, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    chain = torch.arange(n_beads)[:, None] * torch.tensor([0.5, 0.3, -0.4])
    noise = torch.randn(n_frames, n_beads, 3, generator=generator, dtype=torch.float64)
    return (chain + 0.3 * noise).to(dtype)


def times_of(x, t):
    return torch.full((len(x),), t, dtype=x.dtype)


def make_rotation():
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return torch.from_numpy(q * np.sign(np.linalg.det(q)))


def chain_topology(n_beads, bonds):
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("ALA",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=bonds,
    )


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("n_beads", SIZES)
def test_turning_and_moving_change_nothing_and_a_mirror_does(n_beads, t):
    model, x = make_model(n_beads), make_frames(6, n_beads)
    energy = model.energy(x, times_of(x, t))
    moved = model.energy(x @ make_rotation() + 3.7, times_of(x, t))
    torch.testing.assert_close(moved, energy, rtol=1e-11, atol=1e-11)
    mirrored = model.energy(-x, times_of(x, t))
    if n_beads < 4:  # in one plane
        torch.testing.assert_close(mirrored, energy, rtol=1e-11, atol=1e-11)
    elif t <= 0.1:
        assert (mirrored - energy).abs().min() > 1e-4


def hard_places(n_beads):
    """Beads on one line, all at one place, two at one place, far apart, extremely far apart."""
    line = torch.arange(n_beads)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    pair = make_frames(1, n_beads, dtype=torch.float32)[0]
    pair[1] = pair[0]
    cloud = torch.randn(n_beads, 3, generator=torch.Generator().manual_seed(1))
    return torch.stack([line, torch.zeros(n_beads, 3), pair, 1e3 * cloud, 1e8 * cloud])


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("n_beads", SIZES)
def test_no_nan_anywhere(n_beads, t):
    model, x = make_model(n_beads, torch.float32), hard_places(n_beads)
    x.requires_grad_(True)
    score, time_derivative = model.score_and_time_derivative(x, times_of(x, t))
    assert torch.isfinite(score).all()
    assert torch.isfinite(time_derivative).all()
    # Training differentiates once more.
    loss = (score[:4] * score[:4]).sum() + time_derivative[:4].sum()
    for gradient in torch.autograd.grad(loss, [x, *model.parameters()], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()
    energy, gradient = model.at_time(t).energy_and_gradient(x.detach())
    assert torch.isfinite(energy).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("n_beads", [3, 5, 15])
def test_derivatives_are_those_of_the_energy(n_beads):
    model, x = make_model(n_beads), make_frames(3, n_beads)
    for t in (1e-4, 0.05, 0.7):
        times, step = times_of(x, t), 1e-6
        score, of_time = model.score_and_time_derivative(x, times)
        above, below = model.energy(x, times + step * t), model.energy(x, times - step * t)
        torch.testing.assert_close(-of_time, (above - below) / (2 * step * t), rtol=1e-4, atol=1e-4)
        shift = torch.zeros_like(x)
        shift[:, 1, 2] = step
        slope = (model.energy(x + shift, times) - model.energy(x - shift, times)) / (2 * step)
        torch.testing.assert_close(-score[:, 1, 2], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("n_beads", SIZES)
def test_folded_network_is_the_same_function(n_beads, t):
    model, x = make_model(n_beads), make_frames(4, n_beads)
    energy, score = model.energy_and_score(x, times_of(x, t))
    folded = torch.jit.script(model.at_time(t))
    found, gradient = folded.energy_and_gradient(x)
    torch.testing.assert_close(found, energy, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradient, -score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded(x), energy, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("noise", [1e-3, 1e-2, 30.0])
def test_distances_have_mean_0_and_width_1_at_every_level(noise):
    model = make_model(5)
    frames = make_frames(20_000, 5, seed=4)
    model.prepare(frames)
    generator = torch.Generator().manual_seed(5)
    y = frames + noise * torch.randn(frames.shape, generator=generator, dtype=torch.float64)
    variance = torch.tensor([noise**2], dtype=torch.float64)
    distance, _ = model.measurement(y.permute(1, 2, 0), variance)
    mean, scale = model.level(variance)
    f = (distance - mean) * scale
    assert f.mean(dim=1).abs().max() < 0.05
    assert (f.std(dim=1) - 1.0).abs().max() < 0.06


def test_torsions_are_sine_and_cosine_of_the_angle():
    phi = 0.7
    bent = [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    last = [1.0, np.cos(phi), np.sin(phi)]
    y = torch.tensor([*bent, last], dtype=torch.float64)[:, :, None]
    _, torsions = make_model(4).measurement(y, torch.zeros(1, dtype=torch.float64))
    assert float(torsions[0, 0].abs()) == pytest.approx(np.sin(phi))
    assert float(torsions[1, 0]) == pytest.approx(np.cos(phi))


def test_distances_that_never_change_are_taken():
    frames = make_frames(1, 5).repeat(50, 1, 1)
    model = make_model(5)
    model.prepare(frames)
    score = model.score(frames[:2] + 1e-3, times_of(frames[:2], 1e-5))
    assert torch.isfinite(score).all()


def test_much_noise_leaves_one_cloud():
    model, x = make_model(5), make_frames(4, 5)
    # At t = 1 nothing of the data is left: a normal distribution with unit variance.
    score = model.score(x, times_of(x, 1.0))
    torch.testing.assert_close(score, -(x - x.mean(dim=1, keepdim=True)), rtol=0.1, atol=0.1)


def test_only_widths_change_below_the_floor():
    functions = LevelFunctions(floor=0.03, largest=152.0, number=5).double()
    low, high = functions(torch.tensor([0.0, 1e-6, 9e-4], dtype=torch.float64)).split([2, 1], dim=1)
    assert (low[:, 0] - low[:, 1]).abs().max() < 2e-3
    assert (low[:, :1] - high).abs().max() > 1e-2


def test_few_beads_see_everything():
    choice = choose_features(5, None)
    assert choice.pairs == tuple(itertools.combinations(range(5), 2))
    assert choice.volumes == tuple(itertools.combinations(range(5), 4))
    assert choice.windows == (tuple(range(20)),)
    assert choice.coupled


def test_volumes_of_a_branched_molecule_are_those_of_its_bonds():
    bonds = ((0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (5, 6))
    choice = choose_features(7, chain_topology(7, bonds))
    rows = {tuple(sorted(quadruple)) for quadruple in choice.volumes}
    in_a_row = {(i, i + 1, i + 2, i + 3) for i in range(4)}
    dihedrals = {(0, 1, 3, 4), (0, 1, 3, 5), (1, 2, 3, 4), (1, 2, 3, 5), (1, 3, 5, 6), (3, 4, 5, 6)}
    around = {(0, 1, 2, 3), (1, 3, 4, 5)}
    assert rows == in_a_row | dihedrals | around
    assert len(choice.volumes) == len(rows)


def test_300_beads():
    sizes = {}
    for n_beads in (100, 200, 300):
        choice = choose_features(n_beads, chain_topology(n_beads, ()))
        sizes[n_beads] = len(choice.volumes), len(choice.windows), len(choice.windows[0])
    assert sizes[100] == (97, 100 - WINDOW + 1, WINDOW * (WINDOW - 1) // 2 + 2 * (WINDOW - 3))
    assert sizes[300][0] - sizes[200][0] == sizes[200][0] - sizes[100][0] == 100
    assert sizes[300][1] - sizes[200][1] == sizes[200][1] - sizes[100][1] == 100
    model, x = make_model(300, torch.float32), make_frames(2, 300, dtype=torch.float32)
    energy, gradient = model.at_time(1e-5).energy_and_gradient(x)
    found, score = model.energy_and_score(x, times_of(x, 1e-5))
    torch.testing.assert_close(energy, found, rtol=1e-4, atol=1e-2)
    tolerance = 1e-3 * score.detach().abs().max().item()
    torch.testing.assert_close(gradient, -score, rtol=1e-3, atol=tolerance)


def test_beads_of_one_kind_share_coefficients():
    kinds = chain_topology(15, ())
    alike = choose_features(15, None)
    different = choose_features(15, kinds)
    assert max(alike.pair_classes) + 1 == WINDOW
    assert len(set(different.pair_classes)) == len(different.pairs)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"levels": 0}, "levels is 0"),
        ({"noise_floor": None}, "noise_floor is null.*0.03"),
    ],
)
def test_impossible_configurations(entries, words):
    with pytest.raises(ConfigurationError, match=words):
        InvariantConfig(**entries)


@pytest.mark.parametrize(("n_beads", "n_dims"), [(None, 3), (1, 3), (5, 2)])
def test_impossible_molecules(n_beads, n_dims):
    with pytest.raises(ConfigurationError, match="at least 2, in 3 dimensions"):
        build_model(InvariantConfig(), n_beads=n_beads, n_dims=n_dims)
