"""Named sets of samples: independent frames, or trajectories with their breaks and time scale."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.errors import InvalidInputError

__all__ = ["MIN_REPLICAS", "SampleSet", "Segment"]

#: With fewer replicas than this, blocks of replicas are the units that errors rest on.
MIN_REPLICAS = 10

_BATCHES = 100  # of frames that lie on one axis, at most about twice as many
#: Batches and blocks hold so many correlation times that their neighbours hardly matter: their
#: means are correlated by about 1/8.
_CORRELATION_TIMES = 4.0

_Value = TypeVar("_Value", bound=np.generic)

#: Replica, first frame, frame after the last one: a stretch of time without a break.
Segment: TypeAlias = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class SampleSet:
    """Frames of one origin.

    Attributes
    ----------
    positions : ndarray, nm
        ``(frames, beads, dimensions)`` for independent frames, or ``(replicas, frames, beads,
        dimensions)`` for trajectories.
    breaks : mapping of int to sequence of int
        Per replica, the frames at which a new segment begins because the replica was started
        again or jumped; nothing that looks at two times may cross one.
    frame_interval : float or None
        Time between frames of a trajectory in ps, if it is known.
    restarts_per_frame : float
        How often replicas broke and were started again from an independent frame, for each frame
        that was written.
    jumps_per_frame : float
        How often replicas jumped to an independent frame, for each frame that was written.
    n_frozen : int
        Replicas that broke for good and are not among these.
    inefficiency : float
        Frames that count as one independent frame, at least 1 (statistical inefficiency of the
        slowest observable). Batches and blocks are so long that they are independent of each other.

    Raises
    ------
    InvalidInputError
        If the shape is another, a value is not finite, a break lies outside the trajectory or is
        given for frames without time, or the interval is not positive.
    """

    positions: NDArray[np.floating]
    breaks: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)
    frame_interval: float | None = None
    restarts_per_frame: float = 0.0
    jumps_per_frame: float = 0.0
    n_frozen: int = 0
    inefficiency: float = 1.0

    def __post_init__(self) -> None:
        shape = self.positions.shape
        if len(shape) not in (3, 4) or 0 in shape or self.n_frames < 2:
            raise InvalidInputError(
                f"frames have shape {shape}; they must be (frames, beads, dimensions) or "
                "(replicas, frames, beads, dimensions), with at least two frames"
            )
        if not np.isfinite(self.positions).all():
            raise InvalidInputError("frames hold NaN or infinite coordinates; remove them")
        if self.frame_interval is not None and not 0.0 < self.frame_interval < math.inf:
            raise InvalidInputError(
                f"the time between frames is {self.frame_interval} ps; it must be positive"
            )
        for replica, frames in self.breaks.items():
            inside = all(0 <= frame <= self.length for frame in frames)
            if not (self.has_time and 0 <= replica < self.n_replicas and inside):
                raise InvalidInputError(
                    f"breaks at {list(frames)} of replica {replica}, in {self.n_replicas} replicas "
                    f"of {self.length} frames; breaks belong to trajectories and lie inside them"
                )

    @property
    def has_time(self) -> bool:
        """Whether frames follow each other in time."""
        return self.positions.ndim == 4

    @property
    def n_replicas(self) -> int:
        """Trajectories; 1 for independent frames."""
        return int(self.positions.shape[0]) if self.has_time else 1

    @property
    def length(self) -> int:
        """Frames of one trajectory, or all independent frames."""
        return int(self.positions.shape[-3])

    @property
    def n_frames(self) -> int:
        """Frames in all."""
        return self.n_replicas * self.length

    @property
    def unit_kind(self) -> Literal["batches", "replicas", "blocks"]:
        """What errors rest on."""
        if not self.has_time:
            return "batches"
        return "replicas" if self.n_replicas >= MIN_REPLICAS else "blocks"

    @property
    def unit_shape(self) -> tuple[int, int]:
        """Units, and frames of one.

        Independent frames are put into batches in the order they have: if they come from a
        trajectory after all, correlations of neighbours stay inside a batch, of which there are
        fewer then. A single trajectory has two blocks at least.
        """
        wanted = -(-MIN_REPLICAS // self.n_replicas) if self.has_time else _BATCHES
        correlated = math.ceil(_CORRELATION_TIMES * (self.inefficiency - 1.0))
        longest = self.length if self.n_replicas > 1 else self.length // 2
        size = max(1, min(max(self.length // wanted, correlated), longest))
        return self.n_replicas * (self.length // size), size

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All stretches without a break, in order."""
        found = []
        for replica in range(self.n_replicas):
            inner = {frame for frame in self.breaks.get(replica, ()) if 0 < frame < self.length}
            edges = [0, *sorted(inner), self.length]
            found += [(replica, a, b) for a, b in itertools.pairwise(edges)]
        return tuple(found)

    def in_units(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Return values of all frames as ``(units, frames of one, ...)``.

        Parameters
        ----------
        values : (frames, ...) or (replicas, frames, ...) ndarray
            One entry per frame. Frames at the start of a replica are dropped, if units of equal
            length leave some over.
        """
        units, size = self.unit_shape
        replicas = values if self.has_time else values[None]
        kept = replicas[:, self.length - units // self.n_replicas * size :]
        return np.asarray(kept.reshape(units, size, *replicas.shape[2:]))

    def pieces(self, values: NDArray[_Value]) -> list[NDArray[_Value]]:
        """Return values of all frames cut into segments, each ``(frames, ...)``."""
        replicas = values if self.has_time else values[None]
        return [replicas[replica, first:last] for replica, first, last in self.segments]

    def thinned(self, max_frames: int | None) -> SampleSet:
        """Return about so many frames at most, every n-th of each replica, at least one of each."""
        if max_frames is None or max_frames >= self.n_frames:
            return self
        wanted = max(2 if self.n_replicas == 1 else 1, max_frames // self.n_replicas)
        stride = -(-self.length // wanted)
        chosen = np.arange(0, self.length, stride)
        return dataclasses.replace(
            self,
            positions=np.take(self.positions, chosen, axis=-3),
            breaks={
                replica: np.searchsorted(chosen, frames).tolist()
                for replica, frames in self.breaks.items()
            },
            frame_interval=self.frame_interval and stride * self.frame_interval,
        )
