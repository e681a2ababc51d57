"""``scoremd reweight``: the equilibrium of the force without a simulation."""

from __future__ import annotations

from typing import Annotated

from openmm_scoremd.cli.options import ModelPath, Seed, load_model, require_suffix
from openmm_scoremd.cli.progress import progress_bar


def reweight(
    model: ModelPath,
    output: Annotated[str, "new file (.npz): frames in nm, and their weights"],
    *,
    frames: Annotated[int, "number of independent frames", 1] = 10_000,
    steps: Annotated[int, "steps from noise to frames", 1] = 60,
    seed: Seed = 0,
) -> None:
    """Weight independent frames to the equilibrium of the force.

    For small molecules: the cost grows with the square of the number of beads.
    """
    from openmm_scoremd._files.atomic import atomic_path
    from openmm_scoremd.simulation.weighted_frames import draw_weighted

    require_suffix(output, ".npz")
    file = load_model(model)
    with atomic_path(output) as temporary:
        with progress_bar("frames") as advance:
            drawn = draw_weighted(file, frames, seed=seed, n_steps=steps, progress=advance)
        drawn.save(temporary)
    size = drawn.effective_size
    print(f"{output}: {frames} frames, as many as {size:.0f} unweighted ({size / frames:.0%})")
