"""From signatures to options: what may be positional is, what is keyword-only is an option.

An annotation holds an option's help and, for whole numbers, the lowest and highest value allowed.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import types
import warnings
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import (
    Any,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from openmm_scoremd.errors import ConfigurationError

#: Old names of options, which work for one release more.
RENAMED_OPTIONS = {"--level": "--alpha", "--potential-scale": "--potential-factor"}

#: Old names of values of options, likewise.
RENAMED_VALUES = {("--backend", "compiled"): "kernel"}

_METAVARS = {int: "N", float: "X", str: "NAME"}


class CommandParser(argparse.ArgumentParser):
    """Raises our error, with the nearest option where one is unknown."""

    def error(self, message: str) -> NoReturn:
        """Raise ``ConfigurationError``."""
        hint = ""
        prefix = "unrecognized arguments: "
        if message.startswith(f"{prefix}--"):
            unknown = message.removeprefix(prefix).split()[0].partition("=")[0]
            message = f"unknown option {unknown}"
            hint = did_you_mean(unknown, self.option_names())
        raise ConfigurationError(f"{message}{hint}; see {self.prog} --help")

    def option_names(self) -> list[str]:
        """Return all options."""
        return [*self._option_string_actions]


def parser_of_function(function: Callable[..., None], *, prog: str) -> CommandParser:
    """Return the parser of a command, made from the signature of its function."""
    parser = CommandParser(prog=prog, description=function.__doc__, allow_abbrev=False)
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in signature(function).parameters.items():
        _add_argument(parser, parameter, hints[name])
    return parser


def with_new_names(arguments: Sequence[str], parser: CommandParser) -> list[str]:
    """Return a command line in which old names of options and values are the new ones.

    Warns with a ``FutureWarning`` for each.
    """
    known = parser.option_names()
    renamed: list[str] = []
    option = ""
    for word in arguments:
        is_option = word.startswith("--")
        name, equals, value = word.partition("=") if is_option else (option, "", word)
        option = RENAMED_OPTIONS.get(name, name) if is_option else name
        if option not in known:
            option = name
        if option != name:
            _warn(name, option)
        if (new := RENAMED_VALUES.get((option, value), value)) != value:
            _warn(f"{option} {value}", f"{option} {new}")
        renamed.append(f"{option}{equals}{new}" if is_option else new)
        option = option if is_option else ""
    return renamed


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}", FutureWarning, stacklevel=3)


def summary(function: Callable[..., None]) -> str:
    """Return the first line of what a command says about itself."""
    return (function.__doc__ or "").splitlines()[0]


def did_you_mean(unknown: str, known: Sequence[str]) -> str:
    """Return a hint at the nearest name, if one is near."""
    nearest = difflib.get_close_matches(unknown, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


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
