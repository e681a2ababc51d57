"""``scoremd export`` and ``scoremd info``: the model file."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Annotated, Final, Literal

from openmm_scoremd.cli.options import ModelPath, load_model, require_suffix
from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    from openmm_scoremd.model_file import ScoreModelFile

_TIME: Final = 1e-5
_PRECISION: Final = "float32"


def export(
    weights: Annotated[str, "weights of a training run, or a model file to convert (.safetensors)"],
    output: Annotated[str, "model file to write: without code (.safetensors) or TorchScript (.pt)"],
    *,
    time: Annotated[float, "diffusion time whose score is the force"] = _TIME,
    precision: Annotated[Literal["float32", "float64"], "precision of the weights"] = _PRECISION,
    licence: Annotated[str, "licence of the weights, such as MIT"] = "",
    citation: Annotated[str, "what users of the weights are to cite"] = "",
) -> None:
    """Write a model file from weights, or from one without code."""
    from openmm_scoremd.export.export import derive_torchscript, export_model, is_code_free

    if is_code_free(weights):
        if (time, precision, licence, citation) != (_TIME, _PRECISION, "", ""):
            raise InvalidInputError(
                f"{weights} is a model file, which has its time, precision, licence and citation; "
                "leave these options out, or export the weights it was made from"
            )
        require_suffix(output, ".pt")
        derive_torchscript(weights, output)
    else:
        export_model(weights, output, t=time, dtype=precision, licence=licence, citation=citation)
    info(output)


def info(
    model: ModelPath, *, json: Annotated[bool, "print all metadata as JSON instead"] = False
) -> None:
    """Verify a model file and say what it is."""
    file = load_model(model)
    if json:
        content = {"sha256": file.sha256, **json_format.loads(file.metadata.to_json())}
        print(json_format.dumps(content, indent=2))
        return
    for name, value in _rows(file).items():
        print(f"{name:<16}{value}")


def _rows(file: ScoreModelFile) -> dict[str, str]:
    data = file.metadata
    names = " ".join([*data.topology.names[:12], "..."][: data.n_beads])
    results = data.training.get("results", {})
    training = ", ".join(
        f"{results[name]} {name}" for name in ("steps", "hours") if name in results
    )
    return {
        "title": data.title,
        "form": "tensors, no code" if file.loaded.archive.code_free else "TorchScript",
        "beads": f"{data.n_beads} ({names})",
        "temperature": f"{data.temperature:g} K",
        "diffusion time": f"{data.t:g} for the force",
        "precision": data.dtype,
        "training": training or "unknown",
        "created": f"{data.created} with torch {data.versions.get('torch', '?')}",
        "licence": data.licence or "none given",
        "citation": data.citation or "none given",
        "SHA-256": file.sha256,
        "self-test": f"{len(data.self_test.energies)} frames reproduced",
    }
