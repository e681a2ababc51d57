"""Coarse-graining of real frames, of every topology format, and of everything that goes wrong."""

import hashlib
from pathlib import Path

import mdtraj
import numpy as np
import openmm.app as app
import parmed
import pytest
from mdtraj.core import element

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.coarse_graining import (
    CoarseGrainingMap,
    coarse_grain_trajectory,
    load_topology,
)
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.geometry import dihedrals, distances

ROOT = Path(__file__).parents[3]
PDB = ROOT / "tests/data/alanine_dipeptide.pdb"
DCD = ROOT / "tests/data/alanine_dipeptide_200.dcd"
SHIPPED = ROOT / "examples/data/alanine_dipeptide.npz"
BONDED_PAIRS = [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.fixture(scope="module")
def topology():
    return load_topology(PDB)


@pytest.fixture(scope="module")
def mapping(topology):
    return CoarseGrainingMap.from_preset(topology, "alanine-dipeptide")


@pytest.fixture(scope="module")
def all_atom(topology):
    return mdtraj.load(DCD, top=topology)


def peptide(*chains, extra=()):
    """Return a topology of backbone atoms; each chain is a list of (residue name, number)."""
    topology = mdtraj.Topology()
    for residues in chains:
        chain = topology.add_chain()
        for name, number in residues:
            residue = topology.add_residue(name, chain, resSeq=number)
            for atom in ("N", "CA", "C", "O") if name == "GLY" else ("N", "CA", "CB", "C", "O"):
                topology.add_atom(atom, element.get_by_symbol(atom[0]), residue)
    for atom, symbol, name in extra:
        residue = topology.add_residue(name, topology.add_chain())
        topology.add_atom(atom, element.get_by_symbol(symbol), residue)
    topology.create_standard_bonds()
    return topology


# ---- which atoms ----------------------------------------------------------------------------


def test_alanine_dipeptide_preset(mapping):
    beads = mapping.topology
    assert mapping.atom_indices == (4, 6, 8, 14, 16)
    assert beads.names == ("C", "N", "CA", "C", "N")
    assert beads.elements == ("C", "N", "C", "C", "N")
    assert beads.residue_names == ("ACE", "ALA", "ALA", "ALA", "NME")
    assert beads.residue_ids == (1, 2, 2, 2, 3)
    assert beads.masses == pytest.approx((12.011, 14.007, 12.011, 12.011, 14.007), abs=1e-3)
    assert beads.bonds == tuple(BONDED_PAIRS)


def test_alanine_dipeptide_preset_refuses_other_molecules(topology):
    twice = topology.join(topology)
    with pytest.raises(DatasetError, match=r"exactly one atom C in residue ACE.*has 2"):
        CoarseGrainingMap.from_preset(twice, "alanine-dipeptide")
    with pytest.raises(DatasetError, match="has 0"):
        CoarseGrainingMap.from_preset(peptide([("ALA", 1)]), "alanine-dipeptide")


def test_unknown_preset_names_the_nearest(topology):
    with pytest.raises(InvalidInputError, match="did you mean 'alanine-dipeptide'"):
        CoarseGrainingMap.from_preset(topology, "alanine_dipeptide")
    with pytest.raises(InvalidInputError, match=r"none of alanine-dipeptide, backbone-cb, ca$"):
        CoarseGrainingMap.from_preset(topology, "martini")


def test_backbone_preset_has_the_published_order():
    mapping = CoarseGrainingMap.from_preset(peptide([("LYS", 1), ("TRP", 2)]), "backbone-cb")
    assert mapping.topology.names == ("N", "CA", "CB", "C", "O") * 2
    # C of the first residue (bead 3) is bonded to N of the second (bead 5).
    assert set(mapping.topology.bonds) == {
        (0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (5, 6), (6, 7), (6, 8), (8, 9),
    }  # fmt: skip


def test_backbone_preset_finds_atoms_in_any_order(topology):
    mapping = CoarseGrainingMap.from_preset(topology, "backbone-cb")
    assert [topology.atom(i).name for i in mapping.atom_indices] == ["N", "CA", "CB", "C", "O"]
    assert {topology.atom(i).residue.name for i in mapping.atom_indices} == {"ALA"}


def test_ca_preset_follows_the_bonds_of_the_topology():
    first = [("ALA", 1), ("GLY", 2), ("SER", 3), ("ALA", 8), ("TRP", 9)]
    ions = [("CA", "Ca", "CA"), ("O", "O", "HOH")]
    topology = peptide(first, [("ALA", 10), ("ALA", 11)], extra=ions)
    beads = CoarseGrainingMap.from_preset(topology, "ca").topology
    assert beads.names == ("CA",) * 7
    assert set(beads.elements) == {"C"}
    # MDTraj bonds 3 to 8: numbers alone are no reason to doubt it.
    assert beads.bonds == ((0, 1), (1, 2), (2, 3), (3, 4), (5, 6))
    assert beads.chain_ids == ("A",) * 5 + ("B",) * 2


def test_ca_preset_needs_amino_acids():
    with pytest.raises(DatasetError, match="no amino acid"):
        CoarseGrainingMap.from_preset(peptide(extra=[("CA", "Ca", "CA")]), "ca")


def test_selection_keeps_bonds_between_kept_atoms(topology):
    mapping = CoarseGrainingMap.from_selection(topology, "element C")
    assert mapping.atom_indices == (1, 4, 8, 10, 14, 18)
    assert mapping.topology.bonds == ((0, 1), (2, 3), (2, 4))


@pytest.mark.parametrize(
    ("selection", "message"),
    [("name ZZ", "matches none of the 22 atoms.*CA"), ("name CA and and", "not MDTraj")],
)
def test_selections_that_do_not_work_are_refused(topology, selection, message):
    with pytest.raises(InvalidInputError, match=message):
        CoarseGrainingMap.from_selection(topology, selection)


def test_indices_keep_their_order(topology, all_atom):
    mapping = CoarseGrainingMap.from_indices(topology, [14, 8, 16])
    assert mapping.topology.names == ("C", "CA", "N")
    assert mapping.topology.bonds == ((0, 1), (0, 2))
    np.testing.assert_array_equal(mapping.apply(all_atom.xyz), all_atom.xyz[:, [14, 8, 16]])


@pytest.mark.parametrize("indices", [[], [3, 3], [0, 22], [-1, 3]])
def test_impossible_indices_are_refused(topology, indices):
    with pytest.raises(InvalidInputError, match="atom indices"):
        CoarseGrainingMap.from_indices(topology, indices)


def test_atoms_without_a_mass_are_refused():
    topology = peptide([("ALA", 1), ("ALA", 2)])
    residue = topology.add_residue("LIG", topology.add_chain())
    topology.add_atom("M1", element.virtual, residue)
    with pytest.raises(DatasetError, match=r"no mass is known for the beads M1 \(1\)"):
        CoarseGrainingMap.from_indices(topology, [1, 10])


def test_apply_refuses_too_few_atoms(mapping):
    with pytest.raises(InvalidInputError, match="keeps atom 16"):
        mapping.apply(np.zeros((2, 16, 3)))


# ---- topology files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def structure():
    pdb = app.PDBFile(str(PDB))
    system = app.ForceField("amber99sbildn.xml").createSystem(pdb.topology)
    return parmed.openmm.load_topology(pdb.topology, system, xyz=pdb.positions)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["x.pdb", "x.cif", "x.prmtop", "x.parm7", "x.psf", "x.top"])
def test_every_topology_format_gives_the_same_beads(structure, mapping, tmp_path, name):
    path = tmp_path / name
    structure.save(str(path), format={"x.parm7": "amber"}.get(name))
    found = CoarseGrainingMap.from_preset(load_topology(path), "alanine-dipeptide")
    assert found.atom_indices == mapping.atom_indices
    for field in ("names", "elements", "residue_names", "bonds"):
        assert getattr(found.topology, field) == getattr(mapping.topology, field)
    assert found.topology.masses == pytest.approx(mapping.topology.masses, abs=1e-4)
    assert len(set(found.topology.chain_ids)) == 1
    assert found.topology.chain_ids[0]


# MDTraj and ParmEd leave files open that they cannot read.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["x.pdb", "x.cif", "x.prmtop", "x.psf", "x.top", "x.doc"])
def test_unreadable_topologies_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DatasetError, match="does not exist"):
        load_topology(path)
    path.write_bytes(b"\x00\x17 nothing of the kind\n" * 5)
    with pytest.raises(DatasetError, match=f"{name} cannot be read"):
        load_topology(path)


# ---- trajectories ---------------------------------------------------------------------------


def test_dihedrals_survive(topology, mapping, all_atom):
    dataset = coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0)
    angles = dihedrals(dataset.positions, [[0, 1, 2, 3], [1, 2, 3, 4]])
    expected = mdtraj.compute_dihedrals(all_atom, [[4, 6, 8, 14], [6, 8, 14, 16]])
    assert np.abs(np.angle(np.exp(1j * (angles - expected)))).max() < 1e-4
    assert dataset.positions.shape == (200, 5, 3)
    assert dataset.temperature == 300.0
    assert dataset.source_sha256 == sha256_of_file(DCD)


def test_frames_are_centred_and_aligned_to_the_first(topology, mapping, all_atom):
    positions = coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0).positions
    assert np.abs(positions.mean(axis=1)).max() < 1e-7
    first = all_atom.xyz[0, list(mapping.atom_indices)].astype(float)
    np.testing.assert_allclose(positions[0], first - first.mean(axis=0), atol=1e-6)
    beads = all_atom.atom_slice(mapping.atom_indices)
    deviation = np.sqrt(((positions - positions[0]) ** 2).sum(axis=-1).mean(axis=-1))
    np.testing.assert_allclose(deviation, mdtraj.rmsd(beads, beads, 0), atol=1e-4)


def test_shipped_dataset_is_what_this_code_makes(topology, mapping):
    shipped = load_dataset(SHIPPED)
    made = coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0)
    np.testing.assert_allclose(shipped.positions[:200], made.positions, atol=2e-7)
    assert shipped.topology == made.topology
    assert (shipped.n_frames, shipped.temperature) == (50_000, 300.0)
    phi = dihedrals(shipped.positions, [[0, 1, 2, 3]])
    assert (phi > 0.0).mean() == pytest.approx(0.0204, abs=5e-5)


def test_chunks_do_not_change_the_result(topology, mapping):
    read = []
    whole = coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0, stride=7)
    pieces = coarse_grain_trajectory(
        DCD, topology, mapping, temperature=300.0, stride=7, chunk_size=3, progress=read.append
    )
    np.testing.assert_array_equal(pieces.positions, whole.positions)
    assert pieces.n_frames == 29
    assert read == [*range(3, 200, 3), 200]


def test_stride_counts_through_several_files(topology, mapping, all_atom, tmp_path):
    files = [tmp_path / "a.dcd", tmp_path / "b.xtc"]
    all_atom[:5].save(str(files[0]))
    all_atom[5:12].save(str(files[1]))
    dataset = coarse_grain_trajectory(files, topology, mapping, temperature=300.0, stride=3)
    expected = distances(mapping.apply(all_atom.xyz[[0, 3, 6, 9]]), BONDED_PAIRS)
    np.testing.assert_allclose(distances(dataset.positions, BONDED_PAIRS), expected, atol=2e-3)
    joined = "".join(sha256_of_file(file) for file in files)
    assert dataset.source_sha256 == hashlib.sha256(joined.encode()).hexdigest()


@pytest.mark.filterwarnings("ignore:.*netCDF4")
@pytest.mark.parametrize("suffix", ["xtc", "trr", "pdb", "nc"])
def test_other_formats_are_read(topology, mapping, all_atom, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    all_atom[:4].save(str(path))
    dataset = coarse_grain_trajectory(path, topology, mapping, temperature=300.0)
    expected = distances(mapping.apply(all_atom.xyz[:4]), BONDED_PAIRS)
    # XTC files hold coordinates in steps of 0.001 nm.
    np.testing.assert_allclose(distances(dataset.positions, BONDED_PAIRS), expected, atol=2e-3)


def test_nan_frames_are_named(topology, mapping, all_atom, tmp_path):
    frames = all_atom[:9]
    frames.xyz[7, 8, 1] = np.nan
    frames.save(str(tmp_path / "nan.dcd"))
    with pytest.raises(DatasetError, match=r"frame\(s\) 7;"):
        coarse_grain_trajectory(
            tmp_path / "nan.dcd", topology, mapping, temperature=300.0, chunk_size=2
        )
    kept = coarse_grain_trajectory(
        tmp_path / "nan.dcd", topology, mapping, temperature=300.0, stride=2
    )
    assert kept.n_frames == 5


def test_empty_trajectories_are_refused(topology, mapping, all_atom, tmp_path):
    with mdtraj.formats.XTCTrajectoryFile(str(tmp_path / "none.xtc"), "w"):
        pass
    (tmp_path / "none.dcd").write_bytes(b"")
    header_only = tmp_path / "header.dcd"
    all_atom[:1].save(str(header_only))
    header_only.write_bytes(header_only.read_bytes()[:276])
    for name in ("none.xtc", "none.dcd", "header.dcd"):
        with pytest.raises(DatasetError, match=f"{name} (has no frames|cannot be read)"):
            coarse_grain_trajectory(tmp_path / name, topology, mapping, temperature=300.0)
    with pytest.raises(DatasetError, match="no frames"):
        coarse_grain_trajectory([], topology, mapping, temperature=300.0)


def test_readers_that_find_no_frames_in_silence_are_noticed(topology, mapping, monkeypatch):
    monkeypatch.setattr(mdtraj, "iterload", lambda *_args, **_options: iter(()))
    with pytest.raises(DatasetError, match=f"{DCD.name} has no frames"):
        coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0)


@pytest.mark.parametrize("suffix", ["dcd", "pdb"])
def test_another_molecule_is_refused(topology, mapping, all_atom, tmp_path, suffix):
    # All the atoms kept exist in the trajectory: only their number gives the mistake away.
    path = tmp_path / f"fewer.{suffix}"
    all_atom[:2].atom_slice(range(20)).save(str(path))
    with pytest.raises(DatasetError, match=r"(?s)22.*20|20.*22"):
        coarse_grain_trajectory(path, topology, mapping, temperature=300.0)


def test_missing_and_unknown_files_are_refused(topology, mapping, tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        coarse_grain_trajectory(tmp_path / "no.dcd", topology, mapping, temperature=300.0)
    (tmp_path / "x.doc").write_text("text")
    with pytest.raises(DatasetError, match="cannot be read"):
        coarse_grain_trajectory(tmp_path / "x.doc", topology, mapping, temperature=300.0)


def test_impossible_options_are_refused(topology, mapping):
    with pytest.raises(InvalidInputError, match="stride is 0"):
        coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0, stride=0)
    with pytest.raises(InvalidInputError, match="chunk_size 0"):
        coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0, chunk_size=0)
    with pytest.raises(DatasetError, match="temperature is -1"):
        coarse_grain_trajectory(DCD, topology, mapping, temperature=-1.0)


def test_a_cut_off_dcd_is_reported(topology, mapping, tmp_path, caplog):
    path = tmp_path / "cut.dcd"
    path.write_bytes(DCD.read_bytes()[:-100])
    dataset = coarse_grain_trajectory(path, topology, mapping, temperature=300.0)
    assert dataset.n_frames == 199
    assert "announces 200 frames but holds 199" in caplog.text
    caplog.clear()
    coarse_grain_trajectory(DCD, topology, mapping, temperature=300.0)
    assert caplog.text == ""


# ---- periodic boxes -------------------------------------------------------------------------

CUBIC = np.eye(3) * 1.1
TRICLINIC = np.array([[1.3, 0.0, 0.0], [0.6, 1.2, 0.0], [-0.5, 0.5, 1.1]])


def wrapped(frames, box):
    """Put every atom into the box on its own, after moving molecules over its edges."""
    vectors = np.repeat(box[None], frames.n_frames, axis=0)
    drift = np.linspace(0.0, 2.0, frames.n_frames)[:, None, None] * [1.0, 0.7, -0.4]
    fractions = (frames.xyz + drift) @ np.linalg.inv(vectors)
    result = frames[:]
    result.xyz = (fractions - np.floor(fractions)) @ vectors
    result.unitcell_vectors = vectors
    return result


@pytest.mark.parametrize("box", [CUBIC, TRICLINIC])
def test_broken_molecules_are_made_whole(topology, mapping, all_atom, tmp_path, box):
    broken = wrapped(all_atom[:40], box)
    lengths = distances(mapping.apply(broken.xyz), BONDED_PAIRS)
    assert (lengths > 0.3).any(), "the test must break molecules"
    broken.save(str(tmp_path / "broken.dcd"))
    dataset = coarse_grain_trajectory(
        tmp_path / "broken.dcd", topology, mapping, temperature=300.0, chunk_size=7
    )
    reference = mapping.apply(all_atom.xyz[:40])
    pairs = [(i, j) for i in range(5) for j in range(i)]
    np.testing.assert_allclose(
        distances(dataset.positions, pairs), distances(reference, pairs), atol=1e-5
    )


def test_beads_of_several_molecules_are_brought_together(topology, all_atom, tmp_path):
    two = topology.join(topology)
    xyz = np.concatenate(
        [all_atom.xyz[:30], all_atom.xyz[:30] + np.array([0.45, 0.0, 0.0])], axis=1
    )
    frames = mdtraj.Trajectory(xyz, two)
    box = np.diag([2.5, 2.6, 2.7])
    wrapped(frames, box).save(str(tmp_path / "box.dcd"))
    kept = [*mapping_atoms(), *(22 + atom for atom in mapping_atoms())]
    mapping = CoarseGrainingMap.from_indices(two, kept)
    dataset = coarse_grain_trajectory(tmp_path / "box.dcd", two, mapping, temperature=300.0)
    pairs = [(i, j) for i in range(10) for j in range(i)]
    expected = distances(mapping.apply(xyz), pairs)
    np.testing.assert_allclose(distances(dataset.positions, pairs), expected, atol=1e-5)
    assert dataset.notes == (
        "box: 2 molecules made whole along their bonds, then brought together",
    )
    broken = coarse_grain_trajectory(
        tmp_path / "box.dcd", two, mapping, temperature=300.0, box="ignore", on_problem="warn"
    )
    assert np.abs(distances(broken.positions, pairs) - expected).max() > 1.0
    assert broken.notes[0] == "box: ignored: molecules are said to be whole"


def mapping_atoms():
    return [4, 6, 8, 14, 16]


def test_beads_without_bonds_are_refused_in_a_box(topology, all_atom, tmp_path):
    bare = topology.copy()
    bare._bonds = []
    mapping = CoarseGrainingMap.from_indices(bare, [4, 6, 8])
    all_atom[:3].save(str(tmp_path / "free.dcd"))
    wrapped(all_atom[:3], CUBIC).save(str(tmp_path / "box.dcd"))
    coarse_grain_trajectory(tmp_path / "free.dcd", bare, mapping, temperature=300.0)
    with pytest.raises(DatasetError, match=r"3 of the 3 atoms kept have no bonds.*--whole"):
        coarse_grain_trajectory(tmp_path / "box.dcd", bare, mapping, temperature=300.0)


@pytest.mark.filterwarnings("ignore:Unlikely unit cell vectors")
def test_placeholder_cells_are_no_box(topology, mapping, all_atom, tmp_path):
    frames = all_atom[:20]
    frames.unitcell_vectors = np.repeat(0.1 * np.eye(3)[None], 20, axis=0)
    frames.save(str(tmp_path / "x.dcd"))
    dataset = coarse_grain_trajectory(tmp_path / "x.dcd", topology, mapping, temperature=300.0)
    expected = distances(mapping.apply(all_atom.xyz[:20]), BONDED_PAIRS)
    np.testing.assert_allclose(distances(dataset.positions, BONDED_PAIRS), expected, atol=1e-5)
    assert dataset.notes == ("box: a placeholder of 0.1 nm, ignored",)


def test_boxes_too_small_for_their_bonds_are_refused(topology, mapping, all_atom, tmp_path):
    frames = all_atom[:20]
    frames.unitcell_vectors = np.repeat(np.diag([0.28, 2.0, 2.0])[None], 20, axis=0)
    frames.save(str(tmp_path / "x.dcd"))
    with pytest.raises(DatasetError, match=r"is 0\.280 nm high and its longest bond 0\.1"):
        coarse_grain_trajectory(tmp_path / "x.dcd", topology, mapping, temperature=300.0)


@pytest.mark.filterwarnings("ignore:Certain frames have invalid unitcell")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_impossible_cells_are_named_as_such(topology, mapping, all_atom, tmp_path):
    # As CHARMM's symmetric matrix is read: an angle below zero, and no volume.
    with mdtraj.formats.DCDTrajectoryFile(str(tmp_path / "x.dcd"), "w") as file:
        file.write(
            10.0 * all_atom.xyz[:2],
            cell_lengths=np.array([[30.84, 31.78, 32.67]] * 2),
            cell_angles=np.array([[-2.608, 9.626, 14.58]] * 2),
        )
    with pytest.raises(DatasetError, match=r"cell of its first frame is impossible.*CHARMM"):
        coarse_grain_trajectory(tmp_path / "x.dcd", topology, mapping, temperature=300.0)
    dataset = coarse_grain_trajectory(
        tmp_path / "x.dcd", topology, mapping, temperature=300.0, box="ignore"
    )
    assert dataset.n_frames == 2
