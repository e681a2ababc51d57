"""The ``scoremd`` command: every step from a trajectory to a report."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from inspect import signature

import jsonargparse

from openmm_scoremd._io import package_versions
from openmm_scoremd.cli_commands import COMMANDS, train
from openmm_scoremd.errors import ScoreMDError
from openmm_scoremd.progress import console
from openmm_scoremd.training.config_file import (
    add_training_arguments,
    nearest_option,
    option_names,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if not given.

    Returns
    -------
    int
        Exit code: 0, 2 for wrong input or a failed computation, 130 if interrupted.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = build_parser()
    try:
        arguments = parser.instantiate(parser.parse_args(argv))
        name = arguments.subcommand
        options = arguments[name]
        if name == "train":
            train(options)
        else:
            options.pop("config", None)
            COMMANDS[name](**vars(options))
    except argparse.ArgumentError as error:
        return _fail(f"{error}{nearest_option(str(error), _known_options())}")
    except ScoreMDError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)
    return 0


def build_parser() -> jsonargparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = jsonargparse.ArgumentParser(
        prog="scoremd",
        description=__doc__,
        exit_on_error=False,
        version=package_versions()["openmm-scoremd"],
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("train", _training_parser(), help="Train a network.")
    for name, function in COMMANDS.items():
        first_line = (function.__doc__ or "").splitlines()[0]
        command = jsonargparse.ArgumentParser(exit_on_error=False, description=first_line)
        command.add_function_arguments(function, as_positional=True)
        commands.add_subcommand(name, command, help=first_line)
    return parser


def _training_parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False, description="Train a network.")
    parser.add_argument("--output", required=True, help="Folder of the run.")
    parser.add_argument("--resume", action="store_true", help="Go on with a stopped run.")
    add_training_arguments(parser)
    return parser


def _known_options() -> list[str]:
    names = [name for function in COMMANDS.values() for name in signature(function).parameters]
    return [*option_names(_training_parser()), *names]


def _fail(message: str, *, code: int = 2) -> int:
    console.print(f"[bold red]error:[/] {message}", highlight=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
