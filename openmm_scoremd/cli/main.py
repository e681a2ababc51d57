"""The ``scoremd`` command: which commands there are, error messages, exit codes.

Commands are the functions in :data:`COMMANDS`; what each of them needs is imported when it runs, so
that ``scoremd --help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from openmm_scoremd.cli.campaign import campaign
from openmm_scoremd.cli.data import coarse_grain
from openmm_scoremd.cli.evaluate import evaluate, fokker_planck
from openmm_scoremd.cli.fit import fit
from openmm_scoremd.cli.model import export, info
from openmm_scoremd.cli.parser import (
    CommandParser,
    did_you_mean,
    parser_of_function,
    summary,
    with_new_names,
)
from openmm_scoremd.cli.recipe import init
from openmm_scoremd.cli.refine import refine
from openmm_scoremd.cli.reweight import reweight
from openmm_scoremd.cli.sample import sample
from openmm_scoremd.cli.signals import interrupts_remembered
from openmm_scoremd.cli.simulate import plan, simulate
from openmm_scoremd.cli.terminal import allow_any_text, flush_output, log_lines, print_error
from openmm_scoremd.cli.train import import_weights, train, training_arguments, training_parser
from openmm_scoremd.errors import (
    ConfigurationError,
    InconsistentError,
    ScoreMDError,
    UndecidedError,
)

DESCRIPTION = "From an all-atom trajectory to a coarse-grained simulation, step by step."

#: In the order of work.
COMMANDS: dict[str, Callable[..., None]] = {
    "fit": fit,
    "coarse-grain": coarse_grain,
    "init": init,
    "train": train,
    "refine": refine,
    "import": import_weights,
    "export": export,
    "info": info,
    "sample": sample,
    "reweight": reweight,
    "plan": plan,
    "simulate": simulate,
    "evaluate": evaluate,
    "fokker-planck": fokker_planck,
    "campaign": campaign,
}

#: What to do after Ctrl-C.
_AFTER_INTERRUPT = {
    "fit": "; the same command goes on",
    "train": "; the same command with --resume goes on from the last checkpoint",
    "simulate": "; the same command with --resume goes on where it stopped",
    "refine": "; the same command goes on from the last round",
    "campaign": "; the same command goes on",
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
        Exit code: 0, 2 for wrong input or a failed computation; of ``fit``, and of ``evaluate``
        with ``--require-consistent``, 3 if sets contradict each other and 4 if it cannot be told;
        130 if interrupted.
    """
    allow_any_text()
    logging.basicConfig(level=logging.WARNING, handlers=[log_lines()])
    warnings.formatwarning = lambda text, kind, *_place: f"{kind.__name__}: {text}\n"
    arguments = list(sys.argv[1:] if argv is None else argv)
    with interrupts_remembered() as interrupted:
        try:
            _run(arguments)
            flush_output()
        except (Exception, KeyboardInterrupt) as error:
            # C and C++ code make errors of their own of a Ctrl-C.
            if interrupted() or isinstance(error, KeyboardInterrupt):
                print_error("interrupted" + _AFTER_INTERRUPT.get("".join(arguments[:1]), ""))
                return 130
            if isinstance(error, ScoreMDError):
                print_error(str(error))
                return _exit_code(error)
            # No space, no permission, a name that is a folder: no mistake in the program.
            if isinstance(error, OSError):
                name = f"{error.filename}: " if error.filename else ""
                print_error(f"{name}{error.strerror or error}")
                with contextlib.suppress(OSError):
                    flush_output()  # a pipe that is closed is no reason to try again at the end
                return 2
            raise
    return 0


def _exit_code(error: ScoreMDError) -> int:
    if isinstance(error, UndecidedError):
        return 4
    return 3 if isinstance(error, InconsistentError) else 2


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        build_overview().parse_args(arguments or ["--help"])
        return
    command, *rest = arguments
    if command not in COMMANDS:
        hint = did_you_mean(command, [*COMMANDS])
        raise ConfigurationError(f"unknown command {command}{hint}; see scoremd --help")
    if command == "train":
        config, given = training_arguments(rest)
        COMMANDS[command](config, **given)
        return
    parser = parser_of_function(COMMANDS[command], prog=f"scoremd {command}")
    COMMANDS[command](**vars(parser.parse_args(with_new_names(rest, parser))))


def build_overview() -> argparse.ArgumentParser:
    """Return the parser of ``scoremd --help`` and ``scoremd --version``."""
    from openmm_scoremd._files.run_record import package_versions

    commands = "\n".join(f"  {name:<14}{summary(f)}" for name, f in COMMANDS.items())
    parser = CommandParser(
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
        return training_parser()
    return parser_of_function(COMMANDS[command], prog=f"scoremd {command}")
