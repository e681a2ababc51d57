"""Network configurations, and the networks they describe."""

import dataclasses
from typing import Literal, TypeAlias

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.embedding import NoiseLevel
from openmm_scoremd.models.graph_transformer import (
    GraphTransformer,
    GraphTransformerEnergy,
    GraphTransformerScore,
)
from openmm_scoremd.models.mlp import MLP, MLPEnergy, MLPScore

#: ``conservative``: the score is the gradient of an energy; ``direct``: the network's output.
Output: TypeAlias = Literal["conservative", "direct"]


PUBLISHED_SCHEDULE = VPSchedule()


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides the shape of a network, and nothing else.

    Attributes
    ----------
    kind : {"graph-transformer", "mlp"}
        Family of networks.
    output : {"conservative", "direct"}
        Only a conservative network can be simulated.
    t_min, t_max : float
        Range of diffusion times the network sees.
    width, layers, heads, head_width : int
        Sizes of a graph transformer.
    vocabularies : tuple of int
        Vocabulary sizes of integer bead features; empty for a one-hot bead index.
    feature_width : int
        Width of each bead feature's embedding.
    widths : tuple of int
        Hidden widths of a multilayer perceptron.
    noise_floor : float or None
        Conditions the network on the noise level (see ``NoiseLevel``): time features of its
        logarithm, outputs divided by it, down to this floor in standardised units. None for the
        published form, which takes far longer to resolve bond lengths.

    Raises
    ------
    ConfigurationError
        If an entry is unknown or out of range.
    """

    kind: Literal["graph-transformer", "mlp"] = "graph-transformer"
    output: Output = "conservative"
    t_min: float = 0.0
    t_max: float = 1.0
    width: int = 96
    layers: int = 2
    heads: int = 8
    head_width: int = 64
    vocabularies: tuple[int, ...] = ()
    feature_width: int = 16
    widths: tuple[int, ...] = (92, 92, 92)
    noise_floor: float | None = None

    def __post_init__(self) -> None:
        _require_one_of("kind", self.kind, ("graph-transformer", "mlp"))
        _require_one_of("output", self.output, ("conservative", "direct"))
        if not 0.0 <= self.t_min < self.t_max <= 1.0:
            raise ConfigurationError(
                f"network range [{self.t_min}, {self.t_max}] must increase and lie in [0, 1]"
            )
        for name in ("width", "layers", "heads", "head_width", "feature_width"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"network {name} is {getattr(self, name)}; at least 1")
        if self.noise_floor is not None and not 0.0 < self.noise_floor < 1.0:
            raise ConfigurationError(
                f"network noise_floor is {self.noise_floor}; it must lie between 0 and 1, "
                "or be null"
            )
        for name in ("vocabularies", "widths"):
            if any(size < 1 for size in getattr(self, name)):
                raise ConfigurationError(
                    f"network {name} is {getattr(self, name)}; every entry must be at least 1"
                )


def build_model(
    config: NetworkConfig,
    *,
    n_beads: int | None,
    n_dims: int,
    schedule: VPSchedule = PUBLISHED_SCHEDULE,
) -> ScoreModel:
    """Build a network with fresh parameters.

    Parameters
    ----------
    config : NetworkConfig
        Its shape.
    n_beads : int or None
        Number of beads; None for any, possible with vocabularies and a conservative output only.
    n_dims : int
        Dimensions of a bead's coordinates.
    schedule : VPSchedule
        Noise schedule, for networks conditioned on the noise level.

    Returns
    -------
    ScoreModel
        An :class:`EnergyModel` if the output is conservative.

    Raises
    ------
    ConfigurationError
        If the family cannot treat such samples.
    """
    noise_level = (
        None
        if config.noise_floor is None
        else NoiseLevel(schedule=schedule, floor=config.noise_floor)
    )
    if config.kind == "mlp":
        if n_beads is None:
            raise ConfigurationError("a multilayer perceptron needs a fixed number of beads")
        return _build_mlp(config, noise_level, n_beads=n_beads, n_dims=n_dims)
    if n_dims != 3:
        raise ConfigurationError(
            f"a graph transformer needs 3 dimensions and the data has {n_dims}; use kind: mlp"
        )
    network = GraphTransformer(
        n_beads=n_beads,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        head_width=config.head_width,
        vocabularies=config.vocabularies,
        feature_width=config.feature_width,
        t_min=config.t_min,
        t_max=config.t_max,
        noise_level=noise_level,
    )
    if config.output == "conservative":
        return GraphTransformerEnergy(network)
    return GraphTransformerScore(network)


def require_energy_model(model: ScoreModel) -> EnergyModel:
    """Return the model if it is conservative.

    Raises
    ------
    ConfigurationError
        If it is not: without an energy there is no force.
    """
    if not isinstance(model, EnergyModel):
        raise ConfigurationError(
            f"{type(model).__name__} has no energy, so it cannot be simulated; "
            "train with output: conservative"
        )
    return model


def _build_mlp(
    config: NetworkConfig, noise_level: NoiseLevel | None, *, n_beads: int, n_dims: int
) -> ScoreModel:
    network = MLP(
        n_beads=n_beads,
        n_dims=n_dims,
        n_outputs=1 if config.output == "conservative" else n_beads * n_dims,
        widths=config.widths,
        t_min=config.t_min,
        t_max=config.t_max,
        noise_level=noise_level,
    )
    return MLPEnergy(network) if config.output == "conservative" else MLPScore(network)


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"network {name} is {value!r}; choose from {', '.join(allowed)}")
