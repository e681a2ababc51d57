"""Independent frames of a model with their density, for small molecules.

The density is that of a map from noise (:mod:`openmm_scoremd.diffusion.flow_map`), known exactly.
It is near to, but not the same as, that of :meth:`ScoreModelFile.sample`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.diffusion.flow_map import FlowMap, Mapped
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile

FloatArray: TypeAlias = NDArray[np.float64]


class ModelDensity:
    """Draws frames and knows their density.

    Every step evaluates the network and its second derivatives: about four evaluations of an energy
    with N x D times as many frames, and some more to solve it.

    Parameters
    ----------
    model : ScoreModelFile
        A model whose networks have energies at all diffusion times, on the CPU.
    n_steps : int
        Steps from data to noise; more of them bring the density nearer to the model's.

    Raises
    ------
    InvalidInputError
        If a network has no energy, or there is no step.
    """

    def __init__(self, model: ScoreModelFile, *, n_steps: int = 100) -> None:
        self.model = model
        self._levels = model.noise_levels
        if min(self._levels.serving) < 0:
            raise InvalidInputError(
                f"{model.path} has no energy at some diffusion times; the density of frames needs "
                "networks that are all conservative"
            )
        metadata = model.metadata
        self._map = FlowMap(self._reduced, metadata.schedule, t_min=metadata.t_min, n_steps=n_steps)

    def sample(self, n: int, *, seed: int) -> tuple[FloatArray, FloatArray]:
        """Draw frames.

        Parameters
        ----------
        n : int
            Number of frames.
        seed : int
            Seed of the noise.

        Returns
        -------
        frames : ndarray, shape (n, N, 3), nm
            Frames; centred if the model is translation invariant, 2-D models have z = 0.
        log_density : ndarray, shape (n,)
            Log-density up to a constant; NaN where noise could not be mapped to a frame.

        Raises
        ------
        InvalidInputError
            If ``n`` is not positive.
        """
        if n < 1:
            raise InvalidInputError(f"n is {n}; it must be positive")
        metadata = self.model.metadata
        generator = torch.Generator().manual_seed(seed)
        shape = (n, metadata.n_beads, metadata.n_dims)
        z = self._map.last_noise * torch.randn(shape, generator=generator, dtype=torch.float64)
        z = metadata.centred(z)
        mapped = self._map.to_data(z)
        return metadata.to_nanometers(mapped.y).numpy(), self._log_density(z, mapped)

    def log_density(self, frames: FloatArray) -> FloatArray:
        """Return the log-density of frames up to the same constant, shape (F,).

        Parameters
        ----------
        frames : ndarray, shape (F, N, 3), nm
            Frames; z of 2-D models does not matter.

        Returns
        -------
        ndarray, shape (F,)
            Minus infinity for frames that :meth:`sample` cannot draw.
        """
        y = self.model.metadata.to_network(frames)
        mapped = self._map.to_noise(y)
        found = self._log_density(mapped.y, mapped)
        drawn = self._map.returns(y, mapped.y).numpy() & np.isfinite(found)
        return np.where(drawn, found, -np.inf)

    def _log_density(self, z: Tensor, mapped: Mapped) -> FloatArray:
        noise = -0.5 * (z / self._map.last_noise).square().sum(dim=(1, 2))
        found = torch.where(mapped.valid, noise + mapped.log_det, torch.nan)
        return np.asarray(found.numpy(), dtype=np.float64)

    def _reduced(self, y: Tensor, t: float) -> Tensor:
        metadata = self.model.metadata
        time = torch.tensor(t, dtype=torch.float64)
        positions = metadata.to_nanometers(y).reshape(-1, 3)
        return self._levels.energies(positions, time) / metadata.thermal_energy
