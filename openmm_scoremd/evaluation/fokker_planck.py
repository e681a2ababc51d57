r"""How far a network is from the Fokker-Planck equation: where it is not to be trusted.

With :math:`R` the residual of :mod:`openmm_scoremd.diffusion.fokker_planck`, exact in time and
space, and :math:`D` the number of coordinates, two errors are told apart:

- the plain one, the mean of :math:`|R| / D` over noised data (arXiv 2506.17139, figure 6);
- the centred one, the mean of :math:`|R - \operatorname{median}_x R| / D` at equal :math:`t`. A
  constant of the energy that changes with time adds a constant to :math:`R` and changes neither
  scores nor forces, so it is no error; networks that divide by the noise level have huge ones.

A network that does not see where the molecule is has a plain error even if it is perfect: its
density has three coordinates less than are counted, which adds :math:`\tfrac32\beta(t)` to
:math:`R`, the same for all frames.

Frames are taken in the orientation they are given in, and those of a dataset are aligned to each
other. Networks learn rotations from data and do not obey them exactly: frames in random
orientations, as a simulation has them, show larger errors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd.analysis.report.curves import FokkerPlanckError
from openmm_scoremd.diffusion.fokker_planck import exact_residual
from openmm_scoremd.diffusion.sampler import Progress
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, InvalidInputError, NumericalError
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.mixture import TimePartitionedMixture, network_at
from openmm_scoremd.models.weights import TrainedModel

__all__ = ["FRAME_TIME", "FokkerPlanckError", "error_table", "fokker_planck_error", "frame_errors"]

#: Diffusion time at which single frames are judged: bond lengths are resolved, noise does not rule.
FRAME_TIME = 1e-3


def fokker_planck_error(
    trained: TrainedModel,
    positions: ArrayLike,
    *,
    times: Sequence[float] | NDArray[np.floating],
    n_frames: int = 256,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> FokkerPlanckError:
    """Measure the Fokker-Planck error of a model at several diffusion times.

    Frames and noise are drawn once and serve all times, in double precision, so that curves are
    smooth; the same seed gives the same frames and noise for every model of a molecule.

    Parameters
    ----------
    trained : TrainedModel
        Network; of a mixture, the expert that serves a time.
    positions : array_like, shape (frames, N, D), nm
        Frames of the data, oriented and centred as the network is to see them.
    times : sequence of float
        Diffusion times; those that a direct expert or nobody serves give NaN.
    n_frames : int
        Frames drawn for every time, without replacement if there are that many.
    seed : int
        Seed of the choice of frames and of the noise.
    batch_size : int
        Frames evaluated together.
    progress : callable, optional
        Called as ``progress(times_done, times_in_all)``.

    Returns
    -------
    FokkerPlanckError
        Plain and centred errors over time.

    Raises
    ------
    ConfigurationError
        If no network of the model is conservative.
    InvalidInputError
        If the frames are not of these beads or not finite, or a number is out of range.
    NumericalError
        If a residual is not finite.
    """
    grid = np.asarray(times, dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not ((grid >= 0.0) & (grid <= 1.0)).all():
        raise InvalidInputError("times must be a list of diffusion times between 0 and 1")
    if n_frames < 2:
        raise InvalidInputError(f"n_frames is {n_frames}; at least 2")
    model = _in_double_precision(trained)
    generator = np.random.default_rng(seed)
    frames = _standardised(trained, positions)
    chosen = generator.choice(len(frames), n_frames, replace=n_frames > len(frames))
    x0 = frames[chosen]
    noise = generator.normal(size=x0.shape)
    columns = np.full((5, len(grid)), np.nan)
    for i, t in enumerate(grid.tolist()):
        energy = _energy_model_at(model, t)
        if energy is not None:
            residuals = _residuals(energy, trained, x0, noise, t, batch_size=batch_size)
            columns[:, i] = _summary(residuals)
        if progress is not None:
            progress(i + 1, len(grid))
    return FokkerPlanckError(grid, n_frames, *columns)


def frame_errors(
    trained: TrainedModel,
    positions: ArrayLike,
    *,
    t: float = FRAME_TIME,
    n_draws: int = 4,
    seed: int = 0,
    batch_size: int = 256,
) -> NDArray[np.float64]:
    """Return the centred error of every frame: large where the model is not to be trusted.

    Parameters
    ----------
    trained : TrainedModel
        Network; of a mixture, the expert that serves ``t``.
    positions : array_like, shape (frames, N, D), nm
        At least two frames, oriented and centred as the network is to see them.
    t : float
        Diffusion time.
    n_draws : int
        Draws of the noise to average over.
    seed : int
        Seed of the noise.
    batch_size : int
        Frames evaluated together.

    Returns
    -------
    ndarray, shape (frames,)
        Mean over draws of ``|R - median R| / D``, the median over all frames and draws.

    Raises
    ------
    ConfigurationError
        If the network at ``t`` is not conservative.
    InvalidInputError
        If the model does not serve ``t``, the frames are fewer than two, not of these beads or not
        finite, or a number is out of range.
    NumericalError
        If a residual is not finite.
    """
    if n_draws < 1:
        raise InvalidInputError(f"n_draws is {n_draws}; at least 1")
    model = _in_double_precision(trained)
    energy = network_at(model, t)
    if not isinstance(energy, EnergyModel):
        raise ConfigurationError(
            f"the network at diffusion time {t:g} has no energy, so it has no Fokker-Planck error; "
            "give a time that a conservative expert serves"
        )
    x0 = _standardised(trained, positions)
    if len(x0) < 2:
        raise InvalidInputError("there is one frame; the errors are relative to other frames")
    noise = np.random.default_rng(seed).normal(size=(n_draws, *x0.shape))
    residuals = np.stack(
        [_residuals(energy, trained, x0, draw, t, batch_size=batch_size) for draw in noise]
    )
    errors: NDArray[np.float64] = np.abs(residuals - np.median(residuals)).mean(axis=0)
    return errors


def error_table(curves: Mapping[str, FokkerPlanckError]) -> str:
    """Return errors at five of the times, two lines a model.

    Parameters
    ----------
    curves : mapping of str to FokkerPlanckError
        Name of the model to its errors; all at the same times.
    """
    t = next(iter(curves.values())).t
    shown = sorted({i * (len(t) - 1) // 4 for i in range(5)})
    width = max(map(len, curves)) + 2
    lines = [f"{'|R| / D at t =':<{width + 9}}" + "".join(f"{t[i]:>11.2g}" for i in shown)]
    for name, curve in curves.items():
        for kind, values in (("plain", curve.mean_absolute), ("centred", curve.centred)):
            numbers = "".join(f"{values[i]:>11.4g}" for i in shown)
            lines.append(f"{name:<{width}}{kind:<9}{numbers}")
    return "\n".join(lines)


def _in_double_precision(trained: TrainedModel) -> ScoreModel:
    """Return a copy; terms of the residual cancel that are far larger than what is left."""
    model = trained.model
    networks = model.networks if isinstance(model, TimePartitionedMixture) else [model]
    if not any(isinstance(network, EnergyModel) for network in networks):
        raise ConfigurationError(
            f"{trained.description.title!r} has no energy, so it has no Fokker-Planck error; "
            "train with output: conservative"
        )
    return copy.deepcopy(model).double().requires_grad_(False)


def _energy_model_at(model: ScoreModel, t: float) -> EnergyModel | None:
    if not model.t_min <= t <= model.t_max:
        return None
    network = network_at(model, t)
    return network if isinstance(network, EnergyModel) else None


def _standardised(trained: TrainedModel, positions: ArrayLike) -> NDArray[np.float64]:
    x = trained.description.to_network(positions).numpy()
    if x.ndim != 3 or not len(x):
        raise InvalidInputError(f"positions have shape {np.shape(positions)}; give frames")
    if not np.isfinite(x).all():
        raise InvalidInputError("positions hold NaN or infinity")
    return x


def _residuals(
    energy: EnergyModel,
    trained: TrainedModel,
    x0: NDArray[np.float64],
    noise: NDArray[np.float64],
    t: float,
    *,
    batch_size: int,
) -> NDArray[np.float64]:
    """Return the residual per coordinate of every frame, noised to time ``t``."""
    if batch_size < 1:
        raise InvalidInputError(f"batch_size is {batch_size}; at least 1")
    schedule: VPSchedule = trained.description.schedule
    device = next((tensor.device for tensor in energy.parameters()), torch.device("cpu"))
    parts = []
    for first in range(0, len(x0), batch_size):
        batch = slice(first, first + batch_size)
        data, normal = (torch.from_numpy(array[batch]).to(device) for array in (x0, noise))
        times = torch.full((len(data),), t, dtype=torch.float64, device=device)
        x = schedule.noise_sample(data, times, normal)
        parts.append(exact_residual(energy.score_and_time_derivative, schedule, x, times).cpu())
    residuals: NDArray[np.float64] = torch.cat(parts).numpy() / x0[0].size
    broken = int((~np.isfinite(residuals)).sum())
    if broken:
        raise NumericalError(
            f"{broken} of {len(residuals)} residuals at diffusion time {t:g} are not finite; "
            "the model is not usable there"
        )
    return residuals


def _summary(residuals: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the entries of :class:`FokkerPlanckError` after ``n_frames``, in their order."""
    # The derivative of the mean deviation by the centre is zero at the median, so the median's
    # own error adds nothing to that of the centred one.
    values = [np.abs(residuals), np.abs(residuals - np.median(residuals))]
    root = math.sqrt(len(residuals))
    numbers = [number for v in values for number in (v.mean(), v.std(ddof=1) / root)]
    return (*map(float, numbers), float(residuals.std(ddof=1)))
