"""Bead topologies, and their files as MDTraj, ParmEd and OpenMM read them."""

import dataclasses

import mdtraj
import numpy as np
import openmm.app as app
import parmed
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology, write_pdb, write_psf

DIPEPTIDE = BeadTopology(
    names=("C", "N", "CA", "C", "N"),
    elements=("C", "N", "C", "C", "N"),
    residue_names=("ACE", "ALA", "ALA", "ALA", "NME"),
    residue_ids=(1, 2, 2, 2, 3),
    chain_ids=("A",) * 5,
    masses=(12.01, 14.007, 12.01, 12.01, 14.007),
    bonds=((0, 1), (1, 2), (2, 3), (3, 4)),
)
#: Two chains of CA beads with a bead of many bonds: nothing a reader could guess from templates.
STAR = BeadTopology(
    names=("CA",) * 6,
    elements=("C", "C", "C", "C", "", "C"),
    residue_names=("GLY", "TRP", "LYS", "ALA", "LIG", "SER"),
    residue_ids=(-3, 5, 6, 99, 1, 2),
    chain_ids=("A", "A", "A", "A", "B", "B"),
    masses=(12.01, 100.0, 12.01, 12.01, 0.5, 12.01),
    bonds=((0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (2, 4)),
)
POSITIONS = {5: np.arange(15.0).reshape(5, 3) / 7.0, 6: -np.arange(18.0).reshape(6, 3) / 3.0}


def bonds_of(topology):
    return tuple(sorted(tuple(sorted((bond[0].index, bond[1].index))) for bond in topology.bonds))


@pytest.mark.parametrize("topology", [DIPEPTIDE, STAR])
def test_mdtraj_reads_the_pdb(topology, tmp_path):
    path = tmp_path / "beads.pdb"
    positions = POSITIONS[topology.n_beads]
    write_pdb(topology, positions, path)
    frame = mdtraj.load(path)
    atoms = list(frame.topology.atoms)
    assert bonds_of(frame.topology) == topology.bonds
    assert tuple(atom.name for atom in atoms) == topology.names
    assert tuple(atom.residue.name for atom in atoms) == topology.residue_names
    assert tuple(atom.residue.resSeq for atom in atoms) == topology.residue_ids
    assert tuple(atom.residue.chain.chain_id for atom in atoms) == topology.chain_ids
    np.testing.assert_allclose(frame.xyz[0], positions, atol=5.1e-5)


@pytest.mark.parametrize("topology", [DIPEPTIDE, STAR])
def test_parmed_and_openmm_read_the_pdb(topology, tmp_path):
    path = tmp_path / "beads.pdb"
    write_pdb(topology, POSITIONS[topology.n_beads], path)
    structure = parmed.load_file(str(path))
    assert sorted((b.atom1.idx, b.atom2.idx) for b in structure.bonds) == list(topology.bonds)
    assert [atom.name for atom in structure.atoms] == list(topology.names)
    beads = list(app.PDBFile(str(path)).topology.atoms())
    assert [bead.residue.name for bead in beads] == list(topology.residue_names)


@pytest.mark.parametrize("topology", [DIPEPTIDE, STAR])
def test_mdtraj_and_parmed_read_the_psf(topology, tmp_path):
    path = tmp_path / "beads.psf"
    write_psf(topology, path)
    structure = parmed.load_file(str(path))
    assert sorted((b.atom1.idx, b.atom2.idx) for b in structure.bonds) == list(topology.bonds)
    assert [atom.mass for atom in structure.atoms] == pytest.approx(topology.masses, abs=1e-4)
    assert [atom.name for atom in structure.atoms] == list(topology.names)
    assert [atom.residue.name for atom in structure.atoms] == list(topology.residue_names)
    assert [atom.residue.segid for atom in structure.atoms] == list(topology.chain_ids)
    assert {atom.charge for atom in structure.atoms} == {0.0}
    assert bonds_of(mdtraj.load_topology(path)) == topology.bonds


def test_pdb_lines_are_where_the_format_wants_them(tmp_path):
    path = tmp_path / "beads.pdb"
    write_pdb(DIPEPTIDE, POSITIONS[5], path)
    lines = path.read_text().splitlines()
    assert lines[2] == (
        "ATOM      3  CA  ALA A   2       8.571  10.000  11.429  1.00  0.00           C"
    )
    assert lines[5:7] == ["TER", "CONECT    1    2"]
    assert lines[7] == "CONECT    2    1    3"


def test_long_chain_names_become_letters(tmp_path):
    path = tmp_path / "beads.pdb"
    write_pdb(dataclasses.replace(STAR, chain_ids=("PROA",) * 4 + ("",) * 2), POSITIONS[6], path)
    assert [line[21] for line in path.read_text().splitlines() if line[:4] == "ATOM"] == list(
        "AAAABB"
    )


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((1, 5, 3)), r"shape \(1, 5, 3\)"),
        (np.zeros((5, 2)), r"shape \(5, 2\)"),
        (np.full((5, 3), np.nan), "NaN"),
        (np.full((5, 3), 120.0), "99 nm"),
    ],
)
def test_positions_no_pdb_can_hold_leave_no_file(positions, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        write_pdb(DIPEPTIDE, positions, tmp_path / "beads.pdb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "TOOLONG", "C A"])
def test_names_no_pdb_can_hold_are_refused(name, tmp_path):
    topology = dataclasses.replace(DIPEPTIDE, names=("C", "N", name, "C", "N"))
    with pytest.raises(InvalidInputError, match=repr(name)):
        write_pdb(topology, POSITIONS[5], tmp_path / "beads.pdb")
    with pytest.raises(InvalidInputError, match="LONGER_THAN_8"):
        write_psf(dataclasses.replace(DIPEPTIDE, names=("LONGER_THAN_8",) * 5), tmp_path / "b.psf")
    assert list(tmp_path.iterdir()) == []


def test_failing_to_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "beads.psf"
    path.write_text("old")

    def disk_full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parmed.Structure, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_psf(DIPEPTIDE, path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("topology", [DIPEPTIDE, STAR])
def test_plain_lists_round_trip(topology):
    content = topology.to_dict()
    assert content["bonds"][0] == [0, 1]
    assert BeadTopology.from_dict(content) == topology


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masses": (1.0,)}, "masses has 1 entries for 5"),
        ({"masses": (1.0, 1.0, 0.0, 1.0, 1.0)}, "mass 0.0"),
        ({"masses": (1.0, 1.0, float("nan"), 1.0, 1.0)}, "mass nan"),
        ({"bonds": ((0, 5),)}, r"bond \(0, 5\).*5 beads"),
        ({"bonds": ((2, 1),)}, "smaller one first"),
        ({"elements": ("C", "N", "Qq", "C", "N")}, "'Qq' is no element"),
    ],
)
def test_impossible_topologies_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        dataclasses.replace(DIPEPTIDE, **change)
    content = {**DIPEPTIDE.to_dict(), **change}
    with pytest.raises(InvalidInputError, match=message) as caught:
        BeadTopology.from_dict(content)
    assert "InvalidInputError" not in str(caught.value)


def test_missing_entries_are_named():
    content = DIPEPTIDE.to_dict()
    del content["masses"]
    with pytest.raises(InvalidInputError, match="masses"):
        BeadTopology.from_dict(content)


def test_openmm_topology_repeats_chains_for_every_replica():
    star = dataclasses.replace(STAR, residue_ids=(-3, 5, 5, 99, 1, 2))
    topology = star.to_openmm(replicas=3)
    assert topology.getNumAtoms() == 18
    assert [chain.id for chain in topology.chains()] == ["A", "B"] * 3
    # Residues 5 TRP and 5 LYS differ by name only and stay apart.
    assert [r.name for r in topology.residues()] == list(STAR.residue_names) * 3
    assert [bead.element.symbol if bead.element else "" for bead in topology.atoms()][:6] == list(
        STAR.elements
    )
    copies = {(i + 6 * r, j + 6 * r) for i, j in STAR.bonds for r in range(3)}
    assert {(b[0].index, b[1].index) for b in topology.bonds()} == copies
    with pytest.raises(InvalidInputError, match="replicas is 0"):
        STAR.to_openmm(replicas=0)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"residue_ids": (7,) * 5, "chain_ids": ("Z",) * 5, "masses": (1.0,) * 5}, None),
        ({"names": ("C", "N", "CB", "C", "N")}, "bead 2 is CA of ALA, and CB of ALA in the other"),
        (
            {"residue_names": ("ACE", *("VAL",) * 3, "NME")},
            "bead 1 is N of ALA, and N of VAL in the other",
        ),
        ({"bonds": ((0, 1), (1, 2), (2, 3))}, "beads 3 and 4 are bonded in one of them only"),
    ],
)
def test_what_makes_another_molecule(changes, difference):
    other = dataclasses.replace(DIPEPTIDE, **changes)
    assert DIPEPTIDE.differences(other) == difference
    assert STAR.differences(DIPEPTIDE) == "it has 6 beads and the other 5"
