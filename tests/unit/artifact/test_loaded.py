"""A model in memory: loaded and tested once, usable without its file, and in other processes."""

import copy
import logging
import pickle
import subprocess
import sys
import types

import numpy as np
import openmm
import pytest
import torch

from openmm_scoremd.artifact import loaded as module
from openmm_scoremd.artifact.loaded import loaded_model
from openmm_scoremd.artifact.metadata import SelfTest, read_archive
from openmm_scoremd.errors import MissingDependencyError, ModelFileError
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.forces.create import create_force
from openmm_scoremd.forces.kernel.build import load_library
from openmm_scoremd.model_file import ScoreModelFile

BACKENDS = ["auto", "pythonforce", "kernel"]


@pytest.fixture
def path(make_trained, tmp_path):
    """A small graph transformer, which every backend knows."""
    return export_torchscript(make_trained("graph"), tmp_path / "model.pt")


@pytest.fixture
def loads(monkeypatch):
    """Count what is loaded and what is tested."""
    counts = {"loaded": 0, "tested": 0}
    load, test = module.load_archive, module._run_self_test

    def counting_load(*args, **options):
        counts["loaded"] += 1
        return load(*args, **options)

    def counting_test(*args):
        counts["tested"] += 1
        return test(*args)

    monkeypatch.setattr(module, "load_archive", counting_load)
    monkeypatch.setattr(module, "_run_self_test", counting_test)
    return counts


def system_with(force, n_particles):
    system = openmm.System()
    for _ in range(n_particles):
        system.addParticle(12.0)
    system.addForce(force)
    return system


def forces_of(system, frames):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frames.reshape(-1, 3))
    found = context.getState(forces=True).getForces(asNumpy=True)._value
    return np.array(found).reshape(frames.shape)


def frames_of(model, n, seed=0):
    return np.random.default_rng(seed).normal(scale=0.1, size=(n, model.n_beads, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_is_loaded_and_tested_once_on_the_way_to_forces(path, loads, backend):
    model = ScoreModelFile(path)
    frames = frames_of(model, 2)
    system = model.create_system(replicas=2, backend=backend)
    np.testing.assert_allclose(
        forces_of(system, frames), model.forces(frames), rtol=1e-3, atol=1e-2
    )
    # Again by its path, and again in a copy, of which OpenMM makes a pickle.
    forces_of(system_with(create_force(path, backend=backend), 10), frames)
    forces_of(copy.deepcopy(system), frames)
    assert loads == {"loaded": 1, "tested": 1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_is_gone_is_still_a_model(path, backend):
    model = ScoreModelFile(path)
    frames = frames_of(model, 3)
    expected = model.forces(frames)
    path.unlink()
    system = model.create_system(replicas=3, backend=backend)
    for made in (system, copy.deepcopy(system)):
        np.testing.assert_allclose(forces_of(made, frames), expected, rtol=1e-3, atol=1e-2)
    assert np.isfinite(model.uncalled().sample(2, seed=0, n_steps=5)).all()


@pytest.mark.parametrize("form", ["path", "archive", "model", "file"])
def test_the_hash_is_checked_in_whatever_form_a_model_is_given(toy, form):
    given = {
        "path": lambda: toy.path,
        "archive": lambda: read_archive(toy.path),
        "model": lambda: loaded_model(toy.path),
        "file": lambda: ScoreModelFile(toy.path),
    }[form]()
    with pytest.raises(ModelFileError, match="SHA-256"):
        create_force(given, sha256="0" * 64, backend="pythonforce")
    good = read_archive(toy.path).sha256.upper()
    assert create_force(given, sha256=good, backend="pythonforce")


def test_a_model_that_is_in_memory_is_found_there(toy, tmp_path):
    model = ScoreModelFile(toy.path)
    assert loaded_model(toy.path) is loaded_model(model) is model.loaded
    # A copy elsewhere is the same model and another file.
    other = tmp_path / "copy" / "toy.pt"
    other.parent.mkdir()
    other.write_bytes(toy.path.read_bytes())
    assert loaded_model(other).archive.path == other
    # Opened again, it is a model that nobody has called.
    assert ScoreModelFile(toy.path).loaded is not model.loaded


def test_what_is_uncalled_computes_what_a_new_file_computes(path):
    model, drawn = ScoreModelFile(path), []
    for _ in range(2):
        drawn.append(model.uncalled().sample(4, seed=3, n_steps=6))
        for _ in range(3):  # TorchScript compiles as it goes
            model.sample(2, seed=1, n_steps=6)
            model.potential_energy(frames_of(model, 2))
    drawn.append(ScoreModelFile(path).sample(4, seed=3, n_steps=6))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("n", [1, 3])
def test_no_replica_may_depend_on_its_neighbours(toy, n):
    archive = read_archive(toy.path)

    def mixed(positions):
        energies, forces = toy.module.energies_and_forces(positions)
        return energies, forces + (1.0 if len(positions) == n else 0.0)

    network = types.SimpleNamespace(energies_and_forces=mixed)
    with pytest.raises(ModelFileError, match="does not reproduce its own forces"):
        module._run_self_test(network, archive, torch.device("cpu"))


def test_forces_of_a_torchforce_are_compared_through_a_context(make_toy, monkeypatch, caplog):
    pytest.importorskip("openmmtorch")
    toy = make_toy(title="compared")
    from openmm_scoremd.forces import torchforce

    def transposed(*args):
        scripted = torchforce_forces(*args)

        class Transposed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = scripted
                self.metadata = scripted.metadata

            def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                energy, forces = self.inner(positions)
                return energy, forces.t().contiguous().t()

        return torch.jit.script(Transposed())

    torchforce_forces = torchforce.scripted_forces
    monkeypatch.setattr(torchforce, "scripted_forces", transposed)
    with pytest.raises(ModelFileError, match=r"a TorchForce of .* its own forces"):
        create_force(toy.path, backend="torchforce")
    with caplog.at_level(logging.WARNING):
        assert isinstance(create_force(toy.path), openmm.PythonForce)
    assert "PythonForce is used instead of TorchForce" in caplog.text


def test_a_failed_self_test_keeps_forces_from_being_made(make_toy, make_metadata):
    good = make_metadata().self_test
    wrong = SelfTest(
        positions=good.positions, energies=good.energies, forces=-good.forces, tolerance=1e-5
    )
    toy = make_toy(self_test=wrong)
    with pytest.raises(ModelFileError, match="does not reproduce its own forces"):
        create_force(toy.path, backend="pythonforce")


# --- Other processes -----------------------------------------------------------------------------


def test_a_pickle_needs_no_file(toy, chain):
    model = ScoreModelFile(toy.path)
    content = pickle.dumps(model)
    toy.path.unlink()
    again = pickle.loads(content)  # noqa: S301
    assert (again.path, again.sha256) == (model.path, model.sha256)
    frames = chain(3, 4)
    np.testing.assert_array_equal(again.potential_energy(frames), model.potential_energy(frames))


SPAWN = """
import multiprocessing, sys
from openmm_scoremd import ScoreModelFile

def energy(model, frame):
    return float(model.potential_energy(frame))

if __name__ == "__main__":
    import numpy as np
    model = ScoreModelFile(sys.argv[1])
    frames = model.sample(2, seed=0, n_steps=5)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.starmap(energy, [(model, frame) for frame in frames])
    np.testing.assert_allclose(found, model.potential_energy(frames), rtol=1e-6)
"""

# After work on two threads, which the child does not inherit.
FORK = """
import os, signal, sys
import numpy as np, torch
from openmm_scoremd import ScoreModelFile

torch.set_num_threads(2)
model = ScoreModelFile(sys.argv[1])
frames = np.random.default_rng(0).normal(scale=0.1, size=(50, model.n_beads, 3))

def work():
    if sys.argv[2] == "kernel":
        from openmm_scoremd.forces.kernel_force import kernel_network
        network = kernel_network(model.loaded)
        return network.energies_and_forces(frames, threads=torch.get_num_threads())[0]
    model.sample(20, seed=0, n_steps=2)
    return model.potential_energy(frames)

torch.randn(4000000).exp().sum()
expected = work()
child = os.fork()
if child == 0:
    signal.alarm(40)
    torch.randn(4000000).exp().sum()
    good = np.allclose(work(), expected, rtol=1e-6)
    os._exit(0 if good and torch.get_num_threads() == 1 else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_script(tmp_path, text, *arguments):
    script = tmp_path / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.slow
def test_pools_of_spawned_workers(path, tmp_path):
    run_script(tmp_path, SPAWN, path)


@pytest.mark.skipif(not hasattr(module.os, "fork"), reason="needs fork")
@pytest.mark.parametrize("what", ["torch", "kernel"])
def test_forked_workers_give_an_answer(path, tmp_path, what):
    if what == "kernel":
        try:
            load_library()
        except MissingDependencyError as error:
            pytest.skip(str(error))
    run_script(tmp_path, FORK, path, what)
