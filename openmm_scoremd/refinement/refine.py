"""Relative-entropy refinement: simulate, compare with the data, change the energy, again.

Denoising score matching knows the slopes of the energy and hardly how deep two basins are that a
barrier parts; the Fokker-Planck residual brings that down from noisier times, with errors of some
tenths of kT. A simulation shows what is left. Each round simulates many replicas with the energy as
it is, and changes the network that serves the time of the force so that the relative entropy of its
distribution from the data falls (:mod:`openmm_scoremd.refinement.energy_fit`). No force labels, no
priors, and no frames but those of the training.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd._files.run_record import sha256_of_file, write_run_record
from openmm_scoremd.data.dataset import CGDataset, load_dataset
from openmm_scoremd.data.regions import region_of_frames, region_of_nearest, spreading_weights
from openmm_scoremd.data.split import split_of_training
from openmm_scoremd.diffusion.weighting import BalancedTimes, UniformTimes
from openmm_scoremd.errors import (
    CheckpointError,
    DatasetError,
    NumericalError,
)
from openmm_scoremd.export.export import FORCE_TIME, export_torchscript
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.base import EnergyModel, require_energy_model
from openmm_scoremd.models.mixture import network_at
from openmm_scoremd.models.weights import (
    TrainedModel,
    WeightsDescription,
    load_weights,
    save_weights,
)
from openmm_scoremd.refinement.energy_fit import (
    EnergyFit,
    FitReport,
    Frames,
    SimulatedFrames,
)
from openmm_scoremd.refinement.folder import (
    RECORD,
    load_last_positions,
    load_simulated,
    read_record,
    save_simulated,
    write_record,
)
from openmm_scoremd.refinement.settings import RefinementSettings
from openmm_scoremd.simulation.run.in_memory import WatchedFrames, simulate_in_memory
from openmm_scoremd.simulation.run.settings import derived_seed

WEIGHTS = "weights.safetensors"

FloatArray = NDArray[np.float64]

#: Called as ``progress(done, in_all, text)``; each round counts 2: its simulation and its fit.
Progress = Callable[[float, int, str], None]


def refine(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    settings: RefinementSettings,
    progress: Progress | None = None,
) -> Path:
    """Refine the energy of trained weights; the same call again goes on where it stopped.

    Parameters
    ----------
    weights : path-like
        Trained weights (``.safetensors``). Of a mixture only the expert that serves the time of the
        force is changed.
    data : path-like
        The dataset (``.npz``) of their training; frames held back there are not used here either.
    folder : path-like
        New folder, or that of the same refinement. It gets weights, model and last frames of every
        round, ``refinement.json``, and at the end ``weights.safetensors`` and ``run.json``.
    settings : RefinementSettings
        How.
    progress : callable, optional
        Progress report.

    Returns
    -------
    Path
        The refined weights.

    Raises
    ------
    CheckpointError
        If the folder holds another refinement.
    ConfigurationError
        If the network that serves the time of the force is not conservative.
    DatasetError
        If it is not the dataset of the training.
    NumericalError
        If replicas break more often than they simulate, the loss is not finite, or the simulation
        is nowhere near the data. The same call again tries that round with another seed.
    KeyboardInterrupt
        After Ctrl-C; the same call again goes on with the round that was interrupted.
    """
    refinement = _Refinement(Path(weights), Path(data), Path(folder), settings)
    return refinement.run(progress or (lambda _done, _total, _text: None))


class _Refinement:
    def __init__(
        self, weights: Path, data: Path, folder: Path, settings: RefinementSettings
    ) -> None:
        self.inputs = {"weights": weights, "dataset": data}
        self.settings = settings
        self.trained = load_weights(weights)
        self.dataset = _training_frames(self.trained.description, data)
        _network(self.trained)  # an error before all the work
        self.folder = folder
        self.rounds, self.failed = self._begin()
        self.region = region_of_frames(self.dataset.positions, regions=settings.regions)

    def run(self, progress: Progress) -> Path:
        total = 2 * self.settings.rounds
        for number in range(len(self.rounds), self.settings.rounds):
            began = time.perf_counter()
            trained = load_weights(self._weights(number))

            def simulating(part: float, number: int = number) -> None:
                progress(2 * number + part, total, "simulating")

            def fitting(part: float, number: int = number) -> None:
                progress(2 * number + 1 + part, total, "fitting")

            try:
                frames = self._simulate(number, simulating)
                report, simulated = self._fit(trained, frames, number, fitting)
            except NumericalError:
                self.failed += 1
                write_record(self.folder, self._identity(), self.rounds, failed=self.failed)
                raise
            last = frames.positions[:, -1]
            save_simulated(self.folder, number, simulated, last_positions=last)
            self._finish_round(trained, report, time.perf_counter() - began)
        return self._finish()

    def _begin(self) -> tuple[list[dict[str, Any]], int]:
        """Return the rounds that are done, and how often the next one failed, from the record."""
        if (self.folder / RECORD).exists():
            found, rounds, failed = read_record(self.folder)
            if found != self._identity():
                raise CheckpointError(
                    f"{self.folder} holds a refinement of other files or with other settings; "
                    "give the same, or a new folder"
                )
            return rounds, failed
        if self.folder.exists() and any(self.folder.iterdir()):
            raise CheckpointError(f"{self.folder} is not empty and holds no refinement")
        self.folder.mkdir(parents=True, exist_ok=True)
        return [], 0

    def _identity(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.settings)
        # More rounds go on with the same refinement; the backend changes speed only.
        del settings["rounds"], settings["backend"]
        hashes = {name: sha256_of_file(path) for name, path in self.inputs.items()}
        return {"settings": settings, **hashes}

    def _weights(self, number: int) -> Path:
        """Return the weights that round ``number`` simulates."""
        if number == 0:
            return self.inputs["weights"]
        return self.folder / f"round_{number - 1}.safetensors"

    def _simulate(self, number: int, progress: Callable[[float], None]) -> WatchedFrames:
        """Return all frames of one round."""
        path = export_torchscript(self._weights(number), self.folder / f"simulated_{number}.pt")
        return simulate_in_memory(
            ScoreModelFile(path),
            self.settings.run_settings(self._seed(number)),
            self._start(number),
            failures=self.folder,
            progress=progress,
        )

    def _seed(self, number: int) -> int:
        seed = self.settings.seed
        # What failed is not to fail again in the same way.
        return derived_seed(seed, number, self.failed) if self.failed else seed + number

    def _start(self, number: int) -> FloatArray:
        if number > 0:
            return load_last_positions(self.folder, number - 1)
        # Spread out: what lies behind barriers is visited from the start.
        rng = np.random.default_rng(self.settings.seed)
        weights = spreading_weights(self.dataset.positions)
        chosen = rng.choice(self.dataset.n_frames, self.settings.replicas, p=weights)
        frames = torch.from_numpy(self.dataset.positions[chosen]).double()
        return np.asarray(self.trained.description.padded(frames))

    def _fit(
        self,
        trained: TrainedModel,
        frames: WatchedFrames,
        number: int,
        progress: Callable[[float], None],
    ) -> tuple[FitReport, SimulatedFrames]:
        """Change the network of ``trained``; return what it was simulated to do, too."""
        description = trained.description
        network = _network(trained)
        fit = EnergyFit(
            network,
            schedule=description.schedule,
            t=FORCE_TIME,
            times=_times(description, network),
            augmentation=_augmentation(description),
            settings=self.settings.fit,
            seed=self._seed(number),
        )
        x = description.to_network(self._used(frames))
        positions = description.to_nanometers(x)[..., : description.n_dims].numpy()
        region = region_of_nearest(positions, reference=self.dataset.positions, region=self.region)
        standardised = x.float()
        simulated = SimulatedFrames(
            standardised, torch.from_numpy(region), fit.energies(standardised)
        )
        earlier = [load_simulated(self.folder, i) for i in range(number)]
        pooled = fit.pooled(earlier, simulated)
        data = Frames(
            description.to_network(self.dataset.positions).float(), torch.from_numpy(self.region)
        )
        network.requires_grad_(True)
        report = fit.run(data, pooled, progress=lambda done, total: progress(done / total))
        return report, simulated

    def _used(self, frames: WatchedFrames) -> FloatArray:
        """Return the frames of a round that count, shape (frames, N, 3)."""
        usable = frames.usable(self.settings.frames_discarded)
        if not usable.any():
            raise NumericalError(
                f"{len(frames.breaks.restarts)} restarts left no frame of a round; use a shorter "
                "time step, or train the network better first"
            )
        return frames.positions[usable]

    def _finish_round(self, trained: TrainedModel, report: FitReport, seconds: float) -> None:
        number = len(self.rounds)
        row = {**dataclasses.asdict(report), "seconds": round(seconds, 1)}
        rounds = [*self.rounds, row]
        save_weights(self._described(trained, rounds), self.folder / f"round_{number}.safetensors")
        self.rounds, self.failed = rounds, 0
        # Last: with this the round is done.
        write_record(self.folder, self._identity(), rounds)

    def _described(self, trained: TrainedModel, rounds: list[dict[str, Any]]) -> TrainedModel:
        before = self.trained.description.training
        record = {
            "weights_sha256": sha256_of_file(self.inputs["weights"]),
            "settings": dataclasses.asdict(self.settings),
            "rounds": rounds,
            "hours": round(sum(row["seconds"] for row in rounds) / 3600.0, 3),
        }
        description = dataclasses.replace(
            trained.description, training={**before, "refinement": record}
        )
        return TrainedModel(trained.model, description)

    def _finish(self) -> Path:
        path = self.folder / WEIGHTS
        save_weights(load_weights(self._weights(self.settings.rounds)), path)
        write_run_record(
            self.folder,
            arguments=dataclasses.asdict(self.settings),
            seeds={"refinement": self.settings.seed},
            inputs=dict(self.inputs),
            results={"rounds": self.rounds},
        )
        return path


def _training_frames(description: WeightsDescription, path: Path) -> CGDataset:
    """Return the frames that training saw."""
    dataset = load_dataset(path)
    if sha256_of_file(path) != description.dataset_sha256:
        raise DatasetError(
            f"the weights were not trained on {path}; give the dataset of their training, so that "
            "frames held back stay unseen"
        )
    training, _ = split_of_training(description.training, dataset.n_frames)
    return dataset.subset(np.sort(training))


def _augmentation(description: WeightsDescription) -> Literal["rotation", "none"]:
    return (
        "none" if description.training["config"]["data"]["augmentation"] == "none" else "rotation"
    )


def _network(trained: TrainedModel) -> EnergyModel:
    """Return the network whose energy is simulated."""
    return require_energy_model(network_at(trained.model, FORCE_TIME))


def _times(description: WeightsDescription, network: EnergyModel) -> Callable[[Tensor], Tensor]:
    """Return how diffusion times of the network are drawn, as in its training."""
    shape, t_max = description.network, network.t_max
    if description.experts:
        first = description.experts[0]
        shape, t_max = first.network, first.t_max
    if shape.noise_floor is None:
        return UniformTimes(FORCE_TIME, t_max)
    return BalancedTimes(description.schedule, shape.noise_floor, FORCE_TIME, t_max)
