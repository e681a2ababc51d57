"""Families of networks by name: ours, and those of other packages.

A family is one class. It says its configuration and writes one method, ``energy``, or ``score``
where there is no energy::

    import dataclasses

    import torch
    from torch import Tensor

    from openmm_scoremd.models.base import EnergyModel
    from openmm_scoremd.models.config import NetworkConfig, NetworkInputs


    @dataclasses.dataclass(frozen=True)
    class SpringsConfig(NetworkConfig):
        family: str = "springs"
        stiffness: float = 1.0


    class Springs(EnergyModel):
        config_class = SpringsConfig
        invariances = frozenset({"translation", "rotation", "reflection"})

        def __init__(self, config: SpringsConfig, inputs: NetworkInputs) -> None:
            super().__init__(
                n_beads=inputs.n_beads,
                n_dims=inputs.n_dims,
                t_min=config.t_min,
                t_max=config.t_max,
            )
            self.log_stiffness = torch.nn.Parameter(torch.tensor(config.stiffness).log())

        def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
            t = t.clamp(self.t_min, self.t_max)
            stiffness = self.log_stiffness.exp() / (1.0 + t)
            bonds = x[:, 1:] - x[:, :-1]
            return 0.5 * stiffness * (bonds * bonds).sum(dim=(1, 2))

Model files may be TorchScript, so ``energy`` has types as annotations and its file no
``from __future__ import annotations``. All the rest follows: score, exact time derivative, section
``network`` of a training configuration, weights file, model file, sampling, forces. Optional are

- ``from_config``, where a configuration can mean several classes;
- ``prepare``, for statistics of the training frames, kept in buffers of the weights file;
- ``at_time``, for what a model file evaluates: constants folded in, forces without autograd.

The family has a name to everybody after :func:`register_family`, or, in the metadata of a package,
as an entry point; ``family: springs`` in a training configuration then chooses it::

    [project.entry-points."openmm_scoremd.network_families"]
    springs = "my_package.networks:Springs"

``openmm_scoremd.testing.check_family`` runs every check that our own families have to pass.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final, TypeVar

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.config import PUBLISHED_SCHEDULE, NetworkConfig, NetworkInputs
from openmm_scoremd.topology import BeadTopology

ENTRY_POINTS: Final = "openmm_scoremd.network_families"
DEFAULT_FAMILY: Final = "graph-transformer"

_BUILT_IN: Final = {
    "graph-transformer": "openmm_scoremd.models.graph_transformer.family:GraphTransformerEnergy",
    "invariant": "openmm_scoremd.models.invariant.network:InvariantEnergy",
    "mlp": "openmm_scoremd.models.mlp:MLPEnergy",
}
_REGISTERED: dict[str, type[ScoreModel]] = {}

#: Entries that were renamed.
RENAMED: Final = {
    "kind": "family",
    "width": "hidden_dim",
    "head_width": "head_dim",
    "feature_width": "feature_dim",
    "widths": "hidden_dims",
}
#: Entries that once stood in every network's configuration, whatever its family.
_ONCE_SHARED: Final = frozenset({"layers", "heads", "vocabularies", *RENAMED.values()})

Family = TypeVar("Family", bound=type[ScoreModel])


def register_family(family: Family) -> Family:
    """Make a family known in this process; also as a decorator.

    Parameters
    ----------
    family : type of ScoreModel
        Has a ``config_class``, whose ``family`` is its name.

    Raises
    ------
    ConfigurationError
        If it has no configuration, or its name is another family's.
    """
    name = _checked_family(family, family.__name__)
    if name in _BUILT_IN or _REGISTERED.get(name, family) is not family:
        raise ConfigurationError(f"there is a network family {name!r} already; choose another name")
    _REGISTERED[name] = family
    return family


def family_names() -> list[str]:
    """Return the names of all families, those of other packages too."""
    return sorted({*_BUILT_IN, *_REGISTERED, *(point.name for point in _entry_points())})


def network_family(name: str) -> type[ScoreModel]:
    """Return the family of a name.

    Raises
    ------
    ConfigurationError
        If there is none (the nearest name is given), two packages have it, or it cannot be loaded.
    """
    name = str(name)
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        family: type[ScoreModel] = getattr(importlib.import_module(module), attribute)
        return family
    points = [point for point in _entry_points() if point.name == name]
    if not points:
        nearest = difflib.get_close_matches(name, family_names(), n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ConfigurationError(
            f"network.family is {name!r}{hint}; it must be one of {', '.join(family_names())}"
        )
    if len(points) > 1:
        homes = ", ".join(point.value for point in points)
        raise ConfigurationError(f"several packages have a network family {name!r}: {homes}")
    return _loaded(points[0])


def network_config(entries: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration that plain entries describe, as in JSON or YAML.

    Entries may have their old names, see :func:`renamed_entries`.

    Parameters
    ----------
    entries : mapping
        ``family`` and what its configuration has.

    Raises
    ------
    ConfigurationError
        If the family or an entry is unknown, there is none, or a value is wrong.
    """
    current = renamed_entries(entries)
    if "family" not in current:
        raise ConfigurationError("network has no family")
    config_class = network_family(current["family"]).config_class
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in current:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise ConfigurationError(
                f"network.{name} is no entry of family {config_class.family!r}{hint}"
            )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in current.items()
    }
    return config_class(**values)


def renamed_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a network under their present names.

    Where one has an old name, those that only other families have are left out: then every
    configuration had the entries of all families.

    Raises
    ------
    ConfigurationError
        If an entry is given under both of its names.
    """
    if not any(name in RENAMED for name in entries):
        return dict(entries)
    current: dict[str, Any] = {}
    for name, value in entries.items():
        present = RENAMED.get(name, name)
        if present in current or (present != name and present in entries):
            raise ConfigurationError(
                f"network.{present} is given twice, also under its old name; give it once"
            )
        current[present] = value
    try:
        config_class = network_family(current.get("family", DEFAULT_FAMILY)).config_class
    except ConfigurationError:
        return current
    own = {field.name for field in dataclasses.fields(config_class)}
    return {name: v for name, v in current.items() if name in own or name not in _ONCE_SHARED}


def former_config(
    kind: str = "graph-transformer",
    output: str = "conservative",
    t_min: float = 0.0,
    t_max: float = 1.0,
    width: int = 96,
    layers: int = 2,
    heads: int = 8,
    head_width: int = 64,
    vocabularies: tuple[int, ...] = (),
    feature_width: int = 16,
    widths: tuple[int, ...] = (92, 92, 92),
    noise_floor: float | None = None,
) -> NetworkConfig:
    """Return the configuration that ``NetworkConfig`` was when it had the entries of all families.

    It has that name in ``openmm_scoremd.models.factory`` for one more release.
    """
    return network_config(locals())


def build_model(
    config: NetworkConfig,
    *,
    n_beads: int | None,
    n_dims: int,
    schedule: VPSchedule = PUBLISHED_SCHEDULE,
    topology: BeadTopology | None = None,
) -> ScoreModel:
    """Build a network with fresh parameters.

    Parameters
    ----------
    config : NetworkConfig
        Its shape.
    n_beads : int or None
        Number of beads; None for any, where the family can do that.
    n_dims : int
        Dimensions of a bead's coordinates.
    schedule : VPSchedule
        Noise schedule, for networks conditioned on the noise level.
    topology : BeadTopology, optional
        The beads, for networks that depend on them.

    Returns
    -------
    ScoreModel
        An :class:`~openmm_scoremd.models.base.EnergyModel` if the output is conservative.

    Raises
    ------
    ConfigurationError
        If the family cannot treat such samples.
    """
    inputs = NetworkInputs(n_beads, n_dims, schedule, topology)
    return network_family(config.family).from_config(config, inputs)


def _entry_points() -> list[metadata.EntryPoint]:
    return [p for p in metadata.entry_points(group=ENTRY_POINTS) if p.name not in _BUILT_IN]


def _loaded(point: metadata.EntryPoint) -> type[ScoreModel]:
    try:
        family = point.load()
    # Whatever goes wrong in the other package.
    except Exception as error:
        raise ConfigurationError(
            f"the network family {point.name!r} cannot be loaded from {point.value} ({error!r})"
        ) from error
    if _checked_family(family, point.value) != point.name:
        raise ConfigurationError(
            f"{point.value} is the network family {family.config_class.family!r}, and not "
            f"{point.name!r} as its package says"
        )
    return family  # type: ignore[no-any-return]


def _checked_family(family: Any, origin: str) -> str:
    config_class: Any = getattr(family, "config_class", None)
    if not (isinstance(family, type) and issubclass(family, ScoreModel)):
        raise ConfigurationError(f"{origin} is no network family: it is no ScoreModel")
    if not (isinstance(config_class, type) and issubclass(config_class, NetworkConfig)):
        raise ConfigurationError(
            f"{origin} has no configuration; give it a config_class, a frozen dataclass that "
            "derives from NetworkConfig"
        )
    name: str = config_class.family
    if not name:
        raise ConfigurationError(f"{config_class.__name__}.family has no name as its default")
    return name
