"""Trajectories in nm from the score of a model: overdamped Langevin dynamics without OpenMM."""

from __future__ import annotations

import dataclasses
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.artifact.metadata import ModelMetadata
from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.overdamped_langevin import (
    sample_denoising_trajectory,
    sample_time_parallel_trajectory,
)
from openmm_scoremd.diffusion.sampler import Progress
from openmm_scoremd.diffusion.step_size import largest_curvature, physical_timestep, require_stable
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.sampling.reverse_diffusion import draw_frames

FloatArray: TypeAlias = NDArray[np.float64]

#: Step size times largest curvature if no step size is given: variances 5 % too large at worst.
DEFAULT_STIFFNESS_SHARE: Final = 0.1

# Frames at which the curvature is looked for; between molecules it varies little.
_CURVATURE_FRAMES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectorySettings:
    """How chains move.

    Attributes
    ----------
    t : float, optional
        Diffusion time; that of the model's force if not given. Frames follow the data blurred to
        this time.
    step_size : float, optional
        Step in squared standardised units, see :mod:`openmm_scoremd.diffusion.step_size`; if not
        given, 0.1 over the largest curvature found at the start.
    steps_per_frame : int
        Steps from one frame to the next.
    temperature_ratio : float
        Temperature of the noise over the model's.
    window : int
        Steps computed together; 1 means one after another.
    tolerance : float
        With a window: change in standardised units below which a coordinate is final.
    """

    t: float | None = None
    step_size: float | None = None
    steps_per_frame: int = 100
    temperature_ratio: float = 1.0
    window: int = 1
    tolerance: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Frames of chains, and how they were made.

    Attributes
    ----------
    positions : ndarray, shape (chains, frames, N, 3), nm
        Frames; centred if the model is translation invariant, 2-D models have z = 0.
    t : float
        Diffusion time.
    step_size : float
        Step in squared standardised units.
    curvature : float
        Largest curvature found at the start, inverse squared standardised units.
    n_steps : int
        Steps of every chain.
    score_calls : int
        Calls of the score, one after another; fewer than steps if a window was computed together.
    """

    positions: FloatArray
    t: float
    step_size: float
    curvature: float
    n_steps: int
    score_calls: int


def draw_start(
    score_fn: ScoreFunction,
    metadata: ModelMetadata,
    n: int,
    *,
    generator: torch.Generator,
    t: float | None = None,
) -> FloatArray:
    """Draw independent frames and blur them to the diffusion time of a trajectory.

    They follow the stationary law of the chains, which therefore need no equilibration.

    Parameters
    ----------
    t : float, optional
        Diffusion time; that of the model's force if not given.
    score_fn, metadata, n, generator
        As in :func:`openmm_scoremd.sampling.reverse_diffusion.draw_frames`.

    Returns
    -------
    ndarray, shape (n, N, 3), nm
        One start per chain.

    Raises
    ------
    InvalidInputError
        If a number is out of range.
    NumericalError
        If frames are not finite.
    """
    time = torch.full((n,), checked_time(metadata, t), dtype=torch.float64)
    frames = draw_frames(score_fn, metadata, n, generator=generator)
    x0 = metadata.to_network(frames)
    noise = torch.randn(
        x0.shape, generator=generator, device=generator.device, dtype=torch.float64
    ).cpu()
    blurred = metadata.schedule.noise_sample(x0, time, metadata.centred(noise))
    return np.asarray(metadata.to_nanometers(blurred))


def draw_trajectory(
    score_fn: ScoreFunction,
    metadata: ModelMetadata,
    start: FloatArray | int,
    n_frames: int,
    *,
    generator: torch.Generator,
    settings: TrajectorySettings | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """Move frames by overdamped Langevin dynamics with the score at a fixed diffusion time.

    Parameters
    ----------
    score_fn : callable
        The model's score in standardised coordinates.
    metadata : ModelMetadata
        Scale, precision and topology of the model.
    start : ndarray, shape (chains, N, 3), nm, or int
        Start of every chain, or the number of chains, which then start from :func:`draw_start`.
    n_frames : int
        Frames of every chain; the start is not among them.
    generator : torch.Generator
        Source of the noise, on the device of the model.
    settings : TrajectorySettings, optional
        Diffusion time, steps and window.
    progress : callable, optional
        Called as ``progress(steps_done, steps_in_all)``.

    Returns
    -------
    Trajectory
        Frames and what made them.

    Raises
    ------
    InvalidInputError
        If a number or shape is out of range, or the step size is too large to be stable.
    NumericalError
        If a chain becomes NaN or infinite.
    """
    settings = TrajectorySettings() if settings is None else settings
    t = checked_time(metadata, settings.t)
    if isinstance(start, (int, np.integer)):
        start = draw_start(score_fn, metadata, start, generator=generator, t=t)
    x0 = _standardised(start, metadata).to(generator.device)
    curvature = largest_curvature(score_fn, x0[:_CURVATURE_FRAMES], t=t)
    step_size = _step_size(settings, curvature)
    require_stable(step_size, curvature)
    n_steps = calls = n_frames * settings.steps_per_frame
    if settings.window == 1:
        frames = sample_denoising_trajectory(
            score_fn,
            x0,
            t=t,
            step_size=step_size,
            n_frames=n_frames,
            generator=generator,
            steps_per_frame=settings.steps_per_frame,
            temperature_ratio=settings.temperature_ratio,
            project=metadata.centred,
            progress=progress,
        )
    else:
        found = sample_time_parallel_trajectory(
            score_fn,
            x0,
            t=t,
            step_size=step_size,
            n_frames=n_frames,
            generator=generator,
            window=settings.window,
            steps_per_frame=settings.steps_per_frame,
            tolerance=settings.tolerance,
            temperature_ratio=settings.temperature_ratio,
            project=metadata.centred,
            progress=progress,
        )
        frames, calls = found.frames, found.iterations
    positions = metadata.to_nanometers(frames).cpu().numpy()
    return Trajectory(positions, t, step_size, curvature, n_steps, calls)


def trajectory_timestep(metadata: ModelMetadata, step_size: float, *, friction: float) -> float:
    """Return the time in ps that one step stands for.

    Overdamped dynamics with one step size has one product of mass and friction for all beads. The
    friction given is that of a bead of the mean mass; a bead of mass m has the friction
    ``friction * mean mass / m``.

    Parameters
    ----------
    metadata : ModelMetadata
        Masses, scale and temperature of the model.
    step_size : float
        Step in squared standardised units.
    friction : float
        In 1/ps, for the mean bead mass.

    Raises
    ------
    InvalidInputError
        If a number is not positive and finite.
    """
    return physical_timestep(
        step_size,
        mass=mean_mass(metadata),
        friction=friction,
        scale=metadata.scale,
        thermal_energy=metadata.thermal_energy,
    )


def mean_mass(metadata: ModelMetadata) -> float:
    """Return the mean bead mass in dalton."""
    return float(np.mean(metadata.topology.masses))


def checked_time(metadata: ModelMetadata, t: float | None) -> float:
    """Return a diffusion time that the model knows; that of its force for None.

    Raises
    ------
    InvalidInputError
        If the score cannot be asked for it.
    """
    time = metadata.t if t is None else t
    if not metadata.t_min <= time <= 1.0:
        raise InvalidInputError(
            f"t is {time}; the score of this model can be asked for diffusion times from "
            f"{metadata.t_min:g} to 1"
        )
    return time


def _step_size(settings: TrajectorySettings, curvature: float) -> float:
    if settings.step_size is not None:
        return settings.step_size
    if curvature == 0.0:
        raise InvalidInputError("the score has no curvature to choose a step size by; give one")
    return DEFAULT_STIFFNESS_SHARE / curvature


def _standardised(start: FloatArray, metadata: ModelMetadata) -> Tensor:
    frames = np.asarray(start, dtype=np.float64)
    if frames.ndim != 3 or frames.shape[1:] != (metadata.n_beads, 3):
        raise InvalidInputError(
            f"start has shape {frames.shape}; it must be (chains, {metadata.n_beads}, 3)"
        )
    return metadata.to_network(frames).to(getattr(torch, metadata.dtype))
