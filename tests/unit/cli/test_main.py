"""The scoremd command: every step on a tiny molecule, and what it says when something is wrong."""

import contextlib
import functools
import importlib.metadata
import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

import openmm_scoremd.__main__
from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.cli.main import COMMANDS, main
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.speed import Plan, Timing
from openmm_scoremd.training.trainer import Trainer
from openmm_scoremd.trajectories.reading import load_replicas

# With others, so that one process makes the workshop.
pytestmark = pytest.mark.xdist_group("workshop")

ROOT = Path(__file__).parents[3]
TRAJECTORY = str(ROOT / "tests/data/alanine_dipeptide_200.dcd")
TOPOLOGY = str(ROOT / "tests/data/alanine_dipeptide.pdb")


class TestSteps:
    # These have tests of their own, with files and processes that no other command needs.
    @pytest.mark.parametrize(
        "command", sorted(COMMANDS.keys() - {"import", "campaign", "fit", "reweight"})
    )
    def test_every_command_succeeds_and_prints_results_only(self, workshop, command):
        said = workshop[1][command]
        assert said.code == 0
        assert said.out
        assert "error" not in said.err
        assert not re.search("[0-9]%", said.out)  # progress

    def test_coarse_grain(self, workshop):
        folder, said = workshop
        first, *summary = said["coarse-grain"].out.splitlines()
        assert first == "beads.npz: 200 frames of 5 beads at 300 K, scale 0.0939 nm"
        assert summary[0].split()[:4] == ["beads", "5", "of", "3"]
        dataset = load_dataset(folder / "beads.npz")
        assert dataset.source_sha256 == sha256_of_file(TRAJECTORY)
        assert dataset.scale == pytest.approx(0.0939, abs=5e-5)
        for suffix in (".pdb", ".psf"):
            topology = mdtraj.load_topology(folder / f"beads{suffix}")
            assert [atom.name for atom in topology.atoms] == ["C", "N", "CA", "C", "N"]
            assert topology.n_bonds == 4

    def test_train(self, workshop):
        folder, said = workshop
        assert said["train"].out == (
            "run/weights.safetensors: trained for 20 steps\n"
            "next: scoremd export run/weights.safetensors MODEL.pt\n"
        )
        assert "run: 20 steps of 16 frames on cpu" in said["train"].err
        assert "training: 100%" in said["train"].err
        names = {path.name for path in (folder / "run").iterdir()}
        assert names == {
            *("checkpoint.safetensors", "weights.safetensors", "log.csv", "loss.png", "run.json"),
            "training.yaml",
        }
        description = load_weights(folder / "run/weights.safetensors").description
        assert description.title == "tiny"
        assert description.dataset_sha256 == sha256_of_file(folder / "beads.npz")

    def test_refine(self, workshop):
        folder, said = workshop
        assert said["refine"].out == (
            "refined/weights.safetensors: refined in 1 round(s)\n"
            "next: scoremd export refined/weights.safetensors MODEL.pt\n"
        )
        assert "refinement: 100%" in said["refine"].err
        assert load_weights(folder / "refined/weights.safetensors").description.title == "tiny"

    def test_export_and_info(self, workshop):
        folder, said = workshop
        model = ScoreModelFile(folder / "tiny.pt")
        assert model.metadata.weights_sha256 == sha256_of_file(folder / "run/weights.safetensors")
        assert said["export"].out == said["info"].out
        rows = dict(line.split("  ", 1) for line in said["info"].out.splitlines())
        rows = {name: value.strip() for name, value in rows.items()}
        assert rows["beads"] == "5 (C N CA C N)"
        assert rows["temperature"] == "300 K"
        assert rows["SHA-256"] == model.sha256
        assert rows["self-test"] == "4 frames reproduced"
        assert rows["training"].startswith("20 steps, 0.0")

    def test_sample(self, workshop):
        folder, said = workshop
        assert said["sample"].out == "iid/iid.dcd: 6 independent frames\n"
        frames = mdtraj.load(folder / "iid/iid.dcd", top=folder / "iid/topology.pdb").xyz
        expected = ScoreModelFile(folder / "tiny.pt").sample(6, seed=3, n_steps=8)
        np.testing.assert_allclose(frames, expected, atol=1e-5 * np.abs(expected).max())
        record = json.loads((folder / "iid/run.json").read_text())
        assert record["seeds"] == {"sampling": 3}
        assert record["arguments"]["steps"] == 8
        assert record["inputs"]["model"]["sha256"] == sha256_of_file(folder / "tiny.pt")

    def test_simulate(self, workshop):
        folder, said = workshop
        assert said["simulate"].out.startswith("md: 3 replicas of 0.05 ps, 2 frames each, ")
        assert load_replicas(folder / "md", n_beads=5).shape == (3, 2, 5, 3)
        record = json.loads((folder / "md/run.json").read_text())
        assert record["results"]["replica_steps"] == 75
        assert record["results"]["replica_steps_per_second"] > 0.0
        assert record["seeds"] == {"simulation": 0}
        topology = mdtraj.load_topology(folder / "md/topology.psf")
        assert topology.n_atoms == 5

    def test_simulation_is_that_of_the_python_interface(self, scoremd, workshop, here):
        path, options = workshop[0] / "tiny.pt", {"seed": 4, "timestep": 0.001, "friction": 2.0}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        counts = ("--replicas", 3, "--steps", 25, "--interval", 10)
        assert scoremd("simulate", path, here / "md", *counts, *words).code == 0
        model = ScoreModelFile(path)
        simulation = ReplicaSimulation(model, replicas=3, **options)
        start = model.sample(3, seed=4)
        simulation.set_positions(start)
        simulation.add_trajectories(here / "expected", interval=10)
        simulation.step(25)
        found, expected = (load_replicas(here / name, n_beads=5) for name in ("md", "expected"))
        np.testing.assert_array_equal(found, expected)
        stored = mdtraj.load(here / "md" / "topology.pdb").xyz[0]
        np.testing.assert_allclose(stored, start[0], atol=1e-4)

    def test_best_backend(self, scoremd, workshop, here, monkeypatch):
        asked = []

        def measured(_model, *, replicas, platforms):
            asked.append((replicas, platforms))
            timings = [
                Timing("torchforce", "CPU", 3, 0.2),
                Timing("pythonforce", "Reference", 3, 0.1),
            ]
            return Plan(tuple(timings), threads=1)

        monkeypatch.setattr("openmm_scoremd.simulation.speed.measure_speeds", measured)
        options = ("--replicas", 3, "--steps", 10, "--interval", 10, "--backend", "best")
        said = scoremd("simulate", workshop[0] / "tiny.pt", here / "md", *options)
        assert said.code == 0, said.err
        assert "best: pythonforce on Reference, 30 replica-steps/s" in said.err
        settings = json.loads((here / "md" / "run.json").read_text())["arguments"]
        assert (settings["backend"], settings["platform"]) == ("pythonforce", "Reference")
        more = ("--steps", 20, "--backend", "best", "--resume")
        said = scoremd("simulate", workshop[0] / "tiny.pt", here / "md", *more)
        assert said.code == 0, said.err
        assert asked == [([3], None)]

    def test_simulation_by_time_is_made_longer(self, scoremd, workshop, here):
        command = ("simulate", workshop[0] / "tiny.pt", "md", "--replicas", 2, "--interval", 5)
        assert "2 replicas of 0.04 ps, 4 frames" in scoremd(*command, "--time", "40fs").out
        done = scoremd("simulate", workshop[0] / "tiny.pt", "md", "--resume", "--time", "0.06ps")
        assert "2 replicas of 0.06 ps, 6 frames each, 2 frames written now" in done.out
        assert json.loads((here / "md/run.json").read_text())["results"]["replica_steps"] == 60
        assert scoremd(*command, "--resume").code == 0
        assert load_replicas("md", n_beads=5).shape == (2, 6, 5, 3)

    def test_evaluate(self, workshop):
        folder, said = workshop
        names = {path.name for path in (folder / "report").iterdir()}
        pictures = {"ramachandran.png", "dihedrals.png", "bonds.png"}
        assert names == pictures | {"metrics.json", "report.html", "run.json"}
        # One in five of 200 frames was held back from training.
        assert "iid: 40 frames, against 40 of reference" in said["evaluate"].out
        assert "simulation: 6 frames" in said["evaluate"].out
        assert "P(φ > 0)" in said["evaluate"].out
        assert said["evaluate"].out.endswith("pictures and numbers: report\n")

    def test_metadata_as_json(self, scoremd, there):
        done = scoremd("info", "tiny.pt", "--json")
        content = json.loads(done.out)
        model = ScoreModelFile("tiny.pt")
        assert content.pop("sha256") == model.sha256
        assert content == json.loads(model.metadata.to_json())


class TestBeads:
    @pytest.mark.parametrize(
        ("options", "names"),
        [
            (("--selection", "name CA"), ("CA",)),
            (("--selection", "name CA or name CB"), ("CA", "CB")),
            (("--indices", "8,4,6"), ("CA", "C", "N")),
            (("--preset", "ca"), ("CA",)),
        ],
    )
    def test_other_choices(self, coarse_grain, here, options, names):
        done = coarse_grain(*options, "--stride", 50)
        if len(names) == 1:
            assert done.code == 2
            assert "one bead has no internal coordinates to learn" in done.err
            assert not list(here.iterdir())
            return
        assert done.code == 0
        dataset = load_dataset("beads.npz")
        assert dataset.topology.names == names
        assert dataset.n_frames == 4

    def test_several_trajectories(self, scoremd, here):
        done = scoremd(
            *("coarse-grain", TRAJECTORY, TRAJECTORY, "--topology", TOPOLOGY),
            *("--temperature", 310.5, "--output", "two.npz", "--preset", "alanine-dipeptide"),
            "--force",  # the same frames twice are a mistake elsewhere
        )
        assert done.out.startswith("two.npz: 400 frames of 5 beads at 310.5 K")

    def test_the_topology_read_is_not_replaced_by_that_of_the_beads(self, coarse_grain, here):
        atoms = Path(TOPOLOGY).read_text()
        Path("beads.pdb").write_text(atoms)
        done = coarse_grain("--preset", "alanine-dipeptide")
        assert done.code == 2
        assert "beads.pdb exists already" in done.err
        assert Path("beads.pdb").read_text() == atoms
        assert not Path("beads.npz").exists()


class TestTraining:
    @pytest.fixture
    def train(self, scoremd):
        return lambda *options: scoremd("train", "--config", "tiny.yaml", *options)

    def test_options_override_the_file_wherever_it_stands(self, scoremd, workshop, here):
        folder, _ = workshop
        dataset = folder / "beads.npz"
        done = scoremd(
            *("train", "--data.path", dataset, "--epochs", 1),
            *("--config", folder / "tiny.yaml", "--output", "short", "--title", "short [run]"),
        )
        assert "trained for 10 steps" in done.out
        description = load_weights("short/weights.safetensors").description
        assert description.title == "short [run]"
        assert description.training["config"]["network"]["hidden_dim"] == 8

    def test_interrupted_and_resumed_gives_the_same(
        self, train, config, workshop, here, monkeypatch
    ):
        folder, _ = workshop
        (here / "tiny.yaml").write_text(config.replace("beads.npz", str(folder / "beads.npz")))
        train_step = Trainer._train_step

        def interrupt(trainer, step):
            if step == 9:
                raise KeyboardInterrupt
            return train_step(trainer, step)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_train_step", interrupt)
            done = train("--output", "run")
        assert done.code == 130
        assert done.out == ""
        assert "error: interrupted; the same command with --resume goes on" in done.err
        assert not (here / "run/weights.safetensors").exists()

        refused = train("--output", "run")
        assert refused.code == 2
        assert "run holds a training run already" in refused.err

        done = train("--output", "run", "--resume")
        assert done.code == 0
        whole = load_weights(folder / "run/weights.safetensors").model.state_dict()
        found = load_weights("run/weights.safetensors").model.state_dict()
        assert all(torch.equal(found[name], whole[name]) for name in whole)

    def test_resuming_a_finished_run_changes_nothing(self, train, workshop, here):
        for name in ("tiny.yaml", "beads.npz"):
            shutil.copy(workshop[0] / name, here)
        shutil.copytree(workshop[0] / "run", "run")
        before = sha256_of_file("run/weights.safetensors")
        Path("run/log.csv").unlink()
        done = train("--output", "run", "--resume")
        assert done.code == 0
        assert sha256_of_file("run/weights.safetensors") == before

    def test_resuming_with_other_settings_or_nothing(self, train, there):
        done = train("--output", "run", "--resume", "--seed", 7)
        assert (done.code, done.out) == (2, "")
        assert "another configuration; different: seed" in done.err
        done = train("--output", "nothing", "--resume")
        assert done.code == 2
        assert "nothing to resume" in done.err


#: Command line, and what the message must say.
REFUSED = {
    "unknown command": (["simulat"], "unknown command simulat (did you mean simulate?)"),
    "unknown option": (["sample", "tiny.pt", "x", "--frame", "3"], "did you mean --frames?"),
    "unknown flag": (["info", "tiny.pt", "--jsn"], "unknown option --jsn (did you mean --json?)"),
    "unknown entry": (
        ["train", "--config", "tiny.yaml", "--output", "x", "--network.hidden_dmi", "3"],
        "unknown option --network.hidden_dmi (did you mean --network.hidden_dim?)",
    ),
    "abbreviated entry": (
        ["train", "--config", "tiny.yaml", "--output", "x", "--epoch", "3"],
        "did you mean --epochs?",
    ),
    "entry out of range": (
        ["train", "--config", "tiny.yaml", "--output", "x", "--epochs", "-3"],
        "epochs is -3; it must be at least 1",
    ),
    "missing config": (["train", "--config", "no.yaml", "--output", "x"], "no.yaml"),
    "missing output": (["train", "--config", "tiny.yaml"], "required: output"),
    "missing dataset": (
        ["train", "--config", "tiny.yaml", "--output", "x", "--data.path", "no.npz"],
        "no.npz does not exist",
    ),
    "missing argument": (["info"], "required: model; see scoremd info --help"),
    "missing model": (["info", "no.pt"], "no.pt cannot be read: No such file"),
    "no model": (["sample", "beads.npz", "x"], "beads.npz is an archive without scoremd.json"),
    "text": (["info", "tiny.yaml"], "tiny.yaml is no model file"),
    "missing weights": (["export", "no.safetensors", "x.pt"], "no.safetensors is not a weights"),
    "wrong weights": (["export", "tiny.yaml", "x.pt"], "tiny.yaml is not a weights file"),
    "export over weights": (
        ["export", "run/weights.safetensors", "run/weights.safetensors"],
        "run/weights.safetensors exists and is no model file",
    ),
    "export to ONNX": (
        ["export", "run/weights.safetensors", "x.onnx"],
        "its name must end in .safetensors or .pt",
    ),
    "export at time 2": (
        ["export", "run/weights.safetensors", "x.pt", "--time", "2"],
        "t is 2.0; the network was trained for diffusion times",
    ),
    "no frames": (["sample", "tiny.pt", "x", "--frames", "0"], "0 is out of range; it must be"),
    "negative frames": (["evaluate", "tiny.pt", "beads.npz", "x", "--frames", "-3"], "--frames"),
    "half a frame": (["sample", "tiny.pt", "x", "--frames", "2.5"], "'2.5' is no whole number"),
    "no sampler steps": (["sample", "tiny.pt", "x", "--steps", "0"], "--steps: 0 is out of range"),
    "negative seed": (["sample", "tiny.pt", "x", "--seed", "-1"], "-1 is out of range"),
    "huge seed": (["simulate", "tiny.pt", "x", "--seed", str(2**63)], "is out of range"),
    "unknown solver": (["sample", "tiny.pt", "x", "--solver", "heun"], "invalid choice: 'heun'"),
    "unknown device": (["sample", "tiny.pt", "x", "--device", "tpu"], "invalid choice: 'tpu'"),
    "no replicas": (["simulate", "tiny.pt", "x", "--replicas", "0"], "0 is out of range"),
    "backwards": (["simulate", "tiny.pt", "x", "--steps", "-4"], "-4 is out of range"),
    "no frame in all steps": (
        ["simulate", "tiny.pt", "x", "--steps", "50", "--interval", "100"],
        "interval is 100 and steps 50",
    ),
    "no time": (["simulate", "tiny.pt", "x", "--time", "10 parsecs"], "'10 parsecs' is no time"),
    "time and steps": (
        ["simulate", "tiny.pt", "x", "--time", "1ps", "--steps", "9"],
        "give --time or --steps, not both",
    ),
    "resume of something else": (["simulate", "tiny.pt", "run", "--resume"], "holds no run"),
    "negative margin": (["simulate", "tiny.pt", "x", "--margin", "-1"], "margin is -1.0"),
    "negative timestep": (["simulate", "tiny.pt", "x", "--timestep", "-1"], "timestep is -1.0 ps"),
    "no friction": (["simulate", "tiny.pt", "x", "--friction", "0"], "friction is 0.0"),
    "unknown platform": (
        ["simulate", "tiny.pt", "x", "--platform", "Abacus"],
        "extras, for example openmm[cuda12]",  # brackets are no markup
    ),
    "full folder": (["simulate", "tiny.pt", "md"], "md is not empty; give a new or empty folder"),
    "full folder of samples": (["sample", "tiny.pt", "iid"], "iid is not empty"),
    "full folder of a report": (["evaluate", "tiny.pt", "beads.npz", "report"], "is not empty"),
    "file for a folder": (["sample", "tiny.pt", "tiny.yaml"], "tiny.yaml is a file"),
    "missing reference": (["evaluate", "tiny.pt", "no.npz", "x"], "no.npz does not exist"),
    "missing simulation": (
        ["evaluate", "tiny.pt", "beads.npz", "x", "--simulation", "no"],
        "no does not exist",
    ),
    "folder without a simulation": (
        ["evaluate", "tiny.pt", "beads.npz", "x", "--simulation", "run"],
        "no .dcd files in run",
    ),
    "surplus argument": (["info", "tiny.pt", "beads.npz"], "unrecognized arguments: beads.npz"),
}


class TestRefused:
    @pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
    def test_message_and_nothing_written(self, scoremd, there, arguments, message):
        done = scoremd(*arguments)
        assert done.code == 2
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert message in done.err
        assert len(done.err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "give exactly one of --preset, --selection, --indices and --mapping"),
            (("--preset", "ca", "--indices", "4"), "give exactly one of"),
            (("--preset", "alanin"), "invalid choice: 'alanin'"),
            (("--selection", "name XX"), "matches none of the 22 atoms"),
            (("--selection", "nonsense((("), "is not MDTraj selection language"),
            (("--indices", "4,22"), "they must lie in 0..21"),
            (("--indices", "4,x"), "'4,x' is no list such as 4,6,8"),
            (("--preset", "ca", "--stride", "0"), "0 is out of range"),
            (("--preset", "ca", "--strid", "2"), "did you mean --stride?"),
            (("--preset", "ca", "--temperature", "-300"), "must be positive and finite"),
            (("--preset", "ca", "--temperature", "nan"), "must be positive and finite"),
            (("--preset", "ca", "--topology", "no.pdb"), "topology no.pdb does not exist"),
            (("--preset", "ca", "--output", "beads"), "its name must end in .npz"),
        ],
    )
    def test_coarse_grain(self, coarse_grain, here, options, message):
        done = coarse_grain(*options)
        assert done.code == 2
        assert done.out == ""
        assert message in done.err
        assert not list(here.iterdir())

    def test_missing_trajectory(self, scoremd, here):
        done = scoremd(
            *("coarse-grain", "no.dcd", "--topology", TOPOLOGY, "--temperature", 300),
            *("--output", "beads.npz", "--preset", "alanine-dipeptide"),
        )
        assert done.code == 2
        assert "trajectory no.dcd does not exist" in done.err

    def test_reference_of_another_molecule(self, scoremd, there, toy):
        done = scoremd("evaluate", toy.path, "beads.npz", "x")
        assert done.code == 2
        assert (
            "the molecule of toy.pt is not that of beads.npz: there are 5 beads and not 4"
            in done.err
        )

    def test_simulation_of_another_molecule(self, scoremd, there, toy, tmp_path):
        options = ("--replicas", 2, "--steps", 2, "--interval", 1)
        assert scoremd("simulate", toy.path, tmp_path / "md", *options).code == 0
        done = scoremd("evaluate", "tiny.pt", "beads.npz", "x", "--simulation", tmp_path / "md")
        assert done.code == 2
        assert "2 frames of 4 beads; the model has 5 beads" in done.err

    def test_system_errors_name_the_file(self, scoremd, there):
        done = scoremd("export", "run/weights.safetensors", "tiny.yaml/x.pt")
        assert done.code == 2
        assert "tiny.yaml/x.pt: cannot write: " in done.err
        done = scoremd("sample", "tiny.pt", "tiny.yaml/x")
        assert done.code == 2
        assert "Not a directory" in done.err

    def test_direct_network_cannot_be_exported(self, scoremd, workshop, here):
        folder, _ = workshop
        options = ("--network.output", "direct", "--epochs", 1)
        done = scoremd(
            *("train", "--config", folder / "tiny.yaml", "--output", "run", *options),
            *("--data.path", folder / "beads.npz"),
        )
        assert done.code == 0
        done = scoremd("export", "run/weights.safetensors", "x.pt")
        assert done.code == 2
        assert "has no energy, so it cannot be simulated" in done.err
        assert not Path("x.pt").exists()


class TestHelp:
    @pytest.mark.parametrize("command", ["", *COMMANDS])
    def test_fits_a_terminal(self, monkeypatch, command):
        monkeypatch.setenv("COLUMNS", "80")
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
            main([command, "--help"] if command else ["--help"])
        assert stop.value.code == 0
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[0].startswith(f"usage: scoremd {command}".rstrip())

    def test_every_command_is_listed_with_what_it_does(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main([])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        for name, function in COMMANDS.items():
            assert f"  {name} " in text
            assert function.__doc__.splitlines()[0] in text

    def test_every_option_is_explained(self, capsys):
        with pytest.raises(SystemExit):
            main(["simulate", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for expected in (
            "--replicas N number of replicas; 100 if not given",
            "--seed N seed of all random numbers; 0 if not given",
            "--backend {auto,torchforce,pythonforce,kernel,best} how OpenMM evaluates",
            "--device {cpu,cuda} where independent frames are drawn (default: cpu)",
            "--timestep X in ps; 0.002 if not given",
        ):
            assert expected in text

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["--version"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.strip() == importlib.metadata.version("openmm-scoremd")

    def test_the_command_is_installed(self):
        declared = re.search(r'^scoremd = "(.+):(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
        module = importlib.import_module(declared[1])
        assert getattr(module, declared[2]) is openmm_scoremd.__main__.main
        assert list(importlib.metadata.entry_points(group="console_scripts", name="scoremd"))

    def test_is_quick(self):
        code = (
            "import sys\n"
            "from openmm_scoremd.cli.main import main\n"
            "try: main(['simulate', '--help'])\n"
            "finally: print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        loaded = set(done.stderr.split())
        assert "openmm_scoremd.cli.simulate" in loaded
        assert loaded.isdisjoint({"torch", "openmm", "mdtraj", "numpy", "jsonargparse"})


def commands_in_the_documentation():
    patterns = ("README.md", "docs/*.md", "torchscript_models/*.md", "examples/*.yaml")
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths).replace("\\\n", " ")
    # Those of campaign files have names in braces, which a campaign fills in.
    return re.findall(r"^#? *(scoremd [a-z-]+ [^{}\n]*)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("line", commands_in_the_documentation())
def test_commands_in_the_documentation_can_be_given(scoremd, monkeypatch, line):
    words = shlex.split(line, comments=True)[1:]
    called = []

    @functools.wraps(COMMANDS[words[0]])
    def record(*_arguments, **options):
        called.append(options)

    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(COMMANDS, words[0], record)
    done = scoremd(*words)
    assert (done.code, done.err) == (0, "")
    assert len(called) == 1


def test_documentation_shows_how_to_train_and_to_simulate():
    shown = {line.split()[1] for line in commands_in_the_documentation()}
    assert shown >= {"coarse-grain", "train", "export", "simulate", "evaluate"}


@pytest.mark.usefixtures("here")
def test_through_a_pipe_standard_output_holds_results_only():
    # Not in this process: the C code of MDTraj prints, and keeps what it prints until the end.
    command = [
        *(sys.executable, "-W", "error", "-m", "openmm_scoremd", "coarse-grain", TRAJECTORY),
        *("--topology", TOPOLOGY, "--temperature", "300", "--output", "beads.npz"),
        *("--preset", "alanine-dipeptide"),
    ]
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.splitlines()
    assert first == "beads.npz: 200 frames of 5 beads at 300 K, scale 0.0939 nm"
    assert [line.split()[0] for line in table][::3] == ["beads", "C-N", "frames"]
    assert done.stderr == ""


@pytest.mark.usefixtures("here")
def test_warnings_go_to_standard_error(workshop, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    options = ["--trajectory", "2", "--interval", "2", "--temperature", "330"]
    code = main(["sample", str(workshop[0] / "tiny.pt"), "out", *options])
    captured = capsys.readouterr()
    assert code == 0
    assert "WARNING: the simulation has 330 K, the model 300 K" in captured.err
    assert "WARNING" not in captured.out
