"""Training configurations from YAML files and command lines."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jsonargparse

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.training.config import TrainingConfig


def load_training_config(
    path: str | os.PathLike[str], *, overrides: Sequence[str] = ()
) -> TrainingConfig:
    """Read a training configuration.

    Parameters
    ----------
    path : path-like
        YAML file.
    overrides : sequence of str
        Entries that differ, such as ``"optimizer.learning_rate=1e-4"``.

    Returns
    -------
    TrainingConfig
        Checked configuration.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or an entry is unknown (the nearest known one is named), of the
        wrong type or out of range.
    """
    for entry in overrides:
        if "=" not in entry:
            raise ConfigurationError(f"override {entry!r} has no value; write it as name=value")
    parser = jsonargparse.ArgumentParser(
        exit_on_error=False, allow_abbrev=False, add_help=False, print_config=None
    )
    add_training_arguments(parser)
    arguments = [f"--config={os.fspath(path)}", *(f"--{entry}" for entry in overrides)]
    try:
        config, _ = parse_training_arguments(parser, arguments)
    except ConfigurationError as error:
        raise ConfigurationError(f"{os.fspath(path)}: {error}") from error
    return config


def add_training_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Give a parser ``--config`` and an option for every entry of :class:`TrainingConfig`."""
    parser.add_argument(
        "--config", action="config", help="YAML file; options given beside it override its entries"
    )
    parser.add_class_arguments(TrainingConfig, None)


def parse_training_arguments(
    parser: jsonargparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[TrainingConfig, dict[str, Any]]:
    """Parse a command line.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        With the options of :func:`add_training_arguments`, perhaps with others.
    arguments : sequence of str
        The command line. Options override the entries of a file, wherever ``--config`` stands.

    Returns
    -------
    config : TrainingConfig
        Checked configuration.
    others : dict
        Values of the parser's other options.

    Raises
    ------
    ConfigurationError
        As :func:`load_training_config`.
    """
    try:
        values = parser.parse_args(_config_first(arguments))
        _check_sections(values, TrainingConfig, prefix="")
        parsed = vars(parser.instantiate(values))
    except argparse.ArgumentError as error:
        raise ConfigurationError(_explained(str(error))) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the configuration file is not UTF-8 text ({error})") from error
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    others = {name: value for name, value in parsed.items() if name not in names | {"config"}}
    return TrainingConfig(**{name: parsed[name] for name in names}), others


def _config_first(arguments: Sequence[str]) -> list[str]:
    # The parser lets a file override whatever stands before it.
    files: list[str] = []
    others: list[str] = []
    for argument in arguments:
        names_file = bool(files) and files[-1] == "--config"
        chosen = files if names_file or re.match("--config($|=)", argument) else others
        chosen.append(argument)
    return files + others


def _check_sections(values: jsonargparse.Namespace, config: type, *, prefix: str) -> None:
    """Refuse values where the parser would let pass what is no section, and fail later."""
    for name, hint in get_type_hints(config).items():
        if name not in values:  # items of a list hold only what the file gives
            continue
        value = values[name]
        if value is None and type(None) not in get_args(hint):
            # The parser takes null for anything.
            raise ConfigurationError(f"{prefix}{name} is None; it must be {_in_words(hint)}")
        if dataclasses.is_dataclass(hint) and not isinstance(value, jsonargparse.Namespace):
            raise ConfigurationError(f"{prefix}{name} is {value}; it must hold entries of its own")
        if (section := _section(hint)) and isinstance(value, jsonargparse.Namespace):
            _check_sections(value, section, prefix=f"{prefix}{name}.")
        if listed := _listed_section(hint):
            for entry in value:
                _check_sections(entry, listed, prefix=f"{prefix}{name}.")


# --- Messages --------------------------------------------------------------------------------

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --([\w.\-]+)")
_UNKNOWN_ENTRY = re.compile(
    r"(?:Group '(?P<group>.+)' does not accept option|Option) '(?P<name>.+?)'(?: is not accepted|$)"
)
_WRONG_TYPE = re.compile(r"(?:Got value|Given value): (.*)")
_MISSING = re.compile(r"the following arguments are required: (.*)")
_KEY = re.compile(r'Parser key "([\w.]+)":')


def _explained(message: str) -> str:
    """Return the parser's message in words of ours, where it is one of those users meet."""
    known = _entry_types(TrainingConfig)
    if match := _UNKNOWN_OPTION.match(message):
        return f"unknown option --{match[1]}{_did_you_mean(match[1], known, prefix='--')}"
    # Inside lists, messages are nested.
    keys = [key for key in _KEY.findall(message) if key != "config"]
    inner = message[[0, *(match.end() for match in _KEY.finditer(message))][-1] :]
    if match := (_UNKNOWN_ENTRY.search(inner) if keys else _UNKNOWN_ENTRY.match(message)):
        full = ".".join(part for part in (*keys, *match.group("group", "name")) if part)
        return f"unknown entry {full}{_did_you_mean(full, known, prefix='')}"
    if keys and (match := _MISSING.search(inner)):
        return f"{'.'.join(keys)}: every one of them needs {match[1].strip()}"
    full = ".".join(keys)
    if (match := _WRONG_TYPE.search(inner)) and full in known:
        return f"{full} is {match[1]}; it must be {_in_words(known[full])}"
    return " ".join(message.replace('Parser key "config": ', "").split())


def _entry_types(config: type) -> dict[str, Any]:
    """Return the types of all entries by dotted name; of lists of sections, also those inside."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(config).items():
        section = _section(hint) or _listed_section(hint)
        if section is not hint:
            types[name] = hint
        if section is not None:
            types |= {f"{name}.{inner}": value for inner, value in _entry_types(section).items()}
    return types


def _section(hint: Any) -> type | None:
    """Return the dataclass of an entry that is one, or may be one."""
    choices = [hint, *get_args(hint)] if get_origin(hint) in (Union, UnionType) else [hint]
    sections = [c for c in choices if isinstance(c, type) and dataclasses.is_dataclass(c)]
    return sections[0] if sections else None


def _listed_section(hint: Any) -> type | None:
    """Return the dataclass of the entries of a list, if they are dataclasses."""
    return _section(get_args(hint)[0]) if get_origin(hint) is tuple else None


def _did_you_mean(unknown: str, known: dict[str, Any], *, prefix: str) -> str:
    # People also forget the section: "learning_rate" means "optimizer.learning_rate".
    names = {name.rpartition(".")[2]: name for name in reversed(known)} | {n: n for n in known}
    nearest = difflib.get_close_matches(unknown, names, n=1)
    return f" (did you mean {prefix}{names[nearest[0]]}?)" if nearest else ""


def _in_words(hint: Any) -> str:
    simple = {int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if hint in simple:
        return simple[hint]
    if get_origin(hint) is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if _listed_section(hint):
        return "a list whose items hold entries of their own"
    if get_origin(hint) is tuple:
        return "a list of whole numbers, such as [64, 64]"
    if _section(hint) is hint:
        return "entries of its own"
    return " or ".join(_in_words(part) for part in get_args(hint))
