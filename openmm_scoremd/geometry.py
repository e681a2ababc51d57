"""Geometry of beads: centring, alignment, internal coordinates, random rotations.

Coordinates are NumPy arrays with any number of leading (frame) axes, then beads, then dimensions.
Angles are in radians and follow MDTraj's sign convention. Only :func:`random_rotations` uses torch,
because training calls it in its hot loop.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

Array: TypeAlias = npt.NDArray[np.floating[Any]]


def center(positions: npt.ArrayLike) -> Array:
    """Move the centroid of every frame to the origin.

    Parameters
    ----------
    positions : (..., beads, dims), nm
        Coordinates.

    Returns
    -------
    (..., beads, dims), nm
        Centred coordinates of the same floating-point type.

    Raises
    ------
    InvalidInputError
        If there is no bead axis or no bead.
    """
    points = _as_points(positions)
    centroid = points.mean(axis=-2, keepdims=True, dtype=np.float64)
    return np.asarray((points - centroid).astype(points.dtype, copy=False))


def kabsch_align(positions: npt.ArrayLike, reference: npt.ArrayLike) -> Array:
    """Superpose every frame onto a reference by a translation and a proper rotation.

    The rotation minimises the unweighted RMSD; mirror images stay mirror images.

    Parameters
    ----------
    positions : (..., beads, dims), nm
        Coordinates.
    reference : (beads, dims), nm
        Coordinates to superpose onto.

    Returns
    -------
    (..., beads, dims), nm
        Superposed coordinates of the floating-point type of ``positions``; their centroid is that
        of the reference.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit, or a coordinate is NaN or infinite.
    """
    points, target = _as_points(positions), _as_points(reference).astype(np.float64)
    if target.ndim != 2 or points.shape[-2:] != target.shape:
        raise InvalidInputError(
            f"positions have shape {points.shape} and the reference {target.shape}; "
            "the reference must be one frame with the same beads and dimensions"
        )
    if not (np.isfinite(points).all() and np.isfinite(target).all()):
        raise InvalidInputError("cannot align frames with NaN or infinite coordinates; remove them")
    moved = center(points.astype(np.float64))
    rotations = _optimal_rotations(moved, center(target))
    placed = moved @ rotations + target.mean(axis=0)
    return np.asarray(placed.astype(points.dtype, copy=False))


def nearest_image(
    offsets: npt.ArrayLike, cell: npt.ArrayLike, *, inverse: npt.ArrayLike | None = None
) -> Array:
    """Shift vectors by whole box vectors to their nearest periodic image.

    Exact for vectors whose nearest image is shorter than half the smallest height of the cell.

    Parameters
    ----------
    offsets : (..., 3), nm
        Vectors between two points.
    cell : (3, 3) or (..., 3, 3), nm
        Box vectors, one per row.
    inverse : (3, 3) or (..., 3, 3), 1/nm, optional
        Inverse of ``cell``, for callers that use it many times.

    Returns
    -------
    (..., 3), nm
        The same vectors less multiples of box vectors.
    """
    vectors, box = np.asarray(offsets), np.asarray(cell)
    fractions = np.matmul(vectors[..., None, :], np.linalg.inv(box) if inverse is None else inverse)
    images = np.round(fractions)
    return np.asarray(vectors - np.matmul(images, box)[..., 0, :])


def distances(positions: npt.ArrayLike, pairs: npt.ArrayLike) -> Array:
    """Distances between pairs of beads.

    Parameters
    ----------
    positions : (..., beads, dims), nm
        Coordinates.
    pairs : (n, 2)
        Bead indices.

    Returns
    -------
    (..., n), nm
        Distances.

    Raises
    ------
    InvalidInputError
        If an index is missing, negative or too large.
    """
    first, second = _gather(positions, pairs, width=2)
    return _norm(second - first)


def angles(positions: npt.ArrayLike, triples: npt.ArrayLike) -> Array:
    """Angles at the middle bead of each triple.

    Parameters
    ----------
    positions : (..., beads, dims), nm
        Coordinates.
    triples : (n, 3)
        Bead indices; the second one is the vertex.

    Returns
    -------
    (..., n), rad
        Angles in [0, pi].

    Raises
    ------
    InvalidInputError
        If an index is missing, negative or too large.
    """
    first, vertex, last = _gather(positions, triples, width=3)
    u, v = _unit(first - vertex), _unit(last - vertex)
    # Kahan's form keeps full precision near 0 and pi, where arccos does not.
    return np.asarray(2.0 * np.arctan2(_norm(u - v), _norm(u + v)), dtype=u.dtype)


def dihedrals(positions: npt.ArrayLike, quadruples: npt.ArrayLike) -> Array:
    """Dihedral angles, with the sign convention of MDTraj and IUPAC.

    Parameters
    ----------
    positions : (..., beads, 3), nm
        Coordinates.
    quadruples : (n, 4)
        Bead indices along the chain.

    Returns
    -------
    (..., n), rad
        Dihedral angles in [-pi, pi]; 0 is cis.

    Raises
    ------
    InvalidInputError
        If the space is not three-dimensional, or an index is missing, negative or too large.
    """
    if np.shape(positions)[-1:] != (3,):
        raise InvalidInputError(
            f"positions have shape {np.shape(positions)}; dihedrals need three dimensions"
        )
    a, b, c, d = _gather(positions, quadruples, width=4)
    axis, normal_left, normal_right = c - b, np.cross(b - a, c - b), np.cross(c - b, d - c)
    sine = (normal_right * (b - a)).sum(axis=-1) * _norm(axis)
    return np.asarray(np.arctan2(sine, (normal_left * normal_right).sum(axis=-1)))


def random_rotations(
    n: int,
    *,
    generator: torch.Generator | None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Draw proper rotations uniformly, by random unit quaternions.

    Parameters
    ----------
    n : int
        Number of matrices.
    generator : torch.Generator or None
        Source of randomness, on the same device; None means torch's global generator.
    dtype : torch.dtype, optional
        Floating-point type; torch's default if not given.
    device : torch.device or str, optional
        Device; torch's default if not given.

    Returns
    -------
    torch.Tensor, (n, 3, 3)
        Orthogonal matrices with determinant +1. Rotate beads by ``x @ rotations``.
    """
    import torch  # Here, so that NumPy-only users (coarse-graining, analysis) start quickly.

    q = torch.randn(n, 4, generator=generator, dtype=dtype, device=device)
    q = q * (2.0**0.5 / torch.linalg.vector_norm(q, dim=1, keepdim=True))
    left, right, signs, identity = _quaternion_terms(q.dtype, str(q.device))
    # Every entry of 2 (q q^T) needed is a product of two components: R = 2ab ± 2cd - I. No matrix
    # product: TF32 would spoil orthogonality, and with it every bond length.
    products = q.index_select(1, left) * q.index_select(1, right)
    return torch.addcmul(products[:, :9] - identity, signs, products[:, 9:]).view(n, 3, 3)


# Quaternion components are w, x, y, z = 0, 1, 2, 3. Entry (row by row) = ab + sign cd - identity.
_FIRST_TERMS = ((0, 0), (1, 2), (1, 3), (1, 2), (0, 0), (2, 3), (1, 3), (2, 3), (0, 0))
_SECOND_TERMS = ((1, 1), (0, 3), (0, 2), (0, 3), (2, 2), (0, 1), (0, 2), (0, 1), (3, 3))
_SIGNS = (1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0)


@lru_cache(maxsize=16)
def _quaternion_terms(
    dtype: torch.dtype, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    terms = torch.tensor(_FIRST_TERMS + _SECOND_TERMS, device=device)
    signs = torch.tensor(_SIGNS, dtype=dtype, device=device)
    identity = torch.eye(3, dtype=dtype, device=device).flatten()
    return terms[:, 0].contiguous(), terms[:, 1].contiguous(), signs, identity


def _as_points(positions: npt.ArrayLike) -> Array:
    points = np.asarray(positions)
    if points.ndim < 2 or points.shape[-2] == 0 or points.shape[-1] == 0:
        raise InvalidInputError(
            f"positions have shape {points.shape}; they must be (..., beads, dims)"
        )
    if not np.issubdtype(points.dtype, np.floating):
        return points.astype(np.float64)
    return points


def _gather(positions: npt.ArrayLike, indices: npt.ArrayLike, *, width: int) -> list[Array]:
    """Return ``width`` arrays (..., n, dims), one per column of ``indices``."""
    points, columns = _as_points(positions), np.asarray(indices)
    if columns.size == 0:
        columns = columns.reshape(0, width).astype(np.int64)
    n_beads = points.shape[-2]
    if columns.ndim != 2 or columns.shape[1] != width or columns.dtype.kind not in "iu":
        raise InvalidInputError(
            f"indices have shape {columns.shape} and type {columns.dtype}; "
            f"give integers of shape (n, {width})"
        )
    if columns.size and not (columns.min() >= 0 and columns.max() < n_beads):
        raise InvalidInputError(
            f"indices go from {columns.min()} to {columns.max()}; "
            f"with {n_beads} beads they must lie in 0..{n_beads - 1}"
        )
    return [points[..., columns[:, k], :] for k in range(width)]


def _norm(vectors: Array) -> Array:
    return np.asarray(np.sqrt((vectors * vectors).sum(axis=-1)))


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / _norm(vectors)[..., None])


def _optimal_rotations(moved: Array, target: Array) -> Array:
    """Return rotations ``R`` minimising ``|moved @ R - target|``, both centred, det R = +1."""
    u, _, vt = np.linalg.svd(np.swapaxes(moved, -1, -2) @ target)
    handedness = np.linalg.det(u) * np.linalg.det(vt)
    # Flipping the direction of the smallest singular value turns a reflection into a rotation.
    u[..., :, -1] *= np.where(handedness < 0.0, -1.0, 1.0)[..., None]
    return np.asarray(u @ vt)
