import numpy as np
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.simulation.exact_density import ModelDensity

SCALE = 0.09


@pytest.fixture
def model(two_wells):
    return ScoreModelFile(two_wells())


def test_frames_follow_their_density(model):
    """Weighted by 1 / density they fill space evenly: a check without the model's energies."""
    density = ModelDensity(model, n_steps=40)
    frames, log_density = density.sample(4000, seed=0)
    drawn = np.isfinite(log_density)
    assert drawn.mean() > 0.99
    frames, log_density = frames[drawn], log_density[drawn]
    assert (frames[..., 2] == 0.0).all()
    x, y = frames[:, 0, 0] / SCALE, frames[:, 0, 1] / SCALE
    boxes = [(x > left) & (x < left + 0.2) & (abs(y) < 0.2) for left in (-1.2, -1.0, 0.9)]
    volumes = [np.exp(-log_density[box]).sum() for box in boxes]
    np.testing.assert_allclose(volumes / np.mean(volumes), 1.0, atol=0.1)


def test_many_steps_come_near_the_model(model):
    frames, log_density = ModelDensity(model, n_steps=150).sample(400, seed=0)
    reduced = model.potential_energy(frames) / (0.0083144626 * model.temperature)
    assert np.std(log_density + reduced) < 0.1
    assert np.mean(frames[:, 0, 0] > 0.0) == pytest.approx(0.25, abs=0.08)


def test_density_of_given_frames(model):
    density = ModelDensity(model, n_steps=30)
    frames, expected = density.sample(20, seed=3)
    frames[:, 0, 2] = 5.0  # of no meaning in a plane
    np.testing.assert_allclose(density.log_density(frames), expected, atol=1e-3)


def test_molecules_may_be_anywhere(gaussian_pair):
    density = ModelDensity(ScoreModelFile(gaussian_pair), n_steps=40)
    frames, expected = density.sample(300, seed=0)
    np.testing.assert_allclose(frames.mean(axis=1), 0.0, atol=1e-9)
    # Of six coordinates three are free, of half the variance.
    assert frames.std() == pytest.approx(np.sqrt(0.25 / 2) * SCALE, rel=0.1)
    found = density.log_density(frames + np.array([3.0, -1.0, 0.5]))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.std(expected) > 0.5


def test_networks_without_energy(direct_plane, two_wells, two_wells_network):
    expert = Expert(two_wells_network(t_max=0.5), 1e-5, 0.5)
    mixture = TimePartitionedMixture([expert, Expert(direct_plane(), 0.5, 1.0)])
    with pytest.raises(InvalidInputError, match="no energy at some diffusion times"):
        ModelDensity(ScoreModelFile(two_wells(mixture)))


def test_number_of_frames(model):
    with pytest.raises(InvalidInputError, match="n is 0"):
        ModelDensity(model, n_steps=1).sample(0, seed=0)


def test_where_no_frame_can_be_drawn(model):
    frames = np.zeros((3, 1, 3))
    frames[:, 0, 0] = SCALE * np.array([-1.0, 0.0, 1.0])
    # Few steps fold space between the wells.
    found = ModelDensity(model, n_steps=8).log_density(frames)
    assert np.isfinite(found).tolist() == [True, False, True]
    assert found[1] == -np.inf
