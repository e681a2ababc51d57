"""The ``scoremd`` command: parsers, error messages, exit codes."""

from __future__ import annotations

import argparse
import difflib
import functools
import logging
import sys
import types
from collections.abc import Sequence
from inspect import Parameter, signature
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from openmm_scoremd._files.atomic import package_versions
from openmm_scoremd.cli.commands import COMMANDS, train
from openmm_scoremd.cli.progress import console
from openmm_scoremd.errors import (
    ConfigurationError,
    InconsistentError,
    ScoreMDError,
    UndecidedError,
)

if TYPE_CHECKING:
    import jsonargparse

DESCRIPTION = "From an all-atom trajectory to a coarse-grained simulation, step by step."

#: What to do after Ctrl-C.
_AFTER_INTERRUPT = {
    "train": "; the same command with --resume goes on from the last checkpoint",
    "simulate": "; the same command with --resume goes on where it stopped",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if not given.

    Returns
    -------
    int
        Exit code: 0, 2 for wrong input or a failed computation, 3 if ``--require-consistent`` is
        not fulfilled, 4 if it cannot be told, 130 if interrupted.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(arguments)
    except UndecidedError as error:
        return _fail(str(error), code=4)
    except InconsistentError as error:
        return _fail(str(error), code=3)
    except ScoreMDError as error:
        return _fail(str(error))
    # No space, no permission, a name that is a folder: nothing of this is a mistake in the program.
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    except KeyboardInterrupt:
        return _fail(f"interrupted{_AFTER_INTERRUPT.get(arguments[0], '')}", code=130)
    return 0


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        build_overview().parse_args(arguments or ["--help"])
    elif arguments[0] == "train":
        _train(arguments[1:])
    elif arguments[0] in COMMANDS:
        options = build_parser(arguments[0]).parse_args(arguments[1:])
        COMMANDS[arguments[0]](**vars(options))
    else:
        raise ConfigurationError(
            f"unknown command {arguments[0]}{_did_you_mean(arguments[0], [*COMMANDS])}; "
            "see scoremd --help"
        )


def build_overview() -> argparse.ArgumentParser:
    """Return the parser of ``scoremd --help`` and ``scoremd --version``."""
    commands = "\n".join(f"  {name:<14}{_summary(f)}" for name, f in COMMANDS.items())
    parser = _Parser(
        prog="scoremd",
        usage="scoremd COMMAND ...",
        description=f"{DESCRIPTION}\n\ncommands:\n{commands}",
        epilog="scoremd COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=package_versions()["openmm-scoremd"])
    return parser


def build_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command, made from its signature (``train``: its configuration)."""
    if command == "train":
        return _training_parser()
    function = COMMANDS[command]
    parser = _Parser(prog=f"scoremd {command}", description=function.__doc__, allow_abbrev=False)
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in signature(function).parameters.items():
        _add_argument(parser, parameter, hints[name])
    return parser


def _training_parser() -> jsonargparse.ArgumentParser:
    import jsonargparse

    from openmm_scoremd.training.config_file import add_training_arguments

    parser = jsonargparse.ArgumentParser(
        prog="scoremd train",
        usage="scoremd train --config FILE --output FOLDER [--resume] [--expert NAME]\n"
        "                     [--ENTRY X ...]",
        description=f"{_summary(train)} Every entry of the file is an option, too.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--expert", help="train only this expert of a mixture, or go on with it")
    add_training_arguments(parser)
    return parser


def _train(arguments: list[str]) -> None:
    from openmm_scoremd.training.config_file import parse_training_arguments

    config, options = parse_training_arguments(_training_parser(), arguments)
    train(
        config,
        output=options["output"],
        resume=options["resume"],
        expert=options["expert"],
    )


# --- From signatures to options --------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Raises our error, with the nearest option where one is unknown."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        prefix = "unrecognized arguments: "
        if message.startswith(f"{prefix}--"):
            unknown = message.removeprefix(prefix).split()[0].partition("=")[0]
            message = f"unknown option {unknown}"
            hint = _did_you_mean(unknown, list(self._option_string_actions))
        raise ConfigurationError(f"{message}{hint}; see {self.prog} --help")


_METAVARS = {int: "N", float: "X", str: "NAME"}


def _add_argument(parser: argparse.ArgumentParser, parameter: Parameter, annotated: Any) -> None:
    hint, text, *limits = get_args(annotated)
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    options: dict[str, Any] = {"help": text}
    if hint is bool:
        options["action"] = "store_true"
    elif get_origin(hint) is Literal:
        options["choices"] = get_args(hint)
    elif hint == list[int]:
        options |= {"type": _whole_numbers, "metavar": "N,N,..."}
    elif hint == list[str]:
        options["nargs"] = "+"
    else:
        kind = functools.partial(_whole_number, limits) if hint is int else hint
        options |= {"type": kind, "metavar": _METAVARS[hint]}
    if parameter.kind is not Parameter.KEYWORD_ONLY:
        options["metavar"] = parameter.name
        parser.add_argument(parameter.name, **options)
        return
    if parameter.default is Parameter.empty:
        options["required"] = True
    elif parameter.default is not None and hint is not bool:
        options["help"] = f"{text} (default: {parameter.default})"
    parser.add_argument(
        f"--{parameter.name.replace('_', '-')}", default=parameter.default, **options
    )


def _whole_number(limits: Sequence[int], text: str) -> int:
    lowest, highest = [*limits, None, None][:2]
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if (lowest is not None and value < lowest) or (highest is not None and value > highest):
        allowed = f"at least {lowest}" if highest is None else f"in {lowest}..{highest}"
        raise argparse.ArgumentTypeError(f"{value} is out of range; it must be {allowed}")
    return value


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 4,6,8") from error


def _summary(function: Any) -> str:
    return (function.__doc__ or "").splitlines()[0]


def _did_you_mean(unknown: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(unknown, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _fail(message: str, *, code: int = 2) -> int:
    message = " ".join(
        line.strip() for line in message.split("\n")
    ).strip()  # some readers' are long
    console.print("[bold red]error:[/]", end=" ")
    console.print(message, highlight=False, markup=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
