"""The family ``graph-transformer``: networks of the paper, with an energy or a direct score."""

from typing import cast

from torch import Tensor, nn

from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.models.embedding import initialise_linear
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer
from openmm_scoremd.models.graph_transformer.network import (
    GraphTransformer,
    GraphTransformerConfig,
    require_n_beads,
)


class GraphTransformerEnergy(EnergyModel):
    """Conservative graph transformer: one scalar per bead, summed.

    Parameters
    ----------
    config : GraphTransformerConfig
        Its shape.
    inputs : NetworkInputs
        Beads.
    """

    config_class = GraphTransformerConfig
    invariances = frozenset({"translation"})

    def __init__(self, config: GraphTransformerConfig, inputs: NetworkInputs) -> None:
        super().__init__(n_beads=inputs.n_beads, n_dims=3, t_min=config.t_min, t_max=config.t_max)
        self.network = GraphTransformer(config, inputs)
        self.decoder = nn.Linear(config.hidden_dim, 1)
        initialise_linear(self.decoder)

    @classmethod
    def from_config(cls, config: NetworkConfig, inputs: NetworkInputs) -> ScoreModel:
        """Build a network whose output is an energy or a score."""
        kind = GraphTransformerEnergy if config.output == "conservative" else GraphTransformerScore
        return kind(cast(GraphTransformerConfig, config), inputs)

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the reduced energy, shape (B,)."""
        energy: Tensor = self.decoder(self.network(x, t, features)).sum(dim=(1, 2))
        return energy / self.network.output_unit(t)

    def energy_for_compiler(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return what :meth:`energy` does, in the form that compiles best."""
        decoded = self.network.decoded(x, t, features, self.decoder.weight[0])
        return (decoded + self.decoder.bias).sum(dim=1) / self.network.output_unit(t)

    def at_time(self, t: float, features: Tensor | None = None) -> FoldedGraphTransformer:
        """Return the network with everything constant folded in, and its gradient written out."""
        return FoldedGraphTransformer(self.network, self.decoder, t=t, features=features)


class GraphTransformerScore(ScoreModel):
    """Direct graph transformer: one linear map from all bead embeddings to the negative score.

    Not permutation equivariant, as published. Parameters are those of
    :class:`GraphTransformerEnergy`.
    """

    invariances = frozenset({"translation"})

    def __init__(self, config: GraphTransformerConfig, inputs: NetworkInputs) -> None:
        n_beads = require_n_beads(inputs)
        super().__init__(n_beads=n_beads, n_dims=3, t_min=config.t_min, t_max=config.t_max)
        self.network = GraphTransformer(config, inputs)
        self.decoder = nn.Linear(n_beads * config.hidden_dim, 3 * n_beads)
        initialise_linear(self.decoder)

    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the score, shape (B, N, 3)."""
        outputs: Tensor = self.decoder(self.network(x, t, features).flatten(1))
        return -outputs.reshape(x.shape) / self.network.output_unit(t)[:, None, None]
