"""Training configurations from YAML files and command lines."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from openmm_scoremd._files.atomic import write_text
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.families import DEFAULT_FAMILY, family_names, network_family
from openmm_scoremd.training.config import ExpertConfig, TrainingConfig
from openmm_scoremd.training.expert_options import with_expert_options, with_one_length
from openmm_scoremd.training.renamed import RENAMED, renamed_record

#: What YAML means here: the parser's own reading, and entries under their present names.
_MODE: Final = "scoremd"


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
    arguments = [f"--config={os.fspath(path)}", *(f"--{entry}" for entry in overrides)]
    try:
        add_training_arguments(parser, arguments)
        config, _ = parse_training_arguments(parser, arguments)
    except ConfigurationError as error:
        raise ConfigurationError(f"{os.fspath(path)}: {error}") from error
    return config


def save_training_config(config: TrainingConfig, path: str | os.PathLike[str]) -> None:
    """Write a configuration as YAML that :func:`load_training_config` reads back.

    Parameters
    ----------
    config : TrainingConfig
        What to write, all entries.
    path : path-like
        The file.
    """
    # By way of JSON, because YAML has no tuples.
    record = json.loads(json.dumps(dataclasses.asdict(config)))
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
    write_text(path, f"# The configuration of this training, every entry.\n{text}")


def add_training_arguments(
    parser: jsonargparse.ArgumentParser, arguments: Sequence[str] = ()
) -> None:
    """Give a parser ``--config`` and an option for every entry of :class:`TrainingConfig`.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        Where the options go.
    arguments : sequence of str
        The command line, which is looked through for the family of networks: the options of
        ``network`` are those of this family.

    Raises
    ------
    ConfigurationError
        If there is no such family.
    """
    network = network_family(_split(arguments)[1]).config_class
    parser.parser_mode = _MODE
    parser.add_argument(
        "--config", action="config", help="YAML file; options given beside it override its entries"
    )
    parser.add_class_arguments(TrainingConfig, None, skip={"network", "experts"})
    parser.add_class_arguments(network, "network")
    group = (parser.groups or {})["network"]
    group.title = f"Network of the family {network.family}"
    group.description = (
        f"--network.family NAME --help shows the entries of another: {', '.join(family_names())}."
    )
    parser.add_argument(
        "--experts", type=list[dict[str, Any]], default=[], help="networks of a mixture, each with "
        "name, t_min, t_max and sections of its own; --experts.NAME.steps 5000 changes one entry"
    )  # fmt: skip


def parse_training_arguments(
    parser: jsonargparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[TrainingConfig, dict[str, Any]]:
    """Parse a command line.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        With the options of :func:`add_training_arguments` for this command line, perhaps with
        others.
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
    files, family, options = _split(arguments)
    _warn([name for name in map(_former_name, arguments) if name is not None])
    section = _Section(TrainingConfig, network_family(family).config_class)
    options = with_one_length(with_expert_options(options, files))
    # The parser lets a file override whatever stands before it.
    ordered = [*(f"--config={file}" for file in files), *options]
    try:
        values = parser.parse_args(ordered)
    except argparse.ArgumentError as error:
        raise ConfigurationError(section.explained(str(error))) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the configuration file is not UTF-8 text ({error})") from error
    section.check(values)
    experts = values.pop("experts")
    parsed = vars(parser.instantiate(values))
    names = {field.name for field in dataclasses.fields(TrainingConfig)} - {"experts"}
    others = {name: value for name, value in parsed.items() if name not in names | {"config"}}
    entries = {name: parsed[name] for name in names}
    return TrainingConfig(**entries, experts=tuple(_expert(expert) for expert in experts)), others


def _expert(entries: Any) -> ExpertConfig:
    """Return one expert of a list, whose network may be of any family."""
    network = entries.get("network")
    family = network.get("family", DEFAULT_FAMILY) if isinstance(network, dict) else DEFAULT_FAMILY
    section = _Section(ExpertConfig, network_family(family).config_class, prefix="experts.")
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(ExpertConfig, None, skip={"network"})
    parser.add_class_arguments(section.network, "network")
    if missing := [name for name in ("name", "t_min", "t_max") if name not in entries]:
        raise ConfigurationError(f"experts: every one of them needs {', '.join(missing)}")
    try:
        values = parser.parse_object(entries)
    except argparse.ArgumentError as error:
        raise ConfigurationError(section.explained(str(error))) from error
    section.check(values)
    return ExpertConfig(**vars(parser.instantiate(values)))


def _split(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Return the files, the family of networks and all other arguments of a command line.

    Options have their present names; that of the family stays among them.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", action="append", default=[])
    first.add_argument("--network.family", dest="family")
    present = [_present(argument) for argument in arguments]
    try:
        known, options = first.parse_known_args(present)
    except argparse.ArgumentError as error:
        raise ConfigurationError(str(error)) from error
    family = known.family
    if family is not None:
        options.append(f"--network.family={family}")
    for file in () if family is not None else reversed(known.config):
        family = family or _family_in(file)
    return known.config, family or DEFAULT_FAMILY, options


def _family_in(file: str) -> str | None:
    try:
        record = jsonargparse.get_loader("yaml")(Path(file).read_text(encoding="utf-8"))
        network = renamed_record(record)[0]["network"]
        return None if "family" not in network else str(network["family"])
    # What is wrong with a file, the parser will say.
    except Exception:  # noqa: BLE001
        return None


def _present(argument: str) -> str:
    """Return an option under its present name."""
    _, equals, value = argument.partition("=")
    old = _former_name(argument)
    return argument if old is None else f"--{RENAMED[old]}{equals}{value}"


def _former_name(argument: str) -> str | None:
    name = argument.partition("=")[0]
    return name[2:] if name.startswith("--") and name[2:] in RENAMED else None


def _load(text: str) -> Any:
    """Read YAML, and bring what is a configuration under present names."""
    value = jsonargparse.get_loader("yaml")(text)
    if not isinstance(value, dict):
        return value
    current, old = renamed_record(value)
    _warn(old)
    return current


def _warn(old: Sequence[str]) -> None:
    for name in old:
        warnings.warn(
            f"{name} is now called {RENAMED[name]}; the old name goes with the next release",
            FutureWarning,
            stacklevel=2,
        )


jsonargparse.set_loader(_MODE, _load, exceptions=(yaml.YAMLError,))


@dataclasses.dataclass(frozen=True)
class _Section:
    """Entries of a configuration whose networks are of one family.

    Attributes
    ----------
    config : type
        :class:`TrainingConfig` or :class:`ExpertConfig`.
    network : type of NetworkConfig
        Configuration of its networks.
    prefix : str
        Dotted name of the section.
    """

    config: type
    network: type[NetworkConfig]
    prefix: str = ""

    def check(self, values: jsonargparse.Namespace) -> None:
        """Refuse values where the parser would let pass what is no section, and fail later."""
        _check_sections(values, self._hints(), prefix=self.prefix)

    def explained(self, message: str) -> str:
        """Return the parser's message in words of ours, where it is one of those users meet."""
        return _explained(message, _entry_types(self._hints()), prefix=self.prefix)

    def _hints(self) -> dict[str, Any]:
        return {**get_type_hints(self.config), "network": self.network}


def _check_sections(
    values: jsonargparse.Namespace, hints: Mapping[str, Any], *, prefix: str
) -> None:
    for name, hint in hints.items():
        value = values[name]
        if name == "experts":
            if not isinstance(value, list):
                raise ConfigurationError(f"experts is {value}; it must be {_in_words(hint)}")
        elif value is None and type(None) not in get_args(hint):
            # The parser takes null for anything.
            raise ConfigurationError(f"{prefix}{name} is None; it must be {_in_words(hint)}")
        elif dataclasses.is_dataclass(hint) and not isinstance(value, jsonargparse.Namespace):
            raise ConfigurationError(f"{prefix}{name} is {value}; it must hold entries of its own")
        elif (section := _section(hint)) and isinstance(value, jsonargparse.Namespace):
            _check_sections(value, get_type_hints(section), prefix=f"{prefix}{name}.")


# --- Messages --------------------------------------------------------------------------------

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --([\w.\-]+)")
_UNKNOWN_ENTRY = re.compile(
    r"(?:Group '(?P<group>.+)' does not accept option|Option) '(?P<name>.+?)'(?: is not accepted|$)"
)
_WRONG_TYPE = re.compile(r"(?:Got value|Given value): (.*)")
_KEY = re.compile(r'Parser key "([\w.]+)":')


def _explained(message: str, known: Mapping[str, Any], *, prefix: str) -> str:
    keys = [key for key in _KEY.findall(message) if key != "config"]
    inner = message[[0, *(match.end() for match in _KEY.finditer(message))][-1] :]
    if match := _UNKNOWN_OPTION.match(message):
        return f"unknown option --{match[1]}{_did_you_mean(match[1], known, prefix='--')}"
    if match := (_UNKNOWN_ENTRY.search(inner) if keys else _UNKNOWN_ENTRY.match(message)):
        full = ".".join(part for part in (*keys, *match.group("group", "name")) if part)
        return f"unknown entry {prefix}{full}{_did_you_mean(full, known, prefix=prefix)}"
    full = ".".join(keys)
    if (match := _WRONG_TYPE.search(inner)) and full in known:
        return f"{prefix}{full} is {match[1]}; it must be {_in_words(known[full])}"
    return " ".join(message.replace('Parser key "config": ', "").split())


def _entry_types(hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the types of all entries by dotted name."""
    types: dict[str, Any] = {}
    for name, hint in hints.items():
        section = _section(hint)
        if section is not hint:
            types[name] = hint
        if section is not None:
            inner = _entry_types(get_type_hints(section))
            types |= {f"{name}.{entry}": value for entry, value in inner.items()}
    return types


def _section(hint: Any) -> type | None:
    """Return the dataclass of an entry that is one, or may be one."""
    choices = [hint, *get_args(hint)] if get_origin(hint) in (Union, UnionType) else [hint]
    sections = [c for c in choices if isinstance(c, type) and dataclasses.is_dataclass(c)]
    return sections[0] if sections else None


def _did_you_mean(unknown: str, known: Mapping[str, Any], *, prefix: str) -> str:
    # People also forget the section: "learning_rate" means "optimizer.learning_rate".
    names = {name.rpartition(".")[2]: name for name in reversed([*known])} | {n: n for n in known}
    nearest = difflib.get_close_matches(unknown, names, n=1)
    return f" (did you mean {prefix}{names[nearest[0]]}?)" if nearest else ""


def _in_words(hint: Any) -> str:
    simple = {int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if hint in simple:
        return simple[hint]
    if get_origin(hint) is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if hint == tuple[ExpertConfig, ...]:
        return "a list whose items hold entries of their own"
    if get_origin(hint) is tuple:
        return "a list of whole numbers, such as [64, 64]"
    if _section(hint) is hint:
        return "entries of its own"
    return " or ".join(_in_words(part) for part in get_args(hint))
