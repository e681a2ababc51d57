"""Structures and trajectories that other packages ship, through ``scoremd coarse-grain``.

    python benchmarks/structures.py --source MDAnalysisTests=FOLDER --source ParmEd=FOLDER ...
    python benchmarks/structures.py --write-docs    # bring docs/structures.md up to date

None of their data is part of this repository: unpack a package's source archive and name the
folder. Every structure with coordinates is taken as its own topology, every topology without them
with the coordinates of the same name beside it, and some trajectories by name, each with the
presets ``ca`` and ``backbone-cb``. What is accepted is checked by other means: the mean length of
every bond against chemistry, and the number of peptide bonds against the C atoms with an N
as near as only a bond brings it. Files of the same content count once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import io
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from machine import new_record
from rich.console import Console
from scipy.spatial import cKDTree
from structures_page import write_page

from openmm_scoremd import CGDataset, load_dataset
from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.cli.main import main as scoremd
from openmm_scoremd.data.coarse_graining import load_topology
from openmm_scoremd.geometry import distances

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results" / "structures.json"

PRESETS = ("ca", "backbone-cb")
STRUCTURES = (".pdb", ".pdb.gz", ".cif", ".pdbx", ".gro", ".h5")
TOPOLOGIES = (".prmtop", ".parm7", ".psf", ".top")
COORDINATES = (".nc", ".dcd", ".rst7", ".inpcrd", ".crd", ".gro", ".pdb")
#: Trajectories and the topology of another name that they belong to.
TRAJECTORIES = {
    "adk_dims.dcd": "adk.psf",
    "adk_dims2.dcd": "adk.psf",
    "adk_oplsaa.xtc": "adk_oplsaa.gro",
    "adk_oplsaa.trr": "adk_oplsaa.gro",
    "adk_gbis_tmd-fast1_NAMD.dcd": "adk_closed_NAMD.psf",
    "cobrotoxin.xtc": "cobrotoxin.pdb",
    "cobrotoxin.trr": "cobrotoxin.pdb",
    "ache.mdcrd": "ache.prmtop",
    "bala.ncdf": "bala.prmtop",
    "ace_tip3p.nc": "ace_tip3p.parm7",
    "ace_mbondi3.nc": "ace_mbondi3.parm7",
    "tip125_tric_C36.dcd": "tip125_tric_C36.psf",
    "frame0.xtc": "native.pdb",
    "trpzip2.crd": "trpzip2.prmtop",
    "JAC.inpcrd": "JAC.prmtop",
}
LARGEST = 2**20  # bytes of a structure: beyond are boxes of water and lipids

#: Typical lengths in nm, from textbooks; neighbouring CA are 0.380 apart, 0.295 across a cis bond.
TYPICAL = {
    ("CA", "N"): (0.1458,),
    ("C", "CA"): (0.1525,),
    ("CA", "CB"): (0.1530,),
    ("C", "O"): (0.1231,),
    ("C", "N"): (0.1329,),
    ("CA", "CA"): (0.295, 0.380),
}
ALLOWED = (0.9, 1.2)  # times the typical length
LONGEST_PEPTIDE_BOND = 0.165  # nm, of the independent count

console = Console()


@dataclasses.dataclass(frozen=True)
class Input:
    """A trajectory and its topology, which may be one file, and where they come from."""

    package: str
    trajectory: Path
    topology: Path

    @property
    def name(self) -> str:
        """File names."""
        if self.trajectory == self.topology:
            return self.trajectory.name
        return f"{self.trajectory.name} with {self.topology.name}"


def find_inputs(sources: dict[str, Path]) -> list[Input]:
    """Return all inputs of all packages, each content once, in an order by chance."""
    found: dict[tuple[bytes, ...], Input] = {}
    for package, folder in sources.items():
        for entry in _inputs_of(package, folder):
            files = (entry.trajectory, entry.topology)
            digest = tuple(hashlib.sha256(file.read_bytes()).digest() for file in files)
            found.setdefault(digest, entry)
    return [found[digest] for digest in sorted(found)]


def _inputs_of(package: str, folder: Path) -> Iterator[Input]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.name in TRAJECTORIES:
            topology = next((p for p in files if p.name == TRAJECTORIES[path.name]), None)
            if topology is not None:
                yield Input(package, path, topology)
        if path.name.endswith(STRUCTURES) and path.stat().st_size < LARGEST:
            yield Input(package, path, path)
        if path.suffix in TOPOLOGIES:
            partners = (path.with_suffix(suffix) for suffix in COORDINATES)
            partner = next((p for p in partners if p.exists()), None)
            if partner is not None:
                yield Input(package, partner, path)


def try_input(
    entry: Input, preset: str, folder: Path, expected_links: Callable[[], int | None]
) -> dict[str, Any]:
    """Coarse-grain one input and check what comes out."""
    output = folder / "beads.npz"
    for suffix in (".npz", ".pdb", ".psf"):
        output.with_suffix(suffix).unlink(missing_ok=True)
    arguments = ["coarse-grain", str(entry.trajectory), "--topology", str(entry.topology)]
    arguments += ["--preset", preset, "--temperature", "300", "--output", str(output)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = scoremd(arguments)
    if code:
        message = " ".join(said.getvalue().split("error:")[-1].split())
        return {"accepted": False, "message": message.replace(str(entry.topology.parent), "")}
    dataset = load_dataset(output)
    expected = expected_links()
    found = links_of(dataset)
    told = [note for note in dataset.notes if note.startswith(("left out", "chains"))]
    return {
        "accepted": True,
        "beads": dataset.n_beads,
        "bonds": len(dataset.topology.bonds),
        "frames": dataset.n_frames,
        "peptide_bonds": found,
        "peptide_bonds_by_distance": expected,
        "lost_in_silence": bool(expected is not None and found < expected and not told),
        "notes": list(dataset.notes),
        "lengths": relative_lengths(dataset),
    }


def relative_lengths(dataset: CGDataset) -> dict[str, list[float]]:
    """Return the smallest and largest mean length of every kind of bond, over its typical one."""
    beads = dataset.topology
    if not beads.bonds:
        return {}
    means = distances(dataset.positions, beads.bonds).mean(axis=0, dtype=np.float64)
    ratios: dict[str, list[float]] = {}
    for (i, j), mean in zip(beads.bonds, means, strict=True):
        first, second = sorted((beads.names[i], beads.names[j]))
        typical = min(TYPICAL[first, second], key=lambda length: abs(np.log(mean / length)))
        ratios.setdefault(f"{first}-{second}", []).append(float(mean / typical))
    return {kind: [min(values), max(values)] for kind, values in ratios.items()}


def links_of(dataset: CGDataset) -> int:
    """Return the number of bonds between residues."""
    residues = dataset.topology.residue_indices
    return sum(residues[i] != residues[j] for i, j in dataset.topology.bonds)


def expected_links(entry: Input) -> int | None:
    """Count the C with an N of another residue near enough to be bonded, both of amino acids.

    None where residues have no C and N, or in boxes that are not rectangular, whose images would
    have to be searched.
    """
    names = load_topology(entry.topology)
    try:
        frame = next(mdtraj.iterload(str(entry.trajectory), top=names, chunk=1))
    except (AttributeError, TypeError):  # formats that MDTraj cannot read in pieces
        frame = mdtraj.load(str(entry.trajectory), top=names)[0]
    with_ca = {atom.residue.index for atom in names.atoms if atom.name == "CA"}
    ends = {
        name: [a.index for a in names.atoms if a.name == name and a.residue.index in with_ca]
        for name in ("C", "N")
    }
    if not all(ends.values()):
        return None
    box = None
    if frame.unitcell_lengths is not None and (frame.unitcell_lengths[0] > 1.0).all():
        if not np.allclose(frame.unitcell_angles[0], 90.0, atol=1e-3):
            return None
        box = frame.unitcell_lengths[0].astype(np.float64)
    carbons, nitrogens = (frame.xyz[0][ends[name]].astype(np.float64) for name in ("C", "N"))
    if box is not None:
        carbons, nitrogens = carbons % box, nitrogens % box
    near = cKDTree(nitrogens, boxsize=box).query_ball_point(carbons, LONGEST_PEPTIDE_BOND)
    residue = [atom.residue.index for atom in names.atoms]
    # Some files hold copies of a molecule at one place: a C has one N whatever lies upon it.
    return sum(
        any(residue[ends["N"][n]] != residue[ends["C"][c]] for n in row)
        for c, row in enumerate(near)
    )


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts over all inputs."""
    tried = [row[preset] for row in results for preset in PRESETS]
    accepted = [found for found in tried if found["accepted"]]
    ratios = [ratio for found in accepted for pair in found["lengths"].values() for ratio in pair]
    checked = [found for found in accepted if found["peptide_bonds_by_distance"] is not None]
    return {
        "inputs": len(results),
        "by_package": dict(Counter(row["package"] for row in results)),
        "accepted": {p: sum(row[p]["accepted"] for row in results) for p in PRESETS},
        "bonds": sum(found["bonds"] for found in accepted),
        "shortest_over_typical": min(ratios, default=1.0),
        "longest_over_typical": max(ratios, default=1.0),
        "bonds_outside": sum(not ALLOWED[0] <= ratio <= ALLOWED[1] for ratio in ratios),
        "peptide_bonds_checked_in": len(checked),
        "lost_in_silence": sum(found["lost_in_silence"] for found in accepted),
    }


def run(sources: dict[str, Path], most: int, output: Path) -> dict[str, Any]:
    """Try inputs of all packages, and store what is known after each."""
    record = new_record("structures", threads=1)
    results: list[dict[str, Any]] = []
    inputs = find_inputs(sources)[:most]
    with tempfile.TemporaryDirectory() as folder:
        for entry in inputs:
            began = time.monotonic()
            links = functools.lru_cache(functools.partial(expected_links, entry))
            row: dict[str, Any] = {"package": entry.package, "name": entry.name}
            for preset in PRESETS:
                row[preset] = try_input(entry, preset, Path(folder), links)
            results.append(row)
            said = [
                f"{p}: {row[p]['beads']} beads" if row[p]["accepted"] else f"{p}: refused"
                for p in PRESETS
            ]
            seconds = time.monotonic() - began
            console.print(f"{len(results)}/{len(inputs)} {entry.name}: {said} {seconds:.0f} s")
            record |= {"summary": summarise(results), "results": results}
            write_json(output, record)
    return record


def main() -> None:
    """Run the benchmark, or write its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", action="append", default=[], metavar="PACKAGE=FOLDER")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--most", type=int, default=1000, help="inputs at most")
    parser.add_argument("--write-docs", action="store_true", help="write docs/structures.md only")
    given = parser.parse_args()
    if given.write_docs:
        write_page(given.output)
        return
    warnings.simplefilter("ignore")
    sources = dict(source.split("=", 1) for source in given.source)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    found = run({p: Path(folder) for p, folder in sources.items()}, given.most, given.output)
    console.print_json(data=found["summary"])
    if found["summary"]["bonds_outside"] or found["summary"]["lost_in_silence"]:
        raise SystemExit("bonds of wrong length were accepted, or bonds were lost in silence")


if __name__ == "__main__":
    main()
