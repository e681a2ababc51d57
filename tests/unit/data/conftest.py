"""Peptides with the geometry of real ones, as topologies, frames and PDB files."""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np
import pytest
from mdtraj.core import element

#: Name of the new atom, the three it hangs on (nearest first), length in nm, angle, dihedral.
_RESIDUE = (
    ("N", (("C", -1), ("CA", -1), ("N", -1)), 0.133, 116.0, "psi"),
    ("CA", (("N", 0), ("C", -1), ("CA", -1)), 0.146, 121.0, "omega"),
    ("C", (("CA", 0), ("N", 0), ("C", -1)), 0.1525, 111.0, "phi"),
    ("CB", (("CA", 0), ("N", 0), ("C", 0)), 0.153, 110.0, 122.0),
    ("O", (("C", 0), ("CA", 0), ("N", 0)), 0.123, 120.5, "psi + 180"),
)


def _place(near, middle, far, length, angle, dihedral):
    angle, dihedral = np.radians(180.0 - angle), np.radians(dihedral)
    axis = (near - middle) / np.linalg.norm(near - middle)
    normal = np.cross(middle - far, axis)
    normal /= np.linalg.norm(normal)
    local = np.array(
        [np.cos(angle), np.sin(angle) * np.cos(dihedral), np.sin(angle) * np.sin(dihedral)]
    )
    return near + length * local @ np.array([axis, np.cross(normal, axis), normal])


def backbone(angles):
    """Return atoms (residues, 5, 3) in nm, N CA C CB O; angles are (phi, psi) in degrees."""
    residues = []
    before = {"N": [-0.1, 0.2, 0.0], "CA": [0.0, 0.1, 0.0], "C": [0.0, 0.0, 0.1]}
    before = {name: np.array(xyz) for name, xyz in before.items()}
    for k, (phi, psi) in enumerate(angles):
        torsions = {"phi": phi, "omega": 180.0, "psi": angles[k - 1][1], "psi + 180": psi + 180.0}
        here = {}
        for name, parents, length, angle, dihedral in _RESIDUE:
            near, middle, far = ((before if step else here)[parent] for parent, step in parents)
            here[name] = _place(near, middle, far, length, angle, torsions.get(dihedral, dihedral))
        residues.append([here[name] for name in ("N", "CA", "C", "CB", "O")])
        before = here
    return np.array(residues)


@dataclasses.dataclass
class Peptide:
    """Chains of residues (name, number), atoms N CA C CB O of each, and their coordinates."""

    chains: list
    positions: np.ndarray

    @property
    def residues(self):
        return [residue for chain in self.chains for residue in chain]

    @property
    def topology(self):
        topology = mdtraj.Topology()
        for residues in self.chains:
            chain = topology.add_chain()
            for name, number in residues:
                residue = topology.add_residue(name, chain, resSeq=number)
                for atom in ("N", "CA", "C", "CB", "O"):
                    topology.add_atom(atom, element.get_by_symbol(atom[0]), residue)
        return topology

    def frames(self, n=1, *, noise=0.002, seed=0):
        """Return an MDTraj trajectory of jittered copies."""
        rng = np.random.default_rng(seed)
        xyz = self.positions.reshape(1, -1, 3) + noise * rng.normal(
            size=(n, self.positions.size // 3, 3)
        )
        return mdtraj.Trajectory(xyz.astype(np.float32), self.topology)

    def write_pdb(
        self, path, *, elements=True, letters="ABCD", codes=None, ter=True, left=False, header=""
    ):
        """Write a PDB file of which every column can be chosen."""
        lines, serial, residue = [header] if header else [], 0, 0
        for k, chain in enumerate(self.chains):
            for name, number in chain:
                letter = letters[k % len(letters)]
                atoms = zip(("N", "CA", "C", "CB", "O"), self.positions[residue], strict=True)
                for atom, xyz in atoms:
                    serial += 1
                    code = codes[residue] if codes else " "
                    column = f"{atom:<4}" if left else f" {atom:<3}"
                    x, y, z = 10.0 * xyz
                    symbol = f"          {atom[0]:>2}" if elements else ""
                    lines.append(
                        f"ATOM  {serial:5d} {column} {name:>3} {letter}{number:4d}{code}   "
                        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00{symbol}"
                    )
                residue += 1
            if ter:
                lines.append("TER")
        path.write_text("\n".join([*lines, "END", ""]))
        return path


@pytest.fixture
def make_peptide():
    """Return ``make([("ALA", 1), ...], [...], apart=2.0)``: chains that far apart in nm."""

    def make(*chains, apart=2.0):
        parts = []
        for k, chain in enumerate(chains):
            angles = [(-65.0 - 3.0 * i, 140.0 - 40.0 * (i % 2)) for i in range(len(chain))]
            parts.append(backbone(angles) + np.array([0.0, apart * k, 0.0]))
        return Peptide([list(chain) for chain in chains], np.concatenate(parts))

    return make
