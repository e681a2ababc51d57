"""What a training's log says about how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from openmm_scoremd.training.held_out import lowest_step
from openmm_scoremd.training.log import LogRow
from openmm_scoremd.training.recipe import FEW_STEPS


def notes_after_training(
    rows: Sequence[LogRow], *, n_steps: int, weights: Literal["last", "best"]
) -> list[str]:
    """Return what a user should know after a training, in sentences; often nothing.

    Parameters
    ----------
    rows : sequence of LogRow
        Its log.
    n_steps : int
        Its length.
    weights : {"last", "best"}
        Which were kept.
    """
    notes = []
    lowest = lowest_step(rows)
    if lowest is not None:
        way = (
            "the weights of that step were kept"
            if weights == "best"
            else "--resume --weights best keeps the weights of that step"
        )
        notes.append(
            f"the held-out loss rises from about step {lowest:,} on: the network learns its frames "
            f"by heart; {way}, and more frames help more than more steps"
        )
    elif n_steps < FEW_STEPS:
        notes.append(
            f"{n_steps:,} steps are few, bonds need about {FEW_STEPS:,}, and the held-out loss "
            f"does not rise: --resume --steps {max(FEW_STEPS, 2 * n_steps)} trains longer"
        )
    return notes
