"""From a trained network to a model file."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from openmm_scoremd._files.run_record import package_versions, sha256_of_file
from openmm_scoremd.artifact.code_free import (
    code_free_bytes,
    copy_in,
    exported_model,
    load_code_free,
    save_code_free,
)
from openmm_scoremd.artifact.contract import ModelModule, scripted_model
from openmm_scoremd.artifact.exported import ExportedModel
from openmm_scoremd.artifact.loaded import LoadedModel, check_self_test
from openmm_scoremd.artifact.metadata import (
    MODEL_KEY,
    ModelMetadata,
    SelfTest,
    archive_from_bytes,
    read_archive,
)
from openmm_scoremd.artifact.torchscript import save_module, tensor_digest
from openmm_scoremd.description import ModelDescription
from openmm_scoremd.errors import ConfigurationError, InvalidInputError, ModelFileError
from openmm_scoremd.models.base import EnergyModel, require_energy_model
from openmm_scoremd.models.mixture import TimePartitionedMixture, network_at
from openmm_scoremd.models.weights import TrainedModel, architecture_of, load_weights

#: Published score is taken here (arXiv 2506.17139, section 5).
FORCE_TIME: Final = 1e-5

#: Largest relative difference between the network in float64 and what is compiled. In float64 it
#: shows that both are the same function; in float32 what remains is rounding, which grows with
#: the weights: 1e-6 to 1e-5 for trained networks, far below what a thermostat does.
EXPORT_TOLERANCE: Final = {torch.float32: 3e-5, torch.float64: 1e-10}
#: What a file must reproduce when it is loaded, on any machine and device.
SELF_TEST_TOLERANCE: Final = {torch.float32: 1e-4, torch.float64: 1e-9}

Precision = Literal["float32", "float64"]
Form = TypeVar("Form", bound=ModelModule)


def export_model(
    model: TrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    t: float = FORCE_TIME,
    dtype: Precision = "float32",
    licence: str = "",
    citation: str = "",
) -> Path:
    """Write a trained network as a model file: without code, or in TorchScript.

    A file holds the potential energy at diffusion time ``t``, for any number of replicas, the score
    at all times for iid sampling, metadata and self-test frames. It is written only if it agrees
    with the network in float64: energies and forces to 1e-10 of the largest in float64, and to 1e-5
    in float32, if that is what is written.

    Parameters
    ----------
    model : TrainedModel or path-like
        Trained network, or its ``.safetensors`` file.
    path : path-like
        ``.safetensors`` for a file without code, from which TorchForce gets its TorchScript where
        it is used; ``.pt`` for a TorchScript file.
    t : float
        Diffusion time whose score is the force; the published value is 1e-5.
    dtype : {"float32", "float64"}
        Precision of the weights in the file.
    licence : str
        Licence of the weights, to be shown to whoever looks into the file; empty for none.
    citation : str
        What users of the weights are to cite.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        If the network is not conservative; of a mixture, the expert that serves ``t``.
    InvalidInputError
        If ``t`` lies outside the times the network was trained for, ``dtype`` or the suffix is
        unknown, or ``path`` is a ``.safetensors`` file of another kind, such as weights.
    ModelFileError
        If the weights cannot be read, or what would be written disagrees with the network.
    """
    suffix = Path(path).suffix
    if suffix == ".pt":
        return export_torchscript(model, path, t=t, dtype=dtype, licence=licence, citation=citation)
    if suffix != ".safetensors":
        raise InvalidInputError(
            f"the model file is to be {os.fspath(path)}; its name must end in .safetensors or .pt"
        )
    if Path(path).exists() and not is_code_free(path):
        raise InvalidInputError(
            f"{os.fspath(path)} exists and is no model file (weights end in .safetensors, too); "
            "choose another name"
        )
    exported, metadata = _checked(
        model, path, _in_python, t=t, dtype=dtype, licence=licence, citation=citation
    )
    # As it will be read: a network that is not of the family in its record shows now.
    archive = archive_from_bytes(code_free_bytes(exported, metadata), Path(path).absolute())
    read = load_code_free(archive, device="cpu")
    _check_agreement(read, metadata.self_test, dtype=_precision(dtype), path=path)
    save_code_free(archive, path)
    return Path(path)


def export_torchscript(
    model: TrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    t: float = FORCE_TIME,
    dtype: Precision = "float32",
    licence: str = "",
    citation: str = "",
) -> Path:
    """Write a trained network as a TorchScript file for OpenMM.

    Parameters, result and errors are those of :func:`export_model`, whatever the name of the file.
    """
    scripted, metadata = _checked(
        model, path, scripted_model, t=t, dtype=dtype, licence=licence, citation=citation
    )
    save_module(scripted, path, metadata.to_json())
    return Path(path)


def derive_torchscript(
    model: str | os.PathLike[str], path: str | os.PathLike[str], *, sha256: str | None = None
) -> Path:
    """Write the TorchScript file of a model file without code: the same record and tensors.

    Parameters
    ----------
    model : path-like
        A ``.safetensors`` model file.
    path : path-like
        The ``.pt`` file.
    sha256 : str, optional
        Expected SHA-256 of the model file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelFileError
        If the model file is damaged, or its TorchScript computes something else.
    InvalidInputError
        If TorchScript cannot compile its network.
    """
    loaded = LoadedModel(read_archive(model, sha256=sha256))
    scripted, archive = loaded.scripted(), loaded.archive
    found = scripted.energies_and_forces(torch.tensor(archive.metadata.self_test.positions))
    energies, forces = (values.detach().numpy() for values in found)
    check_self_test(archive, f"TorchScript of {archive.path}", energies, forces)
    save_module(scripted, path, archive.metadata_json)
    return Path(path)


def is_code_free(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a model file without code, and not weights or anything else.

    Whether it is whole is not looked at.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return MODEL_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _in_python(exported: ExportedModel) -> ExportedModel:
    return exported


def _checked(
    model: TrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    form: Callable[[ExportedModel], Form],
    *,
    t: float,
    dtype: Precision,
    licence: str,
    citation: str,
) -> tuple[Form, ModelMetadata]:
    """Return what is to be written, in a form that was found to agree with the network."""
    trained = model if isinstance(model, TrainedModel) else load_weights(model)
    weights_sha256 = "" if isinstance(model, TrainedModel) else sha256_of_file(model)
    _check_time(t, trained)
    network = require_energy_model(network_at(trained.model, t))
    _check_invariance(trained)
    precision = _precision(dtype)
    self_test = _reference_values(network, trained, t=t, tolerance=SELF_TEST_TOLERANCE[precision])
    exact = exported_model(trained.model, trained.description, t=t, dtype=torch.float64)
    _check_agreement(form(exact), self_test, dtype=torch.float64, path=path)
    exported = exported_model(trained.model, trained.description, t=t, dtype=precision)
    metadata = _metadata(
        trained,
        t=t,
        dtype=dtype,
        weights_sha256=weights_sha256,
        tensor_digest=tensor_digest(exported),
        self_test=self_test,
        licence=licence,
        citation=citation,
    )
    exported.metadata = metadata.to_json()
    module = form(exported)
    _check_agreement(module, self_test, dtype=precision, path=path)
    return module, metadata


def _precision(dtype: str) -> torch.dtype:
    names = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in names:
        raise InvalidInputError(f"dtype is {dtype!r}; choose from {', '.join(names)}")
    return names[dtype]


def _check_time(t: float, trained: TrainedModel) -> None:
    lowest, highest = trained.description.t_min, trained.model.t_max
    if not lowest <= t <= highest:
        raise InvalidInputError(
            f"t is {t}; the network was trained for diffusion times {lowest} to {highest}"
        )


def _check_invariance(trained: TrainedModel) -> None:
    """Refuse a mixture that would see far-away frames where it is drawn from none."""
    model = trained.model
    networks = model.networks if isinstance(model, TimePartitionedMixture) else [model]
    first, *later = (network.translation_invariant for network in networks)
    if not first and any(later):
        raise ConfigurationError(
            "the expert of the smallest diffusion times depends on where the molecule is, and one "
            "of later times does not, so frames would be drawn anywhere; combine experts of one "
            "kind"
        )


def _reference_values(
    network: EnergyModel, trained: TrainedModel, *, t: float, tolerance: float
) -> SelfTest:
    """Energies and forces of example frames, from the plain network in float64."""
    description = trained.description
    frames = description.example_positions.copy()
    x = description.to_network(frames)
    times = torch.full((len(x),), t, dtype=torch.float64)
    with torch.no_grad():
        energy, score = copy_in(network, torch.float64).energy_and_score(x, times)
    return SelfTest(
        positions=description.padded(torch.from_numpy(frames)).numpy(),
        energies=(description.thermal_energy * energy).numpy(),
        forces=description.forces(score).numpy(),
        tolerance=tolerance,
    )


def _check_agreement(
    module: ModelModule,
    self_test: SelfTest,
    *,
    dtype: torch.dtype,
    path: str | os.PathLike[str],
) -> None:
    tolerance = EXPORT_TOLERANCE[dtype]
    found = module.energies_and_forces(torch.tensor(self_test.positions))
    energies, forces = (values.numpy() for values in found)
    largest = np.maximum(np.abs(self_test.forces).max(axis=(1, 2)), 1.0)
    # Not Python's max, which passes over NaN.
    difference = np.max(
        [
            np.abs(energies - self_test.energies) / max(np.abs(self_test.energies).max(), 1.0),
            np.abs(forces - self_test.forces).max(axis=(1, 2)) / largest,
        ]
    )
    if not difference <= tolerance:
        raise ModelFileError(
            f"the model compiled in {dtype} differs from the network by {difference:.2g} (allowed "
            f"{tolerance:.2g}); {os.fspath(path)} was not written. If only float32 differs, export "
            "with dtype='float64'"
        )


def _metadata(
    trained: TrainedModel,
    *,
    t: float,
    dtype: Precision,
    weights_sha256: str,
    tensor_digest: str,
    self_test: SelfTest,
    licence: str,
    citation: str,
) -> ModelMetadata:
    description = trained.description
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [field.name for field in dataclasses.fields(ModelDescription)]
    return ModelMetadata(
        **{name: getattr(description, name) for name in names},
        t=t,
        dtype=dtype,
        architecture=architecture_of(description),
        weights_sha256=weights_sha256,
        tensor_digest=tensor_digest,
        versions=package_versions(),
        licence=licence,
        citation=citation,
        created=now.isoformat(timespec="seconds"),
        self_test=self_test,
    )
