"""A model file in memory: read, loaded and tested once, however many things are made from it.

A model that was used holds threads of torch, which a forked process does not inherit: its first
computation on several threads would wait for them for ever (pytorch issue 17199). So processes that
are forked after this module was imported compute on one thread.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_scoremd.artifact.contract import ModelModule, scripted_model, with_contract
from openmm_scoremd.artifact.metadata import (
    ModelArchive,
    archive_from_bytes,
    check_sha256,
    read_archive,
)
from openmm_scoremd.artifact.torchscript import ScriptModule, checked_device, load_archive
from openmm_scoremd.errors import ModelFileError

FloatArray: TypeAlias = NDArray[np.float64]

#: Replicas that are evaluated together, the most: their intermediate results take memory.
FRAMES_TOGETHER: Final = 1000


class LoadedModel:
    """A model file whose bytes are in memory: neither moved nor deleted, the file is still usable.

    Pickled with its bytes.

    Parameters
    ----------
    archive : ModelArchive
        The checked file.
    tested : bool
        Whether the file has passed its self-test in this process already.

    Attributes
    ----------
    archive : ModelArchive
        As given.
    """

    def __init__(self, archive: ModelArchive, *, tested: bool = False) -> None:
        self.archive = archive
        self._tested = tested
        self._modules: dict[str, tuple[ModelModule, ModelModule]] = {}
        self._scripted: ScriptModule | None = None
        # Forces find the model that made them here, also after OpenMM has copied them.
        if not tested:
            _IN_MEMORY.add(self)

    def __reduce__(self) -> tuple[object, tuple[str, bytes]]:
        return _from_bytes, (str(self.archive.path), self.archive.content)

    def module(self, device: str | torch.device) -> ModelModule:
        """Return the module of the file on a device, loaded and self-tested at the first call.

        It is shared and must not be changed.

        Raises
        ------
        InvalidInputError
            If there is no such device.
        ModelFileError
            If torch cannot load the file, or it does not reproduce its own energies and forces.
        """
        return self._on(device)[0]

    def scripted(self) -> ScriptModule:
        """Return the module on the CPU in TorchScript, which that of a file without code becomes.

        Raises
        ------
        InvalidInputError
            If TorchScript cannot compile its network.
        ModelFileError
            As :meth:`module`.
        """
        if self._scripted is None:
            self._scripted = scripted_model(self.module("cpu"))
        return self._scripted

    def evaluate(self, frames: FloatArray, device: str | torch.device) -> tuple[FloatArray, ...]:
        """Return energies (F,), kJ/mol, and forces (F, N, 3), kJ/mol/nm.

        Parameters
        ----------
        frames : ndarray, shape (F, N, 3), nm
            Replicas.
        device : str or torch.device
            Where to compute; otherwise as :meth:`module`.
        """
        network = self._on(device)[1]
        parts = torch.split(torch.from_numpy(frames).to(device), FRAMES_TOGETHER)
        found = [network.energies_and_forces(part) for part in parts if len(part)]
        if not found:
            return np.zeros(0), np.zeros_like(frames)
        return tuple(_plain(torch.cat(column)) for column in zip(*found, strict=True))

    def uncalled(self) -> LoadedModel:
        """Return the same model as if it had just been loaded, from memory and without a test.

        TorchScript watches its first calls and rounds otherwise from then on. What the result
        computes does not depend on what this one computed before.
        """
        return LoadedModel(self.archive, tested=True)

    def _on(self, device: str | torch.device) -> tuple[ModelModule, ModelModule]:
        """Return the module of the file, and the same with the contract."""
        target = checked_device(device)
        if str(target) not in self._modules:
            module = _loaded(self.archive, target)
            network = with_contract(module, self.archive.metadata.n_beads)
            if not self._tested:
                _run_self_test(network, self.archive, target)
            self._modules[str(target)] = module, network
        return self._modules[str(target)]


@runtime_checkable
class HoldsModel(Protocol):
    """What has a model in memory, as :class:`~openmm_scoremd.model_file.ScoreModelFile` has."""

    @property
    def loaded(self) -> LoadedModel:
        """The model."""


#: What functions take as a model: a file, or what was read from one.
AnyModel: TypeAlias = str | os.PathLike[str] | ModelArchive | LoadedModel | HoldsModel

_IN_MEMORY: weakref.WeakSet[LoadedModel] = weakref.WeakSet()


def loaded_model(model: AnyModel, *, sha256: str | None = None) -> LoadedModel:
    """Return a model in memory; what is loaded already is not loaded again.

    Parameters
    ----------
    model : path-like, ModelArchive, LoadedModel or ScoreModelFile
        A model in any form.
    sha256 : str, optional
        Expected hash of its file.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged or not the expected one.
    """
    if isinstance(model, HoldsModel):
        model = model.loaded
    if isinstance(model, LoadedModel):
        check_sha256(model.archive, sha256)
        return model
    archive = model if isinstance(model, ModelArchive) else read_archive(model)
    check_sha256(archive, sha256)
    # Systems in XML name the file that was given, which may be a copy of another one.
    same = (m for m in _with_hash(archive.sha256) if m.archive.path == archive.path)
    return next(same, None) or LoadedModel(archive)


def model_with_hash(path: str, sha256: str) -> LoadedModel:
    """Return the model with a hash from memory, and only where it is not there from its file.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged or another one.
    """
    return next(iter(_with_hash(sha256)), None) or loaded_model(path, sha256=sha256)


def _with_hash(sha256: str) -> list[LoadedModel]:
    return [model for model in _IN_MEMORY if model.archive.sha256 == sha256]


def check_self_test(
    archive: ModelArchive, subject: str, energies: FloatArray, forces: FloatArray
) -> None:
    """Check that stored energies and forces of the self-test frames are reproduced.

    Parameters
    ----------
    archive : ModelArchive
        Where they are stored.
    subject : str
        What computed the others, for the message.
    energies : ndarray, shape (F,) or (), kJ/mol
        Energies, or their sum.
    forces : ndarray, shape (F, N, 3), kJ/mol/nm
        Forces.

    Raises
    ------
    ModelFileError
        If they are not.
    """
    metadata = archive.metadata
    test, floor = metadata.self_test, metadata.thermal_energy
    stored = test.energies if energies.ndim else test.energies.sum()
    largest_energy = max(float(np.abs(test.energies).max()), floor)
    largest_force = max(float(np.abs(test.forces).max()), floor / metadata.scale)
    for name, found, expected, largest in (
        ("energies", energies, stored, largest_energy),
        ("forces", forces, test.forces, largest_force),
    ):
        error = float(np.abs(found - expected).max() / largest)
        if not error <= test.tolerance:
            raise ModelFileError(
                f"{subject} does not reproduce its own {name}: relative difference {error:.2g}, "
                f"allowed {test.tolerance:.2g}; the file is damaged or this version of torch "
                f"computes something else (exported with torch "
                f"{metadata.versions.get('torch', '?')}, found {torch.__version__})"
            )


def _loaded(archive: ModelArchive, device: torch.device) -> ModelModule:
    if not archive.code_free:
        return load_archive(archive, device=device)
    # Files of TorchScript need no networks.
    from openmm_scoremd.artifact.code_free import load_code_free

    return load_code_free(archive, device=device)


def _run_self_test(network: ModelModule, archive: ModelArchive, device: torch.device) -> None:
    frames = torch.tensor(archive.metadata.self_test.positions, device=device)
    try:
        # First alone and then together: a replica must not depend on its neighbours.
        alone = network.energies_and_forces(frames[:1])
        energies, forces = network.energies_and_forces(frames)
    # Errors of TorchScript code, and of networks in Python.
    except (RuntimeError, ValueError, LookupError) as error:
        raise ModelFileError(f"{archive.path} fails on its self-test frames: {error}") from error
    together = _plain(energies), _plain(forces)
    check_self_test(archive, str(archive.path), *together)
    for values, value in zip(together, alone, strict=True):
        values[:1] = _plain(value)
    check_self_test(archive, str(archive.path), *together)


def _plain(values: torch.Tensor) -> FloatArray:
    # Optimised TorchScript may pass over a `detach`.
    return np.asarray(values.detach().cpu().numpy())


def _from_bytes(path: str, content: bytes) -> LoadedModel:
    return LoadedModel(archive_from_bytes(content, Path(path)))


def _one_thread() -> None:
    torch.set_num_threads(1)


# Not on Windows, which has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)
