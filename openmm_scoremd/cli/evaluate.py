"""The step behind ``scoremd evaluate``: files in, a report out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from openmm_scoremd.cli.progress import console
from openmm_scoremd.cli.steps import draw_independent, load_model
from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openmm_scoremd.evaluation.evaluate import Evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSources:
    """Where the sets of samples come from: folders, or None where there is none."""

    simulation: str | None
    trajectories: str | None
    iid: str | None
    weights: str | None
    frames: int


def write_evaluation(
    model: str,
    reference: str,
    folder: Path,
    sources: EvaluationSources,
    *,
    level: float,
    seed: int,
    device: str,
) -> Evaluation:
    """Read or draw all sets, compare them, and write the report into the folder."""
    from openmm_scoremd.analysis.comparison import Resampling
    from openmm_scoremd.evaluation.evaluate import evaluate, held_out_frames, read_frames, read_run
    from openmm_scoremd.models.weights import load_weights

    file = load_model(model, device)
    # Whatever is wrong with files is better said before minutes of sampling.
    held_out_frames(file, reference)
    if not 0.0 < level < 1.0:
        raise InvalidInputError(f"level is {level}; it must lie between 0 and 1")
    if sources.weights is not None:
        load_weights(sources.weights)
    simulation, trajectories = (
        None if path is None else read_run(path, n_beads=file.n_beads)
        for path in (sources.simulation, sources.trajectories)
    )
    frames: NDArray[np.floating] | None = None
    if sources.iid is not None:
        frames = read_frames(sources.iid, n_beads=file.n_beads)
    elif sources.frames > 0:
        frames = draw_independent(file, sources.frames, seed=seed)
    with console.status("comparing"):
        return evaluate(
            file,
            reference,
            folder,
            iid=frames,
            replicas=simulation,
            trajectories=trajectories,
            weights=sources.weights,
            seed=seed,
            resampling=Resampling(max_frames=100_000),
            alpha=level,
        )
