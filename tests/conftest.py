"""A small exported model with known energies, forces and samples, for everything that reads one.

Chains of beads with harmonic bonds; the score is that of independent Gaussian coordinates, so
samples are known as well: standard deviation 0.5. The 2-D form is a particle in a harmonic well.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from openmm_scoremd.artifact.metadata import ModelMetadata, SelfTest
from openmm_scoremd.artifact.torchscript import (
    save_module,
    script_module,
    tensor_digest,
)
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.topology import BeadTopology


class ToyModel(nn.Module):
    """Follows the contract of an exported model (see ``openmm_scoremd.artifact.torchscript``).

    Stiffness in kJ/mol/nm**2, length in nm.
    """

    def __init__(self, n_beads: int, n_dims: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_beads = n_beads
        self.n_dims = n_dims
        self.dtype = dtype
        self.metadata = ""
        self.register_buffer("stiffness", torch.tensor(2000.0, dtype=dtype))
        self.register_buffer("length", torch.tensor(0.15, dtype=dtype))

    def forward(self, positions: Tensor) -> Tensor:
        return self._energies(positions.reshape(-1, self.n_beads, 3)).sum().to(positions.dtype)

    @torch.jit.export
    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        leaf = positions.detach().requires_grad_(True)
        energies = self._energies(leaf)
        gradient = torch.autograd.grad([energies.sum()], [leaf])[0]
        torch.set_grad_enabled(before)
        forces = torch.zeros_like(positions) if gradient is None else -gradient
        return energies.detach().double(), forces

    def _energies(self, frames: Tensor) -> Tensor:
        if self.n_dims == 2:
            planar = frames[:, :, :2].to(self.dtype)
            return 0.5 * self.stiffness * (planar * planar).sum(dim=(1, 2))
        frames = (frames - frames.mean(dim=1, keepdim=True)).to(self.dtype)
        bonds = torch.linalg.vector_norm(frames[:, 1:] - frames[:, :-1], dim=-1)
        return 0.5 * self.stiffness * ((bonds - self.length) ** 2).sum(dim=1)

    @torch.jit.export
    def score(self, x: Tensor, t: Tensor) -> Tensor:
        integral = 0.1 * t + 0.5 * 19.9 * t * t
        signal = torch.exp(-integral)
        variance = signal * 0.25 + 1.0 - signal
        leaf = x.detach().requires_grad_(True)
        density = (-0.5 * leaf * leaf / variance[:, None, None]).sum()
        gradient = torch.autograd.grad([density], [leaf])[0]
        return torch.zeros_like(x) if gradient is None else gradient


@dataclasses.dataclass(frozen=True)
class Toy:
    """A model file and what it was made from."""

    path: Path
    metadata: ModelMetadata
    module: nn.Module


def bead_topology(n_beads: int) -> BeadTopology:
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("TOY",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=tuple(12.0 + i for i in range(n_beads)),
        bonds=tuple((i, i + 1) for i in range(n_beads - 1)),
    )


def chain_positions(n_frames: int, n_beads: int, *, seed: int = 0) -> np.ndarray:
    """Frames (n_frames, n_beads, 3) in nm: a zigzag chain with noise."""
    rng = np.random.default_rng(seed)
    zigzag = np.array([[0.12 * i, 0.05 * (i % 2), 0.0] for i in range(n_beads)])
    return zigzag + 0.01 * rng.normal(size=(n_frames, n_beads, 3))


def toy_metadata(module: ToyModel, **changes: Any) -> ModelMetadata:
    frames = chain_positions(3, module.n_beads)
    energies, forces = module.energies_and_forces(torch.from_numpy(frames))
    single = module.dtype == torch.float32
    entries: dict[str, Any] = {
        "title": "toy chain",
        "topology": bead_topology(module.n_beads),
        "temperature": 300.0,
        "scale": 0.2,
        "n_dims": module.n_dims,
        "translation_invariant": module.n_dims == 3,
        "t": 1e-5,
        "t_min": 1e-5,
        "schedule": VPSchedule(0.1, 20.0),
        "dtype": "float32" if single else "float64",
        "architecture": {"kind": "toy"},
        "dataset_sha256": "",
        "weights_sha256": "a" * 64,
        "tensor_digest": tensor_digest(module),
        "training": {"epochs": 3, "loss": 0.5},
        "versions": {"torch": "2.9.1"},
        "licence": "MIT",
        "citation": "nobody",
        "created": "2025-01-01T00:00:00+00:00",
        "self_test": SelfTest(
            positions=frames,
            energies=energies.numpy(),
            forces=forces.numpy(),
            tolerance=1e-5 if single else 1e-10,
        ),
    }
    return ModelMetadata(**{**entries, **changes})


MakeToy = Callable[..., Toy]


@pytest.fixture
def chain() -> Callable[..., np.ndarray]:
    """Return ``chain_positions(n_frames, n_beads, seed=0)``."""
    return chain_positions


@pytest.fixture
def make_toy(tmp_path: Path) -> MakeToy:
    """Return a function that exports a toy model; keywords change entries of its metadata."""

    def make(
        name: str = "toy.pt",
        *,
        n_beads: int = 4,
        n_dims: int = 3,
        dtype: torch.dtype = torch.float32,
        **changes: Any,
    ) -> Toy:
        module = ToyModel(n_beads, n_dims, dtype)
        metadata = toy_metadata(module, **changes)
        module.metadata = metadata.to_json()
        path = tmp_path / name
        save_module(script_module(module), path, module.metadata)
        return Toy(path, metadata, module)

    return make


@pytest.fixture
def make_metadata() -> Callable[..., ModelMetadata]:
    """Return a function that builds the metadata of a toy; keywords change entries."""

    def make(**changes: Any) -> ModelMetadata:
        return toy_metadata(ToyModel(4, 3, torch.float32), **changes)

    return make


@pytest.fixture
def toy(make_toy: MakeToy) -> Toy:
    """A chain of four beads in float32."""
    return make_toy()


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> None:
    """Let Ctrl-C arrive: shells start what runs in the background with interrupts ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
