"""Training configurations from YAML files and command lines."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Sequence

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
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    add_training_arguments(parser)
    arguments = [f"--config={os.fspath(path)}", *(f"--{entry}" for entry in overrides)]
    try:
        values = vars(parser.instantiate(parser.parse_args(arguments)))
    except argparse.ArgumentError as error:
        hint = nearest_option(str(error), option_names(parser))
        raise ConfigurationError(f"{os.fspath(path)}: {error}{hint}") from error
    values.pop("config")
    return TrainingConfig(**values)


def add_training_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Give a parser ``--config`` and an option for every entry of :class:`TrainingConfig`."""
    parser.add_argument("--config", action="config", help="YAML file.")
    parser.add_class_arguments(TrainingConfig, None)


def option_names(parser: jsonargparse.ArgumentParser) -> list[str]:
    """Return the names of all options of a parser, dotted where nested."""
    return list(parser.get_defaults(skip_validation=True).keys())


def nearest_option(message: str, names: Iterable[str]) -> str:
    """Return a hint at the known option nearest to the unknown one an error message names.

    Parameters
    ----------
    message : str
        Error of the parser.
    names : iterable of str
        Known options.

    Returns
    -------
    str
        For example ``"; did you mean epochs?"``; empty if no option is unknown or none is near.
    """
    flag = re.search(r"unrecognized arguments: --([\w.\-]+)", message)
    nested = re.search(r"Group '(.+)' does not accept option '(.+)'", message)
    plain = re.search(r"does not accept option '(.+)'|Key '(.+)' is not expected", message)
    if flag:
        unknown = flag.group(1)
    elif nested:
        unknown = f"{nested.group(1).rpartition('train.')[2]}.{nested.group(2)}"
    elif plain:
        unknown = plain.group(1) or plain.group(2)
    else:
        return ""
    nearest = difflib.get_close_matches(unknown, names, n=1, cutoff=0.4)
    return f"; did you mean {nearest[0]}?" if nearest else ""
