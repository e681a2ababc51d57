"""A conservative graph transformer at one diffusion time, with everything constant folded in.

At fixed time and fixed beads only the coordinates vary, so

- node embeddings before the first layer are constants, and so are its queries, keys and values;
  its output projection applied to the constant values is one small matrix;
- the affine part of every LayerNorm goes into the linear map after it;
- the attention scale, and the map from queries to the edge term, go into the query projection;
- the output projection applied to the edge term is one matrix with three columns per head;
- biases of keys drop out of the soft-max, those of values go into the output's bias;
- small molecules: key into query projection, value into output projection;
- a gate's linear map on [new, old, new - old] is two vectors;
- the decoder goes into the last feed-forward block, which then has three outputs per bead.

The result is the same function. Products of weights are rounded only once if the network is given
in float64 and the result is brought to float32. The gradient is written out, block by block
(:mod:`openmm_scoremd.models.graph_transformer.explicit`).
"""

from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from openmm_scoremd.models.graph_transformer.explicit import FeedForward, Gate, OfFeedForward
from openmm_scoremd.models.graph_transformer.explicit_attention import (
    AbsorbedAttention,
    FactorisedAttention,
    FirstAttention,
    OfLater,
)
from openmm_scoremd.models.graph_transformer.network import (
    EdgeAttention,
    GatedResidual,
    GraphTransformer,
    TransformerLayer,
)

#: How later layers compute attention.
AttentionForm: TypeAlias = Literal["absorbed", "factorised"]

#: Rows (beads of all replicas) evaluated together: their intermediate results stay in cache.
ROWS_PER_BLOCK = 512


class FoldedGraphTransformer(nn.Module):
    """Reduced energy at one diffusion time.

    Parameters
    ----------
    network : GraphTransformer
        Network to fold; not changed.
    decoder : nn.Linear
        From bead embeddings to energies of beads.
    t : float
        Diffusion time.
    features : Tensor, shape (N, F), optional
        Bead features of the molecule.
    form : {"absorbed", "factorised"}, optional
        Attention of later layers; by default the faster one, see :func:`choose_form`.
    """

    decoder: Tensor
    decoder_bias: Tensor

    def __init__(
        self,
        network: GraphTransformer,
        decoder: nn.Linear,
        *,
        t: float,
        features: Tensor | None = None,
        form: AttentionForm | None = None,
    ) -> None:
        super().__init__()
        with torch.no_grad():
            layers = [cast(TransformerLayer, layer) for layer in network.layers]
            nodes = _initial_nodes(network, t, features)
            head_dim = layers[0].attention.head_dim
            chosen = form or choose_form(
                len(nodes), hidden_dim=network.hidden_dim, head_dim=head_dim
            )
            fold = {"absorbed": _fold_absorbed, "factorised": _fold_factorised}[chosen]
            self.first_attention = _fold_first(layers[0], nodes, network.edge)
            self.attentions = nn.ModuleList(
                fold(v, network.edge, n_beads=len(nodes)) for v in layers[1:]
            )
            feed_forwards = [_fold_feed_forward(v) for v in layers]
            self.first_feed_forward = feed_forwards[0]
            self.feed_forwards = nn.ModuleList(feed_forwards[1:])
            # The same blocks again, as they are gone through: a feed-forward block before every
            # later attention and the last by itself. TorchScript goes through no list backwards.
            self.before = nn.ModuleList(feed_forwards[:-1])
            self.before_reversed = nn.ModuleList(reversed(feed_forwards[:-1]))
            self.attentions_reversed = nn.ModuleList(reversed(self.attentions))
            self.last = feed_forwards[-1]
            self.replicas_per_block = max(1, ROWS_PER_BLOCK // len(nodes))
            unit = network.output_unit(torch.tensor([t], dtype=nodes.dtype))
            self.register_buffer("decoder", decoder.weight[0] / unit)
            self.register_buffer("decoder_bias", decoder.bias[0] * len(nodes) / unit[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return reduced energies (B,) of centred, standardised coordinates (B, N, 3)."""
        nodes, points, _ = self.first_attention.evaluate(x)
        for feed_forward, attention in zip(self.before, self.attentions):  # noqa: B905
            # TorchScript's zip knows no `strict`.
            nodes, _ = feed_forward.evaluate(nodes)  # type: ignore[operator]
            nodes, _ = attention.evaluate(nodes, x, points)  # type: ignore[operator]
        energies, _ = self.last.evaluate_decoded(nodes, self.decoder, self._offset())
        total: Tensor = energies.view(x.shape[0], -1).sum(dim=1)
        return total

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reduced energies (B,) and their gradient (B, N, 3) without autograd.

        Replicas are taken in blocks. Arguments are those of :meth:`forward`; ``x`` must not need
        gradients, or this must be called under ``torch.no_grad``.
        """
        if x.shape[0] <= self.replicas_per_block:
            return self._block(x)
        energies: list[Tensor] = []
        gradients: list[Tensor] = []
        for part in torch.split(x, self.replicas_per_block):
            energy, gradient = self._block(part)
            energies.append(energy)
            gradients.append(gradient)
        return torch.cat(energies), torch.cat(gradients)

    def _block(self, x: Tensor) -> tuple[Tensor, Tensor]:
        nodes, points, of_first = self.first_attention.evaluate(x)
        of_attentions: list[OfLater] = []
        of_feed_forwards: list[OfFeedForward] = []
        for feed_forward, attention in zip(self.before, self.attentions):  # noqa: B905
            nodes, of_feed_forward = feed_forward.evaluate(nodes)  # type: ignore[operator]
            of_feed_forwards.append(of_feed_forward)
            nodes, of_attention = attention.evaluate(nodes, x, points)  # type: ignore[operator]
            of_attentions.append(of_attention)
        energies, of_last = self.last.evaluate_decoded(nodes, self.decoder, self._offset())
        gradient = self.last.vjp_decoded(self.decoder, of_last)
        of_x: Tensor | None = None
        for feed_forward, attention in zip(  # noqa: B905
            self.before_reversed, self.attentions_reversed
        ):
            gradient, more = attention.vjp(gradient, of_attentions.pop())  # type: ignore[operator]
            of_x = more if of_x is None else more.add_(of_x)
            gradient = feed_forward.vjp(gradient, of_feed_forwards.pop())  # type: ignore[operator]
        besides = torch.zeros_like(x).view(-1, 3) if of_x is None else of_x
        gradient = self.first_attention.vjp(gradient, x, of_first, besides)
        return energies.view(x.shape[0], -1).sum(dim=1), gradient

    def _offset(self) -> Tensor:
        """Part of the energy that every bead contributes."""
        return self.decoder_bias / self.first_attention.n_beads


def choose_form(n_beads: int, *, hidden_dim: int, head_dim: int) -> AttentionForm:
    """Return the form of attention that takes less time.

    Multiply-adds per bead and head, for projections and pairs of beads, are (W + N) (W + 3)
    absorbed and W (2 D + 3) + N (D + 3) factorised, both twice. Measured, the C++ kernel follows
    this count to 5 %, and TorchScript is faster absorbed while that has up to a tenth more, because
    it needs fewer operators: with D = 64 up to 171 beads for W = 96, up to 29 for W = 128.
    """
    absorbed = (hidden_dim + n_beads) * (hidden_dim + 3)
    factorised = hidden_dim * (2 * head_dim + 3) + n_beads * (head_dim + 3)
    return "absorbed" if absorbed <= 1.1 * factorised else "factorised"


def _initial_nodes(network: GraphTransformer, t: float, features: Tensor | None) -> Tensor:
    weight = network.node.weight
    time = network.time_embedding(torch.tensor([t], dtype=weight.dtype))
    beads = network.bead_embedding(features)
    nodes: Tensor = network.node(torch.cat([beads, time.expand(len(beads), -1)], dim=-1))
    return nodes  # (N, width)


def _fold_first(layer: TransformerLayer, nodes: Tensor, edge: nn.Linear) -> FirstAttention:
    attention = layer.attention
    split = attention.query_key_value(layer.attention_norm(nodes))
    split = split.view(len(nodes), 3, attention.heads, -1)
    query, key, value = split.permute(1, 2, 0, 3)  # each (heads, N, head_dim)
    to_edge, offset = _edge_projection(attention, edge)
    scale = attention.head_dim**-0.5
    output = _output_by_head(attention)  # (heads, width, head_dim)
    return FirstAttention(
        logits=query @ key.transpose(-1, -2) * scale,
        edge_query=query @ to_edge * scale,
        values=value @ output.transpose(-1, -2),
        moved=(output @ to_edge).transpose(-1, -2),
        bias=attention.output.weight @ offset + attention.output.bias,
        nodes=nodes,
        gate=_fold_gate(layer.attention_gate),
    )


def _fold_absorbed(layer: TransformerLayer, edge: nn.Linear, *, n_beads: int) -> AbsorbedAttention:
    attention = layer.attention
    heads = attention.heads
    to_edge, _ = _edge_projection(attention, edge)
    weights, biases = _fold_query_key_value(layer)
    # q_i . (K n_j + T x_j) = [K, T]^T q_i . [n_j, x_j]; both sides of every head at once.
    keys = torch.cat([weights[1], to_edge], dim=-1).transpose(-1, -2)  # (heads, width + 3, D)
    values = torch.cat([weights[2], to_edge], dim=-1)  # (heads, D, width + 3)
    output = _output_by_head(attention) @ values  # (heads, width, width + 3)
    return AbsorbedAttention(
        query=((keys @ weights[0]).flatten(0, 1), (keys @ biases[0].unsqueeze(-1)).flatten()),
        output=(output.transpose(0, 1).flatten(1), _output_bias(attention, edge, biases[2])),
        displaced=-(_output_by_head(attention) @ to_edge).sum(dim=0),
        heads=heads,
        n_beads=n_beads,
        gate=_fold_gate(layer.attention_gate),
    )


def _fold_factorised(
    layer: TransformerLayer, edge: nn.Linear, *, n_beads: int
) -> FactorisedAttention:
    attention = layer.attention
    to_edge, _ = _edge_projection(attention, edge)
    weights, biases = _fold_query_key_value(layer)
    to_query = to_edge.transpose(-1, -2)  # (heads, 3, D)
    query = torch.cat([weights[0], to_query @ weights[0]], dim=1)  # (heads, D + 3, width)
    query_bias = torch.cat([biases[0], (to_query @ biases[0].unsqueeze(-1))[..., 0]], dim=1)
    output = _output_by_head(attention)
    moved = output @ to_edge  # (heads, width, 3)
    combined = torch.cat([output, moved], dim=-1).transpose(0, 1).flatten(1)
    return FactorisedAttention(
        query=(query.flatten(0, 1), query_bias.flatten()),
        key_value=torch.cat([weights[1], weights[2]]).flatten(0, 1),
        output=(combined, _output_bias(attention, edge, biases[2])),
        displaced=-moved.sum(dim=0),
        heads=attention.heads,
        n_beads=n_beads,
        gate=_fold_gate(layer.attention_gate),
    )


def _fold_feed_forward(layer: TransformerLayer) -> FeedForward:
    first, second = (cast(nn.Linear, layer.feed_forward[i]) for i in (0, 2))
    return FeedForward(
        _fold_norm(layer.feed_forward_norm, first),
        (second.weight, second.bias),
        _fold_gate(layer.feed_forward_gate),
    )


def _fold_gate(gate: GatedResidual) -> Gate:
    return Gate(*gate.weights())


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``linear(norm(.))`` after a norm without affine part."""
    return linear.weight * norm.weight, linear.weight @ norm.bias + linear.bias


def _fold_query_key_value(layer: TransformerLayer) -> tuple[list[Tensor], list[Tensor]]:
    """Weights (heads, D, width) and biases (heads, D) of scaled queries, keys and values."""
    attention = layer.attention
    weight, bias = _fold_norm(layer.attention_norm, attention.query_key_value)
    weights = list(weight.view(3, attention.heads, attention.head_dim, -1))
    biases = list(bias.view(3, attention.heads, attention.head_dim))
    scale = attention.head_dim**-0.5
    weights[0], biases[0] = weights[0] * scale, biases[0] * scale
    return weights, biases


def _edge_projection(attention: EdgeAttention, edge: nn.Linear) -> tuple[Tensor, Tensor]:
    """Displacement to values by head (heads, head_dim, 3), and the constant part (inner,)."""
    to_edge = (attention.edge.weight @ edge.weight).view(attention.heads, -1, 3)
    return to_edge, attention.edge.weight @ edge.bias + attention.edge.bias


def _output_by_head(attention: EdgeAttention) -> Tensor:
    """Output projection (heads, width, head_dim)."""
    weight = attention.output.weight
    return weight.view(weight.shape[0], attention.heads, -1).transpose(0, 1)


def _output_bias(attention: EdgeAttention, edge: nn.Linear, value_bias: Tensor) -> Tensor:
    """Return the output's bias with the constant part of values, whose weights sum to one."""
    _, offset = _edge_projection(attention, edge)
    return attention.output.weight @ (offset + value_bias.flatten()) + attention.output.bias
