"""Refinement of tiny weights: simulate, fit, go on after a stop."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from openmm_scoremd import ReplicaSimulation, ScoreModelFile, export_torchscript
from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import CGDataset, load_dataset, save_dataset, split_frames
from openmm_scoremd.errors import CheckpointError, ConfigurationError, DatasetError, ModelFileError
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.models.weights import (
    ExpertDescription,
    TrainedModel,
    load_weights,
    save_weights,
)
from openmm_scoremd.refinement.energy_fit import EnergyFit, FitSettings
from openmm_scoremd.refinement.refine import RefinementSettings, refine

SETTINGS = RefinementSettings(
    rounds=2,
    replicas=20,
    steps=20,
    interval=5,
    timestep=1e-6,  # stay where they begin
    regions=4,
    fit=FitSettings(iterations=3, frames=16, region_frames=1, denoising_frames=4),
)
N_FRAMES = 50


@pytest.fixture
def data(make_trained, tmp_path):
    topology = make_trained("graph").description.topology
    rng = np.random.default_rng(0)
    frames = rng.normal(scale=0.1, size=(N_FRAMES, 5, 3))
    frames -= frames.mean(axis=1, keepdims=True)
    dataset = CGDataset(frames.astype(np.float32), topology, temperature=310.0)
    save_dataset(dataset, tmp_path / "beads.npz")
    return tmp_path / "beads.npz"


@pytest.fixture
def described(make_trained, data):
    """Return ``described(name, **changes)``: a network trained on the dataset, so it says."""

    def make(name="graph", **changes):
        training = {
            "config": {"seed": 3, "data": {"held_back_fraction": 0.2, "augmentation": "rotation"}}
        }
        frames = load_dataset(data).positions[:4].tolist()
        changes = {"training": training, "example_positions": frames} | changes
        return make_trained(name, dataset_sha256=sha256_of_file(data), **changes)

    return make


@pytest.fixture
def weights(described, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(described(), path)
    return path


@pytest.fixture
def mixture(described, tmp_path):
    early, late = described(), described()
    network = early.description.network
    model = TimePartitionedMixture([Expert(early.model, 1e-5, 0.1), Expert(late.model, 0.1, 1.0)])
    experts = (ExpertDescription(network, 1e-5, 0.1), ExpertDescription(network, 0.1, 1.0))
    description = dataclasses.replace(early.description, experts=experts)
    path = tmp_path / "mixture.safetensors"
    save_weights(TrainedModel(model, description), path)
    return path


def tensors(path):
    return load_weights(path).model.state_dict()


class TestRefine:
    def test_files(self, weights, data, tmp_path):
        calls = []
        path = refine(
            weights, data, tmp_path / "out", settings=SETTINGS, progress=lambda *c: calls.append(c)
        )
        assert path == tmp_path / "out" / "weights.safetensors"
        rounds = json.loads((tmp_path / "out" / "refinement.json").read_text())["rounds"]
        assert len(rounds) == 2
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["results"]["rounds"] == rounds
        assert record["inputs"]["weights"]["sha256"] == sha256_of_file(weights)
        description = load_weights(path).description
        assert description.training["refinement"]["rounds"] == rounds
        assert (
            description.training["config"] == load_weights(weights).description.training["config"]
        )
        assert [text for _, _, text in calls[:5]] == ["simulating"] * 4 + ["fitting"]
        assert calls[-1] == (4.0, 4, "fitting")
        ScoreModelFile(export_torchscript(path, tmp_path / "model.pt"))

    def test_every_round_changes_the_weights(self, weights, data, tmp_path):
        refine(weights, data, tmp_path / "out", settings=SETTINGS)
        paths = [weights, *(tmp_path / "out" / f"round_{i}.safetensors" for i in range(2))]
        parameters = [torch.cat([v.flatten() for v in tensors(path).values()]) for path in paths]
        assert not torch.equal(parameters[0], parameters[1])
        assert not torch.equal(parameters[1], parameters[2])
        final = tensors(tmp_path / "out" / "weights.safetensors")
        assert torch.equal(torch.cat([v.flatten() for v in final.values()]), parameters[2])

    def test_frames_held_back_are_not_used(self, weights, data, tmp_path, monkeypatch):
        seen = []
        run = EnergyFit.run

        def spy(self, frames, simulated, **options):
            seen.append(frames.positions)
            return run(self, frames, simulated, **options)

        monkeypatch.setattr(EnergyFit, "run", spy)
        refine(weights, data, tmp_path / "out", settings=SETTINGS)
        training, _ = split_frames(N_FRAMES, held_back_fraction=0.2, seed=3)
        expected = load_dataset(data).positions[np.sort(training)] / 0.09
        np.testing.assert_allclose(seen[0], expected, rtol=1e-6)

    def test_goes_on_where_it_stopped(self, weights, data, tmp_path):
        refine(weights, data, tmp_path / "whole", settings=SETTINGS)

        def stop(done, _total, text):
            if done > 2 and text == "fitting":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            refine(weights, data, tmp_path / "parts", settings=SETTINGS, progress=stop)
        assert not (tmp_path / "parts" / "weights.safetensors").exists()
        refine(weights, data, tmp_path / "parts", settings=SETTINGS)
        whole, parts = (tensors(tmp_path / n / "weights.safetensors") for n in ("whole", "parts"))
        for name, value in whole.items():
            assert torch.equal(parts[name], value), name

    def test_more_rounds_later(self, weights, data, tmp_path):
        one = dataclasses.replace(SETTINGS, rounds=1)
        refine(weights, data, tmp_path / "out", settings=one)
        first = sha256_of_file(tmp_path / "out" / "round_0.safetensors")
        refine(weights, data, tmp_path / "out", settings=SETTINGS)
        assert sha256_of_file(tmp_path / "out" / "round_0.safetensors") == first
        assert (tmp_path / "out" / "round_1.safetensors").exists()

    def test_only_the_expert_of_the_force_changes(self, mixture, data, tmp_path):
        refined = tensors(refine(mixture, data, tmp_path / "out", settings=SETTINGS))
        changed = {
            n.split(".")[1] for n, v in tensors(mixture).items() if not torch.equal(refined[n], v)
        }
        assert changed == {"0"}

    @pytest.mark.parametrize(("name", "latest"), [("weights", 1.0), ("mixture", 0.1)])
    def test_denoising_has_the_times_of_the_network(
        self, request, data, tmp_path, monkeypatch, name, latest
    ):
        found = []
        make = EnergyFit.__init__

        def spy(self, model, *, times, **options):
            found.append(times(torch.tensor([0.0, 1.0], dtype=torch.float64)))
            make(self, model, times=times, **options)

        monkeypatch.setattr(EnergyFit, "__init__", spy)
        one = dataclasses.replace(SETTINGS, rounds=1)
        refine(request.getfixturevalue(name), data, tmp_path / "out", settings=one)
        assert found[0].tolist() == pytest.approx([1e-5, latest])

    def test_a_later_round_begins_where_the_one_before_ended(
        self, weights, data, tmp_path, monkeypatch
    ):
        starts = []
        set_positions = ReplicaSimulation.set_positions
        monkeypatch.setattr(
            ReplicaSimulation,
            "set_positions",
            lambda self, frames: starts.append(frames) or set_positions(self, frames),
        )
        refine(weights, data, tmp_path / "out", settings=SETTINGS)
        with np.load(tmp_path / "out" / "round_0.npz") as content:
            np.testing.assert_array_equal(starts[1], content["positions"])
        distance = np.abs(starts[0][:, None] - load_dataset(data).positions).max(axis=(2, 3))
        assert distance.min(axis=1).max() < 1e-6

    def test_the_first_round_begins_spread_out(self, weights, data, tmp_path, monkeypatch):
        starts = []
        monkeypatch.setattr(
            ReplicaSimulation, "set_positions", lambda _self, frames: starts.append(frames)
        )
        monkeypatch.setattr(
            sys.modules[refine.__module__],
            "spreading_weights",
            lambda positions: np.eye(len(positions))[7],
        )

        def stop(*_call):
            raise KeyboardInterrupt

        monkeypatch.setattr(ReplicaSimulation, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            refine(weights, data, tmp_path / "out", settings=SETTINGS)
        training, _ = split_frames(N_FRAMES, held_back_fraction=0.2, seed=3)
        expected = load_dataset(data).positions[np.sort(training)[7]]
        np.testing.assert_allclose(starts[0], np.broadcast_to(expected, (20, 5, 3)), atol=1e-7)

    def test_frames_of_earlier_rounds_count_too(self, weights, data, tmp_path, monkeypatch):
        given = []
        pooled = EnergyFit.pooled
        monkeypatch.setattr(
            EnergyFit,
            "pooled",
            lambda self, earlier, last: (
                given.append((earlier, last)) or pooled(self, earlier, last)
            ),
        )
        refine(weights, data, tmp_path / "out", settings=SETTINGS)
        assert [len(earlier) for earlier, _ in given] == [0, 1]
        (again,), first = given[1][0], given[0][1]
        for entry in dataclasses.fields(first):
            assert torch.equal(getattr(again, entry.name), getattr(first, entry.name))

    def test_every_round_has_seeds_of_its_own(self, weights, data, tmp_path, monkeypatch):
        seeds = {ReplicaSimulation: [], EnergyFit: []}

        def spy_on(kind):
            make = kind.__init__

            def spy(self, model, *, seed, **options):
                seeds[kind].append(seed)
                make(self, model, seed=seed, **options)

            monkeypatch.setattr(kind, "__init__", spy)

        spy_on(ReplicaSimulation)
        spy_on(EnergyFit)
        settings = dataclasses.replace(SETTINGS, seed=5)
        refine(weights, data, tmp_path / "out", settings=settings)
        assert list(seeds.values()) == [[5, 6], [5, 6]]

    def test_the_first_frames_of_a_round_are_not_used(self, weights, data, tmp_path, monkeypatch):
        seen = []
        step = ReplicaSimulation.step

        def spy(self, n_steps):
            step(self, n_steps)
            seen.append(self.positions)

        monkeypatch.setattr(ReplicaSimulation, "step", spy)
        settings = dataclasses.replace(SETTINGS, rounds=1, timestep=1e-3)
        refine(weights, data, tmp_path / "out", settings=settings)
        frames = np.stack(seen[1:], axis=1)  # of four, a quarter is given up
        frames -= frames.mean(axis=2, keepdims=True)
        assert frames.shape == (20, 3, 5, 3)
        with np.load(tmp_path / "out" / "round_0.npz") as content:
            used = 0.09 * content["frames"]
        np.testing.assert_allclose(used, frames.reshape(60, 5, 3), atol=1e-6)
        assert np.abs(np.diff(frames, axis=1)).max() > 1e-3


class TestErrors:
    def test_other_settings_in_the_same_folder(self, weights, data, tmp_path):
        refine(weights, data, tmp_path / "out", settings=dataclasses.replace(SETTINGS, rounds=1))
        with pytest.raises(CheckpointError, match="other files or with other settings"):
            refine(weights, data, tmp_path / "out", settings=dataclasses.replace(SETTINGS, seed=1))

    def test_folder_with_something_else(self, weights, data, tmp_path):
        with pytest.raises(CheckpointError, match="not empty and holds no refinement"):
            refine(weights, data, tmp_path, settings=SETTINGS)

    @pytest.mark.parametrize("name", ["refinement.json", "round_0.npz"])
    def test_damaged_folder(self, weights, data, tmp_path, name):
        refine(weights, data, tmp_path / "out", settings=dataclasses.replace(SETTINGS, rounds=1))
        (tmp_path / "out" / name).write_bytes(b"{")
        with pytest.raises(CheckpointError, match=f"{name} is missing or damaged"):
            refine(weights, data, tmp_path / "out", settings=SETTINGS)

    def test_another_dataset(self, weights, data, tmp_path):
        dataset = load_dataset(data)
        other = tmp_path / "other.npz"
        save_dataset(dataset.subset(np.arange(40)), other)
        with pytest.raises(DatasetError, match="were not trained on"):
            refine(weights, other, tmp_path / "out", settings=SETTINGS)
        assert not (tmp_path / "out").exists()

    def test_direct_network(self, described, data, tmp_path):
        path = tmp_path / "direct.safetensors"
        save_weights(described("graph-direct"), path)
        with pytest.raises(ConfigurationError, match="conservative"):
            refine(path, data, tmp_path / "out", settings=SETTINGS)
        assert not (tmp_path / "out").exists()

    def test_weights_that_do_not_say_what_they_saw(self, described, data, tmp_path):
        path = tmp_path / "silent.safetensors"
        save_weights(described(training={}), path)
        with pytest.raises(ModelFileError, match="does not say which frames"):
            refine(path, data, tmp_path / "out", settings=SETTINGS)

    @pytest.mark.parametrize(
        "change",
        [{"rounds": 0}, {"replicas": 0}, {"discarded": 1.0}, {"regions": 1}, {"interval": 1000}],
    )
    def test_settings_out_of_range(self, change):
        with pytest.raises(ConfigurationError):
            dataclasses.replace(SETTINGS, **change)
