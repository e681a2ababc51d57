"""An invariant network at one noise level: constants folded in, the gradient written out."""

import copy

import torch
from torch import Tensor, nn

from openmm_scoremd.models.invariant.measure import Measurement


class FoldedInvariant(nn.Module):
    """Reduced energy at one diffusion time.

    Parameters
    ----------
    constants : dict of str to Tensor
        What :meth:`InvariantEnergy.constants` returns; ``curvature`` is the matrix of second
        derivatives, or its diagonal.
    measurement : Measurement
        What is measured.
    """

    inverse_alpha: Tensor
    softening: Tensor
    envelope: Tensor
    centre: Tensor
    inverse_width: Tensor
    curvature: Tensor
    slope: Tensor
    readout: Tensor

    def __init__(self, constants: dict[str, Tensor], measurement: Measurement) -> None:
        super().__init__()
        self.measurement = copy.deepcopy(measurement)
        weights, biases = [], []
        for name, value in constants.items():
            if name.startswith("weight_"):
                weights.append(value)
            elif name.startswith("bias_"):
                biases.append(value)
            else:
                self.register_buffer(name, value.detach().clone().contiguous())
        self.layers = nn.ModuleList(
            FoldedLayer(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        self.coupled = self.curvature.dim() == 2

    def forward(self, x: Tensor) -> Tensor:
        """Return reduced energies (B,) of standardised coordinates (B, N, 3)."""
        return self.energy_and_gradient(x)[0]

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reduced energies (B,) and their gradient (B, N, 3)."""
        n_pairs = self.measurement.n_pairs
        y = (x * self.inverse_alpha).permute(1, 2, 0).contiguous()
        centred = y - y.mean(dim=0, keepdim=True)
        difference = self.measurement.differences(y)
        square = (difference * difference).sum(dim=1) + self.softening
        root = torch.rsqrt(square)
        distance = square[:n_pairs] * root[:n_pairs]
        f = (distance - self.centre[:, None]) * self.inverse_width[:, None]
        unit = difference[n_pairs:] * root[n_pairs:, None, :]
        n = self.measurement.n_volumes
        first, second, third = unit[:n], unit[n : 2 * n], unit[2 * n :]
        before = torch.linalg.cross(first, second, dim=1)
        after = torch.linalg.cross(second, third, dim=1)
        torsions = [(before * third).sum(dim=1), (before * after).sum(dim=1)]

        inner = torch.mm(self.curvature, f) if self.coupled else self.curvature[:, None] * f
        network, of_inputs = self._network(torch.cat([f, torsions[0], torsions[1]]))
        harmonic = 0.5 * (centred * centred).sum(dim=0).sum(dim=0)
        quadratic = (f * (0.5 * inner + self.slope[:, None])).sum(dim=0)
        energy = self.envelope * (harmonic + quadratic + network)

        of_f = of_inputs[:n_pairs] + inner + self.slope[:, None]
        of_f = of_f * self.inverse_width[:, None] * root[:n_pairs]
        of_sine = of_inputs[n_pairs : n_pairs + n, None, :]
        of_cosine = of_inputs[n_pairs + n :, None, :]
        # Of before . third + before . after, with before and after as products of edges.
        of_before = of_sine * third + of_cosine * after
        of_after = of_cosine * before
        of_unit = torch.cat(
            [
                torch.linalg.cross(second, of_before, dim=1),
                torch.linalg.cross(of_before, first, dim=1)
                + torch.linalg.cross(third, of_after, dim=1),
                of_sine * before + torch.linalg.cross(of_after, second, dim=1),
            ]
        )
        # Along an edge a unit vector does not change.
        along = (unit * of_unit).sum(dim=1, keepdim=True)
        of_edges = (of_unit - unit * along) * root[n_pairs:, None, :]
        of_difference = torch.cat([difference[:n_pairs] * of_f[:, None, :], of_edges])
        gradient = centred + self.measurement.of_coordinates(of_difference)
        scaled = gradient * (self.envelope * self.inverse_alpha)
        return energy, scaled.permute(2, 0, 1).contiguous()

    def _network(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's energy (B,) and its gradient with respect to the features."""
        inputs = self.measurement.in_windows(features)
        n_inputs, windows, batch = inputs.shape
        h = inputs.reshape(n_inputs, windows * batch)
        slopes: list[Tensor] = []
        weights: list[Tensor] = []
        for layer in self.layers:
            weights.append(layer.weight)  # type: ignore[arg-type]
            z = layer(h, windows)
            share = torch.sigmoid(z)
            h = z * share
            slopes.append(share + h * (1.0 - share))
        energy = torch.mv(h.view(h.shape[0], -1).t(), self.readout).view(windows, batch).sum(dim=0)
        back = self.readout[:, None] * slopes[-1]
        return energy, self._pull_back(back, weights, slopes, windows)

    def _pull_back(
        self, back: Tensor, weights: list[Tensor], slopes: list[Tensor], windows: int
    ) -> Tensor:
        """Return the gradient of the features from that of the last layer before its SiLU."""
        for index in range(len(weights) - 1, 0, -1):
            back = torch.mm(weights[index].t(), back) * slopes[index - 1]
        of_inputs = torch.mm(weights[0].t(), back)
        return self.measurement.out_of_windows(of_inputs.view(of_inputs.shape[0], windows, -1))


class FoldedLayer(nn.Module):
    """A linear map of columns, with a bias for every window or for all."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone().contiguous())
        self.register_buffer("bias", bias.detach().clone().contiguous())

    def forward(self, h: Tensor, windows: int) -> Tensor:
        """Return (n_out, windows * B) of columns (n_in, windows * B)."""
        if self.bias.shape[1] == 1:
            return torch.addmm(self.bias, self.weight, h)
        z = torch.mm(self.weight, h)
        return (z.view(z.shape[0], windows, -1) + self.bias[:, :, None]).view(z.shape[0], -1)
