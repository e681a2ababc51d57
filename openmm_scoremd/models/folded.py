"""A conservative graph transformer at one diffusion time, with everything constant folded in.

At fixed time and fixed beads only the coordinates vary. Written for
:class:`GraphTransformerEnergy`:

- node embeddings before the first layer are constants, and so are its queries, keys and values;
  its output projection applied to the constant values is one small matrix;
- the affine part of every LayerNorm goes into the linear map after it;
- the attention scale, and the map from queries to the edge term, go into the query projection;
- the output projection applied to the edge term is one matrix with three columns per head;
- a gate's linear map on [new, old, new - old] is two vectors.

The result is the same function. Products of weights are rounded only once if the network is given
in float64 and the result is brought to float32.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_scoremd.models.graph_transformer import (
    LAYER_NORM_EPSILON,
    EdgeAttention,
    GatedResidual,
    GraphTransformer,
    GraphTransformerEnergy,
    TransformerLayer,
)


class FoldedGate(nn.Module):
    """:class:`GatedResidual` with two vectors instead of three."""

    of_new: Tensor
    of_old: Tensor

    def __init__(self, gate: GatedResidual) -> None:
        super().__init__()
        of_new, of_old, of_difference = gate.gate.weight[0].chunk(3)
        self.register_buffer("of_new", of_new + of_difference)
        self.register_buffer("of_old", of_old - of_difference)

    def forward(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the blend of ``new`` and ``old``."""
        logit = new @ self.of_new + old @ self.of_old
        return old + torch.sigmoid(logit).unsqueeze(-1) * (new - old)


class FoldedFeedForward(nn.Module):
    """Normalisation, feed-forward block and gate of one layer."""

    first_weight: Tensor
    first_bias: Tensor
    second_weight: Tensor
    second_bias: Tensor

    def __init__(self, layer: TransformerLayer) -> None:
        super().__init__()
        self.width = layer.feed_forward_norm.normalized_shape[0]
        self.epsilon = LAYER_NORM_EPSILON
        first, second = (cast(nn.Linear, layer.feed_forward[i]) for i in (0, 2))
        weight, bias = _fold_norm(layer.feed_forward_norm, first)
        self.register_buffer("first_weight", weight)
        self.register_buffer("first_bias", bias)
        self.register_buffer("second_weight", second.weight.detach().clone())
        self.register_buffer("second_bias", second.bias.detach().clone())
        self.gate = FoldedGate(layer.feed_forward_gate)

    def forward(self, nodes: Tensor) -> Tensor:
        """Return updated bead embeddings (B, N, width)."""
        hidden = functional.layer_norm(nodes, [self.width], eps=self.epsilon)
        hidden = functional.linear(hidden, self.first_weight, self.first_bias)
        hidden = functional.gelu(hidden, approximate="tanh")
        new = functional.linear(hidden, self.second_weight, self.second_bias)
        blended: Tensor = self.gate(new, nodes)
        return blended


class FoldedFirstAttention(nn.Module):
    """Attention of the first layer, whose queries, keys and values are constants."""

    logits: Tensor
    edge_query: Tensor
    mix: Tensor
    bias: Tensor
    nodes: Tensor

    def __init__(self, layer: TransformerLayer, nodes: Tensor, edge: nn.Linear) -> None:
        super().__init__()
        attention = layer.attention
        self.heads = attention.heads
        query, key, value = _constant_query_key_value(attention, layer.attention_norm(nodes))
        to_edge, offset = _edge_projection(attention, edge)
        scale = attention.head_width**-0.5
        output = _output_by_head(attention)  # (heads, width, head_width)

        self.register_buffer("logits", query @ key.transpose(-1, -2) * scale)  # (heads, N, N)
        self.register_buffer("edge_query", query @ to_edge * scale)  # (heads, N, 3)
        values = value @ output.transpose(-1, -2)  # (heads, N, width)
        moved = (output @ to_edge).permute(0, 2, 1)  # (heads, 3, width)
        # One product for both: rows of a head are its N values and its 3 displacements.
        self.register_buffer("mix", torch.cat([values, moved], dim=1).flatten(0, 1))
        self.register_buffer("bias", attention.output.weight @ offset + attention.output.bias)
        self.register_buffer("nodes", nodes)
        self.gate = FoldedGate(layer.attention_gate)

    def forward(self, x: Tensor) -> Tensor:
        """Return bead embeddings (B, N, width) of centred coordinates (B, N, 3)."""
        batch, n_beads, _ = x.shape
        x = x.unsqueeze(1)  # (B, 1, N, 3)
        logits = self.logits + self.edge_query @ x.transpose(-1, -2)
        attention = torch.softmax(logits, dim=-1)  # (B, heads, N, N)
        both = torch.cat([attention, attention @ x - x], dim=-1)  # (B, heads, N, N + 3)
        both = both.transpose(1, 2).reshape(batch, n_beads, self.heads * (n_beads + 3))
        blended: Tensor = self.gate(both @ self.mix + self.bias, self.nodes)
        return blended


class FoldedAttention(nn.Module):
    """Attention of a later layer."""

    projection: Tensor
    projection_bias: Tensor
    output: Tensor
    bias: Tensor

    def __init__(self, layer: TransformerLayer, edge: nn.Linear) -> None:
        super().__init__()
        attention = layer.attention
        self.width = layer.attention_norm.normalized_shape[0]
        self.epsilon = LAYER_NORM_EPSILON
        self.heads = attention.heads
        self.head_width = attention.head_width
        self.inner = attention.heads * attention.head_width
        to_edge, offset = _edge_projection(attention, edge)
        weight, bias = _fold_norm(layer.attention_norm, attention.query_key_value)
        scale = attention.head_width**-0.5
        query_weight, query_bias = weight[: self.inner] * scale, bias[: self.inner] * scale
        edge_weight = _per_head(query_weight, self.heads, to_edge)  # (heads * 3, width)
        edge_bias = _per_head(query_bias.unsqueeze(-1), self.heads, to_edge)[:, 0]
        self.register_buffer(
            "projection", torch.cat([query_weight, weight[self.inner :], edge_weight])
        )
        self.register_buffer(
            "projection_bias", torch.cat([query_bias, bias[self.inner :], edge_bias])
        )
        output = _output_by_head(attention)
        moved = (output @ to_edge).permute(1, 0, 2).flatten(1)  # (width, heads * 3)
        self.register_buffer("output", torch.cat([attention.output.weight, moved], dim=1))
        self.register_buffer("bias", attention.output.weight @ offset + attention.output.bias)
        self.gate = FoldedGate(layer.attention_gate)

    def forward(self, nodes: Tensor, x: Tensor) -> Tensor:
        """Return updated bead embeddings; arguments (B, N, width) and (B, N, 3)."""
        batch, n_beads, _ = nodes.shape
        inner = self.inner
        normalised = functional.layer_norm(nodes, [self.width], eps=self.epsilon)
        projected = functional.linear(normalised, self.projection, self.projection_bias)
        query = self._by_head(projected[..., :inner], self.head_width)
        key = self._by_head(projected[..., inner : 2 * inner], self.head_width)
        value = self._by_head(projected[..., 2 * inner : 3 * inner], self.head_width)
        edge_query = self._by_head(projected[..., 3 * inner :], 3)
        x = x.unsqueeze(1)
        logits = query @ key.transpose(-1, -2) + edge_query @ x.transpose(-1, -2)
        attention = torch.softmax(logits, dim=-1)
        mixed = (attention @ value).transpose(1, 2).reshape(batch, n_beads, inner)
        moved = (attention @ x - x).transpose(1, 2).reshape(batch, n_beads, 3 * self.heads)
        new = functional.linear(torch.cat([mixed, moved], dim=-1), self.output, self.bias)
        blended: Tensor = self.gate(new, nodes)
        return blended

    def _by_head(self, flat: Tensor, width: int) -> Tensor:
        return flat.view(flat.shape[0], flat.shape[1], self.heads, width).transpose(1, 2)


class FoldedGraphTransformer(nn.Module):
    """Reduced energy at one diffusion time.

    Parameters
    ----------
    model : GraphTransformerEnergy
        Network to fold; not changed.
    t : float
        Diffusion time.
    features : Tensor, shape (N, F), optional
        Bead features of the molecule.
    """

    decoder: Tensor
    decoder_bias: Tensor

    def __init__(
        self, model: GraphTransformerEnergy, *, t: float, features: Tensor | None = None
    ) -> None:
        super().__init__()
        with torch.no_grad():
            network = model.network
            first, *later = (cast(TransformerLayer, layer) for layer in network.layers)
            nodes = _initial_nodes(network, t, features)
            self.first_attention = FoldedFirstAttention(first, nodes, network.edge)
            self.first_feed_forward = FoldedFeedForward(first)
            self.attentions = nn.ModuleList(FoldedAttention(v, network.edge) for v in later)
            self.feed_forwards = nn.ModuleList(FoldedFeedForward(v) for v in later)
            unit = network.output_unit(torch.tensor([t], dtype=nodes.dtype))
            self.register_buffer("decoder", model.decoder.weight[0] / unit)
            self.register_buffer("decoder_bias", model.decoder.bias[0] * len(nodes) / unit[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return reduced energies (B,) of centred, standardised coordinates (B, N, 3)."""
        nodes = self.first_feed_forward(self.first_attention(x))
        for attention, feed_forward in zip(self.attentions, self.feed_forwards):  # noqa: B905
            # TorchScript's zip knows no `strict`.
            nodes = feed_forward(attention(nodes, x))
        energies: Tensor = nodes.sum(dim=1) @ self.decoder + self.decoder_bias
        return energies


def _initial_nodes(network: GraphTransformer, t: float, features: Tensor | None) -> Tensor:
    weight = network.node.weight
    time = network.time_embedding(torch.tensor([t], dtype=weight.dtype))
    beads = network.bead_embedding(features)
    nodes: Tensor = network.node(torch.cat([beads, time.expand(len(beads), -1)], dim=-1))
    return nodes  # (N, width)


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``linear(norm(.))`` after a norm without affine part."""
    return linear.weight * norm.weight, linear.weight @ norm.bias + linear.bias


def _constant_query_key_value(
    attention: EdgeAttention, nodes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    split = attention.query_key_value(nodes).view(len(nodes), 3, attention.heads, -1)
    query, key, value = split.permute(1, 2, 0, 3)  # each (heads, N, head_width)
    return query, key, value


def _edge_projection(attention: EdgeAttention, edge: nn.Linear) -> tuple[Tensor, Tensor]:
    """Displacement to values by head (heads, head_width, 3), and the constant part (inner,)."""
    to_edge = (attention.edge.weight @ edge.weight).view(attention.heads, -1, 3)
    return to_edge, attention.edge.weight @ edge.bias + attention.edge.bias


def _output_by_head(attention: EdgeAttention) -> Tensor:
    """Output projection (heads, width, head_width)."""
    weight = attention.output.weight
    return weight.view(weight.shape[0], attention.heads, -1).transpose(0, 1)


def _per_head(matrix: Tensor, heads: int, to_edge: Tensor) -> Tensor:
    """Contract head width: (heads * head_width, columns) to (heads * 3, columns)."""
    return (to_edge.transpose(-1, -2) @ matrix.view(heads, -1, matrix.shape[1])).flatten(0, 1)
