"""Families of networks by name: ours, and those of other packages.

A family is one class. It says its configuration and writes one method, ``energy``, or ``score``
where there is no energy::

    import dataclasses

    import torch
    from openmm_scoremd.models.base import EnergyModel
    from openmm_scoremd.models.config import NetworkConfig


    @dataclasses.dataclass(frozen=True)
    class SpringsConfig(NetworkConfig):
        family: str = "springs"
        stiffness: float = 1.0


    class Springs(EnergyModel):
        config_class = SpringsConfig
        invariances = frozenset({"translation", "rotation", "reflection"})

        def __init__(self, config, inputs):
            super().__init__(
                n_beads=inputs.n_beads,
                n_dims=inputs.n_dims,
                t_min=config.t_min,
                t_max=config.t_max,
            )
            self.log_stiffness = torch.nn.Parameter(torch.tensor(config.stiffness).log())

        def energy(self, x, t, features=None):
            bonds = x[:, 1:] - x[:, :-1]
            return 0.5 * self.log_stiffness.exp() * (bonds * bonds).sum(dim=(1, 2))

Annotate ``energy`` with ``torch.Tensor`` and ``torch.Tensor | None`` as in the base class, in a
file without ``from __future__ import annotations``: exported models are compiled by TorchScript.
All the rest follows: score, exact time derivative, YAML section, weights file, export, sampling,
forces. Optional are

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
_RENAMED: Final = {
    "kind": "family",
    "width": "hidden_dim",
    "head_width": "head_dim",
    "feature_width": "feature_dim",
    "widths": "hidden_dims",
}
#: Entries that once stood in every network's configuration, whatever its family.
_ONCE_SHARED: Final = frozenset({"layers", "heads", "vocabularies", *_RENAMED.values()})

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
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        family: type[ScoreModel] = getattr(importlib.import_module(module), attribute)
        return family
    points = [point for point in _entry_points() if point.name == name]
    if not points:
        nearest = difflib.get_close_matches(str(name), family_names(), n=1)
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

    Entries may have their old names; of these configurations, which had the entries of all families,
    those of other families are passed over.

    Parameters
    ----------
    entries : mapping
        ``family`` and what its configuration has.

    Raises
    ------
    ConfigurationError
        If the family or an entry is unknown, or a value is wrong.
    """
    current, old = renamed_entries(entries)
    config_class = network_family(current.get("family", DEFAULT_FAMILY)).config_class
    known = [field.name for field in dataclasses.fields(config_class)]
    values: dict[str, Any] = {}
    for name, value in current.items():
        if name in known:
            values[name] = tuple(value) if isinstance(value, list) else value
        elif not (old and name in _ONCE_SHARED):
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise ConfigurationError(
                f"network.{name} is no entry of family {config_class.family!r}{hint}"
            )
    return config_class(**values)


def renamed_entries(entries: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the entries under their present names, and whether any had an old one."""
    old = [name for name in entries if name in _RENAMED]
    return {_RENAMED.get(name, name): value for name, value in entries.items()}, bool(old)


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
