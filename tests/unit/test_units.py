import typing

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_scoremd import units
from openmm_scoremd.errors import InvalidInputError


def test_thermal_energy_at_300_kelvin():
    # k_B = 1.380649e-23 J/K and N_A = 6.02214076e23/mol are exact since 2019.
    expected = 1.380649e-23 * 6.02214076e23 * 300.0 / 1000.0
    assert units.thermal_energy(300.0) == pytest.approx(expected, rel=1e-6)


def test_thermal_energy_is_the_one_of_openmm():
    """What OpenMM's integrators use decides; another constant would shift the temperature."""
    openmm_value = (unit.MOLAR_GAS_CONSTANT_R * 310 * unit.kelvin).value_in_unit(
        unit.kilojoule_per_mole
    )
    assert units.thermal_energy(310) == pytest.approx(openmm_value, rel=1e-12)


def test_thermal_energy_accepts_quantities():
    assert units.thermal_energy(300 * unit.kelvin) == units.thermal_energy(300.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(InvalidInputError, match="positive and finite"):
        units.thermal_energy(temperature)


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        (units.to_kelvin, 300, 300.0),
        (units.to_kelvin, 300 * unit.kelvin, 300.0),
        (units.to_picoseconds, 0.002, 0.002),
        (units.to_picoseconds, 2 * unit.femtosecond, 0.002),
        (units.to_nanometers, 0.15, 0.15),
        (units.to_nanometers, 1.5 * unit.angstrom, 0.15),
    ],
)
def test_numbers_are_taken_as_they_are_and_quantities_converted(convert, value, expected):
    result = convert(value)
    assert type(result) is float
    assert result == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(3), np.array(0.25)])
def test_numpy_scalars_become_floats(value):
    assert units.to_picoseconds(value) == float(value)


@pytest.mark.parametrize(
    ("convert", "value"),
    [
        (units.to_kelvin, 300 * unit.kilojoule_per_mole),
        (units.to_picoseconds, 1 * unit.nanometer),
        (units.to_nanometers, 1 * unit.picosecond),
    ],
)
def test_wrong_dimension_is_refused(convert, value):
    with pytest.raises(InvalidInputError, match="wrong dimension"):
        convert(value)


@pytest.mark.parametrize("value", ["warm", None, [1.0, 2.0], [1.0, 2.0] * unit.kelvin])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InvalidInputError, match="not one number"):
        units.to_kelvin(value)


def test_annotations_can_be_resolved_at_run_time():
    """Configuration by type hints needs the alias outside of TYPE_CHECKING as well."""
    hints = typing.get_type_hints(units.to_kelvin)
    assert openmm.unit.Quantity in typing.get_args(hints["value"])
