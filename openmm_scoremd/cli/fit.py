"""``scoremd fit``: from a trajectory to a model and a verdict, one command line after another."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from openmm_scoremd._files.run_record import write_run_record
from openmm_scoremd.cli.advice import exit_error, what_next
from openmm_scoremd.cli.options import Seed, load_model
from openmm_scoremd.cli.recipe import MINUTES
from openmm_scoremd.cli.terminal import say
from openmm_scoremd.errors import CampaignError, InvalidInputError

if TYPE_CHECKING:
    from openmm_scoremd.campaign.plan import Step

#: Parts of the time; the rest is for beads, export, sampling and comparison.
_TRAINING, _SIMULATION = 0.6, 0.2
_REPLICAS, _FRAMES_OF_REPLICA, _MOST_STEPS = 100, 500, 500_000
#: ps; shorter where the model is not stable with it.
_TIMESTEP = 0.002
_INDEPENDENT = 10_000
#: Exit codes of an evaluation that has come to an end.
_EVALUATED = (0, 3, 4)
_INTERRUPTED = 130


def fit(
    trajectory: Annotated[list[str], "trajectory files of any format that MDTraj reads"],
    *,
    topology: Annotated[str, "PDB, mmCIF, prmtop, PSF or GROMACS top of all atoms"],
    temperature: Annotated[float, "temperature of the trajectory in K"],
    output: Annotated[str, "folder for all results; after any stop the same command goes on"],
    preset: Annotated[
        Literal["alanine-dipeptide", "backbone-cb", "ca"] | None, "which atoms become beads,"
    ] = None,
    selection: Annotated[str | None, "or a selection of MDTraj, such as 'name CA',"] = None,
    mapping: Annotated[str | None, "or a YAML file of beads; see coarse-grain"] = None,
    stride: Annotated[int, "take every n-th frame", 1] = 1,
    whole: Annotated[bool, "molecules are whole: take no notice of the periodic box"] = False,
    force: Annotated[bool, "go on with frames that do not look right"] = False,
    minutes: Annotated[float, "about how long all of it may take on this machine"] = MINUTES,
    steps: Annotated[int | None, "optimiser steps, instead of as many as fit in", 1] = None,
    seed: Seed = 0,
) -> None:
    """Make a model of a trajectory, and find out whether it is one.

    Coarse-grains, trains, exports, samples, simulates, evaluates, and says what to do next. Ends
    with exit code 3 if model and trajectory contradict each other, 4 if it cannot be told.
    """
    given = {"preset": preset, "selection": selection, "mapping": mapping, "stride": stride}
    beads = ["coarse-grain", *trajectory, "--topology", topology, "--temperature", str(temperature)]
    beads += [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
    beads += [f"--{name}" for name, is_set in (("whole", whole), ("force", force)) if is_set]
    job = _Fit(Path(output).absolute(), beads, minutes, steps, seed)
    if not 0.0 < minutes < float("inf"):
        raise InvalidInputError(f"minutes is {minutes}; it must be a positive number")
    for name in (*trajectory, topology):
        if not Path(name).is_file():
            raise InvalidInputError(f"{name} does not exist, or is no file")
    job.run()


@dataclasses.dataclass(frozen=True)
class _Fit:
    """All steps of a fit.

    Attributes
    ----------
    folder : Path
        Where the results go, absolute.
    beads : list of str
        Command line that makes the dataset, without its output.
    minutes : float
        For all of it.
    steps : int or None
        Of the optimiser.
    seed : int
        Of all steps.
    """

    folder: Path
    beads: list[str]
    minutes: float
    steps: int | None
    seed: int

    def run(self) -> None:
        """Do what is left to do, say what was found, and raise unless all is consistent."""
        self._do(self._making())
        report = self._do(self._making() | self._judging())["report"]
        metrics = json.loads((report.folder / "metrics.json").read_text(encoding="utf-8"))
        write_run_record(
            self.folder,
            arguments={"beads": self.beads, "minutes": self.minutes, "steps": self.steps},
            seeds={"all": self.seed},
            inputs={"model": self.folder / "export" / "model.pt"},
            results={"verdict": metrics["verdict"], "sets": metrics.get("sample_sets")},
        )
        for pair in metrics["pairs"]:
            reason = f" ({pair['reason']})" if pair.get("reason") else ""
            print(f"{pair['second']} and {pair['first']}: {pair['verdict']}{reason}")
        print(f"report: {report.folder / 'report.html'}")
        print(f"model: {self.folder / 'export' / 'model.pt'}")
        for advice in what_next(self.folder, metrics):
            print(f"next: {advice}")
        if (error := exit_error(metrics)) is not None:
            raise error

    def _making(self) -> dict[str, list[str]]:
        """Return the command lines up to a model of which it is known how fast it is."""
        recipe = ["init", "{beads}/beads.npz", "--minutes", f"{_TRAINING * self.minutes:g}"]
        recipe += [] if self.steps is None else ["--steps", str(self.steps)]
        return {
            "beads": [*self.beads, "--output", "{folder}/beads.npz"],
            "recipe": [*recipe, "--output", "{folder}/training.yaml"],
            "train": [
                *("train", "--config", "{recipe}/training.yaml", "--seed", str(self.seed)),
                *("--data.path", "{beads}/beads.npz", "--output", "{folder}"),
            ],
            "export": ["export", "{train}/weights.safetensors", "{folder}/model.pt"],
            "plan": [
                *("plan", "{export}/model.pt", "--replicas", str(_REPLICAS)),
                *("--output", "{folder}/plan.json"),
            ],
        }

    def _judging(self) -> dict[str, list[str]]:
        """Return the command lines that show whether the model is one."""
        seed = ["--seed", str(self.seed)]
        frames = ["sample", "{export}/model.pt", "{folder}", "--frames", str(_INDEPENDENT)]
        report = ["evaluate", "{export}/model.pt", "{beads}/beads.npz", "{folder}"]
        report += ["--iid", "{frames}", "--simulation", "{simulation}", "--require-consistent"]
        return {
            "frames": [*frames, *seed],
            "simulation": ["simulate", "{export}/model.pt", "{folder}", *self._length(), *seed],
            "report": [*report, *seed],
        }

    def _length(self) -> list[str]:
        """Return options of a simulation that takes its part of the time."""
        from openmm_scoremd.simulation.stability import stable_timestep

        content = json.loads((self.folder / "plan" / "plan.json").read_text(encoding="utf-8"))
        best = next(timing for timing in content["timings"] if timing["best"])
        steps = min(60.0 * _SIMULATION * self.minutes / best["seconds"], _MOST_STEPS)
        interval = max(1, int(steps) // _FRAMES_OF_REPLICA)
        limit = 0.4 * stable_timestep(load_model(str(self.folder / "export" / "model.pt")))
        return [
            *("--replicas", str(_REPLICAS), "--steps", str(interval * _FRAMES_OF_REPLICA)),
            *("--interval", str(interval), "--timestep", f"{min(_TIMESTEP, limit):.0e}"),
            *("--backend", best["backend"], "--platform", best["platform"]),
        ]

    def _do(self, commands: Mapping[str, list[str]]) -> dict[str, Step]:
        """Do the steps that are not finished."""
        from openmm_scoremd.campaign.plan import Job, steps_of_commands
        from openmm_scoremd.campaign.record import read_record
        from openmm_scoremd.campaign.work import run_job

        steps = steps_of_commands(commands, self.folder, Path.cwd())
        for step in steps:
            record = read_record(step)
            fine = _EVALUATED if step.name == "report" else (0,)
            if record is not None and record.digest == step.digest and record.exit_code in fine:
                continue
            with _shown(step):
                outcome = run_job(Job(step.name, (step,), Path.cwd(), _threads()))
            record = read_record(step)
            if outcome.error and (record is None or record.exit_code not in fine):
                if outcome.error.endswith(f"exit code {_INTERRUPTED} ({step.log})"):
                    raise KeyboardInterrupt
                raise CampaignError(f"{outcome.error}; the same command goes on from there")
            _record(step)
        return {step.name: step for step in steps}


def _record(step: Step) -> None:
    """Write ``run.json`` where the command itself has written none."""
    if not (step.folder / "run.json").exists():
        arguments: dict[str, Any] = {"command": ["scoremd", *step.arguments], "digest": step.digest}
        write_run_record(step.folder, arguments=arguments, seeds={}, inputs={}, results={})


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else os.cpu_count() or 1


@contextmanager
def _shown(step: Step) -> Iterator[None]:
    """Show what a step writes into its log, on standard error."""
    say(f"--- {step.name}, as in {step.log}")
    ended = threading.Event()
    size = step.log.stat().st_size if step.log.exists() else 0
    thread = threading.Thread(target=_follow, args=(step.log, size, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(log: Path, position: int, ended: threading.Event) -> None:
    last = False
    while not last:
        last = ended.wait(0.5)
        if not log.exists():
            continue
        with open(log, "rb") as file:
            file.seek(position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        position += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if not line.startswith("next: "):  # that is what comes here
                say(line)
