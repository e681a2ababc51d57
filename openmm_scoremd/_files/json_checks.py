"""Checks of values that come out of JSON: ``check(value, name)`` returns the value in its type.

Every check raises :class:`~openmm_scoremd.errors.ModelFileError` with the name of the entry, what
was given and what is allowed.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.errors import ModelFileError


def invalid(name: str, given: object, allowed: str) -> ModelFileError:
    """Return the error to raise; ``given`` is quoted unless it is text."""
    shown = given if isinstance(given, str) else repr(given)
    return ModelFileError(f"the metadata's {name} is {shown[:200]}; it must be {allowed}")


def text(value: Any, name: str) -> str:
    """Return text, possibly empty."""
    if not isinstance(value, str):
        raise invalid(name, value, "text")
    return value


def boolean(value: Any, name: str) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool):
        raise invalid(name, value, "true or false")
    return value


def number(value: Any, name: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise invalid(name, value, "a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise invalid(name, result, "a finite number")
    return result


def positive(value: Any, name: str) -> float:
    """Return a finite number above 0."""
    result = number(value, name)
    if result <= 0.0:
        raise invalid(name, result, "positive")
    return result


def diffusion_time(value: Any, name: str) -> float:
    """Return a number above 0 and at most 1."""
    result = positive(value, name)
    if result > 1.0:
        raise invalid(name, result, "at most 1")
    return result


def one_of(*allowed: int | str) -> Callable[[Any, str], Any]:
    """Return the check for one of a few numbers or words."""

    def check(value: Any, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, str)) or value not in allowed:
            raise invalid(name, value, " or ".join(map(repr, allowed)))
        return value

    return check


def sha256(value: Any, name: str) -> str:
    """Return a SHA-256 in lower-case hexadecimal, or the empty text."""
    result = text(value, name)
    if not re.fullmatch(r"([0-9a-f]{64})?", result):
        raise invalid(name, value, "64 hexadecimal digits or empty")
    return result


def pair(value: Any, name: str) -> tuple[float, float]:
    """Return two positive numbers in ascending order."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise invalid(name, value, "two numbers")
    low, high = (positive(entry, name) for entry in value)
    if low > high:
        raise invalid(name, value, "two numbers, the smaller one first")
    return low, high


def pairs(value: Any, name: str) -> tuple[tuple[float, float], ...]:
    """Return a list of :func:`pair`."""
    if not isinstance(value, (list, tuple)):
        raise invalid(name, value, "a list of pairs")
    return tuple(pair(entry, name) for entry in value)


def json_object(value: Any, name: str) -> dict[str, Any]:
    """Return what plain JSON can hold, as an independent copy."""
    if not isinstance(value, Mapping):
        raise invalid(name, value, "a JSON object")
    try:
        # Brings tuples to lists, copies, and refuses NaN and whatever else JSON cannot hold.
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(name, f"not plain JSON ({error})", "text, finite numbers, lists") from error


def texts(value: Any, name: str) -> dict[str, str]:
    """Return a JSON object of texts."""
    content = json_object(value, name)
    return {key: text(entry, f"{name}.{key}") for key, entry in content.items()}


def array(value: Any, name: str) -> NDArray[np.float64]:
    """Return an array of finite numbers, read-only."""
    try:
        given = np.array(value)
    except (ValueError, OverflowError) as error:
        raise invalid(name, f"no array ({error})", "nested lists of equal lengths") from error
    if given.dtype.kind not in "fiu":
        raise invalid(name, f"an array of {given.dtype}", "numbers")
    result = given.astype(np.float64)
    if not np.isfinite(result).all():
        raise invalid(name, "not finite", "finite numbers")
    result.flags.writeable = False
    return result
