"""Potentials with a factor and a diffusion time, by the density of two Gaussians."""

import logging

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from openmm_scoremd.artifact.noise_levels import SCALE_PARAMETER, TIME_PARAMETER, checked_scale
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.forces.create import create_force
from openmm_scoremd.forces.torchforce import load_torchforce_plugin
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.units import thermal_energy

SCALE, KT = 0.09, thermal_energy(310.0)


def _torchforce_problem():
    try:
        load_torchforce_plugin()
    except MissingDependencyError as error:
        return str(error)
    return ""


PROBLEM = _torchforce_problem()
BACKENDS = [
    pytest.param("torchforce", marks=pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM)),
    "pythonforce",
    "kernel",
]


def blurred_energies(frames, t):
    """Energies, kJ/mol, of the data blurred by the noise of ``t``; positions (F, 1, 3) in nm."""
    schedule, time = VPSchedule(), torch.tensor(t, dtype=torch.float64)
    noise = float(schedule.sigma(time) / schedule.alpha(time))
    variance = 0.2**2 + noise**2
    x, y = frames[:, 0, 0] / SCALE, frames[:, 0, 1] / SCALE
    density = sum(
        weight * np.exp(-0.5 * ((x - centre) ** 2 + y**2) / variance)
        for weight, centre in ((0.75, -1.0), (0.25, 1.0))
    )
    return -KT * np.log(density)


@pytest.fixture
def frames():
    return np.random.default_rng(0).normal(scale=0.06, size=(6, 1, 3))


def context_of(force, n_particles):
    system = openmm.System()
    for _ in range(n_particles):
        system.addParticle(12.0)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform)


def evaluate(context, positions):
    context.setPositions(positions.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    per_nm = unit.kilojoule_per_mole / unit.nanometer
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        np.array(state.getForces(asNumpy=True).value_in_unit(per_nm)),
    )


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.05, 0.3, 1.0])
def test_energies_are_those_of_blurred_data(two_wells, frames, t):
    model = ScoreModelFile(two_wells(dtype="float64"))
    found = model.potential_energy(frames, t=t)
    expected = blurred_energies(frames, t)
    assert found.shape == (6,)
    # Each time has a constant of its own.
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-6)
    assert model.potential_energy(frames[0], t=t) == pytest.approx(found[0])


def test_energies_at_the_time_of_the_force_are_those_of_the_force(two_wells, frames):
    model = ScoreModelFile(two_wells(dtype="float64"))
    # But for the shrinking by the noise of t = 1e-5, which the force leaves out.
    expected = model.potential_energy(frames)
    np.testing.assert_allclose(model.potential_energy(frames, t=1e-5), expected, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_force_follows_its_diffusion_time(two_wells, frames, backend):
    model = ScoreModelFile(two_wells(dtype="float64"))
    force = model.create_force(backend=backend, adjustable="scale-and-time")
    context = context_of(force, len(frames))
    assert context.getParameter(TIME_PARAMETER) == 1e-5
    for t, scale in ((1e-5, 1.0), (0.05, 1.0), (0.3, 0.5)):
        context.setParameter(TIME_PARAMETER, t)
        context.setParameter(SCALE_PARAMETER, scale)
        energy, forces = evaluate(context, frames)
        assert energy == pytest.approx(scale * model.potential_energy(frames, t=t).sum(), rel=1e-9)
        h = 1e-5
        for particle, axis in ((0, 0), (3, 1)):
            shifted = [frames.copy(), frames.copy()]
            shifted[0][particle, 0, axis] -= h
            shifted[1][particle, 0, axis] += h
            low, high = (scale * blurred_energies(moved, t).sum() for moved in shifted)
            expected = -(high - low) / (2 * h)
            assert forces[particle, axis] == pytest.approx(expected, rel=1e-5, abs=1e-3)
        np.testing.assert_array_equal(forces[:, 2], 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["graph", "mlp-beads"])
def test_factor_scales_energy_and_forces(make_trained, tmp_path, backend, kind):
    trained = make_trained(kind)
    path = export_torchscript(trained, tmp_path / "model.pt")
    n_beads = trained.description.topology.n_beads
    positions = np.random.default_rng(1).normal(scale=0.1, size=(2 * n_beads, 3))
    context = context_of(create_force(path, backend=backend, adjustable="scale"), 2 * n_beads)
    plain = context_of(create_force(path, backend=backend), 2 * n_beads)
    energy, forces = evaluate(plain, positions)
    assert list(plain.getParameters()) == []
    assert list(context.getParameters()) == [SCALE_PARAMETER]
    for scale in (1.0, 0.25, 3.0):
        context.setParameter(SCALE_PARAMETER, scale)
        found, found_forces = evaluate(context, positions)
        assert found == pytest.approx(scale * energy, rel=1e-5)
        np.testing.assert_allclose(
            found_forces, scale * forces, atol=1e-5 * np.abs(forces).max() * scale
        )


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_parameters_survive_xml(two_wells, frames, backend):
    force = create_force(two_wells(), backend=backend, adjustable="scale-and-time")
    expected, _ = evaluate(context_of(openmm.XmlSerializer.clone(force), len(frames)), frames)
    read = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
    context = context_of(read, len(frames))
    context.setParameter(SCALE_PARAMETER, 2.0)
    assert evaluate(context, frames)[0] == pytest.approx(2.0 * expected, rel=1e-6)


def test_the_kernel_has_one_time(two_wells, caplog):
    create_force(two_wells(), backend="kernel", adjustable="scale-and-time")
    assert "C++ kernel has one diffusion time only" in caplog.text


class TestTimes:
    def test_expert_without_energy(self, two_wells, direct_plane, two_wells_network, frames):
        experts = [
            Expert(two_wells_network(t_max=0.1), 1e-5, 0.1),
            Expert(direct_plane(), 0.1, 0.4),
            Expert(two_wells_network(t_min=0.4), 0.4, 1.0),
        ]
        model = ScoreModelFile(two_wells(TimePartitionedMixture(experts)))
        plain = ScoreModelFile(two_wells())
        for t in (1e-5, 0.1, 0.41, 1.0):
            found = model.potential_energy(frames, t=t)
            np.testing.assert_allclose(found, plain.potential_energy(frames, t=t), rtol=1e-5)
        for t in (0.11, 0.4):
            with pytest.raises(InvalidInputError, match=r"from 1e-05 to 0\.1, above 0\.4 to 1"):
                model.potential_energy(frames, t=t)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("end", [0.7, 0.1])
    def test_the_end_of_an_expert(
        self, two_wells, direct_plane, two_wells_network, frames, end, dtype
    ):
        # In float32 the boundary is rounded, 0.7 down and 0.1 up.
        experts = [Expert(two_wells_network(), 1e-5, end), Expert(direct_plane(), end, 1.0)]
        model = ScoreModelFile(two_wells(TimePartitionedMixture(experts), dtype=dtype))
        expected = ScoreModelFile(two_wells()).potential_energy(frames, t=end)
        np.testing.assert_allclose(model.potential_energy(frames, t=end), expected, rtol=1e-5)
        with pytest.raises(InvalidInputError, match=rf"it has from 1e-05 to {end}$"):
            model.potential_energy(frames, t=end + 1e-4)

    @pytest.mark.parametrize("t", [0.0, 1e-6, 1.5, float("nan"), -1.0])
    def test_outside(self, two_wells, frames, t):
        model = ScoreModelFile(two_wells())
        with pytest.raises(InvalidInputError, match="it has from 1e-05 to 1"):
            model.potential_energy(frames, t=t)

    @pytest.mark.parametrize("backend", BACKENDS[:2])
    def test_force_refuses_times_outside(self, two_wells, frames, backend):
        force = create_force(two_wells(), backend=backend, adjustable="scale-and-time")
        context = context_of(force, len(frames))
        context.setParameter(TIME_PARAMETER, 1.5)
        with pytest.raises(openmm.OpenMMException, match=r"diffusion time 1\.5"):
            evaluate(context, frames)


def test_files_without_other_times(toy):
    with pytest.raises(InvalidInputError, match="energies at one diffusion time only"):
        ScoreModelFile(toy.path).potential_energy(np.zeros((4, 3)), t=0.1)
    for backend in ("pythonforce", "torchforce"):
        if backend == "pythonforce" or not PROBLEM:
            with pytest.raises(InvalidInputError, match="energies at one diffusion time only"):
                create_force(toy.path, backend=backend, adjustable="scale-and-time")


def test_unknown_choice(toy):
    with pytest.raises(InvalidInputError, match="adjustable is 'time'"):
        create_force(toy.path, adjustable="time")


def test_warning_of_scaled_potentials(caplog):
    with caplog.at_level(logging.WARNING):
        assert checked_scale(1.0, 300.0) == 1.0
        assert not caplog.text
        assert checked_scale(0.5, 300.0) == 0.5
    assert "as if its temperature were 600 K" in caplog.text
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidInputError, match="must be positive"):
            checked_scale(scale, 300.0)
