"""The sections of a training configuration; each checks its own entries."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, Protocol

from openmm_scoremd.data.split import SPLITS, Split
from openmm_scoremd.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which frames to train on.

    Attributes
    ----------
    path : str
        CG dataset (``.npz``).
    held_out_fraction : float
        Part of the frames that training never sees, for evaluation; 0 to train on all.
    split : {"blocks", "frames"}
        What is held out: ten blocks of time, or single frames at random, as by versions that did
        not have this entry. See :func:`~openmm_scoremd.data.split.split_frames`.
    augmentation : {"rotation", "none"}
        Uniform random rotation of every frame in every batch, or nothing (toy systems).
    scale : float or None
        Length in nm that one standardised unit stands for; None for the standard deviation of all
        coordinates.
    """

    path: str
    held_out_fraction: float = 0.2
    split: Split = "blocks"
    augmentation: Literal["rotation", "none"] = "rotation"
    scale: float | None = None

    def __post_init__(self) -> None:
        require(
            0.0 <= self.held_out_fraction < 1.0,
            "data.held_out_fraction",
            self.held_out_fraction,
            "at least 0 and below 1",
        )
        require(
            self.split in SPLITS,
            "data.split",
            self.split,
            "'blocks' or 'frames'",
        )
        require(
            self.augmentation in ("rotation", "none"),
            "data.augmentation",
            self.augmentation,
            "'rotation' or 'none'",
        )
        require(
            self.scale is None or 0.0 < self.scale < math.inf,
            "data.scale",
            self.scale,
            "positive, or null for the standard deviation of the data",
        )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Diffusion times of the loss and their weight (see ``TimeWeighting``).

    Attributes
    ----------
    t_min, t_max : float
        Range of the times.
    time_distribution : {"uniform", "balanced"}
        Published: times uniform between these. ``balanced``: half of them uniform, half uniform in
        the logarithm of the network's noise level, so that fine structure is seen as often as
        coarse; needs ``network.noise_floor``.
    weight_start, weight_end, weight_midpoint : float
        Window and midpoint of the weight; published: 0, 1, 0.3 for molecules, 0.5 for Müller-Brown.
    """

    t_min: float = 1e-5
    t_max: float = 1.0
    time_distribution: Literal["uniform", "balanced"] = "uniform"
    weight_start: float = 0.0
    weight_end: float = 1.0
    weight_midpoint: float = 0.3

    def __post_init__(self) -> None:
        require(
            0.0 < self.t_min < self.t_max <= 1.0,
            "loss.t_min, loss.t_max",
            (self.t_min, self.t_max),
            "0 < t_min < t_max <= 1",
        )
        require(
            self.time_distribution in ("uniform", "balanced"),
            "loss.time_distribution",
            self.time_distribution,
            "'uniform' or 'balanced'",
        )
        window = (self.weight_start, self.weight_midpoint, self.weight_end)
        require(
            0.0 <= window[0] < window[1] < window[2] <= 1.0,
            "loss.weight_start, weight_midpoint, weight_end",
            window,
            "increasing and in [0, 1]",
        )


@dataclasses.dataclass(frozen=True)
class FokkerPlanckConfig:
    """The Fokker-Planck regulariser (arXiv 2506.17139, section 4.1).

    Attributes
    ----------
    alpha : float
        Its weight beside denoising score matching; 0 for none. Published with ``weak``: 5e-4.
    estimator : {"weak", "centred"}
        ``weak``: the published one. ``centred``: a cheaper one that leaves the normalisation of the
        density free and counts the residual per factor e of the noise level; needs
        ``network.noise_floor``.
    fraction : float
        Part of every batch that it is estimated on.
    group_size : int
        Frames that share a diffusion time, over which ``centred`` takes its mean.
    probe_sigma : float
        Standard deviation of the displacements, standardised units; published: 1e-4.
    frames : {"data", "spread", "regions"}
        Frames it is estimated on: those of the data, or drawn evenly over the regions that the data
        covers, so that a state of low population counts as much as any other; with ``regions``, a
        few from the same region each. The equation holds everywhere, so all are right; denoising
        score matching never sees the others.
    region_alpha : float
        Weight of the residual that is common to the frames of a region, which is what shifts
        populations; 0 for none. Needs ``frames: regions``.
    region_size : int
        Frames of one region, of those that share a diffusion time.
    times : {"loss", "log-noise"}
        Diffusion times it is estimated at: as for denoising score matching, or uniform in the
        logarithm of the network's noise level.
    """

    alpha: float = 0.0
    estimator: Literal["weak", "centred"] = "weak"
    fraction: float = 1.0
    group_size: int = 8
    probe_sigma: float = 1e-4
    frames: Literal["data", "spread", "regions"] = "data"
    region_alpha: float = 0.0
    region_size: int = 6
    times: Literal["loss", "log-noise"] = "loss"

    def __post_init__(self) -> None:
        require(0.0 <= self.alpha < math.inf, "fokker_planck.alpha", self.alpha, "at least 0")
        require(
            self.estimator in ("weak", "centred"),
            "fokker_planck.estimator",
            self.estimator,
            "'weak' or 'centred'",
        )
        require(
            0.0 < self.fraction <= 1.0,
            "fokker_planck.fraction",
            self.fraction,
            "above 0 and at most 1",
        )
        require(self.group_size >= 2, "fokker_planck.group_size", self.group_size, "at least 2")
        require(
            0.0 < self.probe_sigma < 1.0,
            "fokker_planck.probe_sigma",
            self.probe_sigma,
            "between 0 and 1",
        )
        require(
            self.frames in ("data", "spread", "regions"),
            "fokker_planck.frames",
            self.frames,
            "'data', 'spread' or 'regions'",
        )
        require(
            self.times in ("loss", "log-noise"),
            "fokker_planck.times",
            self.times,
            "'loss' or 'log-noise'",
        )
        self._check_regions()

    def _check_regions(self) -> None:
        require(
            0.0 <= self.region_alpha < math.inf,
            "fokker_planck.region_alpha",
            self.region_alpha,
            "at least 0",
        )
        if self.frames != "regions":
            require(
                self.region_alpha == 0.0,
                "fokker_planck.region_alpha",
                self.region_alpha,
                "0 unless fokker_planck.frames is 'regions'",
            )
            return
        require(
            self.region_size >= 2
            and self.group_size >= 2 * self.region_size
            and self.group_size % self.region_size == 0,
            "fokker_planck.region_size",
            self.region_size,
            f"at least 2, and fit at least twice into group_size, which is {self.group_size}",
        )

    def n_frames(self, batch_size: int) -> int:
        """Return the number of frames of a batch that it is estimated on."""
        return 0 if self.alpha == 0.0 else round(self.fraction * batch_size)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a cosine learning rate, elementwise gradient clipping and a weight average.

    Attributes
    ----------
    learning_rate, final_learning_rate : float
        Start and end of the cosine.
    weight_decay : float
        Decoupled weight decay.
    gradient_clip : float
        Largest absolute value of a gradient entry.
    ema_decay : float
        Decay of the exponential moving average of the weights, which is what gets exported.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    gradient_clip: float = 1000.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        require(
            0.0 <= self.final_learning_rate <= self.learning_rate < math.inf,
            "optimizer.final_learning_rate, optimizer.learning_rate",
            (self.final_learning_rate, self.learning_rate),
            "0 <= final_learning_rate <= learning_rate",
        )
        require(
            0.0 <= self.weight_decay < math.inf,
            "optimizer.weight_decay",
            self.weight_decay,
            "at least 0",
        )
        require(
            self.gradient_clip > 0.0,
            "optimizer.gradient_clip",
            self.gradient_clip,
            "positive",
        )
        require(
            0.0 <= self.ema_decay < 1.0,
            "optimizer.ema_decay",
            self.ema_decay,
            "at least 0 and below 1",
        )


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """Where training runs. Nothing here changes what is computed, except rounding.

    Attributes
    ----------
    accelerator : {"auto", "cpu", "cuda"}
        Kind of device.
    devices : int
        Number of processes, one device each.
    precision : {"32-true", "64-true"}
        Floating point precision of parameters and loss.
    backend : {"auto", "eager", "compiled"}
        ``compiled`` traces whole steps (with several devices: loss and gradient) into one graph for
        ``torch.compile``: up to a minute at the start, less if the same was compiled before, then
        several times as fast. ``auto`` compiles where a C++ compiler is found.
    threads : int or None
        Threads on CPU; None for torch's own choice, usually all cores.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "64-true"] = "32-true"
    backend: Literal["auto", "eager", "compiled"] = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.devices >= 1, "hardware.devices", self.devices, "at least 1")
        require(
            self.threads is None or self.threads >= 1,
            "hardware.threads",
            self.threads,
            "at least 1, or null for torch's own choice",
        )
        for name, allowed in (
            ("accelerator", ("auto", "cpu", "cuda")),
            ("precision", ("32-true", "64-true")),
            ("backend", ("auto", "eager", "compiled")),
        ):
            value = getattr(self, name)
            require(value in allowed, f"hardware.{name}", value, f"one of {', '.join(allowed)}")


def require(condition: bool, name: str, given: object, allowed: str) -> None:
    """Raise :class:`ConfigurationError` with name, value and what is allowed, unless it holds."""
    if not condition:
        raise ConfigurationError(f"{name} is {given}; it must be {allowed}")


class HasLength(Protocol):
    """A configuration whose length is given in one of two ways."""

    @property
    def epochs(self) -> int | None:
        """Passes over the training frames."""

    @property
    def steps(self) -> int | None:
        """Optimiser steps."""


def settle_length(config: HasLength, *, of: str = "") -> None:
    """Require at most one of ``epochs`` and ``steps``; without either, set 100 epochs.

    Parameters
    ----------
    config : HasLength
        Changed where it has neither.
    of : str
        Whose they are, for messages.

    Raises
    ------
    ConfigurationError
        If both are given, or one is below 1.
    """
    if config.epochs is None and config.steps is None:
        object.__setattr__(config, "epochs", 100)
    for name in ("epochs", "steps"):
        value = getattr(config, name)
        require(value is None or value >= 1, f"{of}{name}", value, "at least 1")
    require(
        config.epochs is None or config.steps is None,
        f"{of}epochs, steps",
        (config.epochs, config.steps),
        "one of them alone; set the other to null",
    )
