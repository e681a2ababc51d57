"""Training a network on one dataset: start, stop at any moment, resume to the same weights."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from openmm_scoremd._files.run_record import sha256_of_file, write_run_record
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.errors import CheckpointError, NumericalError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.weights import TrainedModel, save_weights
from openmm_scoremd.training.checkpoint import (
    TrainingState,
    gather_tensors,
    load_checkpoint,
    restore_tensors,
    save_checkpoint,
)
from openmm_scoremd.training.compiled.steps import CompiledSteps
from openmm_scoremd.training.config import TrainingConfig, changed_keys, config_record
from openmm_scoremd.training.config_file import save_training_config
from openmm_scoremd.training.description import describe_model
from openmm_scoremd.training.ema import exponential_average
from openmm_scoremd.training.held_out import HeldOutLoss
from openmm_scoremd.training.log import LogRow, TrainingLog
from openmm_scoremd.training.objective import CompiledObjective, choose_objective
from openmm_scoremd.training.setup import (
    batch_stream,
    build_fabric,
    denoising_objective,
    division_of_steps,
    held_out_batch,
    initial_model,
    training_objective,
)

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
LOG = "log.csv"
CONFIGURATION = "training.yaml"

#: Called after every logged row with the row and the number of steps in all.
Progress = Callable[[LogRow, int], None]


class Trainer:
    """One training run in one folder.

    Files in the folder: ``checkpoint.safetensors``, from the first moment; ``training.yaml``, the
    configuration; ``log.csv``; at the end
    ``weights.safetensors`` (averaged weights) and ``run.json``. Batches depend on seed and step
    only, so a run killed at any moment and resumed gives, on one CPU with as many threads and the
    same log interval, the weights of an uninterrupted one bit by bit.

    With more than one device, the script that makes the trainer is started once more for each; only
    the first process writes files and reports progress.

    Parameters
    ----------
    config : TrainingConfig
        What to do.
    folder : path-like
        Where to put the files.
    progress : callable, optional
        Progress report.

    Raises
    ------
    DatasetError
        If the dataset cannot be read.
    ConfigurationError
        If configuration and data do not fit.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.progress = progress
        self.dataset = load_dataset(config.data.path)
        self.dataset_sha256 = sha256_of_file(config.data.path)
        self.scale = config.data.scale or self.dataset.scale
        self.fabric = build_fabric(config.hardware)
        self.fabric.launch()
        self._build()

    @property
    def n_steps(self) -> int:
        """Number of optimiser steps of the whole run."""
        config = self.config
        return config.steps or (config.epochs or 0) * self.stream.steps_per_epoch

    def start(self) -> Path:
        """Train from the beginning.

        Returns
        -------
        Path
            The weights file.

        Raises
        ------
        CheckpointError
            If the folder holds a run already.
        NumericalError
            If the loss is not finite.
        """
        if any((self.folder / name).exists() for name in (CHECKPOINT, WEIGHTS)):
            raise CheckpointError(
                f"{self.folder} holds a training run already; resume it, or use another folder"
            )
        # Nobody may write before everybody has looked.
        self.fabric.barrier()
        self.folder.mkdir(parents=True, exist_ok=True)
        # From now on the run can be resumed; without this, not before the first minute is over.
        self._save_checkpoint(0)
        return self._run(first_step=0)

    def resume(self) -> Path:
        """Go on from the last checkpoint; a finished run is left as it is.

        The run may have become longer or shorter: from the checkpoint on, learning rates are those
        of a cosine over the new number of steps.

        Returns
        -------
        Path
            The weights file.

        Raises
        ------
        CheckpointError
            If there is no checkpoint, it is of another configuration or dataset, or more steps are
            done than asked for.
        NumericalError
            If the loss is not finite.
        """
        state = load_checkpoint(self.folder / CHECKPOINT)
        self._check_same_run(state)
        is_same = state.config.get("weights", "last") == self.config.weights
        if state.step == self.n_steps and is_same and (self.folder / WEIGHTS).exists():
            return self.folder / WEIGHTS
        restore_tensors(state.tensors, self.model, self.average, self.optimizer)
        self.held_out.restore(state.tensors)
        return self._run(first_step=state.step)

    def _build(self) -> None:
        config, dataset = self.config, self.dataset
        with torch.random.fork_rng(), self.fabric.init_tensor():
            # The only use of torch's global generator: module constructors know no other.
            torch.manual_seed(config.seed)
            self.model = initial_model(config, dataset)
        self.stream = batch_stream(config, dataset, scale=self.scale, device=self.fabric.device)
        objective = training_objective(config, self.model)
        self.model.to(self.fabric.device)
        self.average = AveragedModel(
            self.model, multi_avg_fn=exponential_average(config.optimizer.ema_decay)
        )
        of_average = denoising_objective(config, cast(ScoreModel, self.average.module))
        self.held_out = HeldOutLoss(
            of_average,
            held_out_batch(config, dataset, scale=self.scale, device=self.fabric.device),
        )
        optimizer = torch.optim.AdamW(
            objective.parameters(),
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        chosen = choose_objective(objective, backend=config.hardware.backend)
        self.steps: CompiledSteps | None = None
        # Several processes average their gradients in the middle of a step.
        if isinstance(chosen, CompiledObjective) and self.fabric.world_size == 1:
            self.steps = CompiledSteps(
                objective,
                optimizer,
                self.average,
                gradient_clip=config.optimizer.gradient_clip,
                ema_decay=config.optimizer.ema_decay,
                division=division_of_steps(self.model, self.stream),
            )
        self.objective: nn.Module
        self.optimizer: torch.optim.Optimizer
        self.objective, self.optimizer = self.fabric.setup(chosen, optimizer)

    def _run(self, *, first_step: int) -> Path:
        writes = self.fabric.is_global_zero
        if writes:
            save_training_config(self.config, self.folder / CONFIGURATION)
        log = TrainingLog(self.folder / LOG, last_step=first_step) if writes else None
        step = first_step
        last_checkpoint = time.monotonic()
        try:
            while step < self.n_steps:
                stop = min(step + self.config.log_steps, self.n_steps)
                row = self.train_steps(step, stop)
                if log is not None:
                    loss = self.held_out.after(
                        self.average.module, first=step, stop=stop, n_steps=self.n_steps
                    )
                    row = dataclasses.replace(row, held_out_loss=loss)
                    log.append(row)
                step = stop
                if writes and self.progress is not None:
                    self.progress(row, self.n_steps)
                if time.monotonic() - last_checkpoint >= self.config.checkpoint_seconds:
                    self._save_checkpoint(step)
                    last_checkpoint = time.monotonic()
        except KeyboardInterrupt:
            # Weights may be in the middle of an interval; the last checkpoint is what counts.
            logger.info("interrupted at step %d of %d; resume to go on", step, self.n_steps)
            raise
        self._save_checkpoint(step)
        return self._finish(log)

    def train_steps(self, first: int, stop: int) -> LogRow:
        """Do some steps without waiting for the device, then check that all losses are finite.

        Parameters
        ----------
        first, stop : int
            Numbers of the first step and of the one after the last.

        Returns
        -------
        LogRow
            What they did.

        Raises
        ------
        NumericalError
            If a loss or a weight is not finite.
        """
        began = time.perf_counter()
        if self.steps is None:
            losses = torch.stack([self._train_step(step) for step in range(first, stop)])
        else:
            losses = self._compiled_steps(self.steps, first, stop)
        # The mean over all processes, so that all of them stop at the same step.
        losses = cast(Tensor, self.fabric.all_reduce(losses, reduce_op="mean"))
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            raise self._not_finite("loss", first + int((~finite).nonzero()[0]))
        # A gradient can overflow where the loss does not; such weights must not be saved.
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._not_finite("weights", stop - 1)
        return LogRow(
            step=stop,
            epoch=stop / self.stream.steps_per_epoch,
            loss=float(losses.double().mean()),
            learning_rate=self._learning_rate(stop - 1),
            samples_per_second=(stop - first)
            * self.config.batch_size
            / (time.perf_counter() - began),
        )

    def _compiled_steps(self, steps: CompiledSteps, first: int, stop: int) -> Tensor:
        numbers = range(first, stop)
        batches = (self.stream.batch(step) for step in numbers)
        return steps.run(batches, [self._learning_rate(step) for step in numbers])

    def _train_step(self, step: int) -> Tensor:
        batch = self.stream.batch(step).part(self.fabric.global_rank, self.fabric.world_size)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        loss: Tensor = self.objective(*batch.arrays)
        self.fabric.backward(loss)
        nn.utils.clip_grad_value_(self.model.parameters(), self.config.optimizer.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)
        return loss.detach()

    def _learning_rate(self, step: int) -> float:
        first = self.config.optimizer.learning_rate
        last = self.config.optimizer.final_learning_rate
        return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * step / self.n_steps))

    def _not_finite(self, what: str, step: int) -> NumericalError:
        t = self.stream.batch(step).t
        return NumericalError(
            f"NaN or infinite {what} at step {step} (diffusion times {float(t.min()):.3g} to "
            f"{float(t.max()):.3g}); the last good checkpoint is {self.folder / CHECKPOINT}. "
            "Lower optimizer.learning_rate or check the data"
        )

    def _save_checkpoint(self, step: int) -> None:
        if not self.fabric.is_global_zero:
            return
        state = TrainingState(
            step=step,
            config=config_record(self.config),
            dataset_sha256=self.dataset_sha256,
            tensors=gather_tensors(self.model, self.average, self.optimizer)
            | self.held_out.tensors(),
        )
        save_checkpoint(state, self.folder / CHECKPOINT)

    def _finish(self, log: TrainingLog | None) -> Path:
        path = self.folder / WEIGHTS
        if log is not None:
            results = self._summary(log)
            model = cast(ScoreModel, self.average.module).cpu().eval()
            if self.config.weights == "best" and self.held_out.best:
                model.load_state_dict(self.held_out.best)
            description = describe_model(
                self.config,
                self.dataset,
                model,
                dataset_sha256=self.dataset_sha256,
                results=results,
            )
            save_weights(TrainedModel(model, description), path)
            write_run_record(
                self.folder,
                arguments=config_record(self.config),
                seeds={"training": self.config.seed},
                inputs=self._inputs(),
                results=results,
            )
        self.fabric.barrier()
        return path

    def _inputs(self) -> dict[str, str]:
        inputs = {"dataset": self.config.data.path}
        if self.config.start_from is not None:
            inputs["start_from"] = self.config.start_from
        return inputs

    def _summary(self, log: TrainingLog) -> dict[str, Any]:
        seconds = sum(
            (row.step - before) * self.config.batch_size / row.samples_per_second
            for row, before in zip(log.rows, [0, *(r.step for r in log.rows)], strict=False)
        )
        return {
            "steps": self.n_steps,
            "frames_seen": self.n_steps * self.config.batch_size,
            "training_frames": len(self.stream.frames),
            "hours": round(seconds / 3600.0, 3),
            "final_loss": log.rows[-1].loss if log.rows else None,
            "lowest_held_out_loss": self.held_out.lowest if self.held_out.best else None,
            "device": str(self.fabric.device),
        }

    def _check_same_run(self, state: TrainingState) -> None:
        if state.dataset_sha256 != self.dataset_sha256:
            raise CheckpointError(
                f"{self.folder / CHECKPOINT} was made with another dataset than "
                f"{self.config.data.path}; give the same file, or start in another folder"
            )
        if changed := changed_keys(state.config, config_record(self.config)):
            raise CheckpointError(
                f"{self.folder / CHECKPOINT} was made with another configuration; "
                f"different: {', '.join(changed)}. Use the same, or start in another folder"
            )
        if state.step > self.n_steps:
            raise CheckpointError(
                f"{self.folder / CHECKPOINT} has {state.step:,} steps behind it and the run is to "
                f"have {self.n_steps:,}; give at least as many steps or epochs"
            )
