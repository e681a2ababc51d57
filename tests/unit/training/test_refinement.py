"""One round of refinement, on an energy of two states that a barrier parts."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, NumericalError
from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.training.refinement import EnergyFit, FitSettings, Frames, SimulatedFrames

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

    def test_progress(self):
        calls = []
        settings = dataclasses.replace(SETTINGS, iterations=3)
        fit(TwoStates(0.0), settings).run(
            draws(0.5, 500, seed=1),
            draws(0.0, 500, seed=2),
            progress=lambda *call: calls.append(call),
        )
        assert calls == [(1, 3), (2, 3), (3, 3)]


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
        far = dataclasses.replace(earlier, energy=energy + 20.0 * torch.randn(3_000))
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
