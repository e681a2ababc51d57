"""``scoremd train`` and ``scoremd import``: weights from data, or from another code."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from openmm_scoremd.cli.options import require_suffix
from openmm_scoremd.cli.parser import summary
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.cli.terminal import say
from openmm_scoremd.errors import CheckpointError, InvalidInputError

if TYPE_CHECKING:
    import jsonargparse

    from openmm_scoremd.cli.terminal import Advance
    from openmm_scoremd.training.config import ExpertConfig, TrainingConfig
    from openmm_scoremd.training.log import LogRow
    from openmm_scoremd.training.trainer import Progress, Trainer

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, *, output: str, resume: bool, expert: str | None) -> None:
    """Train a network, or the experts of a mixture one after another."""
    from openmm_scoremd.training.compiled.memory import keep_freed_memory

    keep_freed_memory()
    if expert is not None or config.experts:
        _train_experts(config, output, resume=resume, expert=expert)
        return
    from openmm_scoremd.training.trainer import Trainer

    trainer = Trainer(config, output)
    run = trainer.resume if resume else trainer.start
    if not trainer.fabric.is_global_zero:
        run()
        return
    _announce(trainer, output)
    with progress_bar("training") as advance:
        trainer.progress = _moving(advance)
        weights = run()
    _plot_loss(trainer.folder)
    print(f"{weights}: trained for {trainer.n_steps:,} steps")
    _say_notes(trainer)
    print(f"next: scoremd export {weights} MODEL.pt")


def training_arguments(arguments: Sequence[str]) -> tuple[TrainingConfig, dict[str, Any]]:
    """Return configuration and other arguments of :func:`train` from its command line."""
    from openmm_scoremd.cli.recipe import with_configuration
    from openmm_scoremd.training.config_file import parse_training_arguments

    with with_configuration(arguments) as words:
        config, options = parse_training_arguments(training_parser(words), words)
    return config, {name: options[name] for name in ("output", "resume", "expert")}


def training_parser(arguments: Sequence[str] = ()) -> jsonargparse.ArgumentParser:
    """Return the parser of ``scoremd train`` for a command line: every entry is an option."""
    import jsonargparse

    from openmm_scoremd.training.config_file import add_training_arguments

    parser = jsonargparse.ArgumentParser(
        prog="scoremd train",
        usage="scoremd train BEADS.npz --output FOLDER [--minutes M] [--ENTRY X ...]\n"
        "       scoremd train --config FILE --output FOLDER [--expert NAME] ...",
        description=f"{summary(train)} Without --config it is that of scoremd init, with --resume "
        "that of the run. Every entry of the file is an option, too.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run, also with more --steps than it was to have",
    )
    parser.add_argument(
        "--minutes", type=float, help="without --config: how long it may take; 20 if not given"
    )
    parser.add_argument("--expert", help="train only this expert of a mixture, or go on with it")
    add_training_arguments(parser, arguments)
    return parser


def import_weights(
    parameters: Annotated[list[str], "parameters (.npz); of a mixture, one file for each expert"],
    *,
    config: Annotated[str, "YAML file as for training: network, schedule, dataset"],
    output: Annotated[str, "weights to write (.safetensors)"],
) -> None:
    """Make a weights file from parameters of the public JAX code."""
    from openmm_scoremd.training.config_file import load_training_config
    from openmm_scoremd.training.import_weights import import_weights as convert

    require_suffix(output, ".safetensors")
    weights = convert(parameters, load_training_config(config), output)
    print(f"{weights}: {len(parameters)} network(s) imported")
    print(f"next: scoremd export {weights} MODEL.pt")


def _train_experts(
    config: TrainingConfig, output: str, *, resume: bool, expert: str | None
) -> None:
    from openmm_scoremd.training.config_file import save_training_config
    from openmm_scoremd.training.experts import train_expert, train_mixture
    from openmm_scoremd.training.trainer import CONFIGURATION

    if expert is None and not resume and Path(output).exists():
        raise CheckpointError(
            f"{output} exists already; give --resume to go on with it, or another folder"
        )
    with contextlib.ExitStack() as bars:

        def progress_of(expert: ExpertConfig, trainer: Trainer) -> Progress | None:
            if not trainer.fabric.is_global_zero:
                return None
            _announce(trainer, f"{output}, expert {expert.name}")
            if not (Path(output) / CONFIGURATION).exists():
                save_training_config(config, Path(output) / CONFIGURATION)
            bars.close()
            return _moving(bars.enter_context(progress_bar(expert.name)))

        if expert is not None:
            weights = train_expert(config, expert, output, progress_of=progress_of)
        else:
            weights = train_mixture(config, output, progress_of=progress_of)
    trained = [expert] if expert is not None else [one.name for one in config.experts]
    for name in trained:
        _plot_loss(Path(output) / name)
    if expert is not None:
        print(f"{weights}: trained; when all experts are, combine them with")
        print(f"scoremd train --config FILE --output {output} --resume")
        return
    save_training_config(config, Path(output) / CONFIGURATION)
    print(f"{weights}: {len(config.experts)} experts")
    print(f"next: scoremd export {weights} MODEL.pt")


def _announce(trainer: Trainer, where: str) -> None:
    steps = f"{trainer.n_steps:,} steps of {trainer.config.batch_size} frames"
    say(f"{where}: {steps} on {trainer.fabric.device}")


def _moving(advance: Advance) -> Progress:
    """Return a trainer's progress report that moves a bar."""

    def report(row: LogRow, total: int) -> None:
        held_out = "" if row.held_out_loss is None else f"  held out {row.held_out_loss:.4f}"
        text = f"loss {row.loss:.4f}{held_out}  {row.samples_per_second:,.0f} samples/s"
        advance(row.step, total, text)

    return report


def _say_notes(trainer: Trainer) -> None:
    from openmm_scoremd.training.advice import notes_after_training
    from openmm_scoremd.training.log import read_log
    from openmm_scoremd.training.trainer import LOG

    rows = read_log(trainer.folder / LOG)
    for note in notes_after_training(rows, n_steps=trainer.n_steps, weights=trainer.config.weights):
        say(f"note: {note}")


def _plot_loss(folder: Path) -> None:
    import numpy as np

    from openmm_scoremd.analysis.report.curves import LossCurve, read_loss_csv
    from openmm_scoremd.analysis.report.plots import loss_figure, save
    from openmm_scoremd.training.log import read_log
    from openmm_scoremd.training.trainer import LOG

    try:
        curves = {"training": read_loss_csv(folder / LOG)}
    # The weights are there; a log that was lost is no reason to fail.
    except InvalidInputError as error:
        logger.warning("no picture of the loss: %s", error)
        return
    known = [row for row in read_log(folder / LOG) if row.held_out_loss is not None]
    columns = [(row.step, row.held_out_loss, row.learning_rate) for row in known]
    if columns:
        curves["held out"] = LossCurve(*np.array(columns, dtype=np.float64).T)
    save(loss_figure(curves), folder / "loss.png")
