"""Tables of options and settings, made from the code when the pages are built.

==========================  ==================================================================
``{command} simulate``      options of ``scoremd simulate``, from its parser
``{settings} a.module.Cls`` entries of a dataclass: types and defaults, text of its docstring
==========================  ==================================================================
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_origin, get_type_hints

import docstring_parser
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from openmm_scoremd.cli.main import build_parser
from openmm_scoremd.training.config import TrainingConfig

#: Text where ``x`` stands for code, as in docstrings.
Cell: TypeAlias = str

_STYLE = docstring_parser.DocstringStyle.NUMPYDOC
_ROLE = re.compile(r":\w+:`~?\.*([^`]+)`")
_CODE = re.compile(r"``(.+?)``")


class CommandTable(Directive):
    """Options of a command."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        parser = build_parser(self.arguments[0])
        actions = parser._actions
        if self.arguments[0] == "train":
            actions = [action for action in actions if _is_listed(action)]
        rows = [_option(action) for action in actions if action.dest != "help"]
        return [_table(("option", "value", "meaning"), (4, 3, 8), rows)]


class SettingsTable(Directive):
    """Entries of a dataclass."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].rpartition(".")
        rows = settings_rows(getattr(importlib.import_module(module), name))
        return [_table(("entry", "default", "meaning"), (4, 3, 8), rows)]


def settings_rows(config: type) -> list[tuple[Cell, Cell, Cell]]:
    """Return name, default and meaning of the entries of a dataclass.

    Entries that the docstring describes together share a row. Those that a base class has are in
    the table of that, unless the class gives them other defaults.

    Raises
    ------
    ValueError
        If the docstring does not describe an entry.
    """
    hints = get_type_hints(config)
    meanings = _meanings(config)
    own = inspect.get_annotations(config)
    fields = [field for field in dataclasses.fields(config) if field.name in own]
    if missing := [field.name for field in fields if field.name not in meanings]:
        raise ValueError(f"the docstring of {config.__name__} does not describe {missing}")
    rows = []
    for meaning, group in itertools.groupby(fields, key=lambda field: meanings[field.name]):
        together = list(group)
        choices = " or ".join(f"``{choice}``" for choice in _choices(hints[together[0].name]))
        rows.append(
            (
                ", ".join(f"``{field.name}``" for field in together),
                ", ".join(dict.fromkeys(_default(field) for field in together)),
                f"{choices}. {meaning}" if choices else meaning,
            )
        )
    return rows


def _meanings(config: type) -> dict[str, str]:
    return {
        name.strip(): entry.description or ""
        for described in reversed(config.__mro__)
        for entry in docstring_parser.parse(described.__doc__ or "", style=_STYLE).params
        for name in entry.arg_name.split(",")
    }


def _choices(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from (str(choice) for choice in get_args(hint))


def _default(field: dataclasses.Field[Any]) -> Cell:
    if field.default_factory is not dataclasses.MISSING:
        return "its own table"
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "none"
    return f"``{list(field.default) if isinstance(field.default, tuple) else field.default}``"


def _is_listed(action: argparse.Action) -> bool:
    """Leave out what the configuration of a training adds to its parser: it has its own tables."""
    entries = {field.name for field in dataclasses.fields(TrainingConfig)}
    return action.dest.partition(".")[0] not in {*entries, "print_config"}


def _option(action: argparse.Action) -> tuple[Cell, Cell, Cell]:
    name = action.option_strings[-1] if action.option_strings else action.dest
    if action.choices is not None:
        value = " or ".join(f"``{choice}``" for choice in action.choices)
    elif action.nargs == 0:
        value = ""
    elif action.option_strings:
        value = f"``{action.metavar or action.dest.upper()}``"
    else:
        value = "several" if action.nargs == "+" else ""
    required = " (required)" if action.required and action.option_strings else ""
    return (f"``{name}``", value, f"{action.help or ''}{required}")


def _table(
    header: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[Cell]]
) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=w) for w in widths), cols=len(widths))
    group += nodes.thead("", _row(header))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["options"])


def _row(cells: Sequence[Cell]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *_inline(c))) for c in cells))


def _inline(text: Cell) -> Iterator[nodes.Node]:
    for i, part in enumerate(_CODE.split(_ROLE.sub(r"``\1``", text.replace("\n", " ")))):
        if part:
            yield nodes.literal(part, part) if i % 2 else nodes.Text(part)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("command", CommandTable)
    app.add_directive("settings", SettingsTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
