"""A folded invariant network of a model file, evaluated by its C++ kernel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.kernel.network import KernelNetwork, Unit

_CONSTANTS = ("softening", "envelope", "centre", "inverse_width", "curvature", "slope")
_INDICES = tuple(f"measurement.{name}" for name in ("pairs", "starts", "ends", "windows"))


class InvariantKernel(KernelNetwork):
    """An invariant network at one diffusion time.

    Parameters
    ----------
    buffers : mapping of str to Tensor
        Buffers of a folded invariant network, by their names in the model file.
    n_beads : int
        Beads of one replica.
    unit : Unit
        Units of positions and energies.

    Raises
    ------
    InvalidInputError
        If the buffers are not those of a folded invariant network.
    MissingDependencyError
        If the kernel cannot be compiled.
    MemoryError
        If memory is short.
    """

    def __init__(self, buffers: Mapping[str, Tensor], *, n_beads: int, unit: Unit) -> None:
        n_layers = sum(name.endswith(".weight") for name in buffers)
        _check(buffers, n_layers)
        pairs, windows = buffers["measurement.pairs"], buffers["measurement.windows"]
        n_pairs, n_windows = len(pairs), windows.shape[1]
        starts, ends = (buffers[f"measurement.{name}"][n_pairs:] for name in ("starts", "ends"))
        # Three edges each, end to end: four beads.
        n_volumes = len(starts) // 3
        volumes = torch.cat([starts.view(3, n_volumes), ends.view(3, n_volumes)[2:]]).t()
        indices = torch.cat([pairs.flatten(), volumes.flatten(), windows.t().flatten()])

        layers: list[Tensor] = []
        for k in range(n_layers):
            bias = buffers[f"layers.{k}.bias"]
            windowed = bias.expand(-1, n_windows) if k == 0 else bias
            layers += [buffers[f"layers.{k}.weight"], windowed.t()]
        constants = [buffers[name] for name in _CONSTANTS]
        scalars, others = torch.stack(constants[:2]), constants[2:]
        tensors = [indices.long(), scalars, *others, *layers, buffers["readout"]]
        sizes = (
            n_beads,
            n_pairs,
            n_volumes,
            n_windows,
            len(windows),
            len(buffers["readout"]),
            n_layers,
            int(buffers["curvature"].dim() == 2),
        )
        # The kernel sees blurred, not shrunk coordinates.
        stretched = Unit(unit.inverse_scale * float(buffers["inverse_alpha"]), unit.energy)
        copies = [tensor.detach().cpu().contiguous() for tensor in tensors]
        super().__init__("invariant", sizes, copies, n_beads=n_beads, unit=stretched)


def _check(buffers: Mapping[str, Tensor], n_layers: int) -> None:
    layers = [f"layers.{k}.{kind}" for k in range(n_layers) for kind in ("weight", "bias")]
    names = (*_CONSTANTS, "inverse_alpha", "readout", *layers)
    if missing := [name for name in (*names, *_INDICES) if name not in buffers]:
        raise InvalidInputError(
            f"the model has no {missing[0]}: it is no invariant network, or was exported by "
            "another version; export it again, or use backend='torchforce' or 'pythonforce'"
        )
    dtypes = {buffers[name].dtype for name in names}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise InvalidInputError(
            f"the model's tensors are of {', '.join(sorted(map(str, dtypes)))}; the kernel takes "
            "float32 or float64, the same for all"
        )
