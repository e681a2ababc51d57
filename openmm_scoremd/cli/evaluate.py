"""``scoremd evaluate`` and ``scoremd fokker-planck``: how far a model is to be trusted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from openmm_scoremd._files.run_record import result_folder
from openmm_scoremd.cli.options import Device, ModelPath, Seed, load_model
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.cli.sample import draw_independent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openmm_scoremd.evaluation.evaluate import Evaluation


def evaluate(
    model: ModelPath,
    reference: Annotated[str, "CG dataset (.npz)"],
    output: Annotated[str, "new folder for report.html, metrics.json, pictures and run.json"],
    *,
    simulation: Annotated[str | None, "folder of a simulation (scoremd simulate)"] = None,
    trajectories: Annotated[
        str | None, "folder of denoising trajectories (scoremd sample --trajectory)"
    ] = None,
    iid: Annotated[
        str | None, "folder of independent frames (scoremd sample); drawn if not given"
    ] = None,
    weights: Annotated[
        str | None, "weights of the model (.safetensors), for its Fokker-Planck error"
    ] = None,
    frames: Annotated[int, "number of independent frames to draw; 0 for none", 0] = 10_000,
    alpha: Annotated[float, "probability of a false alarm in the verdict"] = 0.01,
    visible_from: Annotated[
        float,
        "say consistent only if differences from this on, in the fraction of frames in a region, "
        "would have been noticed",
    ] = 0.25,
    require_consistent: Annotated[
        bool, "end with exit code 3 if any two sets contradict each other, 4 if they tell nothing"
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Compare samples and trajectories with reference frames.

    If the reference is the dataset of the training, only frames held back from training count.
    """
    sources = EvaluationSources(
        simulation=simulation, trajectories=trajectories, iid=iid, weights=weights, frames=frames
    )
    levels = {"alpha": alpha, "visible_from": visible_from}
    with result_folder(output) as folder:
        found = _write_evaluation(
            model, reference, folder, sources, levels=levels, seed=seed, device=device
        )
    print(found.format_table())
    print(f"report: {folder / 'report.html'}")
    print(f"pictures and numbers: {folder}")
    if require_consistent:
        found.require_consistent()


def fokker_planck(
    weights: Annotated[list[str], "weights of training runs (.safetensors), of one molecule"],
    *,
    data: Annotated[str, "CG dataset (.npz) of that molecule"],
    output: Annotated[str, "new folder for a picture, numbers (.json, .npz) and run.json"],
    frames: Annotated[int, "frames at each diffusion time, and judged one by one", 2] = 256,
    times: Annotated[int, "number of diffusion times, evenly spaced in the logarithm", 2] = 20,
    time: Annotated[float, "diffusion time at which single frames are judged"] = 1e-3,
    seed: Seed = 0,
) -> None:
    """Measure how far networks are from the Fokker-Planck equation.

    Where the centred error is large, over time or for a frame, a model is not to be trusted.
    """
    from openmm_scoremd.evaluation.fokker_planck_folder import write_fokker_planck_errors

    with result_folder(output) as folder, progress_bar("measuring") as advance:
        table = write_fokker_planck_errors(
            weights, data, folder, frames=frames, times=times, t=time, seed=seed, progress=advance
        )
    print(table)
    print(f"picture and numbers: {folder}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSources:
    """Where the sets of samples come from: folders, or None where there is none."""

    simulation: str | None
    trajectories: str | None
    iid: str | None
    weights: str | None
    frames: int


def _write_evaluation(
    model: str,
    reference: str,
    folder: Path,
    sources: EvaluationSources,
    *,
    levels: dict[str, float],
    seed: int,
    device: str,
) -> Evaluation:
    """Read or draw all sets, compare them, and write the report into the folder."""
    from openmm_scoremd.analysis.comparison import Resampling
    from openmm_scoremd.analysis.comparison.summary import check_levels
    from openmm_scoremd.evaluation.evaluate import evaluate, held_out_frames, read_frames, read_run
    from openmm_scoremd.models.weights import load_weights

    file = load_model(model, device)
    # Whatever is wrong with files is better said before minutes of sampling.
    held_out_frames(file, reference)
    check_levels(**levels)
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
    with progress_bar("comparing"):
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
            **levels,
        )
