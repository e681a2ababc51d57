"""Units at the public boundary: nm, ps, dalton, kJ/mol, K.

The only place where an OpenMM ``Quantity`` becomes a float.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import openmm.unit as unit
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd.errors import InvalidInputError

#: What public functions accept wherever a number has a unit.
FloatOrQuantity: TypeAlias = float | unit.Quantity

#: Molar gas constant in kJ/(mol K), the value OpenMM uses.
MOLAR_GAS_CONSTANT: float = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
    unit.kilojoule_per_mole / unit.kelvin
)


def thermal_energy(temperature: FloatOrQuantity) -> float:
    """Return ``k_B T``.

    Parameters
    ----------
    temperature : float or Quantity
        Temperature in K.

    Returns
    -------
    float
        Thermal energy in kJ/mol.

    Raises
    ------
    InvalidInputError
        If the temperature is not positive and finite.
    """
    kelvin = to_kelvin(temperature)
    if not (math.isfinite(kelvin) and kelvin > 0.0):
        raise InvalidInputError(f"temperature is {kelvin} K; it must be positive and finite")
    return MOLAR_GAS_CONSTANT * kelvin


def to_kelvin(value: FloatOrQuantity) -> float:
    """Return a temperature in K; plain numbers are taken to be in K."""
    return _in_unit(value, unit.kelvin)


def to_picoseconds(value: FloatOrQuantity) -> float:
    """Return a time in ps; plain numbers are taken to be in ps."""
    return _in_unit(value, unit.picosecond)


def to_nanometers(value: FloatOrQuantity) -> float:
    """Return a length in nm; plain numbers are taken to be in nm."""
    return _in_unit(value, unit.nanometer)


def _in_unit(value: Any, target: unit.Unit) -> float:
    number = value
    if unit.is_quantity(value):
        if not value.unit.is_compatible(target):
            raise InvalidInputError(f"{value} has the wrong dimension; it must convert to {target}")
        number = value.value_in_unit(target)
    try:
        return float(number)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{value!r} is not one number; give a float in {target} or an OpenMM Quantity"
        ) from error


def frames_in_nanometers(positions: ArrayLike, n_beads: int) -> NDArray[np.float64]:
    """Return positions as floats in nm after a check of shape and values.

    Parameters
    ----------
    positions : array or Quantity, shape (..., n_beads, 3), nm
        Frames.
    n_beads : int
        Beads of one frame.

    Returns
    -------
    ndarray, shape (..., n_beads, 3), nm
        A copy in float64.

    Raises
    ------
    InvalidInputError
        If the shape does not fit or a coordinate is not finite.
    """
    values: Any = positions
    if unit.is_quantity(values):
        values = values.value_in_unit(unit.nanometer)
    try:
        frames = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"positions are not an array of numbers: {error}") from error
    if frames.ndim < 2 or frames.shape[-2:] != (n_beads, 3):
        raise InvalidInputError(
            f"positions have shape {frames.shape}; the model has {n_beads} beads, so the shape "
            f"must be ({n_beads}, 3) or (frames, {n_beads}, 3)"
        )
    broken = int((~np.isfinite(frames)).sum())
    if broken:
        raise InvalidInputError(f"{broken} coordinates are NaN or infinite; give finite positions")
    return frames
