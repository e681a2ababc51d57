"""Blocks of a network at one diffusion time, each with its derivative written out.

``evaluate`` returns a block's output and what ``vjp`` needs to turn the gradient of the
energy with respect to the output into that with respect to the input. No autograd is involved, so
a force costs few operators; ``evaluate`` can be differentiated by autograd all the same. Rows are
beads of all replicas: nodes are (B * N, width), coordinates ``x`` are (B, N, 3). Attention is in
:mod:`openmm_scoremd.models.graph_transformer.explicit_attention`.

Written for TorchScript on CPU, where an operator takes a microsecond or two whatever it computes,
views included, and so does every row of a small network. It matters that

- what depends on buffers alone is written as such, however long: TorchForce and PythonForce freeze
  the module, which evaluates it once. That leaves weights in the layout of the C++ kernel;
- sums are part of products, which take matrices in either layout: ``linear``, ``addmm_`` in place,
  or ``addmm`` with another factor than one, without which TorchScript makes it two operators;
- tensors that nobody else holds are changed in place;
- soft-max runs over a dimension that is not the last: a short last one is ten times slower. So
  logits are stored with the key first, (B, j, i * heads + h);
- annotations are types and not strings.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_scoremd.models.graph_transformer.network import (
    GELU_CUBIC,
    GELU_SLOPE,
    LAYER_NORM_EPSILON,
)


class Gate(nn.Module):
    """``old + s change`` with ``change = new - old`` and one s per row.

    ``s = sigmoid(new . of_new + old . of_old)``.

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

    def evaluate(self, change: Tensor, old: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the blend (M, width)."""
        logit = torch.mm(old, (self.of_new + self.of_old).unsqueeze(1))
        share = logit.addmm_(change, self.of_new.unsqueeze(1)).sigmoid_()
        return torch.addcmul(old, share, change), (share, change)

    def vjp(self, gradient: Tensor, saved: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to ``new`` and ``old``."""
        share, change = saved
        # d blend = s d new + (1 - s) d old + change s (1 - s) (of_new . d new + of_old . d old)
        of_logit = self._of_logit(gradient, share, change)
        of_new = gradient * share
        of_old = (gradient - of_new).addcmul_(of_logit, self.of_old)
        return of_new.addcmul_(of_logit, self.of_new), of_old

    def vjp_new(self, gradient: Tensor, saved: tuple[Tensor, Tensor]) -> Tensor:
        """Return the gradient with respect to ``new`` alone."""
        share, change = saved
        of_logit = self._of_logit(gradient, share, change)
        return (gradient * share).addcmul_(of_logit, self.of_new)

    def _of_logit(self, gradient: Tensor, share: Tensor, change: Tensor) -> Tensor:
        of_share = (gradient * change).sum(dim=1, keepdim=True)
        of_logit: Tensor = torch.ops.aten.sigmoid_backward(of_share, share)
        return of_logit


class Normalisation(nn.Module):
    """LayerNorm without affine part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.epsilon = LAYER_NORM_EPSILON

    def evaluate(self, nodes: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return normalised rows (M, width)."""
        normalised, mean, inverse_deviation = torch.native_layer_norm(
            nodes, [self.width], None, None, self.epsilon
        )
        return normalised, (nodes, mean, inverse_deviation)

    def vjp(
        self, gradient: Tensor, saved: tuple[Tensor, Tensor, Tensor], besides: Tensor
    ) -> Tensor:
        """Return the gradient with respect to the rows, and what they have ``besides``."""
        nodes, mean, inverse_deviation = saved
        of_nodes: Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient, nodes, [self.width], mean, inverse_deviation, None, None, [True, False, False]
        )[0]
        return of_nodes.add_(besides)


#: What the feed-forward block saves: of its GELU, of its norm and of its gate.
OfFeedForward = tuple[
    tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]
]


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
        self.slope = GELU_SLOPE
        self.cubic = GELU_CUBIC

    def evaluate(self, nodes: Tensor) -> tuple[Tensor, OfFeedForward]:
        """Return updated nodes (M, width)."""
        hidden, of_gelu, of_norm = self._hidden(nodes)
        new = functional.linear(hidden, self.second_weight, self.second_bias)
        blend, of_gate = self.gate.evaluate(new - nodes, nodes)
        return blend, (of_gelu, of_norm, of_gate)

    def vjp(self, gradient: Tensor, saved: OfFeedForward) -> Tensor:
        """Return the gradient with respect to the nodes."""
        of_gelu, of_norm, of_gate = saved
        of_new, of_old = self.gate.vjp(gradient, of_gate)
        of_hidden = torch.mm(of_new, self.second_weight)
        return self._of_nodes(of_hidden, of_gelu, of_norm, of_old)

    def evaluate_decoded(
        self, nodes: Tensor, decoder: Tensor, offset: Tensor
    ) -> tuple[Tensor, OfFeedForward]:
        """Return ``evaluate(nodes) . decoder + offset``, (M, 1), as the last block of a network.

        The updated nodes are not needed, only what they give the decoder and the gate. So the
        second linear map has three columns instead of ``width``.
        """
        hidden, of_gelu, of_norm = self._hidden(nodes)
        to_pair, bias = self._decoded_weights(decoder)
        of_nodes = torch.stack([-decoder, self.gate.of_old, decoder])
        constant = torch.cat([bias, offset.view(1)])
        to_all = functional.pad(to_pair, [0, 1])
        decoded = functional.linear(nodes, of_nodes, constant).addmm_(hidden, to_all)
        change, logit, old = torch.split(decoded, [1, 1, 1], dim=1)
        share = torch.sigmoid(logit)
        return torch.addcmul(old, share, change), (of_gelu, of_norm, (share, change))

    def vjp_decoded(self, decoder: Tensor, saved: OfFeedForward) -> Tensor:
        """Return the gradient of the sum of decoded rows with respect to the nodes."""
        of_gelu, of_norm, (share, change) = saved
        of_logit = torch.ops.aten.sigmoid_backward(change, share)
        of_pair = torch.cat([share, of_logit], dim=1)
        to_pair, _ = self._decoded_weights(decoder)
        to_old = torch.stack([-decoder, self.gate.of_old], dim=1)
        of_old = functional.linear(of_pair, to_old, decoder)
        return self._of_nodes(torch.mm(of_pair, to_pair.t()), of_gelu, of_norm, of_old)

    def _decoded_weights(self, decoder: Tensor) -> tuple[Tensor, Tensor]:
        """Second linear map to decoded change and the gate's logit, (hidden, 2) and (2,)."""
        pair = torch.stack([decoder, self.gate.of_new])
        return torch.mm(pair, self.second_weight).t(), torch.mv(pair, self.second_bias)

    def _hidden(
        self, nodes: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        normalised, of_norm = self.norm.evaluate(nodes)
        before = functional.linear(normalised, self.first_weight, self.first_bias)
        # On CPU torch's own GELU takes twice the time, for its tanh.
        slope = torch.addcmul(self._slope(), before, before, value=self.cubic)
        share = slope.mul_(before).sigmoid_()
        hidden = before * share
        return hidden, (before, share, hidden), of_norm

    def _of_nodes(
        self,
        of_hidden: Tensor,
        of_gelu: tuple[Tensor, Tensor, Tensor],
        of_norm: tuple[Tensor, Tensor, Tensor],
        of_old: Tensor,
    ) -> Tensor:
        before, share, hidden = of_gelu
        # d (x s(u)) / dx = s + x s (1 - s) u'
        slope = torch.addcmul(self._slope(), before, before, value=3.0 * self.cubic)
        rest = torch.addcmul(hidden, hidden, share, value=-1.0)
        of_before = torch.addcmul(share, rest, slope).mul_(of_hidden)
        return self.norm.vjp(torch.mm(of_before, self.first_weight), of_norm, of_old)

    def _slope(self) -> Tensor:
        like = self.first_bias
        return torch.full([], self.slope, dtype=like.dtype, device=like.device)
