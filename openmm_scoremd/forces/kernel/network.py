"""Networks of model files, evaluated by C++ kernels: the contract, and graph transformers."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import weakref
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.kernel.build import load_library

#: Bead rows that one thread takes through the network together; their results stay in cache.
ROWS_PER_BLOCK: Final = 80

_GATE: Final = ("gate.of_new", "gate.of_old")
_FIRST: Final = ("logits", "edge_query", "values", "moved", "bias", "nodes", *_GATE)
_FEED_FORWARD: Final = ("first_weight", "first_bias", "second_weight", "second_bias", *_GATE)
_ABSORBED: Final = ("query", "query_bias", "output", "bias", *_GATE)
_FACTORISED: Final = ("query", "query_bias", "key_value", "output", "bias", *_GATE)


@dataclasses.dataclass(frozen=True)
class Unit:
    """How reduced energies of standardised coordinates relate to positions in nm.

    Attributes
    ----------
    inverse_scale : float, 1/nm
        Standardised coordinates are positions times this.
    energy : float, kJ/mol
        Unit of the reduced energy.
    """

    inverse_scale: float
    energy: float


class KernelNetwork:
    """Energies and forces of many replicas of one molecule, from a C++ kernel.

    Parameters
    ----------
    name : str
        Which kernel.
    sizes : tuple of int
        What its source calls sizes.
    tensors : list of Tensor
        Its constants in order, of the dtype of the last; they are copied.
    n_beads : int
        Beads of one replica.
    unit : Unit
        Units of positions and energies.

    Raises
    ------
    MissingDependencyError
        If the kernel cannot be compiled.
    MemoryError
        If memory is short.
    """

    def __init__(
        self, name: str, sizes: tuple[int, ...], tensors: list[Tensor], *, n_beads: int, unit: Unit
    ) -> None:
        self.n_beads = n_beads
        self._unit = unit
        self._functions = _Functions(load_library(name), tensors[-1].dtype)
        self._handle = self._functions.create(sizes, tensors)
        # One workspace: calls from several threads take turns.
        self._lock = threading.Lock()
        self._arrays = _Arrays(0, n_beads)
        weakref.finalize(self, self._functions.destroy, self._handle)

    def energies_and_forces(
        self, positions: NDArray[np.float64], *, threads: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return energies (R,), kJ/mol, and forces (R, N, 3), kJ/mol/nm.

        Parameters
        ----------
        positions : ndarray, shape (R, N, 3), nm
            Replicas. A NaN makes energy and forces of its replica NaN, and of no other.
        threads : int
            Most threads to use.

        Raises
        ------
        InvalidInputError
            If the shape does not fit.
        MemoryError
            If memory is short.
        """
        if positions.ndim != 3 or positions.shape[1:] != (self.n_beads, 3):
            raise InvalidInputError(
                f"positions have shape {positions.shape}; it must be (replicas, {self.n_beads}, 3)"
            )
        with self._lock:
            if self._arrays.n_replicas != len(positions):
                self._arrays = _Arrays(len(positions), self.n_beads)
            arrays = self._arrays
            np.copyto(arrays.positions, positions)
            failed = self._functions.evaluate(
                self._handle,
                arrays.addresses[0],
                arrays.n_replicas,
                self._unit.inverse_scale,
                self._unit.energy,
                max(1, threads),
                *arrays.addresses[1:],
            )
            if failed:
                raise _out_of_memory()
            return arrays.energies.copy(), arrays.forces.copy()


class _Arrays:
    """What the kernel reads and writes, made once: asking for addresses takes microseconds."""

    def __init__(self, n_replicas: int, n_beads: int) -> None:
        self.n_replicas = n_replicas
        self.positions = np.empty((n_replicas, n_beads, 3))
        self.energies, self.forces = np.empty(n_replicas), np.empty((n_replicas, n_beads, 3))
        self.addresses = tuple(
            array.ctypes.data for array in (self.positions, self.energies, self.forces)
        )


class NativeNetwork(KernelNetwork):
    """A graph transformer.

    Parameters
    ----------
    buffers : mapping of str to Tensor
        Buffers of a folded graph transformer, by their names in the model file.
    heads : int
        Its number of heads.
    unit : Unit
        Units of positions and energies.

    Raises
    ------
    InvalidInputError
        If the buffers are not those of a folded graph transformer.
    MissingDependencyError
        If the kernel cannot be compiled.
    MemoryError
        If memory is short.
    """

    def __init__(self, buffers: Mapping[str, Tensor], *, heads: int, unit: Unit) -> None:
        names, layers = _tensor_names(buffers)
        tensors = [buffers[name].detach().cpu().contiguous() for name in names]
        nodes = buffers["first_attention.nodes"]
        key_value = buffers.get("attentions.0.key_value")
        head_width = 0 if key_value is None else len(key_value) // (2 * heads)
        sizes = (len(nodes), nodes.shape[1], heads, head_width, layers, ROWS_PER_BLOCK)
        super().__init__("graph_transformer", sizes, tensors, n_beads=len(nodes), unit=unit)


class _Functions:
    """The kernel's functions for one precision."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        suffix = str(dtype).removeprefix("torch.")
        pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self._create = getattr(library, f"scoremd_create_{suffix}")
        self._create.argtypes, self._create.restype = [pointer, pointer], pointer
        self.destroy = getattr(library, f"scoremd_destroy_{suffix}")
        self.destroy.argtypes, self.destroy.restype = [pointer], None
        self.evaluate = getattr(library, f"scoremd_evaluate_{suffix}")
        self.evaluate.argtypes = [pointer, pointer, size, real, real, ctypes.c_int, *2 * [pointer]]
        self.evaluate.restype = ctypes.c_int

    def create(self, sizes: tuple[int, ...], tensors: list[Tensor]) -> int:
        """Return a handle; the tensors are copied."""
        addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        handle = self._create((ctypes.c_int64 * len(sizes))(*sizes), addresses)
        if not handle:
            raise _out_of_memory()
        return int(handle)


def _tensor_names(buffers: Mapping[str, Tensor]) -> tuple[list[str], int]:
    """Names in the order of the kernel, and the number of layers."""
    names = [f"first_attention.{name}" for name in _FIRST]
    names += [f"first_feed_forward.{name}" for name in _FEED_FORWARD]
    layer = 0
    while f"attentions.{layer}.query" in buffers:
        form = _FACTORISED if f"attentions.{layer}.key_value" in buffers else _ABSORBED
        names += [f"attentions.{layer}.{name}" for name in form]
        names += [f"feed_forwards.{layer}.{name}" for name in _FEED_FORWARD]
        layer += 1
    names += ["decoder", "decoder_bias"]
    if missing := [name for name in names if name not in buffers]:
        raise InvalidInputError(
            f"the model has no {missing[0]}: it is no graph transformer, or was exported by an "
            "older version; export it again, or use backend='torchforce' or 'pythonforce'"
        )
    dtypes = {buffers[name].dtype for name in names}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise InvalidInputError(
            f"the model's tensors are of {', '.join(sorted(map(str, dtypes)))}; the kernel takes "
            "float32 or float64, the same for all"
        )
    return names, layer + 1


def _out_of_memory() -> MemoryError:
    return MemoryError(
        "not enough memory for the C++ kernel; use fewer replicas or another backend"
    )
