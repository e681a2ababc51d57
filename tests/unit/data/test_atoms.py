"""All-atom topologies: bonds by names and distances, elements and masses, chains and residues."""

import gzip

import mdtraj
import numpy as np
import parmed
import pytest

from openmm_scoremd.data.atoms import AtomTopology, load_topology
from openmm_scoremd.data.coarse_graining import CoarseGrainingMap
from openmm_scoremd.errors import DatasetError

FIVE = [("ALA", 1), ("SER", 2), ("ALA", 3), ("LYS", 4), ("ALA", 5)]


def numbered(*numbers, name="ALA"):
    return [(name, number) for number in numbers]


def ca_bonds(path, **options):
    return CoarseGrainingMap.from_preset(load_topology(path), "ca", **options).topology.bonds


# ---- bonds ----------------------------------------------------------------------------------


def test_numbers_that_jump_are_no_gap_and_a_gap_needs_no_jump(make_peptide, tmp_path):
    chain = make_peptide(numbered(34, 35, 37, 38, 39))
    assert ca_bonds(chain.write_pdb(tmp_path / "a.pdb")) == ((0, 1), (1, 2), (2, 3), (3, 4))
    # Two peptides, numbered through and written as one chain without TER.
    two = make_peptide(numbered(1, 2, 3), numbered(4, 5, 6))
    path = two.write_pdb(tmp_path / "b.pdb", letters="A", ter=False)
    mapping = CoarseGrainingMap.from_preset(load_topology(path), "ca")
    assert mapping.topology.bonds == ((0, 1), (1, 2), (3, 4), (4, 5))
    (note,) = mapping.notes
    assert "no peptide bond" in note
    assert "ALA3 and ALA4" in note


def test_bonds_of_a_topology_file_are_believed(make_peptide, tmp_path):
    # As prmtop and top do: residues numbered through, no chains; only the bonds tell.
    two = make_peptide(numbered(1, 2, 3), numbered(4, 5, 6))
    structure = amber_like(two, bonded=((0, 1), (1, 2), (3, 4), (4, 5)))
    structure.save(str(tmp_path / "two.prmtop"))
    assert ca_bonds(tmp_path / "two.prmtop") == ((0, 1), (1, 2), (3, 4), (4, 5))


def amber_like(peptide, *, bonded, names=None, masses=None):
    """Return a ParmEd structure with the backbone bonds and the peptide bonds ``bonded``."""
    structure, bond = parmed.Structure(), parmed.BondType(300.0, 1.4)
    structure.bond_types.append(bond)
    bond.list = structure.bond_types
    weights = {"N": 14.01, "C": 12.01, "O": 16.0, **(masses or {})}
    numbers, residues = {"N": 7, "C": 6, "O": 8}, []
    for name, number in peptide.residues:
        atoms = {}
        for atom_name in ("N", "CA", "C", "CB", "O"):
            letter = atom_name[0]
            kind = parmed.AtomType(letter, numbers[letter], weights[letter], numbers[letter])
            kind.set_lj_params(0.1, 1.5)
            atom = parmed.Atom(
                name=(names or {}).get(atom_name, atom_name), type=letter, mass=weights[letter],
                atomic_number=numbers[letter], charge=0.0,
            )  # fmt: skip
            atom.atom_type = kind
            structure.add_atom(atom, name, number)
            atoms[atom_name] = atom
        for a, b in (("N", "CA"), ("CA", "C"), ("CA", "CB"), ("C", "O")):
            structure.bonds.append(parmed.Bond(atoms[a], atoms[b], bond))
        residues.append(atoms)
    for i, j in bonded:
        structure.bonds.append(parmed.Bond(residues[i]["C"], residues[j]["N"], bond))
    return structure


@pytest.mark.parametrize("name", ["ASH", "GLH", "LYN", "CYM", "MSE", "HYP", "SEP", "NALA", "HIE"])
def test_residues_of_any_name_are_bonded(make_peptide, tmp_path, name):
    chain = make_peptide([("ALA", 1), ("GLY" if name == "NALA" else "ALA", 2), ("ALA", 3)])
    # Four letters fill the column that PDB files leave blank.
    path = chain.write_pdb(tmp_path / "x.pdb")
    text = path.read_text().replace(" ALA A   2", f"{name:>4} A   2")
    path.write_text(text.replace(" GLY A   2", f"{name:<4}A   2".rjust(10)))
    mapping = CoarseGrainingMap.from_preset(load_topology(path), "backbone-cb")
    assert mapping.topology.n_beads == 15
    assert len(mapping.topology.bonds) == 14
    selected = CoarseGrainingMap.from_selection(load_topology(path), "protein and name CA")
    assert selected.topology.bonds == ((0, 1), (1, 2))


def test_side_chains_of_unknown_residues_are_bonded_by_distance(make_peptide, tmp_path):
    chain = make_peptide([("ALA", 1), ("XYZ", 2), ("ALA", 3)])
    path = chain.write_pdb(tmp_path / "x.pdb")
    cb = 10.0 * chain.positions[1, 3]
    lines = path.read_text().splitlines()
    extra = "HETATM   11 SE   XYZ A   2    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00          SE"
    lines.insert(10, extra.format(cb[0], cb[1], cb[2] + 1.95))
    path.write_text("\n".join(lines))
    topology = load_topology(path)
    found = {(str(a), str(b)) for a, b in topology.bonds if "SE" in a.name + b.name}
    assert found == {("XYZ2-CB", "XYZ2-SE")}
    assert topology.atom(10).element.symbol == "Se"


def test_chains_of_ca_alone_are_bonded_by_distance(make_peptide, tmp_path):
    chain = make_peptide(numbered(1, 2, 3, 4, 5, 6))
    path = chain.write_pdb(tmp_path / "x.pdb")
    lines = [line for line in path.read_text().splitlines() if " CA " in line]
    del lines[3]
    path.write_text("\n".join([*lines, "END"]))
    assert ca_bonds(path) == ((0, 1), (1, 2), (3, 4))


def test_rings_close(make_peptide, tmp_path):
    chain = make_peptide(numbered(1, 2, 3, 4))
    # The last C is put where the N of the first residue is bonded to it.
    chain.positions[3, 2] = chain.positions[0, 0] + [0.0, 0.0, 0.134]
    assert (0, 3) in ca_bonds(chain.write_pdb(tmp_path / "x.pdb"))


def test_broken_structures_in_a_crystal_cell_keep_their_bonds(make_peptide, tmp_path):
    chain = make_peptide(numbered(1, 2, 3, 4))
    chain.positions[2:] += [0.0, 0.0, 3.0]
    cell = "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1"
    assert len(ca_bonds(chain.write_pdb(tmp_path / "x.pdb", header=cell))) == 3
    chain.write_pdb(tmp_path / "y.pdb")
    assert len(ca_bonds(tmp_path / "y.pdb")) == 2


def test_a_frame_serves_where_the_topology_has_no_bonds(make_peptide, tmp_path):
    two = make_peptide(numbered(1, 2), numbered(3, 4))
    structure = amber_like(two, bonded=())
    structure.bonds.clear()
    structure.save(str(tmp_path / "x.psf"))
    two.frames(2).save(str(tmp_path / "x.xtc"))
    found = load_topology(tmp_path / "x.psf", trajectory=tmp_path / "x.xtc")
    assert CoarseGrainingMap.from_preset(found, "ca").topology.bonds == ((0, 1), (2, 3))
    assert load_topology(tmp_path / "x.psf").n_bonds == 0


# ---- which residues -------------------------------------------------------------------------


def test_free_amino_acids_are_left_out_and_named(make_peptide, tmp_path):
    peptide = make_peptide(FIVE, numbered(101), numbered(102), apart=1.0)
    mapping = CoarseGrainingMap.from_preset(
        load_topology(peptide.write_pdb(tmp_path / "x.pdb")), "ca"
    )
    assert mapping.topology.residue_ids == (1, 2, 3, 4, 5)
    assert mapping.notes == ("left out: amino acids without a peptide bond: ALA101, ALA102",)


def test_amino_acids_without_ca_are_named(make_peptide, tmp_path):
    path = make_peptide(FIVE).write_pdb(tmp_path / "x.pdb")
    lines = [line for line in path.read_text().splitlines() if " CA  LYS" not in line]
    path.write_text("\n".join(lines))
    mapping = CoarseGrainingMap.from_preset(load_topology(path), "ca")
    assert mapping.topology.n_beads == 4
    assert mapping.notes[0] == "left out: amino acids without CA: LYS4"


def test_glycine_has_four_beads(make_peptide, tmp_path):
    path = make_peptide([("ALA", 6), ("GLY", 7), ("ALA", 8)]).write_pdb(tmp_path / "x.pdb")
    lines = [line for line in path.read_text().splitlines() if " CB  GLY" not in line]
    path.write_text("\n".join(lines))
    beads = CoarseGrainingMap.from_preset(load_topology(path), "backbone-cb").topology
    assert beads.names[:9] == ("N", "CA", "CB", "C", "O", "N", "CA", "C", "O")
    assert len(beads.bonds) == 13
    # In any other residue CB is missing.
    path.write_text("\n".join(line.replace("GLY", "SER") for line in lines))
    with pytest.raises(DatasetError, match=r"missing in SER7 \(CB\)"):
        CoarseGrainingMap.from_preset(load_topology(path), "backbone-cb")


@pytest.mark.parametrize("name", ["OT1", "OC1"])
def test_terminal_oxygens_have_many_names(make_peptide, tmp_path, name):
    chain = make_peptide(numbered(1, 2, 3))
    structure = amber_like(chain, bonded=((0, 1), (1, 2)))
    structure.residues[-1].atoms[4].name = name
    structure.save(str(tmp_path / "x.psf"))
    beads = CoarseGrainingMap.from_preset(load_topology(tmp_path / "x.psf"), "backbone-cb").topology
    assert beads.names == ("N", "CA", "CB", "C", "O") * 3
    assert len(beads.bonds) == 14


@pytest.mark.parametrize("selection", ["protein and name CA", "backbone and name CA"])
def test_selections_know_amino_acids_of_every_force_field(make_peptide, tmp_path, selection):
    names = ["ALA", "HIE", "HID", "HIP", "CYX", "ASH", "LYN"]
    chain = make_peptide([(name, k + 1) for k, name in enumerate(names)])
    structure = amber_like(chain, bonded=[(k, k + 1) for k in range(6)])
    structure.save(str(tmp_path / "x.prmtop"))
    mapping = CoarseGrainingMap.from_selection(load_topology(tmp_path / "x.prmtop"), selection)
    assert list(mapping.topology.residue_names) == names
    assert len(mapping.topology.bonds) == 6


# ---- elements and masses --------------------------------------------------------------------


@pytest.mark.parametrize("left", [False, True])
def test_ca_without_an_element_column_is_carbon(make_peptide, tmp_path, left):
    path = make_peptide(FIVE).write_pdb(tmp_path / "x.pdb", elements=False, left=left)
    beads = CoarseGrainingMap.from_preset(load_topology(path), "backbone-cb").topology
    assert beads.elements == ("N", "C", "C", "C", "O") * 5
    assert beads.masses[1] == pytest.approx(12.011, abs=1e-3)


def test_calcium_ions_stay_calcium(make_peptide, tmp_path):
    path = make_peptide(FIVE).write_pdb(tmp_path / "x.pdb", elements=False)
    ion = "HETATM   99 CA    CA B   6       9.000  50.000  50.000  1.00  0.00"
    path.write_text(path.read_text().replace("END", f"{ion}\nEND"))
    topology = load_topology(path)
    assert topology.atom(topology.n_atoms - 1).element.symbol == "Ca"
    assert CoarseGrainingMap.from_preset(topology, "ca").topology.n_beads == 5


def martini(tmp_path, *, psf):
    """Write beads BB, BB, SC1, SC2 in two residues as GRO, and as PSF with masses and bonds."""
    rows = [("GLY", 1, "BB"), ("TRP", 2, "BB"), ("TRP", 2, "SC1"), ("TRP", 2, "SC2")]
    xyz = np.array([[1.0, 1.0, 1.0], [1.35, 1.0, 1.0], [1.35, 1.25, 1.0], [1.45, 1.45, 1.0]])
    lines = [f"{n:5d}{r:<5}{b:>5}{i + 1:5d}" + "".join(f"{v:8.3f}" for v in xyz[i])
             for i, (r, n, b) in enumerate(rows)]  # fmt: skip
    (tmp_path / "m.gro").write_text("\n".join(["m", "4", *lines, "   9.0 9.0 9.0", ""]))
    if psf:
        structure = parmed.Structure()
        for (residue, number, name), mass in zip(rows, (72.0, 72.0, 45.0, 54.0), strict=True):
            structure.add_atom(parmed.Atom(name=name, type=name, mass=mass), residue, number)
        for i, j in ((0, 1), (1, 2), (2, 3)):
            structure.bonds.append(parmed.Bond(structure.atoms[i], structure.atoms[j]))
        structure.save(str(tmp_path / "m.psf"))
    return tmp_path / ("m.psf" if psf else "m.gro")


def test_masses_come_from_the_topology(make_peptide, tmp_path):
    beads = CoarseGrainingMap.from_selection(
        load_topology(martini(tmp_path, psf=True)), "all"
    ).topology
    assert beads.masses == (72.0, 72.0, 45.0, 54.0)
    assert beads.elements == ("",) * 4
    assert beads.bonds == ((0, 1), (1, 2), (2, 3))
    # Also those of atoms that are heavier or lighter than their element.
    heavy = amber_like(make_peptide(FIVE), bonded=((0, 1),), masses={"C": 9.9})
    heavy.save(str(tmp_path / "x.psf"))
    topology = load_topology(tmp_path / "x.psf")
    assert topology.masses[1] == pytest.approx(9.9)
    assert topology.atom(1).element.symbol == "C"


def test_beads_that_are_no_atoms_need_masses(tmp_path):
    topology = load_topology(martini(tmp_path, psf=False))
    with pytest.raises(DatasetError, match=r"BB \(2\), SC1 \(1\), SC2 \(1\).*BB=72,SC1=72"):
        CoarseGrainingMap.from_selection(topology, "all")
    masses = {"BB": 72, "SC1": 45, "SC2": 54}
    mapping = CoarseGrainingMap.from_selection(topology, "all", masses=masses)
    assert mapping.topology.masses == (72.0, 72.0, 45.0, 54.0)
    assert mapping.topology.elements == ("",) * 4
    assert CoarseGrainingMap.from_selection(topology, "all", masses=72).topology.masses == (72,) * 4
    four = CoarseGrainingMap.from_selection(topology, "all", masses=[1, 2, 3, 4]).topology
    assert four.masses == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("masses", "message"),
    [([1, 2], "2 masses for 4 beads"), ({"CA": 12}, "given for CA; the beads are BB, SC1, SC2")],
)
def test_masses_of_other_beads_are_refused(tmp_path, masses, message):
    topology = load_topology(martini(tmp_path, psf=False))
    with pytest.raises(ValueError, match=message):
        CoarseGrainingMap.from_selection(topology, "all", masses=masses)


# ---- chains and residues --------------------------------------------------------------------


def test_insertion_codes_survive(make_peptide, tmp_path):
    chain = make_peptide(numbered(1, 2, 2, 2, 3))
    path = chain.write_pdb(tmp_path / "x.pdb", codes="  AB ")
    beads = CoarseGrainingMap.from_preset(load_topology(path), "ca").topology
    assert beads.residue_ids == (1, 2, 2, 2, 3)
    assert beads.insertion_codes == ("", "", "A", "B", "")
    assert beads.residue_labels[1:4] == ("ALA 2", "ALA 2A", "ALA 2B")
    assert len(beads.bonds) == 4
    with gzip.open(tmp_path / "x.pdb.gz", "wt") as file:
        file.write(path.read_text())
    assert load_topology(tmp_path / "x.pdb.gz").insertion_codes == ("", "", "A", "B", "")


@pytest.mark.filterwarnings("ignore:WARNING. two consecutive residues")
@pytest.mark.parametrize("suffix", ["pdb", "psf"])
def test_chains_without_letters_are_told_apart(make_peptide, tmp_path, suffix):
    two = make_peptide(numbered(1, 2, 3), numbered(1, 2, 3))
    if suffix == "psf":
        structure = amber_like(two, bonded=((0, 1), (1, 2), (3, 4), (4, 5)))
        structure.save(str(tmp_path / "x.psf"))
    else:
        two.write_pdb(tmp_path / "x.pdb", letters=" ")
    mapping = CoarseGrainingMap.from_preset(load_topology(tmp_path / f"x.{suffix}"), "ca")
    assert mapping.topology.chain_ids == ("A",) * 3 + ("B",) * 3
    assert len({*mapping.topology.residue_labels}) == 6
    assert mapping.topology.bonds == ((0, 1), (1, 2), (3, 4), (4, 5))


def test_mdtraj_topologies_are_taken_as_they_are(make_peptide):
    plain = make_peptide(FIVE).topology
    plain.create_standard_bonds()
    ours = AtomTopology.from_mdtraj(plain)
    assert ours.n_bonds == plain.n_bonds
    assert isinstance(ours, mdtraj.Topology)
    assert AtomTopology.from_mdtraj(ours) is ours
    assert ours.masses[0] == pytest.approx(14.007, abs=1e-3)
