"""The C++ kernel computes what the networks compute."""

import numpy as np
import pytest
import torch

from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.forces.kernel import network as module
from openmm_scoremd.forces.kernel.build import load_library
from openmm_scoremd.forces.kernel.network import NativeNetwork, Unit
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig

T = 1e-3
UNIT = Unit(inverse_scale=4.0, energy=2.5)
FORMS = ["absorbed", "factorised"]

#: Beads, hidden_dim, layers, heads, head_dim: vectors are full, ragged, or hold all heads twice.
SHAPES = [
    (5, 96, 2, 8, 64),
    (4, 12, 2, 2, 4),
    (3, 20, 1, 3, 5),
    (7, 24, 3, 5, 7),
    (6, 32, 2, 16, 8),
    (2, 17, 2, 20, 3),
    (33, 16, 2, 4, 8),
    (1, 16, 2, 1, 8),
]


def compiler_problem():
    try:
        load_library()
    except MissingDependencyError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(compiler_problem()), reason=compiler_problem())


def make_model(n_beads, hidden_dim, layers, heads, head_dim):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GraphTransformerConfig(
            hidden_dim=hidden_dim, layers=layers, heads=heads, head_dim=head_dim
        )
        model = build_model(config, n_beads=n_beads, n_dims=3).double()
        with torch.no_grad():
            # Fresh biases are zero, which would hide mistakes.
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def make_native(model, form="absorbed", dtype=torch.float64):
    folded = FoldedGraphTransformer(model.network, model.decoder, t=T, form=form).to(dtype)
    heads = folded.first_attention.heads
    return NativeNetwork(dict(folded.named_buffers()), heads=heads, unit=UNIT)


def make_positions(n_replicas, n_beads, seed=0):
    return np.random.default_rng(seed).normal(scale=0.3, size=(n_replicas, n_beads, 3))


def expected_values(model, positions):
    x = torch.from_numpy(positions) * UNIT.inverse_scale
    energy, score = model.energy_and_score(x, torch.full((len(x),), T, dtype=torch.float64))
    force_unit = UNIT.energy * UNIT.inverse_scale
    return UNIT.energy * energy.detach().numpy(), force_unit * score.detach().numpy()


@pytest.fixture(scope="module")
def small():
    model = make_model(5, 24, 2, 4, 8)
    return model, make_native(model, dtype=torch.float32)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5)],
    ids=["double", "single"],
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_energies_and_forces_are_those_of_the_network(shape, form, dtype, tolerance):
    model = make_model(*shape)
    positions = make_positions(7, shape[0])
    energies, forces = make_native(model, form, dtype).energies_and_forces(positions, threads=1)
    expected_energies, expected = expected_values(model, positions)
    scale = np.abs(expected_energies).max()
    np.testing.assert_allclose(energies, expected_energies, atol=tolerance * scale)
    np.testing.assert_allclose(forces, expected, atol=tolerance * max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n_replicas", [1, 2, 15, 16, 17, 33, 50])
def test_neither_blocks_nor_threads_matter(small, n_replicas, threads):
    _, native = small
    assert module.ROWS_PER_BLOCK // 5 == 16
    positions = make_positions(n_replicas, 5)
    energies, forces = native.energies_and_forces(positions, threads=threads)
    for i in range(n_replicas):
        energy, force = native.energies_and_forces(positions[i : i + 1], threads=1)
        assert energy[0] == energies[i]
        np.testing.assert_array_equal(force[0], forces[i])


def test_order_of_replicas_does_not_matter(small):
    _, native = small
    positions, order = make_positions(40, 5), np.random.default_rng(1).permutation(40)
    energies, forces = native.energies_and_forces(positions, threads=2)
    shuffled_energies, shuffled = native.energies_and_forces(positions[order], threads=2)
    np.testing.assert_array_equal(shuffled_energies, energies[order])
    np.testing.assert_array_equal(shuffled, forces[order])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("form", FORMS)
def test_a_broken_replica_breaks_no_other(form, value):
    native = make_native(make_model(5, 24, 3, 4, 8), form, torch.float32)
    positions = make_positions(20, 5)
    before_energies, before = native.energies_and_forces(positions, threads=1)
    positions[7, 2, 1] = value
    energies, forces = native.energies_and_forces(positions, threads=1)
    others = [i for i in range(20) if i != 7]
    np.testing.assert_array_equal(energies[others], before_energies[others])
    np.testing.assert_array_equal(forces[others], before[others])
    if not np.isfinite(value):
        assert np.isnan(energies[7])
        assert np.isnan(forces[7]).all()
    # Nothing of it is left in the workspace.
    np.testing.assert_array_equal(
        native.energies_and_forces(positions[:1], threads=1)[1], before[:1]
    )


@pytest.mark.parametrize("form", FORMS)
def test_force_is_the_finite_difference_of_the_energy(form):
    native = make_native(make_model(4, 12, 2, 2, 4), form)
    positions = make_positions(1, 4)
    _, forces = native.energies_and_forces(positions, threads=1)
    for bead, axis in [(0, 0), (1, 2), (3, 1)]:
        shift = np.zeros_like(positions)
        shift[0, bead, axis] = 1e-6
        above, _ = native.energies_and_forces(positions + shift, threads=1)
        below, _ = native.energies_and_forces(positions - shift, threads=1)
        found = -(above[0] - below[0]) / 2e-6
        assert found == pytest.approx(forces[0, bead, axis], rel=1e-6, abs=1e-7)


def test_replicas_far_away_keep_their_precision(small):
    _, native = small
    positions = make_positions(3, 5)
    _, expected = native.energies_and_forces(positions, threads=1)
    _, forces = native.energies_and_forces(positions + 1e4, threads=1)
    np.testing.assert_allclose(forces, expected, atol=1e-5 * np.abs(expected).max())


def test_large_coordinates_and_logits_stay_finite(small):
    _, native = small
    energies, forces = native.energies_and_forces(1e3 * make_positions(3, 5), threads=1)
    assert np.isfinite(energies).all()
    assert np.isfinite(forces).all()


def test_no_replicas(small):
    energies, forces = small[1].energies_and_forces(np.empty((0, 5, 3)), threads=2)
    assert energies.shape == (0,)
    assert forces.shape == (0, 5, 3)


def test_arrays_of_other_layouts_are_taken(small):
    _, native = small
    positions = make_positions(4, 5)
    expected = native.energies_and_forces(positions, threads=1)[1]
    strided = np.asfortranarray(positions)
    np.testing.assert_array_equal(native.energies_and_forces(strided, threads=1)[1], expected)


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (2, 5, 2)])
def test_wrong_shapes(small, shape):
    with pytest.raises(InvalidInputError, match=r"must be \(replicas, 5, 3\)"):
        small[1].energies_and_forces(np.zeros(shape), threads=1)


def test_other_networks_are_refused(small):
    folded = FoldedGraphTransformer(small[0].network, small[0].decoder, t=T)
    buffers = dict(folded.named_buffers())
    with pytest.raises(InvalidInputError, match=r"no decoder.*export it again"):
        NativeNetwork({k: v for k, v in buffers.items() if k != "decoder"}, heads=4, unit=UNIT)
    with pytest.raises(InvalidInputError, match=r"torch\.float32, torch\.float64"):
        NativeNetwork({**buffers, "decoder": buffers["decoder"].float()}, heads=4, unit=UNIT)
    with pytest.raises(InvalidInputError, match=r"torch\.float16"):
        NativeNetwork({k: v.half() for k, v in buffers.items()}, heads=4, unit=UNIT)
