"""How much a set of samples can tell, and why what it agrees with might mean nothing."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator

from openmm_scoremd.analysis.comparison.stationarity import Drift, Slowness
from openmm_scoremd.analysis.comparison.table import p_value_text, percent
from openmm_scoremd.analysis.statistics.samples import SampleSet

__all__ = ["MAX_FROZEN", "MAX_MEMORY", "MAX_STARTS_PER_FRAME", "SetSummary"]

#: With more fresh starts than this for every frame, a set is no simulation: pieces of fewer than
#: ten frames on average, each begun from an independent frame, would agree with these whatever the
#: dynamics is.
MAX_STARTS_PER_FRAME = 0.1
#: With more memory of the first frames than this, frames are still those that a simulation began
#: from; a trajectory of three relaxation times has 0.12.
MAX_MEMORY = 0.25
#: If more replicas than this part of them broke for good, those that are left are a selection.
MAX_FROZEN = 0.05

_WIDTH = 78


@dataclasses.dataclass(frozen=True)
class SetSummary:
    """How much a set can tell.

    Attributes
    ----------
    name : str
        Of the set.
    n_frames, n_replicas, n_segments : int
        Sizes; segments are stretches of time without a break.
    n_units, unit_kind : int, str
        Independent units that errors rest on: replicas, blocks of them, or batches of frames.
    frame_interval : float or None
        ps.
    effective_frames : float
        Frames over the statistical inefficiency of the slowest observable.
    slowest : str
        That observable.
    restarts_per_frame : float
        How often replicas broke and were started again, for each frame.
    jumps_per_frame : float
        How often replicas jumped to independent frames.
    n_frozen : int
        Replicas that broke for good and are left out.
    memory, remembered : float, str
        How much of the start frames is left, and in which observable; see
        :class:`~openmm_scoremd.analysis.comparison.stationarity.Slowness`.
    drift_p, drift : float, str
        Whether first and second half can be of one distribution, and where they differ most; see
        :class:`~openmm_scoremd.analysis.comparison.stationarity.Drift`.
    doubts : tuple of str
        Why agreement with this set would mean nothing.
    """

    name: str
    n_frames: int
    n_replicas: int
    n_segments: int
    n_units: int
    unit_kind: str
    frame_interval: float | None
    effective_frames: float
    slowest: str
    restarts_per_frame: float
    jumps_per_frame: float
    n_frozen: int
    memory: float
    remembered: str
    drift_p: float
    drift: str
    doubts: tuple[str, ...]

    @classmethod
    def of(
        cls, name: str, one: SampleSet, slowness: Slowness, drift: Drift, *, alpha: float
    ) -> SetSummary:
        """Return the summary of a set whose halves must not differ with a p-value below alpha."""
        return cls(
            name, one.n_frames, one.n_replicas, len(one.segments), one.unit_shape[0], one.unit_kind,
            one.frame_interval, one.n_frames / slowness.inefficiency, slowness.slowest,
            one.restarts_per_frame, one.jumps_per_frame, one.n_frozen, slowness.memory,
            slowness.remembered, drift.p_value, drift.where,
            tuple(_doubts(name, one, slowness, drift, alpha=alpha)),
        )  # fmt: skip

    @property
    def told(self) -> str:
        """What there is to say about the set in a few lines of plain text."""
        parts = [f"{self.n_frames:,} frames"]
        if self.unit_kind != "batches":
            parts[0] += f" of {self.n_replicas:,} replicas"
        parts.append(f"{self.effective_frames:,.0f} effective ({self.slowest or 'no motion'})")
        parts.append(f"errors from {self.n_units:,} {self.unit_kind}")
        if self.unit_kind != "batches":
            parts.append(f"{self.restarts_per_frame:.2g} restarts per frame")
            if self.jumps_per_frame:
                parts.append(f"{self.jumps_per_frame:.2g} jumps per frame")
            if self.n_frozen:
                parts.append(f"{self.n_frozen} frozen replicas left out")
            parts.append(f"halves p = {p_value_text(self.drift_p)}")
            parts.append(f"memory of the start {percent(self.memory)}")
        return textwrap.fill(
            f"{self.name}: {'; '.join(parts)}", width=_WIDTH, subsequent_indent="  "
        )


def _doubts(
    name: str, one: SampleSet, slowness: Slowness, drift: Drift, *, alpha: float
) -> Iterator[str]:
    if one.restarts_per_frame > MAX_STARTS_PER_FRAME:
        yield (
            f"replicas of {name} broke and were started again {one.restarts_per_frame:.2g} times "
            "for each frame, so that their frames are independent samples and no simulation; use "
            "a shorter time step"
        )
    elif one.restarts_per_frame + one.jumps_per_frame > MAX_STARTS_PER_FRAME:
        yield (
            f"replicas of {name} jump to independent frames {one.jumps_per_frame:.2g} times for "
            "each frame, so that they agree with these whatever the dynamics is; jump less often"
        )
    elif slowness.memory > MAX_MEMORY:
        yield (
            f"{name} has not left the frames that it started from: {percent(slowness.memory)} of "
            f"the deviations of {slowness.remembered} are still there in the second half "
            f"({percent(MAX_MEMORY)} at most are allowed); simulate longer"
        )
    if one.n_frozen > MAX_FROZEN * (one.n_frozen + one.n_replicas):
        yield (
            f"{one.n_frozen} of {one.n_frozen + one.n_replicas} replicas of {name} broke for good, "
            "and those that are left are a selection; use a shorter time step"
        )
    if drift.p_value < alpha:
        yield (
            f"{name} still changes: its halves differ (p {_relation(drift.p_value)}; "
            f"{drift.where}); simulate longer"
        )


def _relation(p_value: float) -> str:
    text = p_value_text(p_value)
    return text if text.startswith("<") else f"= {text}"
