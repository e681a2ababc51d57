"""Whether a model's sampling and simulation agree with each other and with a reference."""

from __future__ import annotations

import dataclasses
import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.run_record import package_versions, write_run_record
from openmm_scoremd.analysis.comparison.pairs import VISIBLE_FROM
from openmm_scoremd.analysis.comparison.summary import REFERENCE, Summary, summarise
from openmm_scoremd.analysis.report.curves import FokkerPlanckError
from openmm_scoremd.analysis.report.folder import ReportHeader, write_report
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.analysis.statistics.uncertainty import Resampling
from openmm_scoremd.errors import InconsistentError, ModelFileError, UndecidedError
from openmm_scoremd.evaluation.fokker_planck import fokker_planck_error
from openmm_scoremd.evaluation.reference import Reference, held_out_frames, load_reference
from openmm_scoremd.evaluation.runs import read_frames, read_run
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights

__all__ = ["Evaluation", "evaluate", "held_out_frames", "read_frames", "read_run"]

_ENERGY_FRAMES = 500
_FOKKER_PLANCK_TIMES, _FOKKER_PLANCK_FRAMES = 12, 128


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    summary : Summary
        Every two sets compared, with the verdict.
    """

    summary: Summary

    @property
    def consistent(self) -> bool:
        """Whether all sets agree, as far as they can tell."""
        return self.summary.consistent

    def format_table(self) -> str:
        """Return metrics and verdict as plain text."""
        return self.summary.format_table()

    def require_consistent(self) -> None:
        """Raise unless all sets agree.

        Raises
        ------
        InconsistentError
            If any contradict each other: names the pairs.
        UndecidedError
            If none do and some tell nothing: names them and says why.
        """
        said = [
            f"{pair.second} and {pair.first}: {pair.verdict} ({pair.reason or pair.told})"
            for pair in self.summary.pairs
            if pair.verdict == self.summary.verdict
        ]
        if self.summary.verdict == "NOT consistent":
            raise InconsistentError("; ".join(said))
        if self.summary.verdict == "cannot tell":
            raise UndecidedError("; ".join(said))


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
    alpha: float = 0.01,
    visible_from: float = VISIBLE_FROM,
) -> Evaluation:
    """Compare independent frames, a simulation and denoising trajectories with reference frames.

    Writes ``report.html``, ``metrics.json``, pictures and ``run.json``.

    Parameters
    ----------
    model : ScoreModelFile
        What made the frames.
    reference : path-like
        CG dataset (``.npz``); see :func:`~openmm_scoremd.evaluation.reference.load_reference`.
    folder : path-like
        Where to write.
    iid : ndarray, shape (frames, N, 3), nm, or None
        Independent frames, if there are any.
    replicas : ndarray, shape (replicas, frames, N, 3), nm, or SampleSet, or None
        Simulation, if there is one; see :func:`~openmm_scoremd.evaluation.runs.read_run`.
    trajectories : SampleSet, optional
        Denoising trajectories.
    weights : path-like, optional
        Weights of the model (``.safetensors``), to measure its Fokker-Planck error.
    seed : int
        Seed that made the frames, for the record.
    resampling : Resampling
        How errors and noise floors are found.
    alpha : float
        Probability of calling any two sets inconsistent though all have one distribution.
    visible_from : float
        Sets are called consistent only if differences from this on, in the fraction of frames in
        a region, would have been noticed.

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
        If the model does not say how its dataset was split, or the weights are of other beads.
    """
    known = load_reference(model, reference)
    given = {
        REFERENCE: SampleSet(known.positions),
        "iid": iid if iid is None else SampleSet(np.asarray(iid)),
        "simulation": SampleSet(replicas) if isinstance(replicas, np.ndarray) else replicas,
        "denoising": trajectories,
    }
    summary = summarise(
        {name: _in(s, known.dataset.n_dims) for name, s in given.items() if s is not None},
        model.bead_topology,
        pool=known.dataset.positions,
        energy=_energy_of(model),
        energy_frames=_ENERGY_FRAMES,
        resampling=resampling,
        alpha=alpha,
        visible_from=visible_from,
    )
    curve = None if weights is None else _fokker_planck(weights, model, known, seed=seed)
    header = ReportHeader(model.metadata.title, _about(model, reference, known, seed))
    write_report(folder, summary, header, fokker_planck=curve)
    inputs: dict[str, Any] = {"model": model, "reference": reference}
    content = summary.to_dict()
    write_run_record(
        folder,
        arguments={
            "reference_frames": len(known.positions), "resampling": resampling, "alpha": alpha,
            "visible_from": visible_from,
        },
        seeds={"frames": seed, "resampling": resampling.seed},
        inputs=inputs if weights is None else {**inputs, "weights": weights},
        results={name: content[name] for name in ("verdict", "n_reference", "n_pool", "sets")},
    )  # fmt: skip
    return Evaluation(summary)


def _in(samples: SampleSet, dimensions: int) -> SampleSet:
    """Return frames without the axes that a model in a plane does not use."""
    return dataclasses.replace(samples, positions=samples.positions[..., :dimensions])


def _energy_of(model: ScoreModelFile) -> Any:
    def energy(frames: NDArray[np.floating]) -> NDArray[np.floating]:
        padding = [(0, 0)] * (frames.ndim - 1) + [(0, 3 - frames.shape[-1])]
        return model.potential_energy(np.pad(frames, padding))

    return energy


def _about(
    model: ScoreModelFile, reference: str | os.PathLike[str], known: Reference, seed: int
) -> dict[str, str]:
    versions = package_versions()
    return {
        "model": model.path.name,
        "SHA-256 of the model": model.sha256,
        "temperature": f"{model.temperature:g} K",
        "reference": f"{Path(reference).name}, {known.description}",
        "SHA-256 of the reference": known.sha256,
        "seed": str(seed),
        "made": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "with": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _fokker_planck(
    weights: str | os.PathLike[str], model: ScoreModelFile, reference: Reference, *, seed: int
) -> FokkerPlanckError:
    trained = load_weights(weights)
    description = trained.description
    difference = description.difference_from(model.bead_topology, model.metadata.n_dims)
    if difference:
        raise ModelFileError(
            f"the molecule of {model.path.name} is not that of {os.fspath(weights)}: "
            f"{difference}; give weights of that model"
        )
    return fokker_planck_error(
        trained,
        reference.positions,
        times=np.geomspace(description.t_min, 1.0, _FOKKER_PLANCK_TIMES),
        n_frames=_FOKKER_PLANCK_FRAMES,
        seed=seed,
    )
