"""Each check finds the mistake that it is for."""

import dataclasses

import openmm
import pytest
import torch
from torch import Tensor, nn

from openmm_scoremd import testing
from openmm_scoremd.errors import ConfigurationError, InvalidInputError, ModelFileError
from openmm_scoremd.models import families
from openmm_scoremd.models.base import EnergyModel, FixedTimeEnergy
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.testing import files


@dataclasses.dataclass(frozen=True)
class RightConfig(NetworkConfig):
    family: str = "right"
    stiffness: float = 2.0


class Right(EnergyModel):
    """Bonds whose length the data say; right in every way."""

    config_class = RightConfig
    invariances = frozenset({"translation", "rotation", "reflection"})

    def __init__(self, config, inputs):
        super().__init__(
            n_beads=inputs.n_beads, n_dims=inputs.n_dims, t_min=config.t_min, t_max=config.t_max
        )
        self.log_stiffness = nn.Parameter(torch.tensor(config.stiffness).log())
        self.register_buffer("length", torch.zeros(()))

    def prepare(self, frames):
        self.length.copy_((frames[:, 1:] - frames[:, :-1]).square().sum(-1).mean().sqrt())

    def springs(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.clamp(self.t_min, self.t_max)
        bonds = (x[:, 1:] - x[:, :-1]).square().sum(dim=-1) - self.length
        return 0.5 * self.log_stiffness.exp() * (bonds * bonds).sum(dim=1) / (1.0 + t)

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t)


class WrongScore(Right):
    def energy_and_score(self, x, t, features=None):
        energy, score = super().energy_and_score(x, t, features)
        return energy, 1.001 * score


class WrongTimeDerivative(Right):
    def score_and_time_derivative(self, x, t, features=None):
        score, derivative = super().score_and_time_derivative(x, t, features)
        return score, 1.001 * derivative


class SeesOthers(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t) * (1.0 + 1e-6 * x.detach().square().mean())


class SpreadsNaN(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t) + 0.0 * (x * x).sum()


class NotClipped(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t) * (1.0 + t)


class KnowsNoTime(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, torch.zeros_like(t))


class NotInvariant(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t) + 1e-3 * x[:, 0, 0]


class FewDigits(Right):
    def springs(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.clamp(self.t_min, self.t_max)
        x = (x + 1e4) - 1e4
        return (x[:, 1:] - x[:, :-1]).square().sum(dim=(1, 2)) / (1.0 + t)


class ManyEnergies(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t).unsqueeze(1)


class HalfTheGradientOfWeights(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        half = 0.5 * (self.log_stiffness - self.log_stiffness.detach())
        return self.springs(x, t) * torch.exp(-half)


class Square(torch.autograd.Function):
    """A square whose derivative seems to be constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = 2.0 * x.detach()
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.slope


class NoSecondDerivative(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t) + Square.apply(x[:, 1] - x[:, 0]).sum(dim=1)


class LooksAtNumbers(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return self.springs(x, t) * (1.0 if float(x.detach().mean()) < 9.0 else 2.0)


class NoTorchScript(Right):
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return sum(self.springs(y, t) for y in [x])


class Forgetful(Right):
    def __init__(self, config, inputs):
        super().__init__(config, inputs)
        del self.length
        self.length = torch.zeros(())

    def prepare(self, frames):
        self.length = torch.ones(())


class WrongAtTime(Right):
    def at_time(self, t, features=None):
        return FixedTimeEnergy(self, t=t + 0.01, features=features)


class WithGradient(FixedTimeEnergy):
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x), 1.001 * x


class WrongExplicitGradient(Right):
    def at_time(self, t, features=None):
        return WithGradient(self, t=t, features=features)


@pytest.fixture
def make(monkeypatch):
    """Return ``make(kind)``: a case whose family is ``kind``."""

    def case_of(kind):
        monkeypatch.setitem(families._REGISTERED, "right", kind)
        return testing.make_case(RightConfig(t_max=0.9), NetworkInputs(4, 3))

    return case_of


@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        (Forgetful, "configuration", "weights: score differs"),
        (ManyEnergies, "outputs", r"energies have shape \(4, 1\)"),
        (SeesOthers, "batch", "score of sample 0 alone differs"),
        (SpreadsNaN, "batch", "beside NaN differs by nan"),
        (NotClipped, "times", r"score at 1.0, clipped to 0.9, differs"),
        (KnowsNoTime, "times", "the same at all times"),
        (NotInvariant, "invariances", "energy after reflection|score after reflection"),
        (WrongScore, "score", "derivative of the energy differs by 0.001"),
        (WrongTimeDerivative, "time_derivative", "time derivative differs by 0.001"),
        (NotClipped, "time_derivative", "not zero beyond the range"),
        (HalfTheGradientOfWeights, "parameter_gradients", "parameter gradients differs"),
        (NoSecondDerivative, "coordinate_gradients", "coordinate gradients differs"),
        (FewDigits, "single_precision", "single precision: score differs"),
        (LooksAtNumbers, "tracing", "data-dependent|item|fake|guard"),
        (NoTorchScript, "scripted_score", "cannot be compiled to TorchScript"),
        (WrongAtTime, "fixed_time", "fixed time: energy at 1.1e-05 differs"),
        (WrongExplicitGradient, "fixed_time", "explicit gradient at 1.1e-05 differs"),
        (WrongAtTime, "model_file", "differs from the network"),
    ],
)
def test_mistakes_are_found(make, kind, check, message):
    # TorchScript, tracing and export have errors of their own.
    expected = (AssertionError, InvalidInputError, ModelFileError, RuntimeError)
    with pytest.raises(expected, match=message):
        testing.CHECKS[check](make(kind))


@pytest.mark.parametrize("check", testing.CHECKS)
def test_nothing_is_found_where_nothing_is_wrong(make, check):
    testing.CHECKS[check](make(Right))


@pytest.mark.parametrize("backend", ["torchforce", "pythonforce", "kernel"])
def test_a_backend_with_wrong_forces(make, monkeypatch, backend):
    original = files.create_force

    def create(path, **options):
        if options["backend"] != backend:
            return original(path, **options)
        return openmm.CustomExternalForce("0")

    monkeypatch.setattr(files, "create_force", create)
    with pytest.raises(AssertionError, match=f"{backend}: energy differs by 1 "):
        testing.CHECKS["forces"](make(Right))


def test_what_a_network_lacks(make):
    testing.check_lacks(make(NotInvariant), [])
    with pytest.raises(AssertionError, match="lacks: rotation changes nothing"):
        testing.check_lacks(make(Right), ["rotation"])


def test_number_of_beads_must_be_known(make):
    make(Right)
    with pytest.raises(ConfigurationError, match="pass features or frames"):
        testing.make_case(RightConfig(), NetworkInputs(None, 3))
