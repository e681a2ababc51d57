"""Bead topologies, and their files as MDTraj, ParmEd and OpenMM read them."""

import dataclasses

import mdtraj
import numpy as np
import openmm.app as app
import parmed
import pytest
from MDAnalysis.topology.PSFParser import PSFParser

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.trajectories.bead_files import write_pdb, write_psf, write_viewer_files

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


def test_names_that_do_not_fit_are_changed_in_the_files_only(tmp_path):
    names = ("O3AAB", "O3AAC", "O3AA", "C A", "")
    topology = dataclasses.replace(
        DIPEPTIDE,
        names=names,
        residue_names=("LIGANDAB1", "LIGANDAB2", "ALA", "ALA", "Ångström"),
        residue_ids=(1, 2, 3, 3, 4),
        residue_indices=(),
    )
    write_pdb(topology, POSITIONS[5], tmp_path / "beads.pdb")
    write_psf(topology, tmp_path / "beads.psf")
    short = ["O3A1", "O3A2", "O3AA", "C_A", "X"]
    pdb = mdtraj.load(tmp_path / "beads.pdb").topology
    assert [atom.name for atom in pdb.atoms] == short
    assert [residue.name for residue in pdb.residues] == ["LIGA", "LIG1", "ALA", "_ngs"]
    psf = parmed.load_file(str(tmp_path / "beads.psf"))
    assert [atom.name for atom in psf.atoms] == ["O3AAB", "O3AAC", "O3AA", "C_A", "X"]
    assert [r.name for r in psf.residues] == ["LIGANDAB", "LIGANDA1", "ALA", "_ngstr_m"]
    assert PSFParser(tmp_path / "beads.psf").parse().n_atoms == 5
    assert topology.names == names


@pytest.mark.parametrize("ids", [(5, 6, 7, 8, 9), (0, 1, 2, 3, 4), (-3, 40, 41, 42, 43)])
def test_both_files_have_the_same_residue_numbers(ids, tmp_path):
    topology = dataclasses.replace(DIPEPTIDE, residue_ids=ids, residue_indices=())
    write_pdb(topology, POSITIONS[5], tmp_path / "beads.pdb")
    write_psf(topology, tmp_path / "beads.psf")
    psf = parmed.load_file(str(tmp_path / "beads.psf"))
    assert [atom.residue.number for atom in psf.atoms] == list(ids)
    for name in ("beads.pdb", "beads.psf"):
        read = mdtraj.load_topology(tmp_path / name)
        assert [atom.residue.resSeq for atom in read.atoms] == list(ids)


def test_failing_to_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "beads.psf"
    path.write_text("old")

    def disk_full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openmm_scoremd._files.atomic.os.replace", disk_full)
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
        ({"insertion_codes": ("A",)}, "insertion_codes has 1 entries for 5"),
        ({"residue_indices": (0, 1)}, "residue_indices has 2 entries for 5"),
        ({"residue_indices": (-1, 0, 0, 0, 1)}, "residue index is -1"),
    ],
)
def test_impossible_topologies_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        dataclasses.replace(DIPEPTIDE, **change)
    content = {**DIPEPTIDE.to_dict(), **change}
    with pytest.raises(InvalidInputError, match=message) as caught:
        BeadTopology.from_dict(content)
    assert "InvalidInputError" not in str(caught.value)


#: One residue each: 52 and 52A of one chain, two more 52 in it without any letter, one in chain B.
KABAT = BeadTopology(
    names=("N", "CA") * 5,
    elements=("N", "C") * 5,
    residue_names=("SER",) * 10,
    residue_ids=(52,) * 10,
    chain_ids=("A",) * 8 + ("B",) * 2,
    masses=(14.0, 12.0) * 5,
    insertion_codes=("",) * 2 + ("A",) * 2 + ("",) * 6,
)


def test_residues_that_share_everything_stay_apart(tmp_path):
    assert KABAT.residue_indices == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    labels = ["A:SER 52 #1", "A:SER 52A", "A:SER 52 #3", "A:SER 52 #4", "B:SER 52"]
    assert list(KABAT.residue_labels[::2]) == labels
    assert KABAT.bead_labels[:5] == ("A:N52 #1", "A:CA52 #1", "A:N52A", "A:CA52A", "A:N52 #3")
    residues = list(KABAT.to_openmm().residues())
    assert [(r.id, r.insertionCode, r.chain.id) for r in residues] == [
        ("52", "", "A"), ("52", "A", "A"), ("52", "", "A"), ("52", "", "A"), ("52", "", "B"),
    ]  # fmt: skip
    assert BeadTopology.from_dict(KABAT.to_dict()) == KABAT
    write_pdb(KABAT, np.arange(30.0).reshape(10, 3) / 7.0, tmp_path / "beads.pdb")
    numbers = [line[22:27] for line in (tmp_path / "beads.pdb").read_text().splitlines()[:5]]
    assert numbers == ["  52 ", "  52 ", "  52A", "  52A", "  52 "]


def test_one_chain_needs_no_letter_in_labels():
    assert STAR.residue_labels[:2] == ("A:GLY -3", "A:TRP 5")
    assert DIPEPTIDE.residue_labels == ("ACE 1", "ALA 2", "ALA 2", "ALA 2", "NME 3")
    assert DIPEPTIDE.bead_labels == ("C1", "N2", "CA2", "C2", "N3")


def test_records_without_residues_number_them_from_names():
    content = DIPEPTIDE.to_dict()
    del content["residue_indices"], content["insertion_codes"]
    assert BeadTopology.from_dict(content) == DIPEPTIDE
    assert DIPEPTIDE.residue_indices == (0, 1, 1, 1, 2)
    beads = dataclasses.replace(
        DIPEPTIDE, names=("CA",) * 5, residue_names=("SER",) * 5, residue_ids=(2,) * 5,
        residue_indices=(),
    )  # fmt: skip
    assert beads.residue_indices == (0, 1, 2, 3, 4)


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


class TestFilesForViewers:
    def written(self, topology, positions, folder):
        write_viewer_files(topology, positions, folder / "topology")
        assert sorted(path.name for path in folder.iterdir()) == ["topology.pdb", "topology.psf"]
        return mdtraj.load(folder / "topology.pdb"), parmed.load_file(str(folder / "topology.psf"))

    def test_are_the_usual_ones(self, tmp_path, caplog):
        frame, _ = self.written(DIPEPTIDE, POSITIONS[5], tmp_path)
        write_pdb(DIPEPTIDE, POSITIONS[5], tmp_path / "expected.pdb")
        expected = (tmp_path / "expected.pdb").read_bytes()
        assert (tmp_path / "topology.pdb").read_bytes() == expected
        assert frame.n_atoms == 5
        assert caplog.text == ""

    def test_have_short_names_that_differ(self, tmp_path):
        names = ("O3AAB", "O3AAC", "O3AA", "a very long name", "O3AAB")
        topology = dataclasses.replace(
            DIPEPTIDE,
            names=names,
            residue_names=("POPCX", "ALA", "ALA", "ALA", "A B"),
            residue_ids=(1, 2, 2, 2, 3),
        )
        frame, structure = self.written(topology, POSITIONS[5], tmp_path)
        found = [atom.name for atom in frame.topology.atoms]
        assert found == ["O3A1", "O3A2", "O3AA", "a_ve", "O3A1"]
        assert frame.topology.atom(0).residue.name == "POPC"
        assert bonds_of(frame.topology) == topology.bonds
        assert [atom.name for atom in structure.atoms][:4] == ["O3AAB", "O3AAC", "O3AA", "a_very_l"]

    @pytest.mark.parametrize("width", [1.0, 300.0])
    def test_hold_frames_that_are_far_away(self, tmp_path, caplog, width):
        positions = width * POSITIONS[5] + 500.0
        frame, _ = self.written(DIPEPTIDE, positions, tmp_path)
        assert "beyond 99 nm" in caplog.text
        if width == 1.0:
            expected = positions - positions.mean(axis=0)
            np.testing.assert_allclose(frame.xyz[0], expected, atol=1e-4)

    def test_of_too_many_beads_are_left_out(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr("openmm_scoremd.trajectories.bead_files._MAX_PDB_SERIAL", 4)
        write_viewer_files(DIPEPTIDE, POSITIONS[5], tmp_path / "topology")
        assert [path.name for path in tmp_path.iterdir()] == ["topology.psf"]
        assert "a PDB file can hold 4" in caplog.text


# --- The same molecule ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, ""),
        ({"names": ("C", "N", "CB", "C", "N")}, "bead 2 is CB of ALA and not CA of ALA"),
        (
            {"residue_names": ("ACE", "VAL", "VAL", "VAL", "NME")},
            "bead 1 is N of VAL and not N of ALA",
        ),
        ({"bonds": ((0, 1), (1, 2), (2, 3))}, "beads 3 and 4 are bonded in one of the two only"),
        ({"residue_indices": (0, 1, 1, 2, 3)}, "beads 2 and 3 are of two residues"),
        # The same molecule, described otherwise.
        ({"bonds": ()}, ""),
        ({"chain_ids": ("B",) * 5, "residue_ids": (7, 8, 8, 8, 9)}, ""),
        ({"elements": ("",) * 5, "masses": (1.0,) * 5}, ""),
    ],
)
def test_what_makes_another_molecule(changes, difference):
    # Residues are counted anew unless they are given.
    other = dataclasses.replace(DIPEPTIDE, **{"residue_indices": (), **changes})
    assert other.difference_from(DIPEPTIDE) == difference
    assert bool(DIPEPTIDE.difference_from(other)) == bool(difference)


def test_numbers_of_beads_and_names_of_protonated_residues():
    assert STAR.difference_from(DIPEPTIDE) == "there are 6 beads and not 5"
    assert "one residue, not of two" in dataclasses.replace(
        DIPEPTIDE, residue_names=("ALA",) * 5, residue_ids=(1,) * 5, residue_indices=(0,) * 5
    ).difference_from(
        dataclasses.replace(DIPEPTIDE, residue_names=("ALA",) * 5, residue_indices=())
    )
    histidines = [
        dataclasses.replace(DIPEPTIDE, residue_names=("ACE", *3 * (name,), "NME"))
        for name in ("HIS", "HIE", "HSD", "VAL")
    ]
    same = [one.difference_from(histidines[0]) for one in histidines]
    assert same == ["", "", "", "bead 1 is N of VAL and not N of HIS"]
