"""The kernel of invariant networks computes what the networks compute."""

import numpy as np
import pytest
import torch

from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.forces.kernel.build import load_library
from openmm_scoremd.forces.kernel.invariant import InvariantKernel
from openmm_scoremd.forces.kernel.network import Unit
from openmm_scoremd.models.families import build_model, network_config

T = 1e-3
UNIT = Unit(inverse_scale=4.0, energy=2.5)
#: Beads, width, layers: vectors and tiles are full or ragged; all volumes, local ones, windows.
SHAPES = [(5, 64, 3), (2, 6, 1), (3, 17, 2), (6, 13, 4), (9, 20, 2), (13, 11, 3), (30, 16, 2)]


def compiler_problem():
    try:
        load_library("invariant")
    except MissingDependencyError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(compiler_problem()), reason=compiler_problem())


def make_model(n_beads, hidden_dim, layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        entries = {"family": "invariant", "hidden_dim": hidden_dim, "layers": layers}
        model = build_model(network_config(entries), n_beads=n_beads, n_dims=3).double()
        model.prepare(torch.from_numpy(4.0 * make_positions(100, n_beads, seed=9)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def make_kernel(model, dtype=torch.float64):
    folded = model.at_time(T).to(dtype)
    return InvariantKernel(dict(folded.named_buffers()), n_beads=model.n_beads, unit=UNIT)


def make_positions(n_replicas, n_beads, seed=0):
    return np.random.default_rng(seed).normal(scale=0.3, size=(n_replicas, n_beads, 3))


@pytest.fixture(scope="module")
def small():
    return make_kernel(make_model(5, 16, 2), torch.float32)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5)],
    ids=["double", "single"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_energies_and_forces_are_those_of_the_network(shape, dtype, tolerance):
    model, positions = make_model(*shape), make_positions(21, shape[0])
    energies, forces = make_kernel(model, dtype).energies_and_forces(positions, threads=1)
    x = torch.from_numpy(positions) * UNIT.inverse_scale
    energy, score = model.energy_and_score(x, torch.full((21,), T, dtype=torch.float64))
    expected = UNIT.energy * UNIT.inverse_scale * score.detach().numpy()
    size = UNIT.energy * float(energy.detach().abs().max())
    np.testing.assert_allclose(
        energies, UNIT.energy * energy.detach().numpy(), atol=tolerance * size
    )
    np.testing.assert_allclose(forces, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("n_replicas", [1, 7, 8, 9, 16, 17, 100, 321])
def test_blocks_do_not_matter(small, n_replicas):
    positions = make_positions(n_replicas, 5)
    energies, forces = small.energies_and_forces(positions, threads=1)
    for i in (0, n_replicas // 2, n_replicas - 1):
        # One replica alone is computed in narrower blocks, which round differently.
        energy, force = small.energies_and_forces(positions[i : i + 1], threads=1)
        assert energy[0] == pytest.approx(energies[i], rel=1e-5)
        np.testing.assert_allclose(force[0], forces[i], atol=1e-5 * np.abs(forces[i]).max())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_order_nor_threads_matter(small, threads):
    positions, order = make_positions(321, 5), np.random.default_rng(1).permutation(321)
    energies, forces = small.energies_and_forces(positions, threads=1)
    shuffled_energies, shuffled = small.energies_and_forces(positions[order], threads=threads)
    np.testing.assert_array_equal(shuffled_energies, energies[order])
    np.testing.assert_array_equal(shuffled, forces[order])
    some, of_some = small.energies_and_forces(positions[:40], threads=threads)
    np.testing.assert_array_equal(some, energies[:40])
    np.testing.assert_array_equal(of_some, forces[:40])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_broken_replica_breaks_no_other(small, value):
    positions = make_positions(20, 5)
    before_energies, before = small.energies_and_forces(positions, threads=1)
    positions[7, 2, 1] = value
    energies, forces = small.energies_and_forces(positions, threads=1)
    others = [i for i in range(20) if i != 7]
    np.testing.assert_array_equal(energies[others], before_energies[others])
    np.testing.assert_array_equal(forces[others], before[others])
    if not np.isfinite(value):
        assert np.isnan(energies[7])
        assert np.isnan(forces[7]).all()


def test_hard_places_have_finite_forces(small):
    line = np.arange(5.0)[:, None] * np.array([0.1, 0.0, 0.0])
    frames = np.stack([line, np.zeros((5, 3)), 1e3 * make_positions(1, 5)[0]])
    energies, forces = small.energies_and_forces(frames, threads=1)
    assert np.isfinite(energies).all()
    assert np.isfinite(forces).all()


def test_replicas_far_away_keep_their_precision(small):
    positions = make_positions(3, 5)
    _, expected = small.energies_and_forces(positions, threads=1)
    _, forces = small.energies_and_forces(positions + 1e4, threads=1)
    np.testing.assert_allclose(forces, expected, atol=1e-5 * np.abs(expected).max())


def test_no_replicas(small):
    energies, forces = small.energies_and_forces(np.empty((0, 5, 3)), threads=2)
    assert energies.shape == (0,)
    assert forces.shape == (0, 5, 3)


def test_other_networks_are_refused():
    buffers = dict(make_model(5, 16, 2).at_time(T).named_buffers())
    with pytest.raises(InvalidInputError, match=r"no readout.*export it again"):
        InvariantKernel({k: v for k, v in buffers.items() if k != "readout"}, n_beads=5, unit=UNIT)
    with pytest.raises(InvalidInputError, match=r"torch\.float32, torch\.float64"):
        InvariantKernel({**buffers, "readout": buffers["readout"].float()}, n_beads=5, unit=UNIT)
