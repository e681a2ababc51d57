"""Units at the public boundary: nm, ps, dalton, kJ/mol, K.

The only place where an OpenMM ``Quantity`` becomes a float.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import openmm.unit as unit

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
