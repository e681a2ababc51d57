"""Blocks of a network at one diffusion time, each with its derivative written out.

``evaluate`` returns a block's output and what ``pull_back`` needs to turn the gradient of the
energy with respect to the output into that with respect to the input. No autograd is involved, so
a force costs few operators; ``evaluate`` can be differentiated by autograd all the same. Rows are
beads of all replicas: nodes are (B * N, width), coordinates ``x`` are (B, N, 3).

Written for TorchScript on CPU, where it matters that

- soft-max runs over a dimension that is not the last: a short last one is ten times slower. So
  logits are stored with the key first, (B, j, i * heads + h);
- tensors are split, not sliced, and ``linear`` is preferred to products with separate biases;
- annotations are types and not strings.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_scoremd.models.graph_transformer import LAYER_NORM_EPSILON


class Gate(nn.Module):
    """``old + s (new - old)`` with ``s = sigmoid(new . of_new + old . of_old)``, one s per row.

    Parameters
    ----------
    of_new, of_old : Tensor, shape (width,)
        The gate's weights.
    """

    of_new: Tensor
    of_old: Tensor

    def __init__(self, of_new: Tensor, of_old: Tensor) -> None:
        super().__init__()
        self.register_buffer("of_new", of_new.clone())
        self.register_buffer("of_old", of_old.clone())

    def evaluate(self, new: Tensor, old: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the blend (M, width)."""
        share = torch.sigmoid(torch.mv(new, self.of_new) + torch.mv(old, self.of_old)).unsqueeze(-1)
        change = new - old
        return torch.addcmul(old, share, change), [share, change]

    def pull_back(self, gradient: Tensor, saved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to ``new`` and ``old``."""
        share, change = saved[0], saved[1]
        # d blend = s d new + (1 - s) d old + change s (1 - s) (of_new . d new + of_old . d old)
        of_logit = (gradient * change).sum(dim=-1, keepdim=True) * (share * (1.0 - share))
        of_new = gradient * share
        of_old = torch.addcmul(gradient - of_new, of_logit, self.of_old)
        return torch.addcmul(of_new, of_logit, self.of_new), of_old


class Normalisation(nn.Module):
    """LayerNorm without affine part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.epsilon = LAYER_NORM_EPSILON

    def evaluate(self, nodes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return normalised rows (M, width)."""
        normalised, mean, inverse_deviation = torch.native_layer_norm(
            nodes, [self.width], None, None, self.epsilon
        )
        return normalised, [nodes, mean, inverse_deviation]

    def pull_back(self, gradient: Tensor, saved: list[Tensor]) -> Tensor:
        """Return the gradient with respect to the rows."""
        of_nodes: Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient, saved[0], [self.width], saved[1], saved[2], None, None, [True, False, False]
        )[0]
        return of_nodes


class FeedForward(nn.Module):
    """Normalisation, two linear maps with a GELU between them, and gate.

    Parameters
    ----------
    first, second : (Tensor, Tensor)
        Weight and bias of the linear maps, the normalisation's affine part in the first.
    gate : Gate
        Blends the result with the input.
    """

    first_weight: Tensor
    first_bias: Tensor
    second_weight: Tensor
    second_bias: Tensor

    def __init__(
        self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], gate: Gate
    ) -> None:
        super().__init__()
        self.norm = Normalisation(first[0].shape[1])
        self.register_buffer("first_weight", first[0].clone())
        self.register_buffer("first_bias", first[1].clone())
        self.register_buffer("second_weight", second[0].clone())
        self.register_buffer("second_bias", second[1].clone())
        self.gate = gate

    def evaluate(self, nodes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return updated nodes (M, width)."""
        normalised, of_norm = self.norm.evaluate(nodes)
        before = functional.linear(normalised, self.first_weight, self.first_bias)
        hidden = functional.gelu(before, approximate="tanh")
        new = functional.linear(hidden, self.second_weight, self.second_bias)
        blend, of_gate = self.gate.evaluate(new, nodes)
        return blend, [before] + of_norm + of_gate  # noqa: RUF005 (no unpacking in TorchScript)

    def pull_back(self, gradient: Tensor, saved: list[Tensor]) -> Tensor:
        """Return the gradient with respect to the nodes."""
        of_new, of_old = self.gate.pull_back(gradient, saved[4:])
        of_hidden = torch.mm(of_new, self.second_weight)
        of_before = torch.ops.aten.gelu_backward(of_hidden, saved[0], approximate="tanh")
        of_normalised = torch.mm(of_before, self.first_weight)
        return of_old + self.norm.pull_back(of_normalised, saved[1:4])


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
        n_beads, heads = self.n_beads, self.heads
        key_first = logits.permute(2, 1, 0).reshape(1, n_beads, n_beads * heads)
        self.register_buffer("logits", key_first.clone())  # (1, j, i * heads)
        self.register_buffer("edge_query", edge_query.transpose(0, 1).reshape(-1, 3).clone())
        # Transposed, as `linear` likes it.
        self.register_buffer("values", values.permute(2, 1, 0).reshape(len(bias), -1).clone())
        self.register_buffer("moved", moved.permute(2, 0, 1).reshape(len(bias), -1).clone())
        self.register_buffer("displaced", -moved.sum(dim=0).T.clone())  # (width, 3)
        self.register_buffer("bias", bias.clone())
        self.register_buffer("nodes", nodes.clone())
        self.gate = gate

    def evaluate(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return nodes (M, width)."""
        batch, n_beads, heads = x.shape[0], self.n_beads, self.heads
        rows = batch * n_beads
        attention = torch.softmax(self.logits + functional.linear(x, self.edge_query), dim=1)
        moved = torch.bmm(attention.transpose(1, 2), x)  # (B, i * heads, 3)
        by_query = attention.view(batch, n_beads, n_beads, heads).transpose(1, 2)
        new = functional.linear(by_query.reshape(rows, -1), self.values, self.bias)
        new = new + functional.linear(moved.view(rows, -1), self.moved)
        new = new + functional.linear(x.reshape(rows, 3), self.displaced)
        blend, of_gate = self.gate.evaluate(new, self.nodes.repeat(batch, 1))
        return blend, [attention] + of_gate  # noqa: RUF005

    def pull_back(self, gradient: Tensor, x: Tensor, saved: list[Tensor]) -> Tensor:
        """Return the gradient with respect to the coordinates."""
        batch, n_beads, heads = x.shape[0], self.n_beads, self.heads
        rows = batch * n_beads
        attention = saved[0]
        of_new, _ = self.gate.pull_back(gradient, saved[1:])
        of_moved = torch.mm(of_new, self.moved).view(batch, n_beads * heads, 3)
        by_query = torch.mm(of_new, self.values).view(batch, n_beads, n_beads, heads)
        of_attention = by_query.transpose(1, 2).reshape(batch, n_beads, n_beads * heads)
        of_attention = torch.baddbmm(of_attention, x, of_moved.transpose(1, 2))
        of_logits = torch.ops.aten._softmax_backward_data(
            of_attention, attention, 1, attention.dtype
        )
        direct = torch.mm(of_new, self.displaced)
        direct = direct + torch.mm(of_logits.view(rows, -1), self.edge_query)
        return torch.baddbmm(direct.view(batch, n_beads, 3), attention, of_moved)


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
    heads : int
        Number of heads.
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
        gate: Gate,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.width = query[0].shape[1]
        self.norm = Normalisation(self.width)
        self.register_buffer("query", query[0].clone())
        self.register_buffer("query_bias", query[1].clone())
        self.register_buffer("output", output[0].clone())
        self.register_buffer("bias", output[1].clone())
        self.register_buffer("displaced", displaced.clone())
        self.gate = gate

    def evaluate(self, nodes: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return updated nodes (M, width)."""
        batch, n_beads, heads, inner = x.shape[0], x.shape[1], self.heads, self.width + 3
        normalised, of_norm = self.norm.evaluate(nodes)
        memory = torch.cat([normalised.view(batch, n_beads, self.width), x], dim=-1)
        query = functional.linear(normalised, self.query, self.query_bias)
        query = query.view(batch, n_beads * heads, inner)
        attention = torch.softmax(torch.bmm(memory, query.transpose(1, 2)), dim=1)
        mixed = torch.bmm(attention.transpose(1, 2), memory).view(-1, heads * inner)
        new = functional.linear(mixed, self.output, self.bias)
        new = new + functional.linear(x.reshape(-1, 3), self.displaced)
        blend, of_gate = self.gate.evaluate(new, nodes)
        return blend, [memory, query, attention] + of_norm + of_gate  # noqa: RUF005

    def pull_back(self, gradient: Tensor, x: Tensor, saved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to the nodes and, by this layer, the coordinates."""
        batch, n_beads, heads, inner = x.shape[0], x.shape[1], self.heads, self.width + 3
        memory, query, attention = saved[0], saved[1], saved[2]
        of_new, of_old = self.gate.pull_back(gradient, saved[6:])
        of_mixed = torch.mm(of_new, self.output).view(batch, n_beads * heads, inner)
        of_attention = torch.bmm(memory, of_mixed.transpose(1, 2))
        of_logits = torch.ops.aten._softmax_backward_data(
            of_attention, attention, 1, attention.dtype
        )
        of_memory = torch.baddbmm(torch.bmm(attention, of_mixed), of_logits, query)
        of_query = torch.bmm(of_logits.transpose(1, 2), memory).view(-1, heads * inner)
        as_memory, of_x = torch.split(of_memory, [self.width, 3], dim=-1)
        of_normalised = torch.mm(of_query, self.query) + as_memory.reshape(-1, self.width)
        direct = torch.mm(of_new, self.displaced).view(batch, n_beads, 3)
        return of_old + self.norm.pull_back(of_normalised, saved[3:6]), of_x + direct


class FactorisedAttention(nn.Module):
    """Attention of a later layer with keys and values of its own for every head.

    With n the normalised nodes, for every head h,

        q_i = Q n_i + c,    k_j = [K n_j, x_j],    v_j = [V n_j, x_j],
        a_ij = softmax_j (q_i . k_j),    new_i = sum_h O (sum_j a_ij v_j) + D x_i

    The work per pair of beads grows with the width of a head and not with that of the nodes.

    Parameters
    ----------
    query : (Tensor, Tensor)
        Weight Q (heads * (head_width + 3), width) and bias c.
    key_value : Tensor, shape (2 * heads * head_width, width)
        K above V. Biases drop out of the soft-max, or are part of the output's bias.
    output : (Tensor, Tensor)
        Weight O (width, heads * (head_width + 3)) and bias.
    displaced : Tensor, shape (width, 3)
        D.
    heads : int
        Number of heads.
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
        gate: Gate,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = key_value.shape[0] // (2 * heads)
        self.norm = Normalisation(query[0].shape[1])
        self.register_buffer("query", query[0].clone())
        self.register_buffer("query_bias", query[1].clone())
        self.register_buffer("key_value", key_value.clone())
        self.register_buffer("output", output[0].clone())
        self.register_buffer("bias", output[1].clone())
        self.register_buffer("displaced", displaced.clone())
        self.gate = gate

    def evaluate(self, nodes: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return updated nodes (M, width)."""
        batch, n_beads, heads, inner = x.shape[0], x.shape[1], self.heads, self.head_width + 3
        normalised, of_norm = self.norm.evaluate(nodes)
        query = functional.linear(normalised, self.query, self.query_bias)
        query = self._by_head(query.view(batch, n_beads, heads, inner))
        flat = functional.linear(normalised, self.key_value)
        flat = flat.view(batch, n_beads, 2 * heads, self.head_width)
        edges = x.unsqueeze(2).expand(-1, -1, 2 * heads, -1)
        key, value = torch.split(torch.cat([flat, edges], dim=-1), [heads, heads], dim=2)
        key, value = self._by_head(key), self._by_head(value)
        attention = torch.softmax(torch.bmm(key, query.transpose(1, 2)), dim=1)
        mixed = self._by_bead(torch.bmm(attention.transpose(1, 2), value), batch)
        new = functional.linear(mixed, self.output, self.bias)
        new = new + functional.linear(x.reshape(-1, 3), self.displaced)
        blend, of_gate = self.gate.evaluate(new, nodes)
        return blend, [query, key, value, attention] + of_norm + of_gate  # noqa: RUF005

    def pull_back(self, gradient: Tensor, x: Tensor, saved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to the nodes and, by this layer, the coordinates."""
        batch, n_beads, heads, inner = x.shape[0], x.shape[1], self.heads, self.head_width + 3
        query, key, value, attention = saved[0], saved[1], saved[2], saved[3]
        of_new, of_old = self.gate.pull_back(gradient, saved[7:])
        of_mixed = torch.mm(of_new, self.output).view(batch, n_beads, heads, inner)
        of_mixed = self._by_head(of_mixed)
        of_attention = torch.bmm(value, of_mixed.transpose(1, 2))
        of_logits = torch.ops.aten._softmax_backward_data(
            of_attention, attention, 1, attention.dtype
        )
        of_query = self._by_bead(torch.bmm(of_logits.transpose(1, 2), key), batch)
        of_both = torch.stack([torch.bmm(of_logits, query), torch.bmm(attention, of_mixed)])
        of_both = of_both.view(2, batch, heads, n_beads, inner).permute(1, 3, 0, 2, 4)
        of_flat, of_x = torch.split(of_both, [self.head_width, 3], dim=-1)
        of_normalised = torch.mm(of_query, self.query)
        of_normalised = of_normalised + torch.mm(
            of_flat.reshape(batch * n_beads, -1), self.key_value
        )
        direct = torch.mm(of_new, self.displaced).view(batch, n_beads, 3)
        of_nodes = of_old + self.norm.pull_back(of_normalised, saved[4:7])
        return of_nodes, of_x.sum(dim=[2, 3]) + direct

    def _by_head(self, values: Tensor) -> Tensor:
        """Bring (B, N, heads, inner) to (B * heads, N, inner)."""
        return values.transpose(1, 2).reshape(-1, values.shape[1], values.shape[3])

    def _by_bead(self, values: Tensor, batch: int) -> Tensor:
        """Bring (B * heads, N, inner) to (B * N, heads * inner)."""
        n_beads, inner = values.shape[1], values.shape[2]
        split = values.view(batch, self.heads, n_beads, inner).transpose(1, 2)
        return split.reshape(batch * n_beads, self.heads * inner)
