"""What a campaign does: the YAML file, and the jobs and steps that follow from it.

A job is one molecule, one model and one seed. Its steps are ``scoremd`` command lines, one after
another; each has a folder of its own, ``OUTPUT/MOLECULE/MODEL/seed-N/STEP``, and files beside it::

    STEP.json   written at the end: exit code, time, and the hash of what was done
    STEP.log    what the command said
    STEP.lock   held while it runs
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ENTRIES = ("output", "molecules", "models", "seeds", "steps", "threads")


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of one job.

    Attributes
    ----------
    name : str
        Its name in the file.
    arguments : tuple of str
        Command line after ``scoremd``.
    folder : Path
        Where the results go, absolute.
    digest : str
        Hash of the command line and of the files and folders it names; of earlier steps, their
        digests.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    digest: str

    @property
    def record(self) -> Path:
        """File that says how it ended."""
        return self.folder.with_name(f"{self.name}.json")

    @property
    def log(self) -> Path:
        """File of what it said."""
        return self.folder.with_name(f"{self.name}.log")

    @property
    def lock(self) -> Path:
        """File that is locked while it runs."""
        return self.folder.with_name(f"{self.name}.lock")


@dataclasses.dataclass(frozen=True)
class Job:
    """One molecule, model and seed: steps to be done one after another.

    Attributes
    ----------
    name : str
        ``MOLECULE/MODEL/seed-N``.
    steps : tuple of Step
        What to do.
    cwd : Path
        Folder in which the commands run: that of the campaign file.
    threads : int
        Threads of each command.
    """

    name: str
    steps: tuple[Step, ...]
    cwd: Path
    threads: int


def load_campaign(path: str | os.PathLike[str]) -> list[Job]:
    """Read a campaign file.

    Parameters
    ----------
    path : path-like
        YAML file; paths inside are relative to its folder.

    Returns
    -------
    list of Job
        All jobs, in the order of the file.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or an entry is missing, unknown or of the wrong kind.
    """
    file = Path(path).absolute()
    content = _read(file)
    try:
        return _jobs(content, file.parent)
    except ConfigurationError as error:
        raise ConfigurationError(f"{os.fspath(path)}: {error}") from error


def steps_of_commands(
    commands: Mapping[str, Sequence[str]], folder: Path, cwd: Path
) -> tuple[Step, ...]:
    """Return steps that run in a row, outside a campaign.

    Parameters
    ----------
    commands : mapping of str to sequence of str
        By name, the words of each command line after ``scoremd``. ``{folder}`` is the folder of the
        step, ``{NAME}`` that of an earlier one.
    folder : Path
        Where the folders of all steps go, absolute.
    cwd : Path
        Folder in which the commands run.

    Raises
    ------
    ConfigurationError
        If a word has another placeholder.
    """
    digest = functools.cache(functools.partial(_digest_of_input, output=folder))
    return _filled(commands, {}, folder, cwd, digest)


def _read(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    # Recursion and odd numbers inside get past the parser's own error class.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{file} is no YAML file ({text})") from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{file} has no entries; it needs {', '.join(_ENTRIES)}")
    return content


def _jobs(content: Mapping[str, Any], cwd: Path) -> list[Job]:
    if unknown := [str(name) for name in content if name not in _ENTRIES]:
        raise ConfigurationError(f"unknown entry {unknown[0]}; there are {', '.join(_ENTRIES)}")
    output = content.get("output")
    if not isinstance(output, str) or not output:
        raise ConfigurationError(f"output is {output!r}; it must be the name of a folder")
    molecules = _table(content, "molecules")
    models = _table(content, "models")
    templates = _steps(content.get("steps"))
    threads = content.get("threads", 1)
    if not _is_count(threads) or threads < 1:
        raise ConfigurationError(f"threads is {threads!r}; it must be a number, at least 1")
    # Every input once: a dataset is the same for all seeds.
    digest = functools.cache(functools.partial(_digest_of_input, output=cwd / output))
    jobs = []
    for molecule, molecule_values in molecules.items():
        for model, model_values in models.items():
            for seed in _seeds(content.get("seeds")):
                values = {"molecule": molecule, "model": model, "seed": str(seed)}
                values |= {f"molecule.{key}": text for key, text in molecule_values.items()}
                values |= {f"model.{key}": text for key, text in model_values.items()}
                name = f"{molecule}/{model}/seed-{seed}"
                steps = _filled(templates, values, cwd / output / name, cwd, digest)
                jobs.append(Job(name, steps, cwd, threads))
    return jobs


def _table(content: Mapping[str, Any], name: str) -> dict[str, dict[str, str]]:
    """Return names and their values as text."""
    table = content.get(name)
    if not isinstance(table, Mapping) or not table:
        raise ConfigurationError(f"{name} is {table!r}; it must hold at least one name")
    result = {}
    for key, values in table.items():
        checked = _checked_name(key, f"a name in {name}")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigurationError(
                f"{name}.{key} is {values!r}; it must hold entries, or be null"
            )
        result[checked] = {
            _checked_name(entry, f"an entry of {name}.{key}"): _text(value, f"{name}.{key}.{entry}")
            for entry, value in (values or {}).items()
        }
    return result


def _steps(steps: Any) -> dict[str, list[str]]:
    """Return the words of each command line, placeholders and all."""
    if not isinstance(steps, Mapping) or not steps:
        raise ConfigurationError(f"steps is {steps!r}; it must hold at least one command line")
    result = {}
    for key, line in steps.items():
        name = _checked_name(key, "a step's name")
        if name in ("molecule", "model", "seed", "folder"):
            raise ConfigurationError(f"a step cannot be called {name}: it means something else")
        if Path(name).suffix in (".json", ".log", ".lock"):
            raise ConfigurationError(
                f"a step cannot be called {name}: files beside its folder have such names"
            )
        try:
            words = shlex.split(line) if isinstance(line, str) else []
        except ValueError as error:
            raise ConfigurationError(f"steps.{name}: {error} in {line!r}") from error
        if len(words) < 2 or words[0] != "scoremd" or words[1] == "campaign":
            raise ConfigurationError(
                f"steps.{name} is {line!r}; it must be a command line that begins with scoremd, "
                "other than scoremd campaign"
            )
        if not any("{folder}" in word for word in words):
            raise ConfigurationError(
                f"steps.{name} does not say {{folder}}; its results must go there, so that they "
                "can be told from its inputs"
            )
        result[name] = words[1:]
    return result


def _seeds(seeds: Any) -> list[int]:
    if (
        not isinstance(seeds, Sequence)
        or isinstance(seeds, str)
        or not seeds
        or not all(_is_count(seed) for seed in seeds)
        or len({*seeds}) != len(seeds)
    ):
        raise ConfigurationError(f"seeds is {seeds!r}; it must be a list such as [0, 1, 2]")
    return list(seeds)


def _filled(
    templates: Mapping[str, Sequence[str]],
    values: Mapping[str, str],
    job_folder: Path,
    cwd: Path,
    digest_of: Callable[[Path], str],
) -> tuple[Step, ...]:
    steps: list[Step] = []
    for name, words in templates.items():
        folder = job_folder / name
        folders = {step.name: str(step.folder) for step in steps} | {"folder": str(folder)}
        arguments = tuple(_fill(word, {**values, **folders}, f"steps.{name}") for word in words)
        # Folders stay placeholders: a campaign that is moved to another place is still the same.
        kept = [_fill(w, {**values, **{f: f"{{{f}}}" for f in folders}}, "") for w in words]
        content = {
            "arguments": kept,
            "files": [digest_of(path) for path in _inputs(kept, cwd)],
            "earlier": [s.digest for s in steps if any(f"{{{s.name}}}" in w for w in words)],
        }
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        steps.append(Step(name, arguments, folder, digest))
    return tuple(steps)


def _fill(word: str, values: Mapping[str, str], where: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigurationError(
                f"{where} has the placeholder {match[0]}; there are "
                f"{', '.join(f'{{{name}}}' for name in values)}"
            )
        return values[match[1]]

    return _PLACEHOLDER.sub(replacement, word)


def _inputs(words: Sequence[str], cwd: Path) -> list[Path]:
    """Return the files and folders that a command line names, also as ``--option=file``."""
    values = [word.rpartition("=")[2] for word in words[1:]]  # the first is the command
    return [cwd / value for value in values if value and (cwd / value).exists()]


def _digest_of_input(path: Path, *, output: Path) -> str:
    """Return the hash of a file, or of all files of a folder but what the campaign writes there."""
    if path.is_file():
        return sha256_of_file(path)
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if Path(folder, name) != output)
        for file in sorted(Path(folder, name) for name in files):
            if file.is_file():  # a pipe would wait for its writer
                digest.update(f"{file.relative_to(path)}\0{sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _checked_name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} is {name!r}; names may have letters, digits, dots, dashes, underscores and "
            "plus signs, and name folders"
        )
    return name


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigurationError(f"{name} is {value!r}; it must be text or a number")
    return str(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
