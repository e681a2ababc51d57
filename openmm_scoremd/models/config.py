"""What decides the shape of a network: its configuration, and what it is built for."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.topology import BeadTopology

#: ``conservative``: the score is the gradient of an energy; ``direct``: the network's output.
Output: TypeAlias = Literal["conservative", "direct"]

PUBLISHED_SCHEDULE = VPSchedule()


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Entries that every family of networks has; each adds its own in a subclass.

    A subclass gives ``family`` its name as default; see :mod:`openmm_scoremd.models.families`.

    Attributes
    ----------
    family : str
        Family of networks.
    output : {"conservative", "direct"}
        Only a conservative network can be simulated.
    t_min, t_max : float
        Range of diffusion times the network sees.
    noise_floor : float or None
        Conditions the network on the noise level (see ``NoiseLevel``): time features of its
        logarithm, outputs divided by it, down to this floor in standardised units. None for the
        published form, which takes far longer to resolve bond lengths.

    Raises
    ------
    ConfigurationError
        If an entry is out of range, or ``family`` is not that of the class.
    """

    family: str = ""
    output: Output = "conservative"
    t_min: float = 0.0
    t_max: float = 1.0
    noise_floor: float | None = None

    def __post_init__(self) -> None:
        if self.family != type(self).family:
            raise ConfigurationError(
                f"network.family is {self.family!r}; {type(self).__name__} describes networks of "
                f"family {type(self).family!r}"
            )
        if self.output not in ("conservative", "direct"):
            raise ConfigurationError(
                f"network.output is {self.output!r}; choose from conservative, direct"
            )
        if not 0.0 <= self.t_min < self.t_max <= 1.0:
            raise ConfigurationError(
                f"network range [{self.t_min}, {self.t_max}] must increase and lie in [0, 1]"
            )
        if self.noise_floor is not None and not 0.0 < self.noise_floor < 1.0:
            raise ConfigurationError(
                f"network.noise_floor is {self.noise_floor}; it must lie between 0 and 1, "
                "or be null"
            )

    @property
    def needs_features(self) -> bool:
        """Whether these networks take bead features."""
        return False

    def require_sizes(self, *names: str) -> None:
        """Check that entries are whole numbers of at least 1, or, as by default, tuples of such.

        Parameters
        ----------
        *names : str
            Names of entries.

        Raises
        ------
        ConfigurationError
            If one is not.
        """
        for name in names:
            value, several = getattr(self, name), isinstance(getattr(type(self), name), tuple)
            sizes = value if several else (value,)
            if not isinstance(sizes, tuple) or not all(
                isinstance(size, int) and size >= 1 for size in sizes
            ):
                what = "a list of whole numbers" if several else "a whole number"
                raise ConfigurationError(f"network.{name} is {value}; it must be {what} from 1 on")


@dataclasses.dataclass(frozen=True)
class NetworkInputs:
    """What a network is built for.

    Attributes
    ----------
    n_beads : int or None
        Number of beads; None for any.
    n_dims : int
        Dimensions of a bead's coordinates.
    schedule : VPSchedule
        Noise schedule of its diffusion times.
    topology : BeadTopology or None
        The beads and their bonds, where they are known; a network that depends on them must refuse
        None.
    """

    n_beads: int | None
    n_dims: int
    schedule: VPSchedule = PUBLISHED_SCHEDULE
    topology: BeadTopology | None = None
