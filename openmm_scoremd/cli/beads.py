"""Which beads ``scoremd coarse-grain`` makes, from its options."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    import mdtraj

    from openmm_scoremd.data.coarse_graining import BeadMasses, CoarseGrainingMap


@dataclasses.dataclass(frozen=True)
class BeadChoice:
    """The options that say which atoms become beads, of which one is given.

    Attributes
    ----------
    preset, selection, indices, mapping : str, list of int or None
        Of the same names on the command line; ``mapping`` is a file.
    """

    preset: str | None
    selection: str | None
    indices: list[int] | None
    mapping: str | None


def chosen_beads(
    atoms: mdtraj.Topology,
    choice: BeadChoice,
    *,
    centre: Literal["mass", "geometry"],
    masses: str | None,
) -> CoarseGrainingMap:
    """Return the beads that the options name.

    Parameters
    ----------
    atoms : mdtraj.Topology
        All atoms.
    choice : BeadChoice
        Preset, selection, indices or mapping file.
    centre : {"mass", "geometry"}
        Where beads of a mapping file lie.
    masses : str or None
        Masses as text, see :func:`bead_masses`.
    """
    from openmm_scoremd.data.coarse_graining import CoarseGrainingMap, read_rules

    if sum(option is not None for option in dataclasses.astuple(choice)) != 1:
        raise InvalidInputError(
            "give exactly one of --preset, --selection, --indices and --mapping"
        )
    given = bead_masses(masses)
    if choice.preset is not None:
        return CoarseGrainingMap.from_preset(atoms, choice.preset, masses=given)
    if choice.selection is not None:
        return CoarseGrainingMap.from_selection(atoms, choice.selection, masses=given)
    if choice.indices is not None:
        return CoarseGrainingMap.from_indices(atoms, choice.indices, masses=given)
    rules = read_rules(str(choice.mapping))
    return CoarseGrainingMap.from_rules(atoms, rules, centre=centre, masses=given)


def bead_masses(text: str | None) -> BeadMasses | None:
    """Return masses in Da from ``"72"``, ``"72,72,45"`` or ``"BB=72,SC1=45"``."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return [float(part) for part in text.split(",")]
        return {name: float(mass) for name, mass in (p.split("=") for p in text.split(","))}
    except ValueError as error:
        raise InvalidInputError(
            f"--masses is {text!r}; give one mass in Da, one of each bead (72,72,45), or masses by "
            "bead name (BB=72,SC1=45)"
        ) from error
