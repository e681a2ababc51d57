"""What a model file holds, before it is compiled: units, replicas, selection, precision."""

import math

import pytest
import torch
from torch import nn

from openmm_scoremd.artifact.exported import ExportedModel
from openmm_scoremd.models.base import FixedTimeEnergy

KT, SCALE = 2.5, 0.2


class TwoSprings(nn.Module):
    """Reduced energy 3 (x_1 - x_0)^2 + x_0^2, whose values are known and not invariant."""

    def forward(self, x):
        return 3.0 * (x[:, 1] - x[:, 0]).square().sum(-1) + x[:, 0].square().sum(-1)


@pytest.fixture
def make_exported(make_case):
    def make(name="graph", *, t=0.3, dtype=torch.float64):
        case = make_case(name)
        energy = FixedTimeEnergy(case.model, t=t)
        exported = ExportedModel(
            [case.model.to(dtype)],
            [],
            energy,
            centred=case.model.translation_invariant,
            n_beads=case.x.shape[1],
            scale=SCALE,
            thermal_energy=KT,
        )
        return exported, case

    return make


def energy_and_forces(model, positions):
    leaf = positions.detach().clone().requires_grad_()
    energy = model(leaf)
    (gradient,) = torch.autograd.grad(energy, leaf)
    return energy.detach(), -gradient


def test_by_hand(make_case):
    model = make_case("mlp-beads").model
    exported = ExportedModel(
        [model], [], TwoSprings(), centred=False, n_beads=2, scale=0.1, thermal_energy=2.0
    )
    positions = torch.tensor([[0.1, 0, 0], [0.3, 0, 0], [0, 0.2, 0], [0, 0.2, 0.1]]).double()
    # In units of 0.1 nm: 3 * 4 + 1 and 3 * 1 + 4, times 2 kJ/mol.
    assert float(exported(positions)) == pytest.approx(40.0)


def test_two_dimensional_models_ignore_z(make_exported):
    exported, case = make_exported("mlp")
    positions = torch.cat([SCALE * case.x[:, 0], torch.randn(4, 1).double()], dim=1)
    energy, forces = energy_and_forces(exported, positions)
    reduced, score = case.model.energy_and_score(case.x, torch.full_like(case.t, 0.3))
    torch.testing.assert_close(energy, KT * reduced.sum().detach())
    torch.testing.assert_close(forces[:, :2], KT / SCALE * score[:, 0].detach())
    assert not forces[:, 2].any()


def test_many_replicas_are_summed_in_double_precision(make_case):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full_like(x[:, 0, 0], 0.1)

    model = make_case("graph").model.float()
    exported = ExportedModel(
        [model], [], Constant(), centred=True, n_beads=5, scale=1.0, thermal_energy=KT
    )
    energy = float(exported(torch.zeros(5 * 30_001, 3, dtype=torch.float64)))
    one = float(torch.tensor(0.1, dtype=torch.float32).double())
    assert energy == pytest.approx(30_001 * KT * one, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_results_come_in_the_precision_of_the_positions(make_exported, dtype, given):
    exported, case = make_exported(dtype=dtype)
    energy, forces = energy_and_forces(exported, (SCALE * case.x).reshape(-1, 3).to(given))
    assert energy.dtype == forces.dtype == given
    score = exported.score(case.x.to(given), case.t.to(given))
    assert score.dtype == given


@pytest.mark.parametrize("name", ["graph", "mlp", "mlp-beads"])
def test_energies_and_forces_of_every_molecule(make_exported, name):
    exported, case = make_exported(name)
    n_dims = case.x.shape[2]
    frames = torch.ones(*case.x.shape[:2], 3, dtype=torch.float64)
    frames[..., :n_dims] = SCALE * case.x
    with torch.no_grad():
        energies, forces = exported.energies_and_forces(frames)
        assert not torch.is_grad_enabled()
    reduced, score = case.model.energy_and_score(case.x, torch.full_like(case.t, 0.3))
    torch.testing.assert_close(energies, KT * reduced.detach(), rtol=1e-12, atol=0.0)
    expected = KT / SCALE * score.detach()
    torch.testing.assert_close(forces[..., :n_dims], expected, rtol=1e-10, atol=1e-10)
    assert not forces[..., n_dims:].any()


def test_wrong_number_of_particles(make_exported):
    exported, _ = make_exported()
    with pytest.raises(ValueError, match="7 particles; give a multiple of 5"):
        exported(torch.zeros(7, 3).double())


@pytest.mark.parametrize("name", ["graph", "mlp-noise-level"])
def test_score_is_that_of_the_network_at_any_time(make_exported, name):
    exported, case = make_exported(name)
    expected = case.model.score(case.x, case.t).detach()
    found = exported.score(case.x, case.t)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not found.requires_grad
    assert not case.x.requires_grad


# --- Several networks ------------------------------------------------------------------------


@pytest.fixture
def make_experts(make_case):
    """Return a function that exports a conservative and two direct networks, and their cases."""

    def make(dtype=torch.float64):
        cases = [make_case("mlp-noise-level"), make_case("mlp", output="direct")]
        cases.append(make_case("mlp-noise-level-high-times", output="direct"))
        exported = ExportedModel(
            [case.model.to(dtype) for case in cases],
            [0.1, 0.5],
            FixedTimeEnergy(cases[0].model, t=1e-3),
            centred=False,
            n_beads=1,
            scale=SCALE,
            thermal_energy=KT,
        )
        return exported, cases

    return make


def test_score_comes_from_the_network_that_serves_the_time(make_experts):
    exported, cases = make_experts()
    times = [0.1, 0.55, 1e-5, 0.5, math.nextafter(0.1, 1.0), 0.09, math.nextafter(0.5, 1.0), 0.2]
    t, serving = torch.tensor(times, dtype=torch.float64), [0, 2, 0, 1, 1, 0, 2, 1]
    x = torch.cat([cases[0].x, 2.0 * cases[0].x])
    found = exported.score(x, t)
    for i, index in enumerate(serving):
        expected = cases[index].model.score(x[[i]], t[[i]]).detach()
        torch.testing.assert_close(found[[i]].detach(), expected, rtol=1e-12, atol=1e-12)


def test_only_networks_that_serve_a_time_are_evaluated(make_experts):
    exported, cases = make_experts()
    asked = []
    for index, expert in enumerate(exported.experts):
        expert.register_forward_hook(lambda *_, index=index: asked.append(index))
    exported.score(cases[0].x, torch.tensor([0.3, 0.2, 0.3, 0.4]).double())
    exported.score(cases[0].x, torch.tensor([0.9, 0.2, 0.9, 0.4]).double())
    assert asked == [1, 1, 2]


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_borders_are_rounded_like_the_times(make_experts, given):
    exported, cases = make_experts(torch.float32)
    x, t = cases[0].x.to(given), torch.tensor([0.1, 0.5, 0.1, 0.5], dtype=given)
    found = exported.score(x, t).detach()
    assert found.dtype == given
    for i in range(4):
        network = cases[i % 2].model
        expected = network.score(x[[i]].float(), t[[i]].float()).detach().to(given)
        torch.testing.assert_close(found[[i]], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_only_invariant_energies_are_centred(make_case, centred):
    # Of which network the energy is, the first expert does not tell.
    exported = ExportedModel(
        [make_case("graph" if not centred else "mlp-beads").model],
        [],
        TwoSprings(),
        centred=centred,
        n_beads=2,
        scale=0.1,
        thermal_energy=2.0,
    )
    positions = torch.tensor([[0.1, 0, 0], [0.3, 0, 0]]).double()
    # In units of 0.1 nm, from (1, 3), or from (-1, 1).
    assert float(exported(positions)) == pytest.approx(2.0 * (3.0 * 4.0 + 1.0))
    moved = float(exported(positions + 0.2))
    assert (moved == pytest.approx(26.0)) == centred
