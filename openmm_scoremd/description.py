"""What a model describes, and the only conversions between nm and coordinates of its network.

Weights files and model files hold the same record, each with entries of its own
(:class:`~openmm_scoremd.models.weights.WeightsDescription`,
:class:`~openmm_scoremd.artifact.metadata.ModelMetadata`). It may grow: an entry with a default may
be missing in a file, older schemas are brought to the newest by numbered migrations, and a newer
one is refused by its number.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from openmm_scoremd._files import json_checks as checks
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError, ModelFileError
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import thermal_energy

#: Newest layout of the record that this version reads, and the one it writes.
SCHEMA_VERSION: Final = 2

#: Most characters of a record in JSON.
MAX_JSON_BYTES: Final = 16 << 20

FloatArray: TypeAlias = NDArray[np.float64]
Description = TypeVar("Description", bound="ModelDescription")


def _topology(value: Any, name: str) -> BeadTopology:
    if isinstance(value, BeadTopology):
        return value
    try:
        return BeadTopology.from_dict(value)
    except (InvalidInputError, OverflowError) as error:
        raise checks.invalid(name, f"not usable ({error})", "a bead topology") from error


def _schedule(value: Any, name: str) -> VPSchedule:
    if isinstance(value, VPSchedule):
        return value
    if not isinstance(value, Mapping) or set(value) != {"beta_min", "beta_max"}:
        raise checks.invalid(name, value, "an object of beta_min and beta_max")
    low, high = checks.pair((value["beta_min"], value["beta_max"]), name)
    return VPSchedule(low, high)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelDescription:
    """What a model is a model of, and in which units its network sees it.

    Every entry is checked and brought to its type on construction, also when it comes as plain
    lists and dictionaries from JSON.

    Attributes
    ----------
    title : str
        Name of the molecule or of the toy system.
    topology : BeadTopology
        Beads of one replica.
    n_dims : int
        3, or 2 for toy systems in the plane (then z is ignored).
    translation_invariant : bool
        Whether shifting all beads together changes nothing. Only then may frames be centred and
        replicas be moved; of a mixture, all networks must be.
    temperature : float, K
        Temperature of the training data: the only one the potential is a free energy of.
    scale : float, nm
        Length of one unit of the network: ``positions = scale * x``.
    schedule : VPSchedule
        Noise schedule of the training.
    t_min : float
        Smallest diffusion time that the score may be asked for.
    dataset_sha256 : str
        SHA-256 of the training data; empty where unknown.
    training : mapping
        Configuration, steps, losses, versions: a record in plain JSON, never read back as settings.
    bond_ranges : tuple of (float, float), nm
        Shortest and longest length seen in training for every bond of the topology, in its order;
        empty where unknown.

    Raises
    ------
    ModelFileError
        If an entry is ill-typed, not finite or out of range; the message names it.
    """

    title: Annotated[str, checks.text]
    topology: Annotated[BeadTopology, _topology]
    n_dims: Annotated[int, checks.one_of(2, 3)]
    translation_invariant: Annotated[bool, checks.boolean]
    temperature: Annotated[float, checks.positive]
    scale: Annotated[float, checks.positive]
    schedule: Annotated[VPSchedule, _schedule]
    t_min: Annotated[float, checks.diffusion_time]
    dataset_sha256: Annotated[str, checks.sha256]
    training: Annotated[Mapping[str, Any], checks.json_object]
    bond_ranges: Annotated[tuple[tuple[float, float], ...], checks.pairs] = ()

    def __post_init__(self) -> None:
        for name, check in self._checks().items():
            object.__setattr__(self, name, check(getattr(self, name), name))
        given, bonds = len(self.bond_ranges), len(self.topology.bonds)
        if given not in (0, bonds):
            raise checks.invalid(
                "bond_ranges", f"of length {given}", f"of length 0 or {bonds} as topology"
            )

    @classmethod
    @functools.cache
    def _checks(cls) -> dict[str, Callable[[Any, str], Any]]:
        """Return the check of every entry, which stands in its annotation."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {f.name: hints[f.name].__metadata__[0] for f in dataclasses.fields(cls)}

    @property
    def n_beads(self) -> int:
        """Number of beads of one replica."""
        return self.topology.n_beads

    @property
    def thermal_energy(self) -> float:
        """Unit of the network's reduced energy, kJ/mol."""
        return thermal_energy(self.temperature)

    def difference_from(self, topology: BeadTopology, n_dims: int) -> str:
        """Return the first thing that makes beads other ones than the model's, or "".

        Parameters
        ----------
        topology : BeadTopology
            Beads that the model meets; compared as :meth:`BeadTopology.difference_from` does.
        n_dims : int
            Dimensions of their coordinates.
        """
        if n_dims != self.n_dims:
            return f"there are {n_dims} dimensions and not {self.n_dims}"
        return topology.difference_from(self.topology)

    # --- Between nm and the network -----------------------------------------------------------

    def to_network(self, positions: ArrayLike) -> Tensor:
        """Return standardised coordinates, centred if the model is translation invariant.

        Parameters
        ----------
        positions : array, shape (..., N, 3) or (..., N, D), nm
            Frames; of models in the plane z is ignored.

        Returns
        -------
        Tensor, shape (..., N, D), float64
            ``positions / scale``, on the CPU.

        Raises
        ------
        InvalidInputError
            If the shape does not fit.
        """
        frames = np.asarray(positions, dtype=np.float64)
        if (
            frames.ndim < 2
            or frames.shape[-2] != self.n_beads
            or frames.shape[-1]
            not in (
                self.n_dims,
                3,
            )
        ):
            raise InvalidInputError(
                f"positions have shape {frames.shape}; {self.title!r} takes frames of "
                f"{self.n_beads} beads in {self.n_dims} dimensions"
            )
        return self.centred(torch.from_numpy(frames[..., : self.n_dims] / self.scale))

    def to_nanometers(self, x: Tensor) -> Tensor:
        """Return positions (..., N, 3), nm, of standardised coordinates (..., N, D), in float64.

        Models in the plane have z = 0. Gradients pass.
        """
        return self.padded(self.scale * x.double())

    def forces(self, score: Tensor) -> Tensor:
        """Return forces (..., N, 3), kJ/mol/nm, of a score (..., N, D) in standardised units."""
        return self.padded(self.thermal_energy / self.scale * score.double())

    def centred(self, x: Tensor) -> Tensor:
        """Return coordinates (..., N, D) without what the model cannot know: where it is."""
        return x - x.mean(dim=-2, keepdim=True) if self.translation_invariant else x

    def padded(self, frames: Tensor) -> Tensor:
        """Return (..., N, 3) for (..., N, D): zeros where a model in the plane has nothing."""
        return torch.nn.functional.pad(frames, (0, 3 - self.n_dims))

    # --- As JSON ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON, with its schema version."""
        return {"schema_version": SCHEMA_VERSION, **_plain(self)}

    def to_json(self) -> str:
        """Return the record as JSON, the same text for the same content.

        Raises
        ------
        ModelFileError
            If the text would be too large to be read back.
        """
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True, allow_nan=False)
        if len(text.encode()) > MAX_JSON_BYTES:
            raise ModelFileError(
                f"the metadata has {len(text)} characters; at most {MAX_JSON_BYTES} bytes can be "
                "read back; shorten training or the example frames"
            )
        return text

    @classmethod
    def from_json(cls: type[Description], text: str) -> Description:
        """Read the output of :meth:`to_json`, strictly.

        Raises
        ------
        ModelFileError
            If the text is no JSON or too large; otherwise as :meth:`from_dict`.
        """
        if len(text) > MAX_JSON_BYTES:
            raise ModelFileError(f"the metadata is larger than {MAX_JSON_BYTES} bytes")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"the metadata is not JSON: {error}") from error
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls: type[Description], content: Any) -> Description:
        """Read the output of :meth:`to_dict` of this version or an older one, strictly.

        Raises
        ------
        ModelFileError
            If it is of an unknown schema version, or an entry is missing, unknown, ill-typed, not
            finite or out of range.
        """
        entries = _migrated(content)
        fields = dataclasses.fields(cls)
        needed = {f.name for f in fields if f.default is dataclasses.MISSING}
        if missing := sorted(needed - entries.keys()):
            raise ModelFileError(f"the metadata lacks {', '.join(missing)}; make the file again")
        if unknown := sorted(entries.keys() - {f.name for f in fields}):
            raise ModelFileError(f"the metadata has unknown entries: {', '.join(unknown)[:200]}")
        return cls(**entries)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


# --- Older schemas --------------------------------------------------------------------------------


def _migrated(content: Any) -> dict[str, Any]:
    """Return the entries of a record of any schema as the newest one has them."""
    if not isinstance(content, Mapping):
        raise ModelFileError(f"the metadata is a JSON {type(content).__name__}, not an object")
    entries = dict(content)
    version = entries.pop("schema_version", None)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ModelFileError(f"the metadata has schema_version {version!r}, which does not exist")
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"the file has schema version {version}; this version of openmm_scoremd reads up to "
            f"{SCHEMA_VERSION}: install a newer one"
        )
    for older in range(version, SCHEMA_VERSION):
        MIGRATIONS[older](entries)
    return entries


def _from_schema_1(entries: dict[str, Any]) -> None:
    """Schedules of model files were pairs; whatever had three dimensions was moved and centred.

    Multilayer perceptrons on beads should not have been. Mixtures of both kinds stay as they were.
    """
    schedule = entries.get("schedule")
    if isinstance(schedule, list) and len(schedule) == 2:
        entries["schedule"] = {"beta_min": schedule[0], "beta_max": schedule[1]}
    network = entries.get("network", entries.get("architecture"))
    networks = [network, *_networks_of_experts(entries), *_networks_of_experts(network)]
    kinds = [entry.get("kind") for entry in networks if isinstance(entry, Mapping)]
    moved = not kinds or any(kind != "mlp" for kind in kinds)
    entries["translation_invariant"] = entries.get("n_dims") == 3 and moved


def _networks_of_experts(content: Any) -> list[Any]:
    experts = content.get("experts") if isinstance(content, Mapping) else None
    experts = experts if isinstance(experts, list) else []
    return [expert.get("network") for expert in experts if isinstance(expert, Mapping)]


#: Changes that bring the entries of a schema to those of the next one.
MIGRATIONS: Final[dict[int, Callable[[dict[str, Any]], None]]] = {1: _from_schema_1}
