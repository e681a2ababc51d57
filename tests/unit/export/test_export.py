"""Exported files compute what the network computes, on their own, or are not written."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.artifact.contract import openmm_forces
from openmm_scoremd.artifact.metadata import read_metadata
from openmm_scoremd.artifact.torchscript import load_module
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, InvalidInputError, ModelFileError
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.models.weights import (
    ExpertDescription,
    TrainedModel,
    load_weights,
    save_weights,
)
from openmm_scoremd.sampling.reverse_diffusion import draw_frames
from openmm_scoremd.units import thermal_energy

KT = thermal_energy(310.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def frames_of(trained, n, *, seed=2):
    """Frames (n, N, 3) in nm; z is not zero for models in the plane."""
    shape = (n, trained.description.topology.n_beads, 3)
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=0.1, size=shape))


def expected_energy_and_forces(trained, frames, *, t=1e-5):
    """Sum of the energies (kJ/mol) and forces (M, 3) from the plain network in float64."""
    description = trained.description
    x = frames[..., : description.n_dims] / description.scale
    times = torch.full((len(x),), t, dtype=torch.float64)
    energy, score = trained.model.double().energy_and_score(x, times)
    forces = torch.zeros_like(frames)
    forces[..., : description.n_dims] = KT / description.scale * score.detach()
    return KT * energy.detach().sum(), forces.reshape(-1, 3)


def energy_and_forces(module, positions):
    """Sum of the energies, and forces (M, 3), of positions (M, 3)."""
    frames = positions.reshape(-1, module.n_beads, 3)
    energies, forces = module.energies_and_forces(frames)
    assert energies.shape == frames.shape[:1]
    assert energies.dtype == torch.float64
    return energies.sum(), forces.reshape(-1, 3)


def assert_forces(found, expected, tolerance):
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


# --- The same numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
# All kinds of networks are in tests/unit/testing.
@pytest.mark.parametrize("name", ["graph", "mlp"])
def test_energies_and_forces_are_those_of_the_network(make_trained, path, name, dtype):
    trained = make_trained(name)
    assert export_torchscript(trained, path, dtype=dtype) == path
    module = load_module(path, device="cpu")
    tolerance = 2e-5 if dtype == "float32" else 1e-10
    for n_replicas in (1, 7, 1, 7, 7):  # the compiler specialises with the calls
        frames = frames_of(trained, n_replicas, seed=n_replicas)
        energy, forces = energy_and_forces(module, frames.reshape(-1, 3))
        expected = expected_energy_and_forces(trained, frames)
        assert float(energy) == pytest.approx(float(expected[0]), rel=tolerance, abs=tolerance)
        assert_forces(forces, expected[1], tolerance)
        assert energy.dtype == forces.dtype == torch.float64


def test_any_network_precision_and_position_precision(make_trained, path):
    trained = make_trained("graph", dtype=torch.float64)
    export_torchscript(trained, path, dtype="float32")
    module = load_module(path, device="cpu")
    frames = frames_of(trained, 3)
    energy, forces = energy_and_forces(module, frames.reshape(-1, 3).float())
    expected = expected_energy_and_forces(trained, frames)
    assert forces.dtype == torch.float32
    assert float(energy) == pytest.approx(float(expected[0]), rel=2e-5)
    assert_forces(forces.double(), expected[1], 2e-5)


@pytest.mark.parametrize("name", ["graph-noise-level", "mlp-beads"])
@pytest.mark.parametrize("t", [1e-5, 0.02, 1.0])
def test_the_force_is_taken_at_the_time_asked_for(make_trained, path, t, name):
    trained = make_trained(name)
    export_torchscript(trained, path, t=t, dtype="float64")
    frames = frames_of(trained, 2)
    energy, forces = energy_and_forces(load_module(path, device="cpu"), frames.reshape(-1, 3))
    expected = expected_energy_and_forces(trained, frames, t=t)
    assert float(energy) == pytest.approx(float(expected[0]), rel=1e-10)
    assert_forces(forces, expected[1], 1e-10)
    assert read_metadata(path).t == t


def test_weights_are_folded_in_double_precision_and_rounded_once(make_trained, path):
    trained = make_trained("graph")
    export_torchscript(trained, path)
    module = load_module(path, device="cpu")
    expected = dict(trained.model.double().at_time(1e-5).named_buffers())
    found = dict(module.force_energy.named_buffers())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name].float()), name


def test_replicas_that_diffused_far_away_keep_their_precision(make_trained, path):
    trained = make_trained("graph")
    export_torchscript(trained, path)
    module = load_module(path, device="cpu")
    frames = frames_of(trained, 3)
    energy, forces = energy_and_forces(module, frames.reshape(-1, 3))
    far = frames + torch.tensor([[[2e4, 0, 0]], [[0, -3e4, 0]], [[1e4, 1e4, 1e4]]]).double()
    found = energy_and_forces(module, far.reshape(-1, 3))
    assert float(found[0]) == pytest.approx(float(energy), rel=1e-5)
    assert_forces(found[1], forces, 1e-5)


def test_selected_particles(make_trained, path):
    trained = make_trained("graph")
    export_torchscript(trained, path, dtype="float64")
    module = load_module(path, device="cpu")
    frames = frames_of(trained, 2)
    expected = energy_and_forces(module, frames.reshape(-1, 3))
    chosen = [3, 11, 0, 7, 5, 12, 2, 9, 8, 6]
    system = torch.randn(13, 3, generator=torch.Generator().manual_seed(1)).double()
    system[chosen] = frames.reshape(-1, 3)
    energy, forces = openmm_forces(module, 5, chosen)(system)
    torch.testing.assert_close(energy, expected[0])
    torch.testing.assert_close(forces[chosen], expected[1])
    assert not forces[[1, 4, 10]].any()


# --- What travels with the numbers -----------------------------------------------------------


def test_metadata(make_trained, path, tmp_path):
    trained = make_trained("graph", title="A chain")
    weights = tmp_path / "weights.safetensors"
    save_weights(trained, weights)
    export_torchscript(weights, path, t=0.02, dtype="float64")
    metadata = read_metadata(path)
    description = trained.description
    assert metadata.title == "A chain"
    assert metadata.topology == description.topology
    assert (metadata.temperature, metadata.scale) == (310.0, 0.09)
    assert (metadata.n_dims, metadata.t, metadata.t_min) == (3, 0.02, 1e-5)
    assert metadata.schedule == VPSchedule(0.1, 20.0)
    assert metadata.translation_invariant
    assert metadata.dtype == "float64"
    assert metadata.architecture["hidden_dim"] == 12
    assert metadata.dataset_sha256 == "ab" * 32
    assert metadata.weights_sha256 == sha256_of_file(weights)
    assert metadata.bond_ranges == ((0.1, 0.2),) * 4
    assert metadata.training["results"] == {"hours": 0.5}
    assert metadata.versions["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", ["graph", "mlp"])
def test_self_test_frames_are_data_with_reference_numbers(make_trained, path, name):
    trained = make_trained(name)
    export_torchscript(trained, path)
    check = read_metadata(path).self_test
    examples = np.array(trained.description.example_positions)
    np.testing.assert_array_equal(check.positions[..., : examples.shape[2]], examples)
    for frame, energy, forces in zip(check.positions, check.energies, check.forces, strict=True):
        expected = expected_energy_and_forces(trained, torch.tensor(frame)[None])
        assert energy == pytest.approx(float(expected[0]), rel=1e-12)
        np.testing.assert_allclose(forces, expected[1].numpy(), rtol=1e-9, atol=1e-9)


def test_a_network_in_memory_has_no_weights_file(make_trained, path):
    export_torchscript(make_trained("graph"), path)
    assert read_metadata(path).weights_sha256 == ""


def test_the_network_is_left_as_it_is(make_trained, path):
    trained = make_trained("graph")
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    export_torchscript(trained, path)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in trained.model.parameters())


def test_files_run_alone(make_trained, path):
    """Neither the package's networks nor its training are loaded, nor anything of it at all."""
    trained = make_trained("graph")
    export_torchscript(trained, path, dtype="float64")
    frames = frames_of(trained, 2)
    energy, _ = expected_energy_and_forces(trained, frames)
    np.save(path.with_suffix(".npy"), frames.reshape(-1, 3).numpy())
    code = """
import sys
import numpy, torch
positions = torch.from_numpy(numpy.load(sys.argv[2]))
print(float(torch.jit.load(sys.argv[1])(positions)))
assert not any(name.startswith("openmm") for name in sys.modules)
from openmm_scoremd.artifact.torchscript import load_module
module = load_module(sys.argv[1], device="cpu")
print(float(module(positions)))
print(module.score(positions.reshape(2, 5, 3), torch.tensor([0.1, 0.5])).shape)
loaded = {name for name in sys.modules if name.startswith("openmm_scoremd.")}
assert not any(".models" in n or ".training" in n or ".weights" in n for n in loaded), loaded
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(path), str(path.with_suffix(".npy"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    values = result.stdout.splitlines()
    assert [float(value) for value in values[:2]] == pytest.approx([float(energy)] * 2, rel=1e-10)
    assert values[2] == "torch.Size([2, 5, 3])"


# --- Refusals --------------------------------------------------------------------------------


def test_networks_without_an_energy(make_trained, path):
    with pytest.raises(ConfigurationError, match=r"GraphTransformerScore.*cannot be simulated"):
        export_torchscript(make_trained("graph-direct"), path)
    assert not path.exists()


@pytest.mark.parametrize("t", [0.0, 9e-6, -1.0, 1.1, float("nan")])
def test_times_that_were_not_trained(make_trained, path, t):
    with pytest.raises(InvalidInputError, match=f"t is {t}; .* 1e-05 to 1.0"):
        export_torchscript(make_trained("graph"), path, t=t)
    assert not path.exists()


def test_the_default_time_must_be_trained_too(make_trained, path):
    with pytest.raises(InvalidInputError, match=r"0\.001 to 1\.0"):
        export_torchscript(make_trained("graph", t_min=1e-3), path)


def test_unknown_precision(make_trained, path):
    with pytest.raises(InvalidInputError, match="'float16'; choose from float32, float64"):
        export_torchscript(make_trained("graph"), path, dtype="float16")
    assert not path.exists()


def test_missing_weights(tmp_path, path):
    with pytest.raises(ModelFileError, match=r"absent\.safetensors"):
        export_torchscript(tmp_path / "absent.safetensors", path)
    assert not path.exists()


@pytest.fixture
def wrong_folding(monkeypatch):
    """Make the folded network differ by a little, in energy or in forces only."""

    def spoil(what, amount):
        original = FoldedGraphTransformer.__init__

        def spoiled(self, *args, **kwargs):
            original(self, *args, **kwargs)
            getattr(self, what).mul_(1.0 + amount)

        monkeypatch.setattr(FoldedGraphTransformer, "__init__", spoiled)

    return spoil


@pytest.mark.parametrize("what", ["decoder", "decoder_bias"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_that_disagrees_is_not_written(make_trained, path, wrong_folding, what, dtype):
    path.write_text("an older file")
    wrong_folding(what, 1e-6)
    with pytest.raises(ModelFileError, match=r"float64 differs from the network by .* not written"):
        export_torchscript(make_trained("graph"), path, dtype=dtype)
    assert path.read_text() == "an older file"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("part", [0, 1])
def test_nan_never_agrees(make_trained, path, monkeypatch, part):
    class Broken:
        def __init__(self, exported):
            self.exported = exported

        def energies_and_forces(self, positions):
            result = list(self.exported.energies_and_forces(positions))
            result[part][-1] *= float("nan")
            return tuple(result)

    monkeypatch.setattr("openmm_scoremd.export.export.scripted_model", Broken)
    with pytest.raises(ModelFileError, match="differs from the network by nan"):
        export_torchscript(make_trained("graph"), path)
    assert not path.exists()


def test_rounding_beyond_the_tolerance_is_not_written(make_trained, path, monkeypatch):
    tolerances = {torch.float32: 1e-12, torch.float64: 1e-10}
    monkeypatch.setattr("openmm_scoremd.export.export.EXPORT_TOLERANCE", tolerances)
    with pytest.raises(ModelFileError, match=r"float32 differs.*export with dtype='float64'"):
        export_torchscript(make_trained("graph"), path)
    assert not path.exists()
    export_torchscript(make_trained("graph"), path, dtype="float64")


def test_a_network_that_gives_nan(make_trained, path):
    trained = make_trained("graph")
    with torch.no_grad():
        trained.model.decoder.bias.fill_(float("nan"))
    with pytest.raises(ModelFileError, match="self_test"):
        export_torchscript(TrainedModel(trained.model, trained.description), path)
    assert not path.exists()


# --- Mixtures --------------------------------------------------------------------------------

TIMES = [(1e-5, 0.1), (0.1, 0.6), (0.6, 1.0)]
SIZES = {"hidden_dim": 8, "layers": 1, "heads": 2, "head_dim": 4}
CONSERVATIVE_LOW = [
    GraphTransformerConfig(**SIZES, noise_floor=0.01),
    GraphTransformerConfig(**SIZES, output="direct", t_min=0.1, t_max=0.6),
    MLPConfig(hidden_dims=(7,), t_min=0.6),
]


@pytest.fixture
def make_mixture(make_trained):
    """Return ``make(networks, dtype=float32)``: networks for three beads, one after another."""

    def make(networks=CONSERVATIVE_LOW, *, dtype=torch.float32):
        generator = torch.Generator().manual_seed(4)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models = [build_model(network, n_beads=3, n_dims=3) for network in networks]
        with torch.no_grad():
            for model in models:
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        model = TimePartitionedMixture(
            [Expert(one.to(dtype), *times) for one, times in zip(models, TIMES, strict=True)]
        )
        about = dataclasses.replace(
            make_trained("mlp-beads").description,
            network=networks[0],
            translation_invariant=model.translation_invariant,
            experts=tuple(
                ExpertDescription(network, *times)
                for network, times in zip(networks, TIMES, strict=True)
            ),
        )
        return TrainedModel(model.eval(), about)

    return make


def expert_of(trained, index):
    """An expert as if it were the whole model."""
    return TrainedModel(trained.model.networks[index], trained.description)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_score_of_a_mixture_with_mixed_times(make_mixture, path, dtype):
    trained = make_mixture()
    export_torchscript(trained, path, dtype=dtype)
    module = load_module(path, device="cpu")
    times = [0.9, 1e-5, 0.1, 0.3, math.nextafter(0.6, 1.0), 0.6, 0.05, 1.0]
    x = torch.randn((8, 3, 3), generator=torch.Generator().manual_seed(3)).double()
    if dtype == "float32":
        # Times are what the file rounds them to.
        t = torch.tensor(times, dtype=torch.float32)
        expected = trained.model.score(x.float(), t).detach().double()
    else:
        t = torch.tensor(times, dtype=torch.float64)
        expected = trained.model.double().score(x, t).detach()
    for _ in range(3):  # the compiler specialises with the calls
        found = module.score(x, t)
        assert not found.requires_grad
        for i in range(8):  # frame by frame: scores at small times are far larger
            assert_forces(found[i], expected[i], 1e-4 if dtype == "float32" else 1e-10)


def test_a_mixture_of_one_time_at_a_time(make_mixture, path):
    # As in sampling: all frames of a call have one time, and the networks alternate.
    trained = make_mixture(dtype=torch.float64)
    export_torchscript(trained, path, dtype="float64")
    module = load_module(path, device="cpu")
    x = torch.randn((4, 3, 3), generator=torch.Generator().manual_seed(3)).double()
    for t in [1.0, 0.7, 0.6, 0.2, 0.1, 0.01, 1e-5, 0.9]:
        times = torch.full((4,), t, dtype=torch.float64)
        expected = trained.model.score(x, times).detach()
        assert_forces(module.score(x, times), expected, 1e-10)


@pytest.mark.parametrize(("t", "index"), [(1e-5, 0), (0.1, 0), (0.6000001, 2), (1.0, 2)])
def test_the_force_is_that_of_the_expert_that_serves_its_time(make_mixture, path, t, index):
    trained = make_mixture()
    export_torchscript(trained, path, t=t, dtype="float64")
    module = load_module(path, device="cpu")
    frames = frames_of(trained, 2)
    # Not centred: multilayer perceptrons see where a molecule is.
    assert float(frames.mean(dim=1).abs().min()) > 1e-3
    energy, forces = energy_and_forces(module, frames.reshape(-1, 3))
    expected = expected_energy_and_forces(expert_of(trained, index), frames, t=t)
    assert float(energy) == pytest.approx(float(expected[0]), rel=1e-10)
    assert_forces(forces, expected[1], 1e-10)
    assert read_metadata(path).t == t


def test_replicas_of_a_mixture_that_diffused_far_away(make_mixture, path):
    # The network of the force is invariant, whatever the others are.
    trained = make_mixture()
    export_torchscript(trained, path)
    module = load_module(path, device="cpu")
    frames = frames_of(trained, 3)
    energy, forces = energy_and_forces(module, frames.reshape(-1, 3))
    far = frames + torch.tensor([[[2e4, 0, 0]], [[0, -3e4, 0]], [[1e4, 1e4, 1e4]]]).double()
    found = energy_and_forces(module, far.reshape(-1, 3))
    assert float(found[0]) == pytest.approx(float(energy), rel=1e-5)
    assert_forces(found[1], forces, 1e-5)
    assert not read_metadata(path).translation_invariant


def test_a_mixture_that_would_be_drawn_anywhere_is_refused(make_mixture, path):
    first, middle, last = CONSERVATIVE_LOW
    trained = make_mixture([dataclasses.replace(last, t_min=0.0), middle, first])
    with pytest.raises(ConfigurationError, match="depends on where the molecule is"):
        export_torchscript(trained, path, t=1.0)
    assert not path.exists()


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_an_expert_without_an_energy_gives_no_force(make_mixture, path, t):
    with pytest.raises(ConfigurationError, match=r"GraphTransformerScore.*cannot be simulated"):
        export_torchscript(make_mixture(), path, t=t)
    assert not path.exists()


@pytest.mark.parametrize("t", [0.0, 9e-6, 1.1, float("nan")])
def test_times_that_no_expert_serves(make_mixture, path, t):
    with pytest.raises(InvalidInputError, match=f"t is {t}; .* 1e-05 to 1.0"):
        export_torchscript(make_mixture(), path, t=t)
    assert not path.exists()


def test_metadata_of_a_mixture(make_mixture, path):
    export_torchscript(make_mixture(), path)
    metadata = read_metadata(path)
    assert metadata.t_min == 1e-5
    assert metadata.architecture["noise_floor"] == 0.01
    experts = metadata.architecture["experts"]
    assert [(expert["t_min"], expert["t_max"]) for expert in experts] == TIMES
    assert [expert["network"]["output"] for expert in experts] == [
        "conservative",
        "direct",
        "conservative",
    ]


def test_a_single_network_has_no_experts(make_trained, path):
    export_torchscript(make_trained("mlp"), path)
    assert "experts" not in read_metadata(path).architecture


@pytest.mark.parametrize("solver", ["dpm-solver", "euler-maruyama"])
def test_samples_of_a_mixture_through_its_weights_and_model_file(
    make_mixture, path, tmp_path, solver
):
    trained = make_mixture()
    save_weights(trained, tmp_path / "weights.safetensors")
    export_torchscript(tmp_path / "weights.safetensors", path)
    loaded = load_weights(tmp_path / "weights.safetensors")
    model = ScoreModelFile(path)
    times = []

    def score_of_the_weights(x, t):
        times.append(float(t[0]))
        return loaded.model.score(x, t).detach()

    frames = model.sample(5, seed=2, solver=solver, n_steps=30)
    expected = draw_frames(
        score_of_the_weights,
        model.metadata,
        5,
        generator=torch.Generator().manual_seed(2),
        solver=solver,
        n_steps=30,
    )
    assert frames.shape == (5, 3, 3)
    np.testing.assert_allclose(frames, expected, rtol=1e-3, atol=1e-4)
    # All three are asked.
    assert {sum(t > border for border in (0.1, 0.6)) for t in times} == {0, 1, 2}
