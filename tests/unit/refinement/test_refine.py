"""Refinement of tiny weights: simulate, fit, go on after a stop.

One refinement of two rounds is made for all tests that only look at it.
"""

import dataclasses
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openmm_scoremd import ReplicaSimulation, ScoreModelFile, export_torchscript
from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import CGDataset, load_dataset, save_dataset
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.errors import (
    CheckpointError,
    ConfigurationError,
    DatasetError,
    ModelFileError,
    NumericalError,
)
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.models.weights import (
    ExpertDescription,
    TrainedModel,
    load_weights,
    save_weights,
)
from openmm_scoremd.refinement.energy_fit import EnergyFit, FitSettings
from openmm_scoremd.refinement.refine import RefinementSettings, refine
from openmm_scoremd.simulation.run.in_memory import simulate_in_memory

SETTINGS = RefinementSettings(
    rounds=2,
    replicas=20,
    steps=20,
    interval=5,
    timestep=1e-3,
    regions=4,
    seed=5,
    fit=FitSettings(iterations=3, frames=16, region_frames=1, denoising_frames=4),
)
ONE = dataclasses.replace(SETTINGS, rounds=1)
N_FRAMES = 50


@pytest.fixture(scope="module")
def data(make_trained, tmp_path_factory):
    topology = make_trained("graph").description.topology
    rng = np.random.default_rng(0)
    frames = rng.normal(scale=0.1, size=(N_FRAMES, 5, 3))
    frames -= frames.mean(axis=1, keepdims=True)
    dataset = CGDataset(frames.astype(np.float32), topology, temperature=310.0)
    path = tmp_path_factory.mktemp("data") / "beads.npz"
    save_dataset(dataset, path)
    return path


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def weights(described, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
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


def watched(patch):
    """Note what refinements do while a patch lasts."""
    seen = SimpleNamespace(data=[], pooled=[], starts=[], frames=[], seeds=[], times=[])
    make, run, pooled = EnergyFit.__init__, EnergyFit.run, EnergyFit.pooled
    set_positions, advance = ReplicaSimulation.set_positions, ReplicaSimulation.advance
    simulate = ReplicaSimulation.__init__

    def spy_make(self, model, *, seed, times, **options):
        seen.seeds.append(seed)
        seen.times.append(times(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist())
        make(self, model, seed=seed, times=times, **options)

    def spy_run(self, data, simulated, **options):
        seen.data.append(data.positions)
        return run(self, data, simulated, **options)

    def spy_pooled(self, earlier, last):
        seen.pooled.append((earlier, last))
        return pooled(self, earlier, last)

    def spy_simulate(self, model, *, seed, **options):
        seen.seeds.append(seed)
        simulate(self, model, seed=seed, **options)

    def spy_positions(self, frames):
        seen.starts.append(frames)
        set_positions(self, frames)

    def spy_advance(self, n_steps):
        advance(self, n_steps)
        if self.current_step % SETTINGS.interval == 0:
            seen.frames.append(self.positions)

    for kind, name, spy in (
        (EnergyFit, "__init__", spy_make),
        (EnergyFit, "run", spy_run),
        (EnergyFit, "pooled", spy_pooled),
        (ReplicaSimulation, "__init__", spy_simulate),
        (ReplicaSimulation, "set_positions", spy_positions),
        (ReplicaSimulation, "advance", spy_advance),
    ):
        patch.setattr(kind, name, spy)
    return seen


@pytest.fixture(scope="module")
def refined(weights, data, tmp_path_factory):
    """The folder of a refinement of two rounds, and what was seen while it was made."""
    calls, folder = [], tmp_path_factory.mktemp("refined") / "out"
    with pytest.MonkeyPatch.context() as patch:
        seen = watched(patch)
        path = refine(
            weights, data, folder, settings=SETTINGS, progress=lambda *call: calls.append(call)
        )
    return SimpleNamespace(folder=folder, path=path, calls=calls, **vars(seen))


@pytest.fixture
def copy(refined, tmp_path):
    """A copy of that folder."""
    shutil.copytree(refined.folder, tmp_path / "out")
    return tmp_path / "out"


def tensors(path):
    return load_weights(path).model.state_dict()


class TestRefine:
    def test_files(self, refined, weights, tmp_path):
        folder = refined.folder
        assert refined.path == folder / "weights.safetensors"
        rounds = json.loads((folder / "refinement.json").read_text())["rounds"]
        assert len(rounds) == 2
        record = json.loads((folder / "run.json").read_text())
        assert record["results"]["rounds"] == rounds
        assert record["inputs"]["weights"]["sha256"] == sha256_of_file(weights)
        description = load_weights(refined.path).description
        assert description.training["refinement"]["rounds"] == rounds
        assert (
            description.training["config"] == load_weights(weights).description.training["config"]
        )
        assert [text for _, _, text in refined.calls[:5]] == ["simulating"] * 4 + ["fitting"]
        assert refined.calls[-1] == (4.0, 4, "fitting")
        ScoreModelFile(export_torchscript(refined.path, tmp_path / "model.pt"))

    def test_every_round_changes_the_weights(self, refined, weights):
        paths = [weights, *(refined.folder / f"round_{i}.safetensors" for i in range(2))]
        parameters = [torch.cat([v.flatten() for v in tensors(path).values()]) for path in paths]
        assert not torch.equal(parameters[0], parameters[1])
        assert not torch.equal(parameters[1], parameters[2])
        final = tensors(refined.path)
        assert torch.equal(torch.cat([v.flatten() for v in final.values()]), parameters[2])

    def test_frames_held_back_are_not_used(self, refined, data):
        training, _ = split_frames(N_FRAMES, held_back_fraction=0.2, seed=3, split="frames")
        expected = load_dataset(data).positions[np.sort(training)] / 0.09
        np.testing.assert_allclose(refined.data[0], expected, rtol=1e-6)

    def test_goes_on_where_it_stopped_and_with_more_rounds(self, refined, weights, data, tmp_path):
        folder = tmp_path / "parts"
        refine(weights, data, folder, settings=ONE)
        first = sha256_of_file(folder / "round_0.safetensors")

        def stop(done, _total, text):
            if done > 2 and text == "fitting":
                raise KeyboardInterrupt

        (folder / "weights.safetensors").unlink()
        with pytest.raises(KeyboardInterrupt):
            refine(weights, data, folder, settings=SETTINGS, progress=stop)
        assert not (folder / "weights.safetensors").exists()
        parts = tensors(refine(weights, data, folder, settings=SETTINGS))
        assert sha256_of_file(folder / "round_0.safetensors") == first
        for name, value in tensors(refined.path).items():
            assert torch.equal(parts[name], value), name

    def test_of_a_mixture_only_the_expert_of_the_force_changes(
        self, mixture, data, tmp_path, monkeypatch
    ):
        seen = watched(monkeypatch)
        after = tensors(refine(mixture, data, tmp_path / "out", settings=ONE))
        changed = {
            n.split(".")[1] for n, v in tensors(mixture).items() if not torch.equal(after[n], v)
        }
        assert changed == {"0"}
        assert seen.times[0] == pytest.approx([1e-5, 0.1])

    def test_denoising_has_the_times_of_the_network(self, refined):
        assert refined.times[0] == pytest.approx([1e-5, 1.0])

    def test_a_later_round_begins_where_the_one_before_ended(self, refined, data):
        with np.load(refined.folder / "round_0.npz") as content:
            np.testing.assert_array_equal(refined.starts[1], content["positions"])
        np.testing.assert_array_equal(refined.starts[1], refined.frames[3])
        distance = np.abs(refined.starts[0][:, None] - load_dataset(data).positions).max(
            axis=(2, 3)
        )
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

        monkeypatch.setattr("openmm_scoremd.simulation.run.stepping.Stepper.advance", stop)
        monkeypatch.setattr(ReplicaSimulation, "phase_space", lambda _self: (0.0, 0.0))
        with pytest.raises(KeyboardInterrupt):
            refine(weights, data, tmp_path / "out", settings=SETTINGS)
        training, _ = split_frames(N_FRAMES, held_back_fraction=0.2, seed=3, split="frames")
        expected = load_dataset(data).positions[np.sort(training)[7]]
        np.testing.assert_allclose(starts[0], np.broadcast_to(expected, (20, 5, 3)), atol=1e-7)

    def test_frames_of_earlier_rounds_count_too(self, refined):
        assert [len(earlier) for earlier, _ in refined.pooled] == [0, 1]
        (again,), first = refined.pooled[1][0], refined.pooled[0][1]
        for entry in dataclasses.fields(first):
            assert torch.equal(getattr(again, entry.name), getattr(first, entry.name))

    def test_every_round_has_seeds_of_its_own(self, refined):
        assert refined.seeds == [5, 5, 6, 6]

    def test_the_first_frames_of_a_round_are_not_used(self, refined):
        frames = np.stack(refined.frames[1:4], axis=1)  # of four, a quarter is given up
        frames -= frames.mean(axis=2, keepdims=True)
        assert frames.shape == (20, 3, 5, 3)
        with np.load(refined.folder / "round_0.npz") as content:
            used = 0.09 * content["frames"]
        np.testing.assert_allclose(used, frames.reshape(60, 5, 3), atol=1e-6)
        assert np.abs(np.diff(frames, axis=1)).max() > 1e-3


class TestReplicasThatBreak:
    def test_are_left_out(self, weights, data, tmp_path, monkeypatch):
        advance, done = ReplicaSimulation.advance, []

        def broken(self, n_steps):
            advance(self, n_steps)
            if self.current_step > 10 and not done:
                done.append(self.current_step)
                positions, velocities = self.phase_space()
                positions[3] = np.nan
                positions[4, 0] += 30.0  # torn, and never NaN
                self.set_phase_space(positions, velocities)

        monkeypatch.setattr(ReplicaSimulation, "advance", broken)
        frames = load_dataset(data).positions.astype(np.float64)
        monkeypatch.setattr(ScoreModelFile, "sample", lambda _self, n, *, seed: frames[:n])  # noqa: ARG005
        refine(weights, data, tmp_path / "out", settings=ONE)
        with np.load(tmp_path / "out" / "round_0.npz") as content:
            # They begin anew at the third of four frames, and are given one to forget it.
            assert content["frames"].shape == (18 * 3 + 2, 5, 3)
            assert np.isfinite(content["positions"]).all()
            assert np.ptp(content["frames"], axis=1).max() < 10.0
        failures = sorted(path.name for path in (tmp_path / "out" / "failures").iterdir())
        assert failures == ["replica_0003_step_15.npz", "replica_0004_step_15.npz"]

    def test_all_the_time_end_it_and_the_next_try_has_another_seed(
        self, weights, data, tmp_path, monkeypatch
    ):
        seeds = []
        errors = [NumericalError("more often than they simulate"), None, KeyboardInterrupt()]

        def fails(model, settings, start, **options):
            seeds.append(settings.seed)
            error = errors[len(seeds) - 1]
            if error is not None:
                raise error
            return simulate_in_memory(model, settings, start, **options)

        monkeypatch.setattr(sys.modules[refine.__module__], "simulate_in_memory", fails)
        with pytest.raises(NumericalError, match="more often than they simulate"):
            refine(weights, data, tmp_path / "out", settings=SETTINGS)
        with pytest.raises(KeyboardInterrupt):
            refine(weights, data, tmp_path / "out", settings=SETTINGS)
        # What failed is over: the next round has the seed it always has.
        assert seeds[1] not in (5, 6)
        assert seeds == [5, seeds[1], 6]


class TestErrors:
    def test_other_settings_in_the_same_folder(self, weights, data, copy):
        with pytest.raises(CheckpointError, match="other files or with other settings"):
            refine(weights, data, copy, settings=dataclasses.replace(SETTINGS, seed=1))

    def test_folder_with_something_else(self, weights, data, tmp_path):
        (tmp_path / "something").touch()
        with pytest.raises(CheckpointError, match="not empty and holds no refinement"):
            refine(weights, data, tmp_path, settings=SETTINGS)

    @pytest.mark.parametrize("name", ["refinement.json", "round_1.npz"])
    def test_damaged_folder(self, weights, data, copy, name):
        (copy / name).write_bytes(b"{")
        with pytest.raises(CheckpointError, match=f"{name} is missing or damaged"):
            refine(weights, data, copy, settings=dataclasses.replace(SETTINGS, rounds=3))

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
        [
            {"rounds": 0},
            {"rounds": 1.5},
            {"replicas": 0},
            {"replicas": 2.5},
            {"discarded": 1.0},
            {"regions": 1},
            {"interval": 1000},
            {"timestep": -1.0},
            {"friction": 0.0},
            {"backend": "nonsense"},
            {"seed": -1},
        ],
    )
    def test_settings_out_of_range(self, change):
        with pytest.raises(ConfigurationError):
            dataclasses.replace(SETTINGS, **change)
