r"""Energies of internal coordinates: the family ``invariant``.

In blurred, not shrunk coordinates :math:`y = x / \alpha` with noise of standard deviation
:math:`s = \sigma / \alpha`, the energy is a function of distances and torsions. So it does not
change when a molecule moves or turns, and it changes when the molecule is reflected. With
:math:`\tilde s^2 = s^2 + 10^{-8}` and unit vectors softened in the same way:

.. math::
   d_{ij} = \sqrt{|y_i - y_j|^2 + \tilde s^2}, \qquad
   f_{ij} = \frac{d_{ij} - \mu_{ij}(s)}{\tau_{ij}(s)}, \qquad
   \hat e_{ij} = \frac{y_j - y_i}{\sqrt{|y_j - y_i|^2 + \tilde s^2}}

.. math::
   g_{ijkl} = \left(\hat e_{ij} \times \hat e_{jk} \cdot \hat e_{kl}, \;
       \hat e_{ij} \times \hat e_{jk} \cdot \hat e_{jk} \times \hat e_{kl} \right)

.. math::
   E = \frac{1}{1 + s^2} \left[\tfrac12 |y - \bar y|^2 + f^T A(v) f + b(v)^T f
       + \sum_w r(v)^T h(f_w, g_w, v) \right], \qquad v = \tfrac14 \log(s^4 + s_0^4)

:math:`g` are sine and cosine of a torsion times the sines of its two angles. Distances are
standardised at every level of noise, so that bonds at little noise and clouds of beads at much
noise are equally easy. :math:`\mu` and :math:`\tau` follow from mean and width of the distances in
the data: exactly where noise is small or large against the distance, smoothly between.

The rest depends on the level through a few smooth functions of :math:`v`: below :math:`s_0` the
energy changes with the widths of bonds and angles alone, because there denoising can teach nothing
else. What is learned at :math:`s_0` then holds down to the data.
"""

import dataclasses
import itertools
import math
from typing import cast

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.models.invariant.choice import bead_types, choose_features
from openmm_scoremd.models.invariant.folded import FoldedInvariant
from openmm_scoremd.models.invariant.measure import Measurement

#: Added to the variance of the noise, so that roots are smooth at zero noise, too.
SOFTENING = 1e-8
#: Weight of torsions among the inputs: they are at most 1, and distances mostly 1 to 2 in size.
TORSION_WEIGHT = 2.0
#: Waves of the noise level over its whole range: half of one, one, two.
N_WAVES = 3
LEVEL_HIDDEN = 64


@dataclasses.dataclass(frozen=True)
class InvariantConfig(NetworkConfig):
    """Sizes of an invariant network; see :class:`NetworkConfig` for the other entries.

    Attributes
    ----------
    noise_floor : float
        Level :math:`s_0`, below which the energy changes with the widths of distances alone.
    hidden_dim, layers : int
        Width and number of the hidden layers.
    levels : int
        Functions of the noise level that everything else is linear in.

    Raises
    ------
    ConfigurationError
        If a size is out of range.
    """

    family: str = "invariant"
    noise_floor: float | None = 0.03
    hidden_dim: int = 96
    layers: int = 3
    levels: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_sizes("hidden_dim", "layers", "levels")
        if self.noise_floor is None:
            raise ConfigurationError(
                "network.noise_floor is null; an invariant network needs a number, such as 0.03"
            )


class ColumnLinear(nn.Linear):
    """A linear map of columns: numbers of one kind lie side by side for all samples.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Sizes.
    std : float
        Standard deviation of the outputs for unit inputs, at the start.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, std: float = 1.0) -> None:
        super().__init__(n_inputs, n_outputs)
        nn.init.normal_(self.weight, std=std * n_inputs**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, columns: Tensor) -> Tensor:
        """Return (n_outputs, B) of columns (n_inputs, B)."""
        return torch.addmm(self.bias[:, None], self.weight, columns)


class LevelFunctions(nn.Module):
    r"""Learned functions of :math:`v = \frac14 \log(s^4 + s_0^4)`, smooth over all levels.

    Few and smooth on purpose: populations are learned where noise is large enough to join the
    basins, and functions that can do at every level what they like forget them on the way down.

    Parameters
    ----------
    floor : float
        :math:`s_0`.
    largest : float
        Largest noise.
    number : int
        Number of functions.
    """

    def __init__(self, *, floor: float, largest: float, number: int) -> None:
        super().__init__()
        self.floor, self.n_waves = floor, N_WAVES
        self.lowest = math.log(floor)
        self.span = 0.25 * math.log(largest**4 + floor**4) - self.lowest
        self.first = ColumnLinear(2 * N_WAVES + 1, LEVEL_HIDDEN)
        nn.init.normal_(self.first.bias, std=0.5)
        self.second = ColumnLinear(LEVEL_HIDDEN, number)

    def forward(self, variance: Tensor) -> Tensor:
        """Return the functions (number, B) of the variance (B,) of the noise."""
        v = 0.25 * torch.log(variance * variance + self.floor**4)
        depth = (v - self.lowest) / self.span
        waves = [depth - 0.5]
        for k in range(self.n_waves):
            angle = math.pi * 2.0**k * depth
            waves += [torch.cos(angle), torch.sin(angle)]
        hidden = self.first(torch.stack(waves))
        functions: Tensor = self.second(nn.functional.silu(hidden))
        return functions


class TypesOfWindows(nn.Module):
    """What the types of its beads add to the first layer of every window.

    Parameters
    ----------
    types : Tensor, shape (windows, beads)
        Type of every bead of every window.
    n_types : int
        Number of types.
    hidden_dim : int
        Width of the layer.
    """

    rows: Tensor

    def __init__(self, types: Tensor, *, n_types: int, hidden_dim: int) -> None:
        super().__init__()
        # A bead counts by its type and its place in the window.
        place = torch.arange(types.shape[1])
        self.register_buffer("rows", types * types.shape[1] + place, persistent=False)
        self.table = nn.Parameter(0.1 * torch.randn(n_types * types.shape[1], hidden_dim))

    def forward(self) -> Tensor:
        """Return (hidden_dim, windows)."""
        return self.table[self.rows].sum(dim=1).t()


class NoTypes(nn.Module):
    """The same for one window, of a molecule that the network is made for: nothing.

    Parameters
    ----------
    hidden_dim : int
        Width of the layer.
    """

    zero: Tensor

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(hidden_dim, 1), persistent=False)

    def forward(self) -> Tensor:
        """Return (hidden_dim, 1)."""
        return self.zero


class InvariantEnergy(EnergyModel):
    """Energy of standardised distances and signed volumes.

    Parameters
    ----------
    config : InvariantConfig
        Its shape.
    inputs : NetworkInputs
        Beads, a fixed number of them in three dimensions.

    Raises
    ------
    ConfigurationError
        If the number of beads is not fixed or below 2, or there are not three dimensions.
    """

    config_class = InvariantConfig
    invariances = frozenset({"translation", "rotation"})

    mean: Tensor
    width: Tensor
    pair_class: Tensor
    upper: Tensor

    def __init__(self, config: InvariantConfig, inputs: NetworkInputs) -> None:
        n_beads = _checked_beads(inputs)
        super().__init__(n_beads=n_beads, n_dims=3, t_min=config.t_min, t_max=config.t_max)
        self.softening, self.torsion_weight = SOFTENING, TORSION_WEIGHT
        self.beta_min, self.beta_max = inputs.schedule.beta_min, inputs.schedule.beta_max
        choice = choose_features(n_beads, inputs.topology)
        self.measurement = Measurement(n_beads, choice)
        self.coupled = choice.coupled
        n_pairs = len(choice.pairs)
        # Filled from the training frames.
        self.register_buffer("mean", torch.ones(n_pairs))
        self.register_buffer("width", torch.ones(n_pairs))
        self.register_buffer("pair_class", torch.tensor(choice.pair_classes), persistent=False)
        upper = torch.triu_indices(n_pairs, n_pairs) if choice.coupled else torch.empty(2, 0)
        self.register_buffer("upper", upper.long(), persistent=False)

        largest = math.sqrt(math.expm1(0.5 * (self.beta_min + self.beta_max)))
        floor = cast(float, config.noise_floor)
        self.levels = LevelFunctions(floor=floor, largest=largest, number=config.levels)
        self._add_parameters(config, len(choice.windows[0]), choice.pair_classes)
        n_types = max(bead_types(n_beads, inputs.topology)) + 1
        self.of_types: nn.Module = NoTypes(config.hidden_dim)
        if choice.window_types:
            types = torch.tensor(choice.window_types)
            self.of_types = TypesOfWindows(types, n_types=n_types, hidden_dim=config.hidden_dim)

    def _add_parameters(
        self, config: InvariantConfig, n_inputs: int, pair_classes: tuple[int, ...]
    ) -> None:
        hidden_dim = config.hidden_dim
        sizes = [n_inputs] + config.layers * [hidden_dim]
        self.layers = nn.ModuleList(
            ColumnLinear(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes)
        )
        n_classes = max(pair_classes) + 1
        start = torch.full((n_classes,), 0.4)
        if self.coupled:
            start = torch.where(self.upper[0] == self.upper[1], 0.4, 0.0)
        self.curvature = ColumnLinear(config.levels, len(start), std=0.1)
        self.curvature.bias = nn.Parameter(start)
        self.slope = ColumnLinear(config.levels, n_classes, std=0.1)
        self.shift = ColumnLinear(config.levels, hidden_dim, std=0.5)
        self.readout = ColumnLinear(config.levels, hidden_dim, std=0.5)

    def prepare(self, frames: Tensor) -> None:
        """Take mean and width of every distance from standardised frames (frames, N, 3)."""
        first, second = self.measurement.pairs.unbind(1)
        count, total, squares = len(frames), 0.0, 0.0
        for part in torch.split(frames.double(), max(1, 2**24 // len(self.mean))):
            distance = (part[:, first] - part[:, second]).norm(dim=2)
            total = total + distance.sum(dim=0)
            squares = squares + distance.square().sum(dim=0)
        mean = cast(Tensor, total) / count
        variance = cast(Tensor, squares) / count - mean.square()
        self.mean.copy_(mean)
        # Distances that never change have the width of rounding.
        self.width.copy_(variance.clamp(min=0.0).sqrt().clamp(min=1e-4))

    def level(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and inverse width (P, B) of distances at a variance (B,) of the noise."""
        v = variance[None, :] + self.softening
        square = (self.mean * self.mean)[:, None]
        # Of three directions along r one changes |r| much, two little: until noise is all there is.
        mostly_noise = v / (v + square)
        mean = torch.sqrt(square + (5.0 + 1.2 * mostly_noise) * v)
        width = torch.sqrt((self.width * self.width)[:, None] + (2.0 - 1.2 * mostly_noise) * v)
        return mean, 1.0 / width

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the reduced energy, shape (B,)."""
        t = t.clamp(self.t_min, self.t_max)
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t
        variance = torch.expm1(integral)
        # From the first bead, so that where a molecule is costs no digits.
        y = (x - x[:, :1]).permute(1, 2, 0) * torch.exp(0.5 * integral)
        return self.energy_of_blurred(y, variance)

    def energy_of_blurred(self, y: Tensor, variance: Tensor) -> Tensor:
        """Return energies (B,) of y (N, 3, B) at a variance (B,) of its noise."""
        distance, torsions = self.measurement(y, variance + self.softening)
        mean, scale = self.level(variance)
        f = (distance - mean) * scale
        levels = self.levels(variance)
        quadratic = self._quadratic(f, levels)
        inputs = self.measurement.in_windows(torch.cat([f, self.torsion_weight * torsions]))
        network = self._network(inputs, levels)
        centred = y - y.mean(dim=0, keepdim=True)
        harmonic = 0.5 * (centred * centred).sum(dim=0).sum(dim=0)
        return (harmonic + quadratic + network) / (1.0 + variance)

    def _quadratic(self, f: Tensor, levels: Tensor) -> Tensor:
        curvature: Tensor = self.curvature(levels)
        slope: Tensor = self.slope(levels)
        if self.coupled:
            pairs = f.index_select(0, self.upper[0]) * f.index_select(0, self.upper[1])
            return (curvature * pairs).sum(dim=0) + (slope * f).sum(dim=0)
        of_pair = curvature.index_select(0, self.pair_class)
        return (f * (of_pair * f + slope.index_select(0, self.pair_class))).sum(dim=0)

    def _network(self, inputs: Tensor, levels: Tensor) -> Tensor:
        """Return the sum over windows (B,) of a perceptron of their features (F, windows, B)."""
        n_inputs, windows, batch = inputs.shape
        h = inputs.reshape(n_inputs, windows * batch)
        shift = self.shift(levels)[:, None, :] + self.of_types()[:, :, None]
        for index, layer in enumerate(self.layers):
            h = layer(h)
            if index == 0:
                h = (h.view(-1, windows, batch) + shift).view(-1, windows * batch)
            h = nn.functional.silu(h)
        of_window = h.view(-1, windows, batch).sum(dim=1)
        readout: Tensor = self.readout(levels)
        return (readout * of_window).sum(dim=0)

    def at_time(self, t: float, features: Tensor | None = None) -> nn.Module:
        """Return the energy at one time with all constants folded in, and its gradient."""
        with torch.no_grad():
            return FoldedInvariant(self.constants(t), self.measurement)

    def constants(self, t: float) -> dict[str, Tensor]:
        """Return what the energy at one time is made of, by the names of the folded network."""
        schedule_time = min(max(t, self.t_min), self.t_max)
        integral = self.beta_min * schedule_time
        integral += 0.5 * (self.beta_max - self.beta_min) * schedule_time**2
        variance = self.mean.new_tensor([math.expm1(integral)])
        levels = self.levels(variance)
        mean, scale = self.level(variance)
        curvature = self.curvature(levels)[:, 0]
        slope = self.slope(levels)[:, 0]
        if self.coupled:
            matrix = curvature.new_zeros(len(self.mean), len(self.mean))
            matrix[self.upper[0], self.upper[1]] = curvature
            curvature = matrix + matrix.t()
        else:
            curvature = 2.0 * curvature[self.pair_class]
            slope = slope[self.pair_class]
        layers = [cast(ColumnLinear, layer) for layer in self.layers]
        weight = layers[0].weight.clone()
        of_torsion = self.measurement.is_torsion
        weight[:, of_torsion] *= self.torsion_weight
        constants = {
            "inverse_alpha": torch.exp(0.5 * variance.new_tensor(integral)),
            "softening": variance[0] + self.softening,
            "envelope": 1.0 / (1.0 + variance[0]),
            "centre": mean[:, 0],
            "inverse_width": scale[:, 0],
            "curvature": curvature,
            "slope": slope,
            "readout": self.readout(levels)[:, 0],
            "weight_0": weight,
            "bias_0": layers[0].bias[:, None] + self.shift(levels) + self.of_types(),
        }
        for index, layer in enumerate(layers[1:], 1):
            constants[f"weight_{index}"] = layer.weight
            constants[f"bias_{index}"] = layer.bias[:, None]
        return constants


def _checked_beads(inputs: NetworkInputs) -> int:
    if inputs.n_beads is None or inputs.n_beads < 2 or inputs.n_dims != 3:
        raise ConfigurationError(
            f"an invariant network was asked for {inputs.n_beads} beads in {inputs.n_dims} "
            "dimensions; it needs a fixed number, at least 2, in 3 dimensions"
        )
    return inputs.n_beads
