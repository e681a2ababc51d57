"""Words for how OpenMM evaluates a model; this file loads neither OpenMM nor torch."""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias, cast, get_args

from openmm_scoremd.errors import InvalidInputError

#: Who evaluates the model; "auto" is TorchForce where it works, otherwise PythonForce.
Backend: TypeAlias = Literal["auto", "torchforce", "pythonforce", "kernel"]
#: Whether TorchForce records CUDA graphs; "auto" does so where OpenMM and torch have CUDA.
CudaGraphs: TypeAlias = Literal["auto", "on", "off"]


def checked_backend(name: str) -> Backend:
    """Return the name of a backend; the old name "compiled" of "kernel" with a warning.

    Raises
    ------
    InvalidInputError
        If there is no such backend.
    """
    if name == "compiled":
        warnings.warn("backend 'compiled' is called 'kernel' now", FutureWarning, stacklevel=3)
        return "kernel"
    return cast(Backend, checked_choice("backend", name, get_args(Backend)))


def checked_choice(name: str, given: str, allowed: tuple[str, ...]) -> str:
    """Return a word that is one of those allowed.

    Raises
    ------
    InvalidInputError
        If it is not.
    """
    if given not in allowed:
        raise InvalidInputError(f"{name} is {given!r}; it must be one of {', '.join(allowed)}")
    return given
