"""Weights of frames: every region counts the same, whatever its population and orientation."""

import numpy as np
import pytest

from openmm_scoremd.data.regions import (
    region_of_frames,
    region_of_nearest,
    region_weights,
    shape_features,
    spreading_weights,
)
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.geometry import dihedrals


def two_states(n_rare, n_common, *, seed=0):
    """Points (n, 1, 2): squares of the same size, far apart."""
    rng = np.random.default_rng(seed)
    rare = rng.uniform(0.0, 1.0, (n_rare, 2))
    common = rng.uniform(10.0, 11.0, (n_common, 2))
    return np.concatenate([rare, common])[:, None, :]


def test_states_of_the_same_size_get_the_same_weight():
    weights = spreading_weights(two_states(2_000, 18_000), regions=100)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:2_000].sum() == pytest.approx(0.5, abs=0.06)


def test_a_single_outlier_is_no_state():
    positions = np.concatenate([two_states(5_000, 5_000), [[[500.0, 500.0]]]])
    weights = spreading_weights(positions, regions=100)
    # A tenth of an average region of 100 frames holds 10; of 100 regions one has a tenth of 1 %.
    assert weights[-1] < 0.002


def test_regions_do_not_mix_states():
    region = region_of_frames(two_states(200, 1_800), regions=10)
    assert set(region) == set(range(10))
    assert not set(region[:200]) & set(region[200:])


def test_small_regions_are_drawn_less_often():
    # The average region has 55 frames, and a tenth of that counts in full.
    region = np.array([0] * 108 + [1] * 2)
    np.testing.assert_allclose(region_weights(region), [1.0, 2.0 / 5.5])


def test_few_frames():
    weights = spreading_weights(np.zeros((3, 1, 2)), regions=100)
    np.testing.assert_allclose(weights, 1.0 / 3.0)


def test_features_do_not_depend_on_orientation_and_tell_mirror_images_apart():
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(20, 5, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    features = shape_features(frames)
    assert features.shape == (20, 4)
    np.testing.assert_allclose(shape_features(frames @ rotation + 3.0), features, atol=1e-9)
    assert np.abs(shape_features(frames * [1.0, 1.0, -1.0]) - features).max() > 0.1


def test_features_are_dihedrals():
    frames = np.random.default_rng(2).normal(size=(7, 4, 3))
    angle = dihedrals(frames, [(0, 1, 2, 3)])[:, 0]
    np.testing.assert_allclose(shape_features(frames), np.stack([np.cos(angle), np.sin(angle)], 1))


def test_small_molecules_have_distances():
    frames = np.array([[[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
    np.testing.assert_allclose(shape_features(frames), [[3.0, 4.0, 5.0]])


@pytest.mark.parametrize(
    ("positions", "regions"), [(np.zeros((0, 1, 2)), 5), (np.zeros((3, 1, 2)), 0)]
)
def test_refused(positions, regions):
    with pytest.raises(InvalidInputError, match="at least one of each"):
        spreading_weights(positions, regions=regions)


def test_regions_of_other_frames_are_those_of_the_nearest():
    known = two_states(200, 1_800)
    region = region_of_frames(known, regions=10)
    np.testing.assert_array_equal(
        region_of_nearest(known + 1e-6, reference=known, region=region), region
    )
    other = region_of_nearest(two_states(50, 50, seed=1), reference=known, region=region)
    assert set(other[:50]) <= set(region[:200])
    assert set(other[50:]) <= set(region[200:])
