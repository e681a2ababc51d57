"""What several commands take, check and load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    from openmm_scoremd.model_file import ScoreModelFile

ModelPath = Annotated[str, "model file (.safetensors or .pt)"]
Seed = Annotated[int, "seed of all random numbers", 0, 2**63 - 1]
Device = Annotated[Literal["cpu", "cuda"], "where independent frames are drawn"]


def load_model(path: str, device: str = "cpu") -> ScoreModelFile:
    """Load a model file."""
    from openmm_scoremd.model_file import ScoreModelFile

    return ScoreModelFile(path, device=device)


def require_suffix(path: str, suffix: str) -> None:
    """Raise ``InvalidInputError`` if the name of an output has another suffix."""
    if Path(path).suffix != suffix:
        raise InvalidInputError(f"the output is {path}; its name must end in {suffix}")


def refuse_given(options: Mapping[str, object], reason: str) -> None:
    """Raise ``InvalidInputError`` naming the options that are not None."""
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise InvalidInputError(f"{', '.join(given)}: {reason}")
