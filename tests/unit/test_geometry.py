"""Known angles, and scipy and MDTraj as independent references."""

from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.geometry import (
    angles,
    center,
    dihedrals,
    distances,
    kabsch_align,
    nearest_image,
    random_rotations,
)

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def trajectory():
    return mdtraj.load(
        DATA / "alanine_dipeptide_200.dcd", top=mdtraj.load_topology(DATA / "alanine_dipeptide.pdb")
    )


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_center_moves_every_centroid_to_the_origin(rng):
    positions = rng.normal(size=(3, 4, 6, 3)).astype(np.float32) + 5.0
    centred = center(positions)
    assert centred.dtype == np.float32
    assert np.abs(centred.mean(axis=-2)).max() < 1e-6
    np.testing.assert_allclose(np.diff(centred, axis=-2), np.diff(positions, axis=-2), atol=2e-6)


def test_center_of_two_points():
    np.testing.assert_array_equal(center([[0.0, 0.0], [2.0, 4.0]]), [[-1.0, -2.0], [1.0, 2.0]])


def test_kabsch_undoes_any_rotation_and_translation(rng):
    reference = rng.normal(size=(7, 3))
    turned = np.stack([reference @ matrix for matrix in Rotation.random(20, rng=rng).as_matrix()])
    moved = turned + rng.normal(size=(20, 1, 3))
    np.testing.assert_allclose(kabsch_align(moved, reference), moved * 0 + reference, atol=1e-12)
    np.testing.assert_allclose(kabsch_align(moved[3], reference), reference, atol=1e-12)


def test_kabsch_agrees_with_scipy_on_frames_that_do_not_fit_exactly(rng):
    reference, frames = rng.normal(size=(6, 3)), rng.normal(size=(10, 6, 3))
    aligned = kabsch_align(frames, reference)
    for frame, result in zip(frames, aligned, strict=True):
        rotation, _ = Rotation.align_vectors(center(reference), center(frame))
        expected = rotation.apply(center(frame)) + reference.mean(axis=0)
        np.testing.assert_allclose(result, expected, atol=1e-7)


def test_kabsch_never_turns_a_molecule_into_its_mirror_image(rng):
    reference = rng.normal(size=(5, 3))
    mirrored = reference * [1.0, 1.0, -1.0]
    aligned = kabsch_align(mirrored, reference)
    handedness = [np.linalg.det(center(x)[1:4] - center(x)[0]) for x in (mirrored, aligned)]
    assert handedness[0] == pytest.approx(handedness[1], rel=1e-9)
    assert np.abs(aligned - reference).max() > 0.1


def test_kabsch_keeps_planar_and_linear_molecules_rigid(rng):
    for flat in ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0]):
        reference = rng.normal(size=(5, 3)) * flat
        frames = np.stack([reference @ m for m in Rotation.random(5, rng=rng).as_matrix()])
        np.testing.assert_allclose(
            kabsch_align(frames, reference), 0 * frames + reference, atol=1e-12
        )


def test_kabsch_works_in_two_dimensions(rng):
    reference = rng.normal(size=(4, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(kabsch_align(reference @ turn + 3.0, reference), reference)


def test_kabsch_keeps_the_floating_point_type(rng):
    frames = rng.normal(size=(2, 4, 3)).astype(np.float32)
    assert kabsch_align(frames, frames[0].astype(np.float64)).dtype == np.float32


def test_kabsch_refuses_nan_and_wrong_shapes(rng):
    frames = rng.normal(size=(2, 4, 3))
    with pytest.raises(InvalidInputError, match=r"\(2, 4, 3\).*\(5, 3\)"):
        kabsch_align(frames, np.zeros((5, 3)))
    with pytest.raises(InvalidInputError, match="one frame"):
        kabsch_align(frames, frames)
    frames[1, 2, 0] = np.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        kabsch_align(frames, np.ones((4, 3)))


def test_distances_of_a_right_triangle():
    points = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    np.testing.assert_allclose(distances(points, [[0, 1], [1, 2], [2, 0]]), [3.0, 4.0, 5.0])
    assert distances(points, []).shape == (0,)


def test_known_angles():
    points = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0], [-2.0, 0, 0], [3.0, 0, 0]])
    expected = [np.pi / 2, np.pi, 0.0]
    np.testing.assert_allclose(
        angles(points, [[0, 1, 2], [0, 1, 3], [0, 1, 4]]), expected, atol=1e-15
    )


@pytest.mark.parametrize("small", [1e-6, 1e-9])
def test_small_angles_keep_their_digits(small):
    points = np.array([[1.0, 0, 0], [0, 0, 0], [np.cos(small), np.sin(small), 0]])
    assert angles(points, [[0, 1, 2]])[0] == pytest.approx(small, rel=1e-6)


@pytest.mark.parametrize("expected", [0.0, np.pi / 2, -np.pi / 2, 2.0, -0.3, np.pi])
def test_known_dihedrals(expected):
    # Looking along b-c, turning clockwise from a to d is positive (IUPAC).
    last = [1.0, np.cos(expected), np.sin(expected)]
    points = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], last])
    assert dihedrals(points, [[0, 1, 2, 3]])[0] == pytest.approx(expected, abs=1e-12)


def test_internal_coordinates_agree_with_mdtraj(trajectory):
    quadruples = [[4, 6, 8, 14], [6, 8, 14, 16], [0, 1, 4, 5]]
    triples, pairs = [q[:3] for q in quadruples], [q[:2] for q in quadruples]
    turned = dihedrals(trajectory.xyz, quadruples)
    difference = turned - mdtraj.compute_dihedrals(trajectory, quadruples)
    assert turned.shape == (200, 3)
    assert np.abs(np.angle(np.exp(1j * difference))).max() < 2e-5
    np.testing.assert_allclose(
        angles(trajectory.xyz, triples), mdtraj.compute_angles(trajectory, triples), atol=2e-5
    )
    np.testing.assert_allclose(
        distances(trajectory.xyz, pairs), mdtraj.compute_distances(trajectory, pairs), atol=1e-6
    )


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 4]], "0 to 4.*0..3"),
        ([[-1, 2]], "-1 to 2"),
        ([[0, 1, 2]], r"shape \(1, 3\)"),
        ([[0.5, 1.0]], "float64"),
    ],
)
def test_bad_indices_are_refused(indices, message):
    with pytest.raises(InvalidInputError, match=message):
        distances(np.zeros((4, 3)), indices)


def test_bad_positions_are_refused():
    with pytest.raises(InvalidInputError, match="three dimensions"):
        dihedrals(np.zeros((5, 2)), [[0, 1, 2, 3]])
    with pytest.raises(InvalidInputError, match="beads, dims"):
        center(np.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_rotations_are_proper(dtype):
    rotations = random_rotations(500, generator=torch.Generator().manual_seed(3), dtype=dtype)
    eps = torch.finfo(dtype).eps
    identity = torch.eye(3, dtype=dtype)
    assert rotations.dtype == dtype
    assert (rotations @ rotations.mT - identity).abs().max() < 30 * eps
    assert (torch.linalg.det(rotations) - 1.0).abs().max() < 30 * eps


def test_random_rotations_are_uniform():
    rotations = random_rotations(
        20000, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    ).numpy()
    # Under Haar measure a rotated axis is uniform on the sphere: each coordinate is in [-1, 1].
    for entry in rotations.reshape(-1, 9).T:
        assert stats.kstest(entry, stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-4
    angle = np.linalg.norm(Rotation.from_matrix(rotations).as_rotvec(), axis=1)
    assert stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-4


def test_random_rotations_follow_their_generator():
    first, again, other = (
        random_rotations(4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    "cell", [np.diag([2.0, 3.0, 4.0]), [[2, 0, 0], [0.6, 2, 0], [-0.5, 0.4, 2]]]
)
def test_nearest_images(cell):
    rng = np.random.default_rng(0)
    short = rng.uniform(-0.5, 0.5, (50, 3))
    moved = short + rng.integers(-3, 4, (50, 3)) @ np.asarray(cell, dtype=float)
    np.testing.assert_allclose(nearest_image(moved, cell), short, atol=1e-12)
    cells = np.repeat(np.asarray(cell, dtype=float)[None], 50, axis=0)
    found = nearest_image(moved, cells, inverse=np.linalg.inv(cells))
    np.testing.assert_allclose(found, short, atol=1e-12)
