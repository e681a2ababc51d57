r"""The Müller-Brown potential: two dimensions, three minima, a known answer.

.. math::  U(x, y) = \sum_k A_k \exp\left(a_k (x - X_k)^2 + b_k (x - X_k)(y - Y_k)
           + c_k (y - Y_k)^2\right)

One particle of mass 0.5 Da at k_B T = 23 kJ/mol; x and y are in nm, U is in kJ/mol.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from openmm_scoremd.data.dataset import CGDataset
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import MOLAR_GAS_CONSTANT

Array: TypeAlias = npt.NDArray[np.float64]

#: Thermal energy of the toy system, kJ/mol.
MUELLER_BROWN_THERMAL_ENERGY = 23.0

#: Mass of its particle, dalton.
MUELLER_BROWN_MASS = 0.5

# Columns A, a, b, c, X, Y; one row per term.
_TERMS = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)

# Outside this square U > 700 kJ/mol, by the fourth term; less than 1e-15 of the probability.
_SQUARE_CENTRE = (-1.0, 1.0)
_SQUARE_HALF_WIDTH = 3.2
_CELL = 0.01


def mueller_brown_energy(positions: npt.ArrayLike) -> Array:
    """Potential energy.

    Parameters
    ----------
    positions : (..., 2), nm
        Points.

    Returns
    -------
    (...), kJ/mol
        Energies.

    Raises
    ------
    InvalidInputError
        If the last axis is not of length two.
    """
    return sum(
        (term[0] * np.exp(_exponent(term, *_split(positions))) for term in _TERMS),
        start=np.zeros(()),
    )


def mueller_brown_force(positions: npt.ArrayLike) -> Array:
    """Force, the negative gradient of :func:`mueller_brown_energy`.

    Parameters
    ----------
    positions : (..., 2), nm
        Points.

    Returns
    -------
    (..., 2), kJ/(mol nm)
        Forces.

    Raises
    ------
    InvalidInputError
        If the last axis is not of length two.
    """
    x, y = _split(positions)
    force = np.zeros((*np.shape(x), 2))
    for term in _TERMS:
        strength, a, b, c, x0, y0 = term
        value = strength * np.exp(_exponent(term, x, y))
        force[..., 0] -= value * (2.0 * a * (x - x0) + b * (y - y0))
        force[..., 1] -= value * (b * (x - x0) + 2.0 * c * (y - y0))
    return force


def mueller_brown_expression() -> str:
    """Return the energy as an expression in x and y for OpenMM's ``CustomExternalForce``."""
    return " + ".join(
        f"({strength})*exp(({a})*(x-({x0}))^2 + ({b})*(x-({x0}))*(y-({y0})) + ({c})*(y-({y0}))^2)"
        for strength, a, b, c, x0, y0 in _TERMS
    )


def sample_mueller_brown(n: int, *, seed: int) -> CGDataset:
    """Draw independent points from the Boltzmann distribution at k_B T = 23 kJ/mol.

    The paper takes its 100,000 frames from one Langevin simulation, where neighbouring frames are
    correlated; these are independent draws by rejection from a piecewise constant envelope. They
    are exact but for the probability beyond a square, which is below 1e-15.

    Parameters
    ----------
    n : int
        Number of points.
    seed : int
        Seed of NumPy's default generator.

    Returns
    -------
    CGDataset
        Positions (n, 1, 2) in nm; temperature k_B T / k_B = 2766 K.

    Raises
    ------
    InvalidInputError
        If ``n`` is not positive.
    """
    if n < 1:
        raise InvalidInputError(f"n is {n}; draw at least one point")
    generator = np.random.default_rng(seed)
    envelope = _Envelope()
    accepted = np.empty((0, 2))
    while len(accepted) < n:
        accepted = np.concatenate([accepted, envelope.draw(2 * (n - len(accepted)), generator)])
    return CGDataset(
        positions=accepted[:n, None, :].astype(np.float32),
        topology=_TOPOLOGY,
        temperature=MUELLER_BROWN_THERMAL_ENERGY / MOLAR_GAS_CONSTANT,
    )


_TOPOLOGY = BeadTopology(
    names=("MB",),
    elements=("",),
    residue_names=("MB",),
    residue_ids=(1,),
    chain_ids=("A",),
    masses=(MUELLER_BROWN_MASS,),
)


class _Envelope:
    """Piecewise constant function that is nowhere below exp(-U / kT)."""

    def __init__(self) -> None:
        n_cells = round(2.0 * _SQUARE_HALF_WIDTH / _CELL)
        steps = _CELL * np.arange(n_cells) - _SQUARE_HALF_WIDTH
        grid = np.meshgrid(_SQUARE_CENTRE[0] + steps, _SQUARE_CENTRE[1] + steps, indexing="ij")
        self._corners = np.stack(grid, axis=-1).reshape(-1, 2)
        self._floors = _energy_floors(self._corners)
        weights = np.exp((self._floors.min() - self._floors) / MUELLER_BROWN_THERMAL_ENERGY)
        self._cumulative = np.cumsum(weights / weights.sum())

    def draw(self, n: int, generator: np.random.Generator) -> Array:
        """Try ``n`` times; return the points accepted."""
        cells = np.searchsorted(self._cumulative, generator.random(n) * self._cumulative[-1])
        points: Array = self._corners[cells] + _CELL * generator.random((n, 2))
        excess = mueller_brown_energy(points) - self._floors[cells]
        accepted = generator.random(n) < np.exp(-excess / MUELLER_BROWN_THERMAL_ENERGY)
        return np.asarray(points[accepted])


def _energy_floors(corners: Array) -> Array:
    """Lower bounds of the energy in square cells, by interval arithmetic."""
    floors = np.zeros(len(corners))
    for strength, a, b, c, x0, y0 in _TERMS:
        x, y = corners[:, 0] - x0, corners[:, 1] - y0
        parts = [_square_range(a, x), _product_range(b, x, y), _square_range(c, y)]
        # A negative term is lowest where its exponent is highest, and the other way round.
        exponent = sum(part[1] if strength < 0.0 else part[0] for part in parts)
        floors += strength * np.exp(exponent)
    return floors


def _square_range(factor: float, low: Array) -> tuple[Array, Array]:
    """Return bounds of factor * z**2 for z in [low, low + cell]."""
    ends = factor * np.stack([low, low + _CELL]) ** 2
    crossing = (low < 0.0) & (low + _CELL > 0.0)
    values = np.concatenate([ends, np.where(crossing, 0.0, ends[0])[None]])
    return values.min(axis=0), values.max(axis=0)


def _product_range(factor: float, x: Array, y: Array) -> tuple[Array, Array]:
    """Return bounds of factor * u * v for u, v in cells that start at x, y."""
    values = factor * np.stack([(x + i) * (y + j) for i in (0.0, _CELL) for j in (0.0, _CELL)])
    return values.min(axis=0), values.max(axis=0)


def _exponent(term: tuple[float, ...], x: Array, y: Array) -> Array:
    _, a, b, c, x0, y0 = term
    return np.asarray(a * (x - x0) ** 2 + b * (x - x0) * (y - y0) + c * (y - y0) ** 2)


def _split(positions: npt.ArrayLike) -> tuple[Any, Any]:
    points = np.asarray(positions, dtype=np.float64)
    if points.shape[-1:] != (2,):
        raise InvalidInputError(f"positions have shape {points.shape}; give (..., 2)")
    return points[..., 0], points[..., 1]
