"""Whether a model's sampling and simulation agree with each other and with a reference."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import package_versions, sha256_of_file, write_run_record
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.summary import REFERENCE, Summary, summarise
from openmm_scoremd.analysis.comparison.table import Comparison
from openmm_scoremd.analysis.report.folder import ReportHeader, write_report
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.data.dataset import CGDataset, load_dataset, split_of_training
from openmm_scoremd.errors import (
    DatasetError,
    InconsistentError,
    ModelFileError,
)
from openmm_scoremd.evaluation.fokker_planck import FokkerPlanckError, fokker_planck_error
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.simulation.run.folder import SIDECAR
from openmm_scoremd.trajectories.reading import load_replicas, replica_breaks

logger = logging.getLogger(__name__)

_ENERGY_FRAMES = 500
_FOKKER_PLANCK_TIMES, _FOKKER_PLANCK_FRAMES = 12, 128


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    comparison : Comparison
        Metrics against the reference.
    summary : Summary
        Every two sets compared, with the verdict.
    """

    comparison: Comparison
    summary: Summary

    @property
    def consistent(self) -> bool:
        """Whether no two sets contradict each other."""
        return self.summary.consistent

    def format_table(self) -> str:
        """Return metrics and verdict as plain text."""
        return f"{self.comparison.format_table()}\n{self.summary.format_verdict()}\n"

    def require_consistent(self) -> None:
        """Raise if two sets contradict each other.

        Raises
        ------
        InconsistentError
            Names the pairs.
        """
        pairs = [f"{p.second} and {p.first}" for p in self.summary.pairs if not p.consistent]
        if pairs:
            raise InconsistentError(f"not consistent: {'; '.join(pairs)}")


def held_back_frames(
    model: ScoreModelFile, reference: str | os.PathLike[str]
) -> NDArray[np.float32]:
    """Return the frames of a dataset that a model has not been trained on.

    Parameters
    ----------
    model : ScoreModelFile
        The model; it knows its dataset's hash and how the frames were split.
    reference : path-like
        CG dataset (``.npz``).

    Returns
    -------
    ndarray, shape (frames, N, 3), nm
        The frames held back if it is the dataset of the training, all frames if it is another.

    Raises
    ------
    DatasetError
        If the dataset cannot be read or is of another molecule.
    ModelFileError
        If the model does not say how its dataset was split.
    """
    dataset = _load_reference(model, reference)
    return dataset.positions[_held_back(model, dataset, sha256_of_file(reference))]


def read_run(folder: str | os.PathLike[str], *, n_beads: int) -> SampleSet:
    """Read the trajectories of a simulation or of ``scoremd sample --trajectory``.

    Parameters
    ----------
    folder : path-like
        Folder of a run, or any folder of trajectories. ``trajectories.json`` there says how far
        apart frames are and at which frames replicas were started again, so that nothing looks
        across; ``run.json`` tells the former for other trajectories. Both may be missing.
    n_beads : int
        Beads of one replica.

    Returns
    -------
    SampleSet
        Frames, breaks, time between frames.

    Raises
    ------
    DatasetError
        If a trajectory or the record of the run cannot be read.
    """
    positions = load_replicas(folder, n_beads=n_beads)
    path = Path(folder)
    if not path.is_dir():
        return SampleSet(positions)
    return SampleSet(
        positions,
        breaks=replica_breaks(path),
        frame_interval=_frame_interval(path),
    )


def read_frames(folder: str | os.PathLike[str], *, n_beads: int) -> NDArray[np.float32]:
    """Read independent frames (frames, N, 3) in nm, all DCD files of a folder or one such file.

    Raises
    ------
    DatasetError
        If they cannot be read.
    """
    return np.concatenate([*load_replicas(folder, n_beads=n_beads)])


def evaluate(
    model: ScoreModelFile,
    reference: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    iid: NDArray[np.floating] | None,
    replicas: NDArray[np.floating] | SampleSet | None,
    trajectories: SampleSet | None = None,
    weights: str | os.PathLike[str] | None = None,
    seed: int,
    resampling: Resampling,
    level: float = 0.01,
) -> Evaluation:
    """Compare independent frames, a simulation and denoising trajectories with reference frames.

    Writes ``report.html``, ``metrics.json``, pictures and ``run.json``.

    Parameters
    ----------
    model : ScoreModelFile
        What made the frames.
    reference : path-like
        CG dataset (``.npz``); see :func:`held_back_frames`.
    folder : path-like
        Where to write.
    iid : ndarray, shape (frames, N, 3), nm, or None
        Independent frames, if there are any.
    replicas : ndarray, shape (replicas, frames, N, 3), nm, or SampleSet, or None
        Simulation, if there is one; see :func:`read_run`.
    trajectories : SampleSet, optional
        Denoising trajectories.
    weights : path-like, optional
        Weights of the model (``.safetensors``), to measure its Fokker-Planck error.
    seed : int
        Seed that made the frames, for the record.
    resampling : Resampling
        How errors and noise floors are found.
    level : float
        Probability of calling any two sets inconsistent though all have one distribution.

    Returns
    -------
    Evaluation
        The numbers and the verdict.

    Raises
    ------
    DatasetError
        If the dataset cannot be read or is of another molecule.
    InvalidInputError
        If there is nothing to compare, or frames are empty or not finite.
    ModelFileError
        If the model does not say how its dataset was split.
    """
    dataset = _load_reference(model, reference)
    sha256 = sha256_of_file(reference)
    unseen = dataset.positions[_held_back(model, dataset, sha256)]
    dimensions = dataset.n_dims
    given = {
        "iid": iid if iid is None else SampleSet(np.asarray(iid)),
        "simulation": SampleSet(replicas) if isinstance(replicas, np.ndarray) else replicas,
        "denoising": trajectories,
    }
    samples = {name: _in(s, dimensions) for name, s in given.items() if s is not None}
    # In the order of the dataset: frames of a trajectory may be correlated with their neighbours.
    ordered = SampleSet(dataset.positions[np.sort(_held_back(model, dataset, sha256))])
    most = resampling.max_frames or 10**9
    summary = summarise(
        {REFERENCE: ordered.thinned(most), **{n: s.thinned(most) for n, s in samples.items()}},
        model.bead_topology,
        energy=_energy_of(model),
        energy_frames=_ENERGY_FRAMES,
        level=level,
        seed=resampling.seed,
    )
    curve = None if weights is None else _fokker_planck(weights, model, ordered, seed=seed)
    comparison = write_report(
        folder,
        unseen,
        {name: s.positions for name, s in samples.items()},
        model.bead_topology,
        floor=dataset.positions,
        resampling=resampling,
        summary=summary,
        header=ReportHeader(model.metadata.title, _about(model, reference, len(unseen), seed)),
        fokker_planck=curve,
    )
    inputs = {"model": model.path, "reference": reference}
    write_run_record(
        folder,
        arguments={"reference_frames": len(unseen), "resampling": resampling, "level": level},
        seeds={"frames": seed, "resampling": resampling.seed},
        inputs=inputs if weights is None else {**inputs, "weights": weights},
        results=comparison.to_dict(),
    )
    return Evaluation(comparison, summary)


def _in(samples: SampleSet, dimensions: int) -> SampleSet:
    """Return frames without the axes that a model in a plane does not use."""
    return dataclasses.replace(samples, positions=samples.positions[..., :dimensions])


def _energy_of(model: ScoreModelFile) -> Any:
    def energy(frames: NDArray[np.floating]) -> NDArray[np.floating]:
        padding = [(0, 0)] * (frames.ndim - 1) + [(0, 3 - frames.shape[-1])]
        return model.potential_energy(np.pad(frames, padding))

    return energy


def _about(
    model: ScoreModelFile, reference: str | os.PathLike[str], n_reference: int, seed: int
) -> dict[str, str]:
    versions = package_versions()
    return {
        "model": model.path.name,
        "SHA-256 of the model": model.sha256,
        "temperature": f"{model.temperature:g} K",
        "reference": f"{Path(reference).name}, {n_reference:,} frames that training did not see",
        "SHA-256 of the reference": sha256_of_file(reference),
        "seed": str(seed),
        "made": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "with": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _fokker_planck(
    weights: str | os.PathLike[str], model: ScoreModelFile, reference: SampleSet, *, seed: int
) -> FokkerPlanckError:
    trained = load_weights(weights)
    description = trained.description
    if description.topology.names != model.bead_topology.names:
        raise ModelFileError(
            f"{os.fspath(weights)} has beads {' '.join(description.topology.names)}, "
            f"{model.path.name} {' '.join(model.bead_topology.names)}; give weights of that model"
        )
    return fokker_planck_error(
        trained,
        reference.positions,
        times=np.geomspace(description.t_min, 1.0, _FOKKER_PLANCK_TIMES),
        n_frames=_FOKKER_PLANCK_FRAMES,
        seed=seed,
    )


def _frame_interval(folder: Path) -> float | None:
    """Return the time between frames in ps that the records of a folder tell, if they do."""
    reasons = []
    # A run that is not at its end, or was made in Python, has only the first.
    for name in (SIDECAR, "run.json"):
        try:
            found = _recorded_interval(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, LookupError, TypeError, ValueError) as error:
            reasons.append(f"{name}: {error!r}")
            continue
        return found if 0.0 < found < float("inf") else None
    logger.warning("the time between frames is unknown (%s)", "; ".join(reasons))
    return None


def _recorded_interval(record: Any) -> float:
    if "timestep_ps" in record:
        return float(record["timestep_ps"]) * float(record["interval"])
    results, arguments = record["results"], record["arguments"]
    if "frame_interval_ps" in results:
        return float(results["frame_interval_ps"])
    return float(arguments["timestep"]) * float(arguments["interval"])


def _load_reference(model: ScoreModelFile, path: str | os.PathLike[str]) -> CGDataset:
    dataset = load_dataset(path)
    name = os.fspath(path)
    dimensions = model.metadata.n_dims
    if (dataset.n_beads, dataset.n_dims) != (model.n_beads, dimensions):
        raise DatasetError(
            f"{name} has {dataset.n_beads} beads in {dataset.n_dims} dimensions and "
            f"{model.path.name} has {model.n_beads} in {dimensions}; "
            "give a dataset of the same molecule"
        )
    if dataset.topology.names != model.bead_topology.names:
        raise DatasetError(
            f"the beads of {name} are {' '.join(dataset.topology.names)}, those of "
            f"{model.path.name} {' '.join(model.bead_topology.names)}; "
            "give a dataset of the same molecule"
        )
    if abs(dataset.temperature - model.temperature) > 0.01:
        logger.warning(
            "%s is of %g K and %s of %g K: their distributions differ even if the model is perfect",
            name, dataset.temperature, model.path.name, model.temperature,
        )  # fmt: skip
    return dataset


def _held_back(model: ScoreModelFile, dataset: CGDataset, sha256: str) -> NDArray[np.int64]:
    """Return indices of the frames that training has not seen."""
    everything = np.arange(dataset.n_frames)
    if sha256 != model.metadata.dataset_sha256:
        return everything
    _, held_back = split_of_training(model.metadata.training, dataset.n_frames)
    if not len(held_back):
        logger.warning("%s was trained on every frame of the reference", model.path.name)
        return everything
    return np.asarray(held_back)
