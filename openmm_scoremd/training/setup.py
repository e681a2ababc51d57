"""From a training configuration to the parts of a training run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from openmm_scoremd.data.dataset import CGDataset
from openmm_scoremd.data.regions import (
    region_of_frames,
    region_weights,
    spreading_weights,
)
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.diffusion.weighting import (
    BalancedTimes,
    LogNoiseTimes,
    TimeWeighting,
    UniformTimes,
)
from openmm_scoremd.errors import ConfigurationError, ModelFileError
from openmm_scoremd.models.base import ScoreModel, require_energy_model
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.training.batches import BatchStream, RegionDraws
from openmm_scoremd.training.compiled.parallel_steps import Division, divide_steps
from openmm_scoremd.training.config import TrainingConfig
from openmm_scoremd.training.objective import (
    Batch,
    CentredFokkerPlanckObjective,
    DenoisingObjective,
    WeakFokkerPlanckObjective,
)
from openmm_scoremd.training.sections import HardwareConfig

#: Few enough that a region is a good part of a basin.
N_LARGE_REGIONS = 32


def initial_model(config: TrainingConfig, dataset: CGDataset) -> ScoreModel:
    """Return the network with random weights, or those of the file in ``config.start_from``.

    Random weights come from torch's global generator.

    Raises
    ------
    ModelFileError
        If the file cannot be read, or holds a network of another shape, molecule or schedule.
    ConfigurationError
        If the network does not fit into the memory.
    """
    try:
        model = build_model(
            config.network,
            n_beads=dataset.n_beads,
            n_dims=dataset.n_dims,
            schedule=config.schedule,
            topology=dataset.topology,
        )
    # Torch's words for sizes beyond the memory, or beyond its integers.
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ConfigurationError(
            f"a network of this size cannot be made ({str(error).splitlines()[0][:200]}); "
            "lower the sizes in network"
        ) from error
    if config.start_from is None:
        scale = config.data.scale or dataset.scale
        model.prepare(torch.from_numpy(_training_positions(config, dataset)) / scale)
        return model
    other = load_weights(config.start_from)
    difference = other.description.difference_from(dataset.topology, dataset.n_dims)
    if other.description.schedule != config.schedule:
        difference = difference or "it has another noise schedule"
    if difference:
        raise ModelFileError(
            f"{config.start_from} does not fit this run: {difference}; start from weights of the "
            "same molecule and schedule, or from none"
        )
    try:
        model.load_state_dict(other.model.state_dict())
    except RuntimeError as error:
        raise ModelFileError(
            f"{config.start_from} holds a network of another shape than `network` describes "
            f"({error}); use the configuration it was trained with"
        ) from error
    return model


def training_objective(config: TrainingConfig, model: ScoreModel) -> nn.Module:
    """Return the loss of the arrays of a :class:`Batch`."""
    weighting = _weighting(config)
    regulariser = config.fokker_planck
    if regulariser.alpha == 0.0:
        return denoising_objective(config, model)
    if regulariser.estimator == "weak":
        return WeakFokkerPlanckObjective(
            require_energy_model(model),
            schedule=config.schedule,
            weighting=weighting,
            alpha=regulariser.alpha,
            probe_sigma=regulariser.probe_sigma,
        )
    return CentredFokkerPlanckObjective(
        require_energy_model(model),
        schedule=config.schedule,
        weighting=weighting,
        alpha=regulariser.alpha,
        probe_sigma=regulariser.probe_sigma,
        group_size=regulariser.group_size,
        noise_floor=_noise_floor(config),
        of_data=regulariser.frames == "data",
        region_alpha=regulariser.region_alpha,
        region_size=regulariser.region_size,
    )


def denoising_objective(config: TrainingConfig, model: ScoreModel) -> DenoisingObjective:
    """Return the loss without a regulariser."""
    return DenoisingObjective(model, schedule=config.schedule, weighting=_weighting(config))


def batch_stream(
    config: TrainingConfig, dataset: CGDataset, *, scale: float, device: torch.device
) -> BatchStream:
    """Return the batches of a run: standardised frames of ``dataset`` not held back."""
    dtype = torch.float64 if config.hardware.precision == "64-true" else torch.float32
    positions = _training_positions(config, dataset)
    frames = torch.from_numpy(positions) / scale
    regulariser = config.fokker_planck
    probed = regulariser.n_frames(config.batch_size)
    centred = regulariser.estimator == "centred"
    weights, regions = None, None
    if probed and regulariser.frames == "spread":
        spread = spreading_weights(positions)
        weights = torch.from_numpy(spread).to(device=device, dtype=torch.float32)
    if probed and regulariser.frames == "regions":
        regions = _region_draws(positions, size=regulariser.region_size, device=device)
    return BatchStream(
        frames.to(device=device, dtype=dtype),
        batch_size=config.batch_size,
        times=diffusion_times(config),
        augmentation=config.data.augmentation,
        seed=config.seed,
        n_probed=probed,
        n_shared_times=probed // regulariser.group_size if centred else None,
        probed_weights=weights,
        probed_regions=regions,
        probed_times=_log_noise_times(config) if regulariser.times == "log-noise" else None,
    )


def held_out_batch(
    config: TrainingConfig, dataset: CGDataset, *, scale: float, device: torch.device
) -> Batch | None:
    """Return held-out frames with times and noise that are always the same; None without any.

    As many frames as a batch has, or 256 if that is more, or all.
    """
    if config.data.held_out_fraction == 0.0:
        return None
    dtype = torch.float64 if config.hardware.precision == "64-true" else torch.float32
    held_out = _split(config, dataset)[1]
    # Spread over all of them, because neighbours in time are alike.
    spread = np.linspace(0, len(held_out) - 1, min(len(held_out), max(config.batch_size, 256)))
    positions = dataset.positions[held_out[spread.astype(int)]]
    frames = torch.from_numpy(positions) / scale
    stream = BatchStream(
        frames.to(device=device, dtype=dtype),
        batch_size=len(frames),
        times=diffusion_times(config),
        augmentation=config.data.augmentation,
        seed=config.seed,
    )
    return stream.batch(0)


def _training_positions(config: TrainingConfig, dataset: CGDataset) -> NDArray[np.floating]:
    return dataset.positions[_split(config, dataset)[0]]


def _split(
    config: TrainingConfig, dataset: CGDataset
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return split_frames(
        dataset.n_frames,
        held_back_fraction=config.data.held_out_fraction,
        seed=config.seed,
        split=config.data.split,
    )


def division_of_steps(model: ScoreModel, stream: BatchStream) -> Division:
    """Return how compiled steps of a network are to be divided, which is for CPU only."""
    if stream.frames.device.type != "cpu":
        return Division()
    return divide_steps(
        n_weights=sum(p.numel() for p in model.parameters()),
        batch_size=stream.batch_size,
        n_probed=stream.n_probed,
        n_shared_times=stream.n_shared_times,
    )


def _region_draws(
    positions: NDArray[np.floating], *, size: int, device: torch.device
) -> RegionDraws:
    region = region_of_frames(positions, regions=N_LARGE_REGIONS)
    weights = torch.from_numpy(region_weights(region)).to(dtype=torch.float32, device=device)
    return RegionDraws(torch.from_numpy(region).to(device), weights=weights, size=size)


def _log_noise_times(config: TrainingConfig) -> LogNoiseTimes:
    loss = config.loss
    return LogNoiseTimes(config.schedule, _noise_floor(config), loss.t_min, loss.t_max)


def diffusion_times(config: TrainingConfig) -> Callable[[Tensor], Tensor]:
    """Return the map from uniform numbers to diffusion times."""
    loss, floor = config.loss, config.network.noise_floor
    if loss.time_distribution == "uniform" or floor is None:
        return UniformTimes(loss.t_min, loss.t_max)
    return BalancedTimes(config.schedule, floor, loss.t_min, loss.t_max)


def build_fabric(hardware: HardwareConfig) -> Fabric:
    """Return Lightning's Fabric for a hardware section, and set the number of threads if given.

    Raises
    ------
    ConfigurationError
        If there is no such hardware.
    """
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    # An additive constant of the energy has no gradient, which DDP otherwise takes for a mistake.
    several = "ddp_find_unused_parameters_true"
    try:
        return Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            strategy="auto" if hardware.devices == 1 else several,
            precision=hardware.precision,
        )
    # Lightning has no common type for hardware that is not there.
    except Exception as error:
        raise ConfigurationError(
            f"hardware.accelerator {hardware.accelerator!r} with {hardware.devices} device(s) "
            f"cannot be used ({error}); set accelerator: cpu, or install the torch that fits"
        ) from error


def _weighting(config: TrainingConfig) -> TimeWeighting:
    loss = config.loss
    return TimeWeighting(loss.weight_start, loss.weight_end, loss.weight_midpoint)


def _noise_floor(config: TrainingConfig) -> float:
    if config.network.noise_floor is None:
        raise ConfigurationError(
            "fokker_planck.estimator is 'centred'; set network.noise_floor, or use 'weak'"
        )
    return config.network.noise_floor
