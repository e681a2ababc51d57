"""Options that change one expert of a mixture: ``--experts.low.epochs 5``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.training.renamed import renamed_record

_PREFIX = "--experts."
#: Of two ways to say how long a training is, a given one replaces the other.
_OTHER_LENGTH = {"epochs": "steps", "steps": "epochs"}


def with_expert_options(options: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return options in which those of single experts are one that gives the whole list.

    Parameters
    ----------
    options : sequence of str
        A command line without its configuration files.
    files : sequence of str
        The files, of which the last with experts counts.

    Raises
    ------
    ConfigurationError
        If an option has no value, or there is no such expert.
    """
    others, given, waiting = [], [], ""
    for word in options:
        if waiting:
            given.append((waiting, word))
            waiting = ""
        elif word.startswith(_PREFIX):
            name, equals, value = word.removeprefix(_PREFIX).partition("=")
            if equals:
                given.append((name, value))
            else:
                waiting = name
        else:
            others.append(word)
    if waiting:
        raise ConfigurationError(f"{_PREFIX}{waiting} has no value")
    if not given:
        return others
    experts = _experts(others, files)
    for name, value in given:
        _set(experts, name, _load(value))
    return [*others, f"--experts={json.dumps(experts)}"]


def with_one_length(options: Sequence[str]) -> list[str]:
    """Return options in which ``--steps`` replaces the epochs of a file, and the other way round.

    Parameters
    ----------
    options : sequence of str
        A command line.
    """
    given = {word.partition("=")[0] for word in options}
    lengths = [name for name in _OTHER_LENGTH if f"--{name}" in given]
    replaced = [f"--{_OTHER_LENGTH[name]}=null" for name in lengths]
    return [*replaced, *options] if len(lengths) == 1 else list(options)


def _experts(options: Sequence[str], files: Sequence[str]) -> list[Any]:
    listed: Any = None
    for file in files:
        try:
            record = _load(Path(file).read_text(encoding="utf-8"))
            listed = renamed_record(record)[0].get("experts", listed)
        # What is wrong with a file, the parser will say.
        except Exception:  # noqa: BLE001
            continue
    for word, following in zip(options, [*options, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name == "--experts":
            listed = _load(value if equals else following)
    return json.loads(json.dumps(listed)) if isinstance(listed, list) else []


def _set(experts: list[Any], dotted: str, value: Any) -> None:
    """Set an entry such as ``low.optimizer.learning_rate``; names of experts may have dots."""
    known = {str(e["name"]): e for e in experts if isinstance(e, dict) and "name" in e}
    found = [name for name in known if dotted.startswith(f"{name}.")]
    if not found:
        raise ConfigurationError(
            f"{_PREFIX}{dotted} names no expert and entry; there are the experts "
            f"{', '.join(known) or '(none)'}, and options are such as {_PREFIX}NAME.steps"
        )
    name = max(found, key=len)
    section = known[name]
    *path, entry = dotted.removeprefix(f"{name}.").split(".")
    for part in path:
        if not isinstance(section.get(part), dict):
            section[part] = {}
        section = section[part]
    if not path and entry in _OTHER_LENGTH:
        section.pop(_OTHER_LENGTH[entry], None)
    section[entry] = value


def _load(text: str) -> Any:
    return jsonargparse.get_loader("yaml")(text)
