"""Checks of what a network becomes: TorchScript, model file, force."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, Final

import openmm
import torch
from openmm import unit
from torch import Tensor

from openmm_scoremd.artifact.exported import ConservativeScore, DirectScore
from openmm_scoremd.artifact.loaded import loaded_model
from openmm_scoremd.artifact.torchscript import script_module
from openmm_scoremd.errors import MissingDependencyError
from openmm_scoremd.export.export import Precision, export_model
from openmm_scoremd.forces.create import create_force
from openmm_scoremd.forces.options import Backend
from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.models.weights import (
    TrainedModel,
    WeightsDescription,
    load_weights,
    save_weights,
)
from openmm_scoremd.testing.cases import NetworkCase, same
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import thermal_energy

#: Length in nm of one standardised unit, and temperature, of the files that are written.
_SCALE: Final = 0.2
_TEMPERATURE: Final = 300.0

#: In single precision.
_TOLERANCE: Final = 2e-4
_BACKENDS: Final[tuple[Backend, ...]] = ("torchforce", "pythonforce", "kernel")


def check_scripted_score(case: NetworkCase) -> None:
    """Compare the score in TorchScript, which a model file holds for sampling."""
    if case.features is not None:
        return  # Model files take none.
    model = copy.deepcopy(case.model)
    wrapped = ConservativeScore(model) if isinstance(model, EnergyModel) else DirectScore(model)
    scripted = script_module(wrapped)
    for _ in range(3):  # The compiler specialises with the calls.
        same(scripted(case.x, case.t), case.score(), 1e-9, "TorchScript: score")


def check_fixed_time(case: NetworkCase) -> None:
    """Compare the energy at one time, as a model file holds it, with the network."""
    if case.energy_model is None:
        return
    x = case.x - case.x.mean(dim=1, keepdim=True) if case.model.translation_invariant else case.x
    for t in case.t.tolist():
        energy, score = case.energy_model.energy_and_score(
            x, torch.full_like(case.t, t), case.features
        )
        module: Any = copy.deepcopy(case.energy_model).at_time(t, case.features)
        leaf = x.clone().requires_grad_()
        found = module(leaf)
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        same(found, energy, 1e-9, f"fixed time: energy at {t:.2g}")
        same(-gradient, score, 1e-9, f"fixed time: gradient at {t:.2g}")
        if hasattr(module, "energy_and_gradient"):
            with torch.no_grad():
                found, gradient = module.energy_and_gradient(x)
            same(found, energy, 1e-9, f"fixed time: explicit energy at {t:.2g}")
            same(-gradient, score, 1e-9, f"fixed time: explicit gradient at {t:.2g}")


def check_model_file(case: NetworkCase) -> None:
    """Compare what model files compute in single precision; they are made from a weights file.

    One is TorchScript, the other holds no code: for it the constructor of the family must also work
    on torch's device "meta", where tensors have shapes and no numbers.
    """
    if case.energy_model is None or case.features is not None:
        return
    frames = _frames(case)
    expected = _energies_and_forces(case.energy_model, frames, t=float(case.t[0]))
    with tempfile.TemporaryDirectory() as folder:
        files = [
            _write_model(case, Path(folder), f"float32{suffix}", dtype="float32")
            for suffix in (".pt", ".safetensors")
        ]
        modules = [loaded_model(file).module("cpu") for file in files]
    for file, module in zip(files, modules, strict=True):
        for _ in range(3):
            energies, forces = module.energies_and_forces(frames)
            same(energies, expected[0], _TOLERANCE, f"{file.suffix} model file: energies")
            same(forces, expected[1], _TOLERANCE, f"{file.suffix} model file: forces")
        found = module.score(case.x, case.t).detach()
        same(found, case.score(), _TOLERANCE, f"{file.suffix} model file: score")


def check_forces(case: NetworkCase) -> None:
    """Compare what OpenMM computes in double precision, with every backend of this machine."""
    if case.energy_model is None or case.features is not None:
        return
    frames = _frames(case)
    expected = _energies_and_forces(case.energy_model, frames, t=float(case.t[0]))
    positions = frames.reshape(-1, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = _write_model(case, Path(folder), "float64.pt", dtype="float64")
        for backend in _BACKENDS:
            system = openmm.System()
            for _ in positions:
                system.addParticle(12.0)
            try:
                system.addForce(create_force(path, backend=backend))
            except MissingDependencyError:
                continue
            platform = openmm.Platform.getPlatformByName("Reference")
            context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
            context.setPositions(positions.numpy())
            state = context.getState(getEnergy=True, getForces=True)
            energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            forces = state.getForces(asNumpy=True).value_in_unit(
                unit.kilojoule_per_mole / unit.nanometer
            )
            same(torch.tensor([energy]), expected[0].sum(0, True), 1e-6, f"{backend}: energy")
            same(torch.tensor(forces).view_as(frames), expected[1], 1e-6, f"{backend}: forces")


def _frames(case: NetworkCase) -> Tensor:
    """Return frames (B, N, 3) in nm of the samples."""
    return torch.nn.functional.pad(_SCALE * case.x, [0, 3 - case.x.shape[2]])


def _energies_and_forces(model: EnergyModel, frames: Tensor, *, t: float) -> tuple[Tensor, Tensor]:
    """Return energies (B,), kJ/mol, and forces (B, N, 3), kJ/mol/nm, of the network itself."""
    kt = thermal_energy(_TEMPERATURE)
    x = frames[..., : model.n_dims] / _SCALE
    energies, score = model.energy_and_score(x, torch.full((len(x),), t, dtype=torch.float64))
    forces = torch.nn.functional.pad(kt / _SCALE * score, [0, 3 - model.n_dims])
    return kt * energies.detach(), forces.detach()


def _write_model(case: NetworkCase, folder: Path, name: str, *, dtype: Precision) -> Path:
    """Write the network as weights, read them again, and write a model file."""
    _, n_beads, n_dims = case.x.shape
    t = float(case.t[0])
    description = WeightsDescription(
        title=f"test of {case.config.family}",
        network=case.config,
        schedule=case.inputs.schedule,
        topology=case.inputs.topology or _chain(n_beads),
        n_dims=n_dims,
        translation_invariant=case.model.translation_invariant,
        temperature=_TEMPERATURE,
        scale=_SCALE,
        t_min=t,
        dataset_sha256="",
        example_positions=(_SCALE * case.x).numpy(),
        bond_ranges=((0.1, 0.2),) * (n_beads - 1),
        training={},
    )
    weights = folder / "weights.safetensors"
    save_weights(TrainedModel(case.model, description), weights)
    return export_model(load_weights(weights), folder / name, t=t, dtype=dtype)


def _chain(n_beads: int) -> BeadTopology:
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("TST",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=tuple((i, i + 1) for i in range(n_beads - 1)),
    )
