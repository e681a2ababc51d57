"""What to do after a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openmm_scoremd.errors import InconsistentError, UndecidedError

_NOT, _UNKNOWN = "NOT consistent", "cannot tell"
_REFERENCE = "reference"


def exit_error(metrics: Mapping[str, Any]) -> InconsistentError | None:
    """Return the error that a verdict amounts to, as of ``scoremd evaluate --require-consistent``.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json`` of a report.
    """
    for verdict, error in ((_NOT, InconsistentError), (_UNKNOWN, UndecidedError)):
        names = [f"{p['second']} and {p['first']}" for p in _pairs(metrics, verdict)]
        if names:
            return error(f"{'; '.join(names)}: {verdict}; what to do is said above")
    return None


def what_next(folder: Path, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to do after a fit, the most helpful first.

    Parameters
    ----------
    folder : Path
        Folder of the fit.
    metrics : mapping
        ``metrics.json`` of its report.
    """
    from openmm_scoremd.training.held_out import lowest_step
    from openmm_scoremd.training.log import read_log
    from openmm_scoremd.training.trainer import LOG

    wrong, unknown = list(_pairs(metrics, _NOT)), list(_pairs(metrics, _UNKNOWN))
    if not wrong and not unknown:
        yield f"scoremd simulate {folder}/export/model.pt FOLDER --time 10ns"
        return
    rows = read_log(folder / "train" / LOG)
    worse = [pair for pair in wrong if {pair["first"], pair["second"]} == {_REFERENCE, "iid"}]
    if worse and lowest_step(rows) is not None:
        yield f"more frames{_of(worse)}: the held-out loss rises, so more steps would not help"
    elif worse:
        steps = rows[-1].step if rows else 0
        yield (
            f"train longer{_where(worse)}: the same command with more --minutes and another "
            f"--output; or scoremd train --output {folder}/train --resume --steps {3 * steps}, "
            "then export, sample, simulate and evaluate"
        )
    elif wrong:
        yield (
            f"refine{_where(wrong)}: independent frames agree and the simulation does not, so "
            f"scoremd refine {folder}/train/weights.safetensors {folder}/beads/beads.npz "
            f"{folder}/refined"
        )
    if unknown:
        yield f"more frames{_of(unknown)}: {_fewest(metrics)}"


def _pairs(metrics: Mapping[str, Any], verdict: str) -> Iterator[Mapping[str, Any]]:
    return (pair for pair in metrics["pairs"] if pair["verdict"] == verdict)


def _clearest(pairs: list[Mapping[str, Any]]) -> list[str]:
    found = [f"{d['observable']}, {d['region']}" for p in pairs for d in p["discrepancies"]]
    return list(dict.fromkeys(found))[:3]


def _where(pairs: list[Mapping[str, Any]]) -> str:
    found = _clearest(pairs)
    return f" ({'; '.join(found)})" if found else ""


def _of(pairs: list[Mapping[str, Any]]) -> str:
    found = _clearest(pairs)
    return f" of {'; '.join(found)}" if found else ""


def _fewest(metrics: Mapping[str, Any]) -> str:
    """Return which set is worth the fewest independent frames, and how to get more of it."""
    known = metrics.get("sample_sets") or []
    sets = [one for one in known if one["effective_frames"] is not None]
    if not sets:
        return "all sets are too small to tell"
    fewest = min(sets, key=lambda one: one["effective_frames"])
    how = {
        _REFERENCE: "more or longer trajectories of all atoms",
        "simulation": "a longer simulation (scoremd simulate ... --resume --steps N)",
    }.get(fewest["name"], "scoremd sample with more --frames")
    return (
        f"those of {fewest['name']} are worth {fewest['effective_frames']:,.0f} independent "
        f"ones; {how}"
    )
