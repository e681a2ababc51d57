"""Attention of a network at one diffusion time, with its derivative written out.

As in :mod:`openmm_scoremd.models.graph_transformer.explicit`. Points, (B * N, N + 3), are every
bead's one-hot index and coordinates: a product with them adds what is constant for each bead too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_scoremd.models.graph_transformer.explicit import Gate, Normalisation

#: Up to so many beads, attention weights are brought from keys to queries by a product.
_MOST_BEADS_BY_PRODUCT = 32

#: What the first layer saves: points by replica, attention, and of its gate.
OfFirst = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]
#: What a later layer saves: queries, keys, values, attention, of its norm and of its gate.
OfLater = tuple[
    Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]
]


def per_point(bias: Tensor, of_x: Tensor, n_beads: int) -> Tensor:
    """Return what multiplies points, (N + 3, width): a bias, and a weight (width, 3)."""
    return torch.cat([bias.expand(n_beads, -1), of_x.t()])


class FirstAttention(nn.Module):
    """Attention of the first layer, whose queries, keys and values are constants.

    With constants L, E, V, T and x_ij = x_j - x_i, for every head h,

        a_ij = softmax_j (L_ij + E_i . x_j),    new_i = sum_h (sum_j a_ij V_j + T sum_j a_ij x_ij)

    Parameters
    ----------
    logits : Tensor, shape (heads, N, N)
        L by head, query and key.
    edge_query : Tensor, shape (heads, N, 3)
        E.
    values : Tensor, shape (heads, N, width)
        V, after the output projection.
    moved : Tensor, shape (heads, 3, width)
        T, after the output projection.
    bias : Tensor, shape (width,)
        Added to every row.
    nodes : Tensor, shape (N, width)
        Bead embeddings before the layer.
    gate : Gate
        Blends the result with the nodes.
    """

    logits: Tensor
    edge_query: Tensor
    values: Tensor
    moved: Tensor
    displaced: Tensor
    bias: Tensor
    nodes: Tensor

    def __init__(
        self,
        *,
        logits: Tensor,
        edge_query: Tensor,
        values: Tensor,
        moved: Tensor,
        bias: Tensor,
        nodes: Tensor,
        gate: Gate,
    ) -> None:
        super().__init__()
        self.heads = logits.shape[0]
        self.n_beads = logits.shape[1]
        self.few = self.n_beads <= _MOST_BEADS_BY_PRODUCT
        n_beads, heads = self.n_beads, self.heads
        key_first = logits.permute(2, 1, 0).reshape(1, n_beads, n_beads * heads)
        self.register_buffer("logits", key_first.clone())  # (1, j, i * heads)
        self.register_buffer("edge_query", edge_query.transpose(0, 1).reshape(-1, 3).clone())
        # Transposed, as the C++ kernel likes it.
        self.register_buffer("values", values.permute(2, 1, 0).reshape(len(bias), -1).clone())
        self.register_buffer("moved", moved.permute(2, 0, 1).reshape(len(bias), -1).clone())
        self.register_buffer("displaced", -moved.sum(dim=0).T.clone())  # (width, 3)
        self.register_buffer("bias", bias.clone())
        self.register_buffer("nodes", nodes.clone())
        self.gate = gate

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor, OfFirst]:
        """Return nodes (M, width), and the points (M, N + 3) that later layers take."""
        batch, n_beads, heads, like = x.shape[0], self.n_beads, self.heads, self.nodes
        one_hot = torch.eye(n_beads, dtype=like.dtype, device=like.device)
        by_replica = torch.cat([one_hot.expand(batch, -1, -1), x], dim=2)
        points = by_replica.view(-1, n_beads + 3)
        if self.few:
            to_logits = torch.cat([self.logits[0], self.edge_query.t()])
            logits = torch.mm(points, to_logits).view(batch, n_beads, n_beads * heads)
            attention = torch.softmax(logits, dim=1)
            mixed = torch.bmm(attention.transpose(1, 2), by_replica)
            mixed = mixed.view(-1, heads * (n_beads + 3))
        else:
            edge_query = self.edge_query.t().expand(batch, -1, -1)
            attention = torch.softmax(torch.baddbmm(self.logits, x, edge_query), dim=1)
            by_query = attention.view(batch, n_beads, n_beads, heads).transpose(1, 2)
            moved = torch.bmm(attention.transpose(1, 2), x)  # (B, i * heads, 3)
            parts = [by_query.reshape(-1, n_beads * heads), moved.view(-1, 3 * heads)]
            mixed = torch.cat(parts, dim=1)
        nodes = functional.pad(self.nodes, [0, 0, 0, 3])
        change = torch.mm(points, per_point(self.bias, self.displaced, n_beads) - nodes)
        change = change.addmm_(mixed, self._of_mixed().t())
        blend, of_gate = self.gate.evaluate(change, torch.mm(points, nodes))
        return blend, points, (by_replica, attention, of_gate)

    def vjp(self, gradient: Tensor, x: Tensor, saved: OfFirst, besides: Tensor) -> Tensor:
        """Return the gradient with respect to the coordinates.

        It is added to what they have ``besides``, (M, 3), which is overwritten.
        """
        batch, n_beads, heads = x.shape[0], self.n_beads, self.heads
        by_replica, attention, of_gate = saved
        of_new = self.gate.vjp_new(gradient, of_gate)
        of_mixed = torch.mm(of_new, self._of_mixed())
        if self.few:
            of_mixed = of_mixed.view(batch, n_beads * heads, n_beads + 3)
            of_attention = torch.bmm(by_replica, of_mixed.transpose(1, 2))
            of_moved = of_mixed.narrow(2, n_beads, 3)
        else:
            of_query, of_moved = torch.split(of_mixed, [n_beads * heads, 3 * heads], dim=1)
            of_query = of_query.reshape(batch, n_beads, n_beads, heads).transpose(1, 2)
            of_query = of_query.reshape(batch, n_beads, n_beads * heads)
            of_moved = of_moved.reshape(batch, n_beads * heads, 3)
            of_attention = torch.baddbmm(of_query, x, of_moved.transpose(1, 2))
        of_logits = torch.ops.aten._softmax_backward_data(
            of_attention, attention, 1, attention.dtype
        )
        direct = besides.addmm_(of_new, self.displaced)
        direct = direct.addmm_(of_logits.view(-1, n_beads * heads), self.edge_query)
        return torch.baddbmm(direct.view(batch, n_beads, 3), attention, of_moved)

    def _of_mixed(self) -> Tensor:
        """Weight (width, heads * (N + 3)) or (width, N * heads + 3 * heads) of mixed points."""
        if not self.few:
            return torch.cat([self.values, self.moved], dim=1)
        values = self.values.view(-1, self.n_beads, self.heads).transpose(1, 2)
        return torch.cat([values, self.moved.view(-1, self.heads, 3)], dim=2).flatten(1)


class AbsorbedAttention(nn.Module):
    """Attention of a later layer, its projections multiplied together.

    With n the normalised nodes and m_j = [n_j, x_j], for every head h,

        p_i = P n_i + c,    a_ij = softmax_j (p_i . m_j),
        new_i = sum_h O (sum_j a_ij m_j) + D x_i

    Keys and values of all heads are one and the same, which leaves few and large products.

    Parameters
    ----------
    query : (Tensor, Tensor)
        Weight P (heads * (width + 3), width) and bias c.
    output : (Tensor, Tensor)
        Weight O (width, heads * (width + 3)) and bias.
    displaced : Tensor, shape (width, 3)
        D.
    heads, n_beads : int
        Number of heads and of beads.
    gate : Gate
        Blends the result with the input.
    """

    query: Tensor
    query_bias: Tensor
    output: Tensor
    bias: Tensor
    displaced: Tensor

    def __init__(
        self,
        *,
        query: tuple[Tensor, Tensor],
        output: tuple[Tensor, Tensor],
        displaced: Tensor,
        heads: int,
        n_beads: int,
        gate: Gate,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.n_beads = n_beads
        self.width = query[0].shape[1]
        self.norm = Normalisation(self.width)
        self.register_buffer("query", query[0].clone())
        self.register_buffer("query_bias", query[1].clone())
        self.register_buffer("output", output[0].clone())
        self.register_buffer("bias", output[1].clone())
        self.register_buffer("displaced", displaced.clone())
        self.gate = gate

    def evaluate(self, nodes: Tensor, x: Tensor, points: Tensor) -> tuple[Tensor, OfLater]:
        """Return updated nodes (M, width)."""
        batch, n_beads, heads, inner = x.shape[0], self.n_beads, self.heads, self.width + 3
        normalised, of_norm = self.norm.evaluate(nodes)
        memory = torch.cat([normalised.view(batch, n_beads, self.width), x], dim=2)
        query = functional.linear(normalised, self.query, self.query_bias)
        query = query.view(batch, n_beads * heads, inner)
        attention = torch.softmax(torch.bmm(memory, query.transpose(1, 2)), dim=1)
        mixed = torch.bmm(attention.transpose(1, 2), memory).view(-1, heads * inner)
        of_points = per_point(self.bias, self.displaced, self.n_beads)
        change = torch.addmm(nodes, points, of_points, beta=-1.0)
        change = change.addmm_(mixed, self.output.t())
        blend, of_gate = self.gate.evaluate(change, nodes)
        return blend, (query, memory, memory, attention, of_norm, of_gate)

    def vjp(self, gradient: Tensor, saved: OfLater) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to the nodes and, by this layer, coordinates (M, 3)."""
        query, memory, _, attention, of_norm, of_gate = saved
        batch, heads, inner = memory.shape[0], self.heads, self.width + 3
        of_new, of_old = self.gate.vjp(gradient, of_gate)
        of_mixed = torch.mm(of_new, self.output).view(batch, -1, inner)
        of_attention = torch.bmm(memory, of_mixed.transpose(1, 2))
        of_logits = torch.ops.aten._softmax_backward_data(
            of_attention, attention, 1, attention.dtype
        )
        # With the other sign, because TorchScript takes an `addmm` apart that only adds.
        less = torch.bmm(attention, of_mixed).baddbmm_(of_logits, query, beta=-1.0, alpha=-1.0)
        of_query = torch.bmm(of_logits.transpose(1, 2), memory).view(-1, heads * inner)
        of_normalised, of_x = torch.split(less.view(-1, inner), [self.width, 3], dim=1)
        of_normalised = torch.addmm(of_normalised, of_query, self.query, beta=-1.0)
        of_x = torch.addmm(of_x, of_new, self.displaced, beta=-1.0)
        return self.norm.vjp(of_normalised, of_norm, of_old), of_x


class FactorisedAttention(nn.Module):
    """Attention of a later layer with keys and values of its own for every head.

    With n the normalised nodes, for every head h,

        q_i = Q n_i + c,    k_j = [K n_j, x_j],    v_j = [V n_j, x_j],
        a_ij = softmax_j (q_i . k_j),    new_i = sum_h O (sum_j a_ij v_j) + D x_i

    The work per pair of beads grows with the width of a head and not with that of the nodes.

    Parameters
    ----------
    query : (Tensor, Tensor)
        Weight Q (heads * (head_dim + 3), width) and bias c.
    key_value : Tensor, shape (2 * heads * head_dim, width)
        K above V. Biases drop out of the soft-max, or are part of the output's bias.
    output : (Tensor, Tensor)
        Weight O (width, heads * (head_dim + 3)) and bias.
    displaced : Tensor, shape (width, 3)
        D.
    heads, n_beads : int
        Number of heads and of beads.
    gate : Gate
        Blends the result with the input.
    """

    query: Tensor
    query_bias: Tensor
    key_value: Tensor
    output: Tensor
    bias: Tensor
    displaced: Tensor

    def __init__(
        self,
        *,
        query: tuple[Tensor, Tensor],
        key_value: Tensor,
        output: tuple[Tensor, Tensor],
        displaced: Tensor,
        heads: int,
        n_beads: int,
        gate: Gate,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.n_beads = n_beads
        self.head_dim = key_value.shape[0] // (2 * heads)
        self.norm = Normalisation(query[0].shape[1])
        self.register_buffer("query", query[0].clone())
        self.register_buffer("query_bias", query[1].clone())
        self.register_buffer("key_value", key_value.clone())
        self.register_buffer("output", output[0].clone())
        self.register_buffer("bias", output[1].clone())
        self.register_buffer("displaced", displaced.clone())
        self.gate = gate

    def evaluate(self, nodes: Tensor, x: Tensor, points: Tensor) -> tuple[Tensor, OfLater]:
        """Return updated nodes (M, width)."""
        batch, n_beads, heads, inner = x.shape[0], self.n_beads, self.heads, self.head_dim + 3
        normalised, of_norm = self.norm.evaluate(nodes)
        query = functional.linear(normalised, self.query, self.query_bias)
        query = self._by_head(query.view(batch, n_beads, heads, inner))
        flat = torch.mm(normalised, self.key_value.t())
        flat = flat.view(batch, n_beads, 2 * heads, self.head_dim)
        edges = x.unsqueeze(2).expand(-1, -1, 2 * heads, -1)
        key, value = torch.split(torch.cat([flat, edges], dim=3), [heads, heads], dim=2)
        key, value = self._by_head(key), self._by_head(value)
        attention = torch.softmax(torch.bmm(key, query.transpose(1, 2)), dim=1)
        mixed = self._by_bead(torch.bmm(attention.transpose(1, 2), value), batch)
        of_points = per_point(self.bias, self.displaced, self.n_beads)
        change = torch.addmm(nodes, points, of_points, beta=-1.0)
        change = change.addmm_(mixed, self.output.t())
        blend, of_gate = self.gate.evaluate(change, nodes)
        return blend, (query, key, value, attention, of_norm, of_gate)

    def vjp(self, gradient: Tensor, saved: OfLater) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to the nodes and, by this layer, coordinates (M, 3)."""
        query, key, value, attention, of_norm, of_gate = saved
        heads, n_beads, inner = self.heads, key.shape[1], self.head_dim + 3
        batch = key.shape[0] // heads
        of_new, of_old = self.gate.vjp(gradient, of_gate)
        of_mixed = torch.mm(of_new, self.output).view(batch, n_beads, heads, inner)
        of_mixed = self._by_head(of_mixed)
        of_attention = torch.bmm(value, of_mixed.transpose(1, 2))
        of_logits = torch.ops.aten._softmax_backward_data(
            of_attention, attention, 1, attention.dtype
        )
        of_query = self._by_bead(torch.bmm(of_logits.transpose(1, 2), key), batch)
        of_both = torch.stack([torch.bmm(of_logits, query), torch.bmm(attention, of_mixed)])
        of_both = of_both.view(2, batch, heads, n_beads, inner).permute(1, 3, 0, 2, 4)
        of_flat, of_x = torch.split(of_both, [self.head_dim, 3], dim=4)
        of_normalised = torch.mm(of_query, self.query)
        of_normalised = of_normalised.addmm_(of_flat.reshape(batch * n_beads, -1), self.key_value)
        of_x = of_x.sum(dim=[2, 3]).view(-1, 3).addmm_(of_new, self.displaced)
        return self.norm.vjp(of_normalised, of_norm, of_old), of_x

    def _by_head(self, values: Tensor) -> Tensor:
        """Bring (B, N, heads, inner) to (B * heads, N, inner)."""
        return values.transpose(1, 2).reshape(-1, values.shape[1], values.shape[3])

    def _by_bead(self, values: Tensor, batch: int) -> Tensor:
        """Bring (B * heads, N, inner) to (B * N, heads * inner)."""
        n_beads, inner = values.shape[1], values.shape[2]
        split = values.view(batch, self.heads, n_beads, inner).transpose(1, 2)
        return split.reshape(batch * n_beads, self.heads * inner)
