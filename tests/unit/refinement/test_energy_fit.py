"""One round of refinement, on an energy of two states that a barrier parts."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, NumericalError
from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.refinement.energy_fit import (
    EnergyFit,
    FitSettings,
    Frames,
    SimulatedFrames,
    _Regions,
)

SETTINGS = FitSettings(iterations=200, learning_rate=0.05, frames=256, denoising_weight=0.0)


class TwoStates(EnergyModel):
    """Harmonic wells at x = -1 and x = 1; ``depth`` is how much deeper the left one is."""

    translation_invariant = False

    def __init__(self, depth):
        super().__init__(n_beads=1, n_dims=2, t_min=0.0, t_max=1.0)
        self.depth = nn.Parameter(torch.tensor(depth))

    def energy(self, x, t, features=None):
        point = x[:, 0]
        to_well = (point[:, 0].abs() - 1.0) ** 2 + point[:, 1] ** 2
        return 20.0 * to_well - self.depth * (point[:, 0] < 0)


class Ellipsoid(EnergyModel):
    """An energy that depends on how a molecule is turned, and what it was asked for."""

    translation_invariant = False

    def __init__(self):
        super().__init__(n_beads=4, n_dims=3, t_min=0.0, t_max=1.0)
        self.stiffness = nn.Parameter(torch.tensor([0.1, 1.0, 3.0]))
        self.seen = []

    def energy(self, x, t, features=None):
        self.seen.append(x.detach().clone())
        return (self.stiffness * x**2).sum(dim=(1, 2))


def draws(depth, n, *, seed):
    """Frames of the density of ``TwoStates(depth)``."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.rand(n, generator=generator) < 1.0 / (1.0 + math.exp(-depth))
    points = torch.randn(n, 2, generator=generator) / math.sqrt(40.0)
    points[:, 0] = torch.where(left, -1.0, 1.0) * (1.0 + points[:, 0])
    return Frames(points[:, None], (points[:, 0] < 0).long())


def fit(model, settings=SETTINGS, *, augmentation="none", seed=0):
    return EnergyFit(
        model,
        schedule=VPSchedule(),
        t=1e-5,
        times=lambda uniform: 0.1 * uniform,
        augmentation=augmentation,
        settings=settings,
        seed=seed,
    )


class TestRun:
    @pytest.mark.parametrize("region_weight", [0.0, 1.0])
    def test_finds_the_depth_of_the_data(self, region_weight):
        model = TwoStates(0.0)
        settings = dataclasses.replace(SETTINGS, region_weight=region_weight)
        report = fit(model, settings).run(draws(1.5, 20_000, seed=1), draws(0.0, 20_000, seed=2))
        assert model.depth.item() == pytest.approx(1.5, abs=0.1)
        assert report.regions == 2
        # Populations 0.82 and 0.18 against 0.5 each, before.
        expected = math.sqrt((math.log(0.8176 / 0.5) ** 2 + math.log(0.1824 / 0.5) ** 2) / 2)
        assert report.mismatch == pytest.approx(expected, abs=0.05)
        # Weights 2 x 0.82 and 2 x 0.18 on half of the frames each.
        assert report.effective_fraction == pytest.approx(0.71, abs=0.05)

    def test_leaves_the_right_energy_alone(self):
        model = TwoStates(1.0)
        fit(model).run(draws(1.0, 20_000, seed=1), draws(1.0, 20_000, seed=2))
        assert model.depth.item() == pytest.approx(1.0, abs=0.1)

    def test_same_seed_same_result(self):
        results = []
        for seed in (0, 0, 1):
            model = TwoStates(0.0)
            data, simulated = draws(1.5, 500, seed=1), draws(0.0, 500, seed=2)
            fit(model, dataclasses.replace(SETTINGS, iterations=5), seed=seed).run(data, simulated)
            results.append(model.depth.item())
        assert results[0] == results[1] != results[2]

    def test_denoising_keeps_the_score(self):
        model = TwoStates(0.0)
        seen = []
        score = model.score
        model.score = lambda x, t: seen.append(t) or score(x, t)
        settings = dataclasses.replace(SETTINGS, iterations=3, denoising_weight=1.0)
        fit(model, settings).run(draws(0.5, 500, seed=1), draws(0.0, 500, seed=2))
        assert [len(t) for t in seen] == [96] * 3
        assert all(float(t.min()) >= 0.0 and float(t.max()) <= 0.1 for t in seen)

    def test_denoising_is_summed_over_coordinates(self, monkeypatch):
        monkeypatch.setattr(
            "openmm_scoremd.refinement.energy_fit.denoising_score_matching_loss",
            lambda *_args, t, **_options: torch.full_like(t, 3.0),
        )
        loss = fit(TwoStates(0.0))._denoising(draws(0.0, 500, seed=1).positions)
        assert loss.item() == pytest.approx(6.0)  # one bead in a plane

    def test_learning_rate_rises_over_a_tenth_and_falls_to_zero(self, monkeypatch):
        rates = []

        class Spy(torch.optim.Adam):
            def step(self):
                rates.append(self.param_groups[0]["lr"] / 0.05)
                super().step()

        monkeypatch.setattr(torch.optim, "Adam", Spy)
        settings = dataclasses.replace(SETTINGS, iterations=20)
        fit(TwoStates(0.0), settings).run(draws(0.5, 500, seed=1), draws(0.0, 500, seed=2))
        assert rates[:2] == pytest.approx([0.25, 0.75])
        assert rates[2] > 0.99
        assert sorted(rates[2:], reverse=True) == rates[2:]
        assert 0.0 < rates[-1] < 0.01
        assert rates[10] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 0.425 / 0.9))

    @pytest.mark.parametrize("augmentation", ["rotation", "none"])
    def test_frames_are_turned_as_in_training(self, augmentation):
        model = Ellipsoid()
        generator = torch.Generator().manual_seed(0)
        positions = torch.randn(2, 200, 4, 3, generator=generator)
        data, simulated = (Frames(x, torch.arange(200) % 2) for x in positions)
        settings = dataclasses.replace(SETTINGS, iterations=2, learning_rate=0.0)
        report = fit(model, settings, augmentation=augmentation).run(data, simulated)
        # Energies before belong to the frames as they are turned: without a change, all count.
        assert report.effective_fraction == pytest.approx(1.0, abs=1e-5)
        seen, given = torch.cat(model.seen), positions.flatten(0, 1)
        sizes = given.square().sum(dim=(1, 2))
        found = (seen.square().sum(dim=(1, 2))[:, None] - sizes).abs().min(dim=1)
        torch.testing.assert_close(found.values, torch.zeros(len(seen)), atol=1e-4, rtol=0.0)
        distance = (seen - given[found.indices]).abs().amax(dim=(1, 2))
        if augmentation == "none":
            assert float(distance.max()) == 0.0
        else:
            assert float((distance > 0.01).double().mean()) > 0.99

    def test_progress(self):
        calls = []
        settings = dataclasses.replace(SETTINGS, iterations=3)
        fit(TwoStates(0.0), settings).run(
            draws(0.5, 500, seed=1),
            draws(0.0, 500, seed=2),
            progress=lambda *call: calls.append(call),
        )
        assert calls == [(1, 3), (2, 3), (3, 3)]


class TestRegions:
    def test_rare_ones_are_left_out(self):
        data, simulated = draws(0.5, 500, seed=1), draws(0.0, 500, seed=2)
        data.region[:5] = 2
        settings = dataclasses.replace(SETTINGS, iterations=1)
        for count, expected in ((settings.region_frames - 1, 2), (settings.region_frames, 3)):
            region = simulated.region.clone()
            region[:count] = 2
            report = fit(TwoStates(0.0), settings).run(data, Frames(simulated.positions, region))
            assert report.regions == expected

    def test_frames_are_of_simulation_and_data(self):
        generator = torch.Generator().manual_seed(0)
        simulated = torch.randint(3, (300,), generator=generator)
        data = torch.randint(3, (200,), generator=generator)
        drawn = _Regions(data, simulated, 20).draw(generator)
        assert drawn.shape == (3, 40)
        of_simulation, of_data = drawn.split(20, 1)
        own = torch.arange(3)[:, None].expand(3, 20)
        assert torch.equal(simulated[of_simulation], own)
        # The data's frames follow the simulation's.
        assert torch.equal(data[of_data - 300], own)


class TestPooled:
    def test_earlier_rounds_are_reweighted(self):
        model = TwoStates(1.0)
        first = draws(0.0, 30_000, seed=1)
        last = draws(1.0, 30_000, seed=2)
        before, now = (
            SimulatedFrames(of.positions, of.region, by.energy(of.positions, 0).detach())
            for of, by in ((first, TwoStates(0.0)), (last, model))
        )
        for earlier in ([before], [before, before], []):
            pooled = fit(model).pooled(earlier, now)
            assert len(pooled.positions) == 30_000
            left = (pooled.positions[:, 0, 0] < 0).double().mean()
            assert float(left) == pytest.approx(1.0 / (1.0 + math.exp(-1.0)), abs=0.01)
            torch.testing.assert_close(pooled.region, (pooled.positions[:, 0, 0] < 0).long())

    def test_all_simulations_are_drawn_from(self):
        # Marks that no energy depends on say where a frame is from.
        frames = draws(0.0, 3_000, seed=1)
        energy = TwoStates(0.0).energy(frames.positions, 0).detach()
        earlier, last = (
            SimulatedFrames(frames.positions, torch.full_like(frames.region, mark), energy)
            for mark in (5, 7)
        )
        pooled = fit(TwoStates(0.0)).pooled([earlier], last)
        assert (pooled.region == 5).double().mean().item() == pytest.approx(0.5, abs=0.05)
        # Simulated with quite another energy, few frames count.
        noise = torch.randn(3_000, generator=torch.Generator().manual_seed(0))
        far = dataclasses.replace(earlier, energy=energy + 20.0 * noise)
        pooled = fit(TwoStates(0.0)).pooled([far], last)
        assert (pooled.region == 5).double().mean().item() < 0.01


class TestErrors:
    def test_no_region_in_common(self):
        data, simulated = draws(0.0, 500, seed=1), draws(0.0, 500, seed=2)
        far = Frames(simulated.positions, torch.full_like(simulated.region, 7))
        with pytest.raises(NumericalError, match="in 0 of the data's regions; simulate longer"):
            fit(TwoStates(0.0)).run(data, far)

    def test_loss_that_is_not_finite(self):
        model = TwoStates(float("nan"))
        with pytest.raises(NumericalError, match="not finite at iteration 0; lower learning_rate"):
            fit(model).run(draws(0.0, 500, seed=1), draws(0.0, 500, seed=2))

    @pytest.mark.parametrize(
        "change",
        [{"iterations": 0}, {"frames": -1}, {"learning_rate": math.nan}, {"region_weight": -1.0}],
    )
    def test_settings_out_of_range(self, change):
        (name,) = change
        with pytest.raises(ConfigurationError, match=f"{name} is"):
            FitSettings(**change)
