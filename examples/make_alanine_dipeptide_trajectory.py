"""An equilibrium trajectory of alanine dipeptide, from nothing.

Training needs frames in their Boltzmann proportions. Plain simulation gives poor ones: the molecule
crosses to phi > 0 once in many nanoseconds. Here a static bias V(phi) makes it cross freely, and
every frame is then weighted by exp(V / kT), which undoes the bias exactly.

    python examples/make_alanine_dipeptide_trajectory.py runs/alanine_dipeptide

takes about 100 minutes on one core and leaves ``trajectory.dcd`` (50,000 all-atom frames whose
order carries no time), ``topology.pdb`` and ``run.json``. It may be stopped at any moment, however
rudely: the same command goes on from the last piece that was finished, to the same result.
``--smoke`` runs a few picoseconds, to see that everything works. Frames of large weight are in it
several times, which ``coarse-grain`` has to be told is meant:

    scoremd coarse-grain --help    # --preset alanine-dipeptide --temperature 300 --force
"""

# %%
from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import mdtraj
import numpy as np
import numpy.typing as npt
import openmm as mm
from openmm import app, unit
from rich.progress import Progress, TimeRemainingColumn

from openmm_scoremd._files.atomic import atomic_path, write_json
from openmm_scoremd._files.run_record import write_run_record
from openmm_scoremd.geometry import center, dihedrals
from openmm_scoremd.units import thermal_energy

Array: TypeAlias = npt.NDArray[np.float64]

START = Path(__file__).parent / "data" / "alanine_dipeptide.pdb"
PHI = (4, 6, 8, 14)
PSI = (6, 8, 14, 16)
TEMPERATURE = 300.0  # K
KT = thermal_energy(TEMPERATURE)  # kJ/mol
FRICTION = 1.0  # 1/ps
TIMESTEP = 0.001  # ps
BIAS_POINTS = 72  # nodes of V(phi), from phi = 0
BIAS_GROUP = 1  # force group, so that the bias energy can be asked for alone


# %% [markdown]
# ## How long
#
# Everything is made in pieces, each of which starts from the last state of the one before, with
# its own random seed. A piece is written when it is finished, whole or not at all; that is all that
# resuming needs.


# %%
@dataclasses.dataclass(frozen=True)
class Protocol:
    """Lengths of the run; times are in ps."""

    n_rounds: int = 14
    round_time: float = 500.0
    n_pieces: int = 312
    piece_time: float = 250.0
    frame_time: float = 0.5
    n_frames: int = 50_000
    damping: float = 0.8
    n_harmonics: int = 10
    seed: int = 1
    platform: str = "Reference"

    @property
    def steps_per_frame(self) -> int:
        """Steps between two frames."""
        return round(self.frame_time / TIMESTEP)


SMOKE = Protocol(n_rounds=3, round_time=2.0, n_pieces=6, piece_time=2.5, n_frames=20)


# %% [markdown]
# ## The molecule and its bias
#
# The force field of the paper's data: amber99sb-ildn with OBC implicit solvent, no cutoff, no
# constraints. The bias is a Fourier series, so its terms are torsions. (A CMAP force would take any
# profile, but OpenMM's Reference platform copies its map at every step: 300 us of 360.)


# %%
@functools.cache
def molecule() -> tuple[app.PDBFile, mm.System]:
    """Return start frame and topology, and the system without bias."""
    pdb = app.PDBFile(str(START))
    force_field = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    system = force_field.createSystem(
        pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )
    return pdb, system


def fourier_series(bias: Array) -> tuple[Array, Array]:
    """Return amplitudes, kJ/mol, and phases of cos(k phi - phase), k = 1, 2, ..., of V(phi)."""
    series = 2.0 * np.fft.rfft(bias)[1 : (len(bias) + 1) // 2] / len(bias)
    return np.abs(series), -np.angle(series)


def add_bias(system: mm.System, bias: Array) -> mm.System:
    """Return a copy with the bias V(phi), kJ/mol, given at equally spaced nodes from 0."""
    system = copy.deepcopy(system)
    force = mm.PeriodicTorsionForce()
    for k, (amplitude, phase) in enumerate(zip(*fourier_series(bias), strict=True), start=1):
        if amplitude > 1e-9:
            force.addTorsion(*PHI, k, phase, amplitude)
    force.setForceGroup(BIAS_GROUP)
    system.addForce(force)
    return system


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of simulation: centred frames, their bias energies, and where it stopped."""

    frames: npt.NDArray[np.float32]  # (n, 22, 3), nm
    bias_energies: Array  # (n,), kJ/mol
    positions: Array  # (22, 3), nm
    velocities: Array  # (22, 3), nm/ps


def start_state(protocol: Protocol) -> tuple[Array, Array]:
    """Return positions after minimisation and thermal velocities."""
    simulation = _simulation(np.zeros(BIAS_POINTS), protocol, seed=protocol.seed)
    simulation.context.setPositions(molecule()[0].positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE * unit.kelvin, protocol.seed)
    return _state(simulation)


def simulate(
    start: tuple[Array, Array], bias: Array, n_frames: int, protocol: Protocol, *, seed: int
) -> Piece:
    """Simulate from a state and keep a frame, and its exact bias energy, every ``frame_time``."""
    simulation = _simulation(bias, protocol, seed=seed)
    # Centred, because the molecule drifts away and single precision would lose digits.
    simulation.context.setPositions(center(start[0]))
    simulation.context.setVelocities(start[1])
    # A torsion's energy is zero where it is lowest, V's is zero on average.
    excess = fourier_series(bias)[0].sum()
    frames, energies = [], []
    for _ in range(n_frames):
        simulation.step(protocol.steps_per_frame)
        state = simulation.context.getState(positions=True, energy=True, groups={BIAS_GROUP})
        frames.append(center(_positions(state)).astype(np.float32))
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        energies.append(energy - excess)
    return Piece(np.stack(frames), np.array(energies), *_state(simulation))


def _simulation(bias: Array, protocol: Protocol, *, seed: int) -> app.Simulation:
    integrator = mm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIMESTEP)
    integrator.setRandomNumberSeed(seed)
    platform = mm.Platform.getPlatformByName(protocol.platform)
    pdb, system = molecule()
    return app.Simulation(pdb.topology, add_bias(system, bias), integrator, platform)


def _state(simulation: app.Simulation) -> tuple[Array, Array]:
    state = simulation.context.getState(positions=True, velocities=True)
    velocities = state.getVelocities(asNumpy=True)
    return _positions(state), np.array(velocities.value_in_unit(unit.nanometer / unit.picosecond))


def _positions(state: mm.State) -> Array:
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))


# %% [markdown]
# ## Finding the bias
#
# After every round V gains a part of kT ln h(phi), h being the histogram of the round. Where the
# molecule went often V rises, until it goes everywhere. A floor under h keeps one round from
# digging too deep where the molecule has not been, and few harmonics keep V smooth and periodic.
# V need not be converged: any static V is undone exactly.


# %%
def flatten(bias: Array, frames: npt.NDArray[Any], protocol: Protocol) -> Array:
    """Return the bias after one round of damped histogram flattening."""
    spacing = 2.0 * np.pi / BIAS_POINTS
    phi = dihedrals(frames, [PHI])[:, 0]
    nodes = np.round(phi / spacing).astype(int) % BIAS_POINTS
    counts = np.bincount(nodes, minlength=BIAS_POINTS)
    floor = 0.05 * counts.mean()
    change = np.fft.rfft(KT * np.log((counts + floor) / (counts.mean() + floor)))
    change[protocol.n_harmonics + 1 :] = 0.0
    change[0] = 0.0
    return np.asarray(bias + protocol.damping * np.fft.irfft(change, BIAS_POINTS))


# %% [markdown]
# ## From biased frames to equilibrium frames
#
# Systematic resampling: one random number, then equal steps through the cumulative weights. A frame
# of weight w comes up floor(w n) or ceil(w n) times, the least noisy choice there is.


# %%
def resample(bias_energies: Array, n: int, generator: np.random.Generator) -> tuple[Array, Any]:
    """Return normalised weights exp(V / kT) and n frame indices drawn by them, shuffled."""
    weights = np.exp((bias_energies - bias_energies.max()) / KT)
    weights /= weights.sum()
    places = (np.arange(n) + generator.random()) / n
    chosen = np.searchsorted(np.cumsum(weights), places).clip(max=len(weights) - 1)
    return weights, generator.permutation(chosen)


def populations(frames: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return for every frame whether phi > 0, and whether it is in the alpha-right region."""
    phi, psi = dihedrals(frames, [PHI, PSI]).T
    return phi > 0.0, (phi < 0.0) & (np.radians(-120.0) < psi) & (psi < np.radians(50.0))


# %% [markdown]
# ## Pieces on disk


# %%
def save_piece(path: Path, piece: Piece, **extra: Array) -> None:
    """Write a piece, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **vars(piece), **extra)


def load_piece(path: Path) -> Piece:
    """Read a piece."""
    with np.load(path, allow_pickle=False) as content:
        return Piece(**{field.name: content[field.name] for field in dataclasses.fields(Piece)})


def find_bias(
    folder: Path, protocol: Protocol, progress: Progress
) -> tuple[Array, tuple[Array, Array]]:
    """Run the rounds that are missing; return the bias and the state after the last one."""
    bias, state = np.zeros(BIAS_POINTS), start_state(protocol)
    n_frames = round(protocol.round_time / protocol.frame_time)
    task = progress.add_task("finding the bias", total=protocol.n_rounds)
    for index in range(protocol.n_rounds):
        path = folder / f"round-{index:03d}.npz"
        if not path.exists():
            piece = simulate(state, bias, n_frames, protocol, seed=1000 * protocol.seed + index)
            save_piece(path, piece, bias=flatten(bias, piece.frames, protocol))
        with np.load(path) as content:
            bias, state = content["bias"], (content["positions"], content["velocities"])
        progress.advance(task)
    return bias, state


def produce(
    folder: Path, bias: Array, state: tuple[Array, Array], protocol: Protocol, progress: Progress
) -> Piece:
    """Run the pieces that are missing; return all of them as one."""
    n_frames = round(protocol.piece_time / protocol.frame_time)
    task = progress.add_task("production", total=protocol.n_pieces)
    pieces = []
    for index in range(protocol.n_pieces):
        path = folder / f"piece-{index:04d}.npz"
        if not path.exists():
            seed = 1000 * protocol.seed + protocol.n_rounds + index
            save_piece(path, simulate(state, bias, n_frames, protocol, seed=seed))
        pieces.append(load_piece(path))
        state = (pieces[-1].positions, pieces[-1].velocities)
        progress.advance(task)
    frames = np.concatenate([piece.frames for piece in pieces])
    return Piece(frames, np.concatenate([piece.bias_energies for piece in pieces]), *state)


def begin(output: Path, protocol: Protocol) -> Path:
    """Return the folder of the pieces; refuse folders of others and pieces of other settings."""
    path, settings = output / "pieces" / "settings.json", dataclasses.asdict(protocol)
    if not path.exists():
        if output.exists() and any(output.iterdir()):
            raise SystemExit(f"{output} holds other files; give a new or empty folder")
        write_json(path, settings)
    if json.loads(path.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{output} was begun with other settings; give another folder")
    return path.parent


# %% [markdown]
# ## All of it


# %%
def write_results(output: Path, bias: Array, run: Piece, protocol: Protocol) -> dict[str, Any]:
    """Reweight, write the trajectory and what is known about it."""
    generator = np.random.default_rng(protocol.seed)
    weights, chosen = resample(run.bias_energies, protocol.n_frames, generator)
    frames = run.frames[chosen]
    with atomic_path(output / "trajectory.dcd") as temporary:
        mdtraj.Trajectory(frames, mdtraj.load_topology(START)).save_dcd(str(temporary))
    with atomic_path(output / "topology.pdb") as temporary:
        shutil.copyfile(START, temporary)
    by_weights = [float(weights[region].sum()) for region in populations(run.frames)]
    in_frames = [float(region.mean()) for region in populations(frames)]
    results = {
        "frames": protocol.n_frames,
        "distinct_fraction": len(np.unique(chosen)) / protocol.n_frames,
        "simulated_frames": len(weights),
        "effective_sample_size": float(1.0 / (weights**2).sum()),
        "phi_above_zero": {"by_weights": by_weights[0], "in_frames": in_frames[0]},
        "alpha_right": {"by_weights": by_weights[1], "in_frames": in_frames[1]},
        "bias_kj_per_mol": bias,
    }
    write_run_record(
        output,
        arguments=dataclasses.asdict(protocol),
        seeds={"seed": protocol.seed},
        inputs={"start": START, "trajectory": output / "trajectory.dcd"},
        results=results,
    )
    return results


def make_trajectory(output: Path, protocol: Protocol) -> dict[str, Any]:
    """Make the trajectory, or go on making it."""
    folder = begin(output, protocol)
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn()) as progress:
        bias, state = find_bias(folder, protocol, progress)
        run = produce(folder, bias, state, protocol, progress)
    return write_results(output, bias, run, protocol)


def parse_arguments() -> tuple[Path, Protocol]:
    """Return the output folder and the protocol from the command line."""
    parser = argparse.ArgumentParser(description="Make an equilibrium trajectory.")
    parser.add_argument("output", type=Path, help="folder of the results; goes on if begun")
    parser.add_argument("--smoke", action="store_true", help="a few ps only, to test the script")
    parser.add_argument("--seed", type=int, default=1, help="from 1 to 2000000 (default 1)")
    parser.add_argument("--frames", type=int, help="frames to keep (default 50000)")
    parser.add_argument("--platform", default="Reference", choices=_platforms())
    options = parser.parse_args()
    if not 1 <= options.seed <= 2_000_000:
        parser.error(f"--seed is {options.seed}; it must lie in 1..2000000")
    if options.frames is not None and options.frames < 1:
        parser.error(f"--frames is {options.frames}; it must be at least 1")
    protocol = SMOKE if options.smoke else Protocol()
    return options.output, dataclasses.replace(
        protocol,
        seed=options.seed,
        platform=options.platform,
        n_frames=options.frames or protocol.n_frames,
    )


def _platforms() -> list[str]:
    return [mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms())]


# %%
if __name__ == "__main__":
    folder, chosen_protocol = parse_arguments()
    summary = make_trajectory(folder, chosen_protocol)
    print(
        f"{folder / 'trajectory.dcd'}: {summary['frames']} frames, "
        f"{summary['distinct_fraction']:.0%} distinct; effective sample size "
        f"{summary['effective_sample_size']:.0f} of {summary['simulated_frames']}; "
        f"P(phi > 0) = {summary['phi_above_zero']['in_frames']:.4f}"
    )
