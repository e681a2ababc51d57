"""Which frames of a dataset a model is held against, and what is said about them."""

import numpy as np
import pytest

from openmm_scoremd.data.dataset import CGDataset, save_dataset
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.errors import DatasetError, ModelFileError
from openmm_scoremd.evaluation.reference import held_out_frames, load_reference
from openmm_scoremd.model_file import ScoreModelFile

SPLIT = {"config": {"seed": 3, "data": {"held_back_fraction": 0.25}}}


class TestHeldOutFrames:
    def test_of_the_dataset_of_the_training(self, make_dataset, trained_on):
        path, frames = make_dataset()
        _, held_out = split_frames(40, held_back_fraction=0.25, seed=3, split="frames")
        found = load_reference(trained_on(path, SPLIT), path)
        np.testing.assert_array_equal(found.positions, frames[np.sort(held_out)])
        assert found.description == "10 frames that training did not see"
        np.testing.assert_array_equal(
            held_out_frames(trained_on(path, SPLIT), path), found.positions
        )

    def test_all_frames_of_another_dataset(self, make_dataset, trained_on, caplog):
        path, _ = make_dataset()
        other, frames = make_dataset("other.npz", seed=1)
        found = load_reference(trained_on(path, SPLIT), other)
        np.testing.assert_array_equal(found.positions, frames)
        assert found.description == "40 frames of another file than that of the training"
        assert caplog.text == ""

    def test_a_copy_under_another_name_is_the_same_dataset(self, make_dataset, trained_on):
        path, _ = make_dataset()
        model = trained_on(path, SPLIT)
        assert len(held_out_frames(model, path.rename(path.with_name("moved.npz")))) == 10

    def test_model_that_has_seen_all_frames(self, make_dataset, trained_on, caplog):
        path, frames = make_dataset()
        model = trained_on(path, {"config": {"seed": 3, "data": {"held_back_fraction": 0.0}}})
        found = load_reference(model, path)
        np.testing.assert_array_equal(found.positions, frames)
        assert found.description == "40 frames that training saw, all of them"
        assert "reference.npz has 40 frames that training saw, all of them" in caplog.text

    @pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1), slice(0, 7)])
    def test_frames_of_the_training_in_another_file(
        self, make_dataset, trained_on, toy, chain, caplog, rows
    ):
        # The first frames of the training travel with the model.
        frames = chain(40, 4).astype(np.float32)
        examples = toy.metadata.self_test.positions
        frames[: len(examples)] = examples
        path, _ = make_dataset(frames=frames)
        model = trained_on(path, SPLIT)
        other, _ = make_dataset("other.npz", temperature=300.001, frames=frames[rows])
        found = load_reference(model, other)
        assert len(found.positions) == len(frames[rows])
        assert "of which training saw some or all" in found.description
        assert "of which training saw some or all" in caplog.text

    @pytest.mark.parametrize("training", [{}, {"config": {}}, {"config": {"seed": 1, "data": 3}}])
    def test_model_that_does_not_say_what_it_has_seen(self, make_dataset, trained_on, training):
        path, _ = make_dataset()
        with pytest.raises(ModelFileError, match="does not say which frames were held back"):
            held_out_frames(trained_on(path, training), path)


class TestOtherMolecules:
    def test_wrong_bead_count(self, make_dataset, make_toy):
        path, _ = make_dataset()
        model = ScoreModelFile(make_toy("three.pt", n_beads=3).path)
        with pytest.raises(DatasetError, match=r"there are 4 beads and not 3"):
            held_out_frames(model, path)

    @pytest.mark.parametrize(
        ("changes", "difference"),
        [
            ({"names": ("N", "CA", "C", "O")}, "bead 0 is N of TOY and not B0 of TOY"),
            (
                {"residue_names": ("TOY", "TOY", "VAL", "VAL")},
                "bead 2 is B2 of VAL and not B2 of TOY",
            ),
            ({"bonds": ((0, 1), (1, 2))}, "beads 2 and 3 are bonded in one of the two only"),
        ],
    )
    def test_other_molecule_of_as_many_beads(self, make_dataset, toy, changes, difference):
        path, _ = make_dataset(**changes)
        message = rf"molecule of toy\.pt is not that of .*reference\.npz: {difference}"
        with pytest.raises(DatasetError, match=message):
            held_out_frames(ScoreModelFile(toy.path), path)

    def test_numbers_and_chains_may_differ(self, make_dataset, toy):
        path, _ = make_dataset(residue_ids=(7, 7, 7, 7), chain_ids=("B",) * 4)
        assert len(held_out_frames(ScoreModelFile(toy.path), path)) == 40

    def test_dataset_in_a_plane(self, toy, chain, tmp_path):
        frames = chain(10, 4)[..., :2].astype(np.float32)
        save_dataset(CGDataset(frames, toy.metadata.topology, 300.0), tmp_path / "plane.npz")
        with pytest.raises(DatasetError, match="there are 2 dimensions and not 3"):
            held_out_frames(ScoreModelFile(toy.path), tmp_path / "plane.npz")

    def test_model_in_a_plane(self, make_dataset, make_toy):
        path, _ = make_dataset()
        model = ScoreModelFile(make_toy("plane.pt", n_dims=2).path)
        with pytest.raises(DatasetError, match=r"there are 3 dimensions and not 2"):
            held_out_frames(model, path)

    def test_missing_dataset(self, toy, tmp_path):
        with pytest.raises(DatasetError, match=r"none\.npz does not exist"):
            held_out_frames(ScoreModelFile(toy.path), tmp_path / "none.npz")

    @pytest.mark.parametrize(("temperature", "warned"), [(300.0, False), (310.0, True)])
    def test_other_temperature(self, make_dataset, toy, caplog, temperature, warned):
        path, _ = make_dataset(temperature=temperature)
        assert len(held_out_frames(ScoreModelFile(toy.path), path)) == 40
        assert ("is of 310 K and toy.pt of 300 K" in caplog.text) == warned
