"""Files of beads for viewers: PDB with a frame, PSF with all bonds."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from openmm_scoremd._files.atomic import write_text
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology

logger = logging.getLogger(__name__)

#: Letters for chains whose own names do not fit into the one column of a PDB file.
_CHAIN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_MAX_PDB_SERIAL = 99999
#: A PDB file has columns for coordinates below this.
_PDB_NANOMETERS = 99.0


def write_pdb(
    topology: BeadTopology, positions: npt.ArrayLike, path: str | os.PathLike[str]
) -> None:
    """Write one frame as a PDB file, with a CONECT record for every bond.

    Viewers and MDTraj guess bonds from residue names, which fails for beads; hence all bonds are
    written. What does not fit into the columns of the format is changed in the file only: chain
    names longer than one character become letters in order, longer bead and residue names are
    shortened to four and keep being different, blanks in names become underscores.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are.
    positions : (beads, 3), nm
        Coordinates; the file holds them in Angstrom with three decimals.
    path : path-like
        File to write, whole or not at all.

    Raises
    ------
    InvalidInputError
        If the shape is wrong, a coordinate is NaN or too large, or there are too many beads.
    """
    frame = np.asarray(positions, dtype=np.float64)
    if frame.shape != (topology.n_beads, 3):
        raise InvalidInputError(
            f"positions have shape {frame.shape}; one frame of this topology is "
            f"({topology.n_beads}, 3)"
        )
    if not (np.abs(frame) < _PDB_NANOMETERS).all():
        raise InvalidInputError(
            "a coordinate is NaN or beyond 99 nm, the most a PDB file can hold; centre the frame"
        )
    if topology.n_beads > _MAX_PDB_SERIAL:
        raise InvalidInputError(f"{topology.n_beads} beads; a PDB file can hold {_MAX_PDB_SERIAL}")
    lines = [*_pdb_atom_lines(topology, 10.0 * frame), *_pdb_bond_lines(topology), "END"]
    write_text(path, "\n".join(lines) + "\n")


def write_psf(topology: BeadTopology, path: str | os.PathLike[str]) -> None:
    """Write names, residues, masses and bonds as a PSF file; charges are zero.

    The file is of the extended X-PLOR kind. Names longer than eight characters and blanks in names
    are changed as in :func:`write_pdb`; insertion codes are left out, because MDTraj cannot read
    them here.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are. Chain names become segment names.
    path : path-like
        File to write, whole or not at all.
    """
    names, residues, segments = (
        _short_names(column, longest=8)
        for column in (topology.names, topology.residue_names, topology.chain_ids)
    )
    lines = ["PSF EXT XPLOR", "", _psf_heading(1, "NTITLE"), " REMARKS coarse-grained beads", ""]
    lines.append(_psf_heading(topology.n_beads, "NATOM"))
    lines += [
        f"{i + 1:10d} {segments[i]:<8} {topology.residue_ids[i]:<8d} {residues[i]:<8} "
        f"{names[i]:<8} {names[i][:6]:<6} {0.0:10.6f} {topology.masses[i]:13.4f}{0:12d}"
        for i in range(topology.n_beads)
    ]
    lines += ["", _psf_heading(len(topology.bonds), "NBOND: bonds")]
    ends = [f"{bead + 1:10d}" for bond in topology.bonds for bead in bond]
    lines += ["".join(ends[start : start + 8]) for start in range(0, len(ends), 8)]
    # Readers go through all sections, also those that hold nothing.
    for section in ("NTHETA: angles", "NPHI: dihedrals", "NIMPHI: impropers", "NDON: donors",
                    "NACC: acceptors", "NNB"):  # fmt: skip
        lines += ["", _psf_heading(0, section), ""]
    write_text(path, "\n".join(lines) + "\n")


def _psf_heading(count: int, section: str) -> str:
    return f"{count:10d} !{section}"


def write_viewer_files(
    topology: BeadTopology, positions: npt.ArrayLike, stem: str | os.PathLike[str]
) -> None:
    """Write ``stem.pdb`` and ``stem.psf``, beside results that must not be lost with them.

    What a format cannot hold is changed, with a warning in the log: names that are too long are
    shortened, a frame far away is centred, and coordinates still beyond its columns are cut.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are.
    positions : (beads, 3), nm
        Coordinates for the PDB file.
    stem : path-like
        Path of both files without their suffix.
    """
    frame = np.nan_to_num(np.asarray(positions, dtype=np.float64))
    if np.abs(frame).max() >= _PDB_NANOMETERS:
        logger.warning("%s.pdb cannot hold coordinates beyond 99 nm: they are moved", stem)
        frame = np.clip(frame - frame.mean(axis=0), 0.1 - _PDB_NANOMETERS, _PDB_NANOMETERS - 0.1)
    try:
        write_pdb(topology, frame, f"{os.fspath(stem)}.pdb")
    except InvalidInputError as error:
        logger.warning("no %s.pdb: %s", stem, error)
    write_psf(topology, f"{os.fspath(stem)}.psf")


def _pdb_atom_lines(topology: BeadTopology, angstrom: npt.NDArray[np.float64]) -> Iterator[str]:
    letters = _chain_letters(topology)
    names = _short_names(topology.names, longest=4)
    residues = _short_names(topology.residue_names, longest=4)
    for i, (x, y, z) in enumerate(angstrom):
        element = topology.elements[i].upper()
        # One-letter elements leave the first of the four name columns blank.
        column = names[i] if len(names[i]) == 4 or len(element) == 2 else f" {names[i]}"
        number = topology.residue_ids[i]
        number = number if -999 <= number <= 9999 else number % 10000
        residue, code = f"{residues[i]:>3}", topology.insertion_codes[i][:1] or " "
        yield (
            f"ATOM  {i + 1:5d} {column:<4} {residue:<4}{letters[i]}{number:4d}{code}   "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}"
        )
        if i + 1 == topology.n_beads or topology.chain_ids[i + 1] != topology.chain_ids[i]:
            yield "TER"


def _pdb_bond_lines(topology: BeadTopology) -> Iterator[str]:
    partners: dict[int, list[int]] = {}
    for i, j in topology.bonds:
        partners.setdefault(i, []).append(j)
        partners.setdefault(j, []).append(i)
    for bead in sorted(partners):
        others = sorted(partners[bead])
        for start in range(0, len(others), 4):
            serials = [bead, *others[start : start + 4]]
            yield "CONECT" + "".join(f"{serial + 1:5d}" for serial in serials)


def _chain_letters(topology: BeadTopology) -> list[str]:
    """Return one character per bead."""
    chains = topology.chain_ids
    if all(len(chain) == 1 for chain in chains):
        return list(chains)
    runs = np.cumsum([i > 0 and chains[i] != chains[i - 1] for i in range(len(chains))])
    return [_CHAIN_LETTERS[run % len(_CHAIN_LETTERS)] for run in runs]


def _short_names(names: Sequence[str], *, longest: int) -> list[str]:
    """Return names that fit into columns; those that differ stay different while numbers fit."""
    shortened: dict[str, str] = {}
    taken = {name for name in names if _fits(name, longest)}
    for name in dict.fromkeys(names):
        if _fits(name, longest):
            shortened[name] = name
            continue
        plain = re.sub(r"[^!-~]", "_", name) or "X"
        candidates = itertools.chain(
            [plain[:longest]], (f"{plain[: longest - len(str(k))]}{k}" for k in range(1, 1000))
        )
        shortened[name] = next(
            (candidate for candidate in candidates if candidate not in taken), plain[:longest]
        )
        taken.add(shortened[name])
    return [shortened[name] for name in names]


def _fits(name: str, longest: int) -> bool:
    return re.fullmatch(rf"[!-~]{{1,{longest}}}", name) is not None
