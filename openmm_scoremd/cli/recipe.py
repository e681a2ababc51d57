"""``scoremd init``, and trainings without a configuration: a recipe for beads and frames."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from openmm_scoremd._files.atomic import write_text
from openmm_scoremd.cli.terminal import say
from openmm_scoremd.errors import CheckpointError, ConfigurationError, InvalidInputError

MINUTES = 20.0


def init(
    data: Annotated[str, "CG dataset (.npz)"],
    *,
    minutes: Annotated[float, "how long the training may take on this machine"] = MINUTES,
    steps: Annotated[int | None, "optimiser steps, instead of timing some here", 1] = None,
    output: Annotated[str | None, "file to write (.yaml); printed if not given"] = None,
) -> None:
    """Write a training configuration for a dataset."""
    from openmm_scoremd.training.recipe import make_recipe

    if output is not None:
        if Path(output).suffix not in (".yaml", ".yml"):
            raise InvalidInputError(f"the output is {output}; its name must end in .yaml")
        if Path(output).exists():
            raise InvalidInputError(f"{output} exists already; give another name for the output")
    if steps is None:
        say("timing some steps on this machine, which takes up to a minute")
    recipe = make_recipe(data, minutes=minutes, steps=steps)
    if output is None:
        print(recipe.to_yaml(), end="")
        return
    write_text(output, recipe.to_yaml())
    for note in recipe.notes:
        print(note)
    print(f"{output}: {recipe.config.steps:,} steps of {recipe.config.batch_size} frames")
    print(f"next: scoremd train --config {output} --output FOLDER")


@contextmanager
def with_configuration(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments of ``scoremd train`` with a configuration, whatever was given.

    Without ``--config`` it is that in the folder of a run that is to go on, or a recipe for the
    dataset. The first argument may be the dataset.

    Parameters
    ----------
    arguments : sequence of str
        The command line.

    Raises
    ------
    ConfigurationError
        If there is neither configuration nor dataset.
    CheckpointError
        If the folder holds a run already, or has no configuration to go on with.
    """
    words = _named_dataset(arguments)
    known = _known(words)
    if known.config or known.help:
        yield words
    elif known.resume:
        yield [*words, f"--config={_configuration_of(known.output)}"]
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield [*words, f"--config={_recipe_file(known, Path(folder))}"]


def _named_dataset(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which a dataset in the first place is an option."""
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    first, *rest = arguments
    if Path(first).suffix != ".npz":
        raise ConfigurationError(
            f"{first} is no dataset: its name must end in .npz; scoremd coarse-grain makes one, "
            "and a configuration is given with --config"
        )
    return [f"--data.path={first}", *rest]


def _known(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--output", "--data.path", "--minutes", "--steps", "--epochs"):
        parser.add_argument(name, dest=name.removeprefix("--").replace(".", "_"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--print_config", nargs="?", const=True)
    parser.add_argument("-h", "--help", action="store_true")
    try:
        return parser.parse_known_args(list(words))[0]
    except argparse.ArgumentError as error:
        raise ConfigurationError(str(error)) from error


def _configuration_of(output: str | None) -> Path:
    from openmm_scoremd.training.trainer import CONFIGURATION

    if output is None:
        raise ConfigurationError("give --output FOLDER, the folder of the run that is to go on")
    path = Path(output) / CONFIGURATION
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist, so there is nothing to resume; or give --config FILE, if the "
            "run was made by an earlier version"
        )
    return path


def _recipe_file(known: argparse.Namespace, folder: Path) -> Path:
    from openmm_scoremd.training.recipe import make_recipe
    from openmm_scoremd.training.trainer import CHECKPOINT

    if known.data_path is None:
        raise ConfigurationError(
            "give a dataset, as in scoremd train BEADS.npz --output FOLDER, or --config FILE"
        )
    if known.output is None and not known.print_config:
        raise ConfigurationError("give --output FOLDER, a new folder for the run")
    if known.output is not None and (Path(known.output) / CHECKPOINT).exists():
        raise CheckpointError(
            f"{known.output} holds a training run already; resume it, or use another folder"
        )
    given = known.steps or known.epochs
    if not given:
        say("no --config: a recipe for the dataset; timing some steps takes up to a minute")
    try:
        minutes = MINUTES if known.minutes is None else float(known.minutes)
    except ValueError as error:
        raise ConfigurationError(f"--minutes is {known.minutes}; it must be a number") from error
    # The number that was given overrides this one, and is checked where all options are.
    recipe = make_recipe(known.data_path, minutes=minutes, steps=1 if given else None)
    path = folder / "recipe.yaml"
    write_text(path, recipe.to_yaml())
    if not given:
        for note in recipe.notes:
            say(note)
    return path
