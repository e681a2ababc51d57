"""Graph transformer with factorised edges.

The published network embeds every displacement ``d_ij = x_j - x_i`` and adds one projection of it
to keys and values. The embedding is affine and never updated, so with ``A`` the product of both
projections and ``c`` their bias

    logits_ij = q_i . (k_j + A d_ij + c) = q_i . k_j + (A^T q_i) . x_j + (terms without j)
    out_i     = sum_j a_ij (v_j + A d_ij + c) = sum_j a_ij v_j + A (sum_j a_ij x_j - x_i) + c

and the terms without ``j`` drop out of the softmax. The result is the published one; no tensor of
size beads x beads x hidden_dim exists.

A compiler is given other forms of the same functions, see
:mod:`openmm_scoremd.training.compiled.compiler_forms`.
"""

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.models.embedding import (
    BeadIndexEmbedding,
    BeadTypeEmbedding,
    TimeEmbedding,
    initialise_linear,
    noise_level,
)

#: Flax's default, used by the published networks (PyTorch's own default is 1e-5).
LAYER_NORM_EPSILON = 1e-6

#: GELU's tanh form is ``x sigmoid(x (GELU_SLOPE + GELU_CUBIC x**2))``.
GELU_SLOPE = math.sqrt(8.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_SLOPE


@dataclasses.dataclass(frozen=True)
class GraphTransformerConfig(NetworkConfig):
    """Sizes of a graph transformer; see :class:`NetworkConfig` for the other entries.

    Attributes
    ----------
    hidden_dim, layers, heads, head_dim : int
        Width of bead embeddings, number of layers, heads of each and their width; published for
        five beads: 96, 2, 8, 64.
    vocabularies : tuple of int
        Vocabulary sizes of integer bead features; empty for a one-hot bead index.
    feature_dim : int
        Width of each bead feature's embedding.

    Raises
    ------
    ConfigurationError
        If a size is below 1.
    """

    family: str = "graph-transformer"
    hidden_dim: int = 96
    layers: int = 2
    heads: int = 8
    head_dim: int = 64
    vocabularies: tuple[int, ...] = ()
    feature_dim: int = 16

    @property
    def needs_features(self) -> bool:
        """Whether these networks take bead features."""
        return bool(self.vocabularies)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_sizes(
            "hidden_dim", "layers", "heads", "head_dim", "vocabularies", "feature_dim"
        )


class GatedResidual(nn.Module):
    """Blend of a layer's output and its input, weighted by one learned scalar per bead."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(3 * hidden_dim, 1, bias=False)

    def forward(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the blend, shape as given; the gate sees [new, old, new - old]."""
        of_new, of_old = self.weights()
        logit = new @ of_new + old @ of_old
        return old + torch.sigmoid(logit).unsqueeze(-1) * (new - old)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the gate's weights (hidden_dim,) of new and of old."""
        of_new, of_old, of_difference = self.gate.weight[0].chunk(3)
        # The gate is linear, so the third block folds into the other two.
        return of_new + of_difference, of_old - of_difference


class EdgeAttention(nn.Module):
    """Multi-head attention over all beads, with displacements in keys and values.

    Parameters
    ----------
    hidden_dim : int
        Width of the bead embeddings.
    heads, head_dim : int
        Number of heads and width of each.
    """

    def __init__(self, *, hidden_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.query_key_value = nn.Linear(hidden_dim, 3 * heads * head_dim)
        self.edge = nn.Linear(hidden_dim, heads * head_dim)
        self.output = nn.Linear(heads * head_dim, hidden_dim)

    def forward(self, nodes: Tensor, x: Tensor, edge_weight: Tensor, edge_bias: Tensor) -> Tensor:
        """Return the attention output (B, N, hidden_dim).

        Parameters
        ----------
        nodes : Tensor, shape (B, N, hidden_dim)
            Normalised bead embeddings.
        x : Tensor, shape (B, N, 3)
            Coordinates.
        edge_weight, edge_bias : Tensor, shapes (hidden_dim, 3) and (hidden_dim,)
            The edge embedding.
        """
        batch, n_beads, _ = nodes.shape
        split = self.query_key_value(nodes).view(batch, n_beads, 3, self.heads, self.head_dim)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
        to_edge = (self.edge.weight @ edge_weight).view(self.heads, self.head_dim, 3)
        offset = (self.edge.weight @ edge_bias + self.edge.bias).view(self.heads, 1, -1)
        x = x.unsqueeze(1)  # (B, 1, N, 3)

        logits = query @ key.transpose(-1, -2) + (query @ to_edge) @ x.transpose(-1, -2)
        attention = torch.softmax(logits * self.head_dim**-0.5, dim=-1)  # (B, heads, N, N)
        moved = (attention @ x - x) @ to_edge.transpose(-1, -2)
        out = attention @ value + moved + offset
        projected: Tensor = self.output(out.transpose(1, 2).reshape(batch, n_beads, -1))
        return projected

    def forward_for_compiler(
        self, nodes: Tensor, x: Tensor, edge_weight: Tensor, edge_bias: Tensor
    ) -> Tensor:
        """Return what :meth:`forward` does, in the form that compiles best."""
        to_edge = (self.edge.weight @ edge_weight).view(self.heads, self.head_dim, 3)
        offset = self.edge.weight @ edge_bias + self.edge.bias
        if 2 * self.head_dim > nodes.shape[-1] + 3:
            return self._absorbed(nodes, x, to_edge, offset)
        return self._fusible(nodes, x, to_edge, offset)

    def _fusible(self, nodes: Tensor, x: Tensor, to_edge: Tensor, offset: Tensor) -> Tensor:
        """Attend with products and sums that a compiler turns into few loops.

        Keys come before queries and heads, so that the softmax has numbers behind it to take
        together; over a short last dimension it is about ten times slower.
        """
        split = self.query_key_value(nodes).unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = split.unbind(2)  # each (B, N, heads, head_dim)
        edge_query = (query.unsqueeze(-1) * to_edge).sum(-2)  # (B, N, heads, 3)
        logits = (query[:, None] * key[:, :, None]).sum(-1)
        logits = logits + (edge_query[:, None] * x[:, :, None, None]).sum(-1)
        # Shape (B, keys, queries, heads, 1).
        attention = torch.softmax(logits * self.head_dim**-0.5, dim=1).unsqueeze(-1)
        moved = (attention * x[:, :, None, None]).sum(1) - x[:, :, None]
        out = (attention * value[:, :, None]).sum(1) + (moved.unsqueeze(-2) * to_edge).sum(-1)
        projected: Tensor = self.output(out.flatten(2) + offset)
        return projected

    def _absorbed(self, nodes: Tensor, x: Tensor, to_edge: Tensor, offset: Tensor) -> Tensor:
        """Attend with queries that meet the embeddings themselves: no keys, no values.

        ``q.k = (W_k^T q).n`` and ``W_o sum_j a_j W_v n_j = (W_o W_v) sum_j a_j n_j``; with the
        coordinates appended to the embeddings ``n``, the edges are in the same products. Cheaper
        where a head is wider than half an embedding, and nothing has to be transposed.
        """
        batch, n_beads, hidden_dim = nodes.shape
        projections = self.query_key_value.weight.view(3, self.heads, self.head_dim, hidden_dim)
        of_query, of_key, of_value = projections.unbind(0)  # each (heads, head_dim, hidden_dim)
        query_bias, _, value_bias = self.query_key_value.bias.view(3, self.heads, -1, 1).unbind(0)
        to_keys = torch.cat([of_key, to_edge], -1).transpose(1, 2) * self.head_dim**-0.5
        by_head = self.output.weight.view(hidden_dim, self.heads, self.head_dim).transpose(0, 1)
        mixing = (by_head @ torch.cat([of_value, to_edge], -1)).permute(1, 0, 2).flatten(1)
        bias = self.output.weight @ (offset + value_bias.flatten()) + self.output.bias

        points = torch.cat([nodes, x], -1)  # (B, N, hidden_dim + 3)
        weight, shift = (to_keys @ of_query).flatten(0, 1), (to_keys @ query_bias).flatten()
        query = nn.functional.linear(nodes, weight, shift)
        query = query.view(batch, n_beads * self.heads, hidden_dim + 3)
        attention = torch.softmax(points @ query.transpose(1, 2), dim=1)  # (B, keys, queries)
        mixed = (attention.transpose(1, 2) @ points).view(batch, n_beads, -1)
        moved_back = nn.functional.linear(x, (by_head @ to_edge).sum(0))
        return nn.functional.linear(mixed, mixing, bias) - moved_back


class TransformerLayer(nn.Module):
    """Attention and feed-forward block, both normalised first and gated.

    Parameters are those of :class:`EdgeAttention`.
    """

    def __init__(self, *, hidden_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPSILON)
        self.attention = EdgeAttention(hidden_dim=hidden_dim, heads=heads, head_dim=head_dim)
        self.attention_gate = GatedResidual(hidden_dim)
        self.feed_forward_norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPSILON)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_dim, 4 * hidden_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * hidden_dim, hidden_dim),
        )
        self.feed_forward_gate = GatedResidual(hidden_dim)

    def forward(self, nodes: Tensor, x: Tensor, edge_weight: Tensor, edge_bias: Tensor) -> Tensor:
        """Return updated embeddings (B, N, hidden_dim); arguments as in :class:`EdgeAttention`."""
        nodes = self.attend(nodes, x, edge_weight, edge_bias)
        new = self.feed_forward(self.feed_forward_norm(nodes))
        blended: Tensor = self.feed_forward_gate(new, nodes)
        return blended

    def attend(self, nodes: Tensor, x: Tensor, edge_weight: Tensor, edge_bias: Tensor) -> Tensor:
        """Return the embeddings after the first of both blocks."""
        new = self.attention(self.attention_norm(nodes), x, edge_weight, edge_bias)
        blended: Tensor = self.attention_gate(new, nodes)
        return blended

    def decoded_feed_forward(self, nodes: Tensor, decoder: Tensor) -> Tensor:
        """Return what the second block makes of embeddings (B, N, hidden_dim), times ``decoder``.

        As the last block of a network only two numbers of its linear map are needed, what decoder
        and gate see of it; so the map is multiplied with these first, shape (2, hidden_dim).
        """
        second = cast(nn.Linear, self.feed_forward[2])
        of_new, of_old = self.feed_forward_gate.weights()
        pair = torch.stack([decoder, of_new])
        hidden = self.feed_forward[:2](self.feed_forward_norm(nodes))
        both = nn.functional.linear(hidden, pair @ second.weight, pair @ second.bias)
        new, logit = both.unbind(-1)
        old = nodes @ decoder
        return old + torch.sigmoid(logit + nodes @ of_old) * (new - old)  # (B, N)


class GraphTransformer(nn.Module):
    """Bead embeddings from coordinates, diffusion time and bead identity.

    Parameters
    ----------
    config : GraphTransformerConfig
        Sizes, times, and whether outputs are to be divided by the noise level.
    inputs : NetworkInputs
        Beads, in three dimensions; any number of them is possible with vocabularies only.

    Raises
    ------
    ConfigurationError
        If the samples are not three-dimensional, or their number of beads is needed and not given.
    """

    def __init__(self, config: GraphTransformerConfig, inputs: NetworkInputs) -> None:
        super().__init__()
        if inputs.n_dims != 3:
            raise ConfigurationError(
                f"a graph transformer needs 3 dimensions and the data has {inputs.n_dims}; "
                "use family: mlp"
            )
        hidden_dim = config.hidden_dim
        self.hidden_dim = hidden_dim
        self.t_min, self.t_max = config.t_min, config.t_max
        self.noise_level = noise_level(config, inputs)
        self.time_embedding = TimeEmbedding(
            t_min=config.t_min, t_max=config.t_max, noise_level=self.noise_level
        )
        self.bead_embedding = _bead_embedding(config, inputs)
        n_bead_features = int(self.bead_embedding.n_features)
        self.node = nn.Linear(n_bead_features + self.time_embedding.n_features, hidden_dim)
        self.edge = nn.Linear(3, hidden_dim)
        self.layers = nn.ModuleList(
            TransformerLayer(hidden_dim=hidden_dim, heads=config.heads, head_dim=config.head_dim)
            for _ in range(config.layers)
        )
        initialise_linear(self)

    def forward(self, x: Tensor, t: Tensor, features: Tensor | None) -> Tensor:
        """Return bead embeddings (B, N, hidden_dim) of coordinates (B, N, 3) and times (B,)."""
        x = x - x.mean(dim=1, keepdim=True)
        nodes = self.initial_nodes(t, features)
        for layer in self.layers:
            nodes = layer(nodes, x, self.edge.weight, self.edge.bias)
        return nodes

    def decoded(self, x: Tensor, t: Tensor, features: Tensor | None, decoder: Tensor) -> Tensor:
        """Return products (B, N) of the embeddings with ``decoder`` (hidden_dim,), to be compiled.

        The last block never computes the embeddings themselves.
        """
        x = x - x.mean(dim=1, keepdim=True)
        nodes = self.initial_nodes(t, features)
        for layer in self.layers[:-1]:
            nodes = layer(nodes, x, self.edge.weight, self.edge.bias)
        last = cast(TransformerLayer, self.layers[-1])
        nodes = last.attend(nodes, x, self.edge.weight, self.edge.bias)
        return last.decoded_feed_forward(nodes, decoder)

    def initial_nodes(self, t: Tensor, features: Tensor | None) -> Tensor:
        """Return bead embeddings (B, N, hidden_dim) before the first layer."""
        time = self.time_embedding(t)
        beads = self.bead_embedding(features)
        n_bead_features = beads.shape[-1]
        # One product for the beads and one for the time, instead of one for every pair of them.
        of_beads = nn.functional.linear(beads, self.node.weight[:, :n_bead_features])
        of_time = nn.functional.linear(time, self.node.weight[:, n_bead_features:], self.node.bias)
        return of_beads + of_time.unsqueeze(1)

    def output_unit(self, t: Tensor) -> Tensor:
        """Return what outputs are to be divided by at times ``t`` (B,)."""
        if self.noise_level is None:
            return torch.ones_like(t)
        level: Tensor = self.noise_level(t.clamp(self.t_min, self.t_max))
        return level


def _bead_embedding(
    config: GraphTransformerConfig, inputs: NetworkInputs
) -> BeadIndexEmbedding | BeadTypeEmbedding:
    if config.vocabularies:
        return BeadTypeEmbedding(vocabularies=config.vocabularies, dim=config.feature_dim)
    return BeadIndexEmbedding(n_beads=require_n_beads(inputs))


def require_n_beads(inputs: NetworkInputs) -> int:
    """Return the number of beads.

    Raises
    ------
    ConfigurationError
        If it is to be any.
    """
    if inputs.n_beads is None:
        raise ConfigurationError(
            "this network needs a fixed number of beads: a one-hot bead index and a direct score "
            "both depend on it; give n_beads, or use vocabularies and output: conservative"
        )
    return inputs.n_beads
