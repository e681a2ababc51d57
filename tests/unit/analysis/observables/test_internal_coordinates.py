import dataclasses
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.analysis.observables.groups import molecular_groups
from openmm_scoremd.analysis.observables.internal_coordinates import (
    angle_triples,
    backbone_dihedrals,
    bond_lengths,
    bonded_quadruples,
    phi_psi,
    phi_psi_labels,
)
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology

DATA = Path(__file__).parents[3] / "data"
BEADS = [4, 6, 8, 14, 16]  # C N CA C N among the 22 atoms


def make_topology(beads, bonds, *, chain="A"):
    """Beads as (name, residue name, residue number)."""
    return BeadTopology(
        names=tuple(name for name, _, _ in beads),
        elements=tuple(name[0] for name, _, _ in beads),
        residue_names=tuple(residue for _, residue, _ in beads),
        residue_ids=tuple(number for _, _, number in beads),
        chain_ids=(chain,) * len(beads),
        masses=(12.0,) * len(beads),
        bonds=tuple(bonds),
    )


DIPEPTIDE = make_topology(
    [("C", "ACE", 1), ("N", "ALA", 2), ("CA", "ALA", 2), ("C", "ALA", 2), ("N", "NME", 3)],
    [(0, 1), (1, 2), (2, 3), (3, 4)],
)


def backbone_cb(n_residues, *, bonds=True):
    """N CA CB C O per residue, without caps."""
    beads, pairs = [], []
    for residue in range(n_residues):
        beads += [(name, "LEU", residue + 5) for name in ("N", "CA", "CB", "C", "O")]
        n = 5 * residue
        pairs += [(n, n + 1), (n + 1, n + 2), (n + 1, n + 3), (n + 3, n + 4)]
        if residue:
            pairs.append((n - 2, n))
    return make_topology(beads, pairs if bonds else [])


def without_bonds(topology):
    return dataclasses.replace(topology, bonds=())


def test_residues_that_share_their_number_have_dihedrals_and_labels_of_their_own():
    # Insertion codes, or chains without letters: 5, 5A and 5B of one chain.
    chain = backbone_cb(3)
    beads = dataclasses.replace(
        chain, residue_ids=(5,) * 15, insertion_codes=("",) * 5 + ("A",) * 5 + ("B",) * 5
    )
    same = backbone_dihedrals(chain)
    found = backbone_dihedrals(beads)
    np.testing.assert_array_equal(found.phi, same.phi)
    assert phi_psi_labels(beads) == ("LEU 5A",)
    labels = beads.bead_labels
    assert len({(labels[i], labels[j]) for i, j in beads.bonds}) == len(beads.bonds)


class TestBackboneDihedrals:
    def test_alanine_dipeptide(self):
        phi, psi = backbone_dihedrals(DIPEPTIDE)
        assert phi.tolist() == [[0, 1, 2, 3]]
        assert psi.tolist() == [[1, 2, 3, 4]]
        assert phi_psi_labels(DIPEPTIDE) == ("ALA 2",)

    def test_two_residues_without_caps_as_in_the_paper(self):
        phi, psi = backbone_dihedrals(backbone_cb(2))
        assert phi.tolist() == [[3, 5, 6, 8]]
        assert psi.tolist() == [[0, 1, 3, 5]]
        assert phi_psi_labels(backbone_cb(2)) == ("LEU 5 to LEU 6",)

    def test_inner_residues_of_a_chain(self):
        phi, psi = backbone_dihedrals(backbone_cb(4))
        assert phi.tolist() == [[3, 5, 6, 8], [8, 10, 11, 13]]
        assert psi.tolist() == [[5, 6, 8, 10], [10, 11, 13, 15]]
        assert phi_psi_labels(backbone_cb(4)) == ("LEU 6", "LEU 7")

    def test_residue_numbers_serve_where_there_are_no_bonds(self):
        with_bonds, without = backbone_cb(4), backbone_cb(4, bonds=False)
        for left, right in zip(
            backbone_dihedrals(with_bonds), backbone_dihedrals(without), strict=True
        ):
            assert left.tolist() == right.tolist()

    def test_bonds_decide_where_there_are_any(self):
        bonds = tuple(bond for bond in backbone_cb(4).bonds if bond != (8, 10))
        broken = dataclasses.replace(backbone_cb(4), bonds=bonds)
        # Two pieces of two residues each.
        assert phi_psi_labels(broken) == ("LEU 5 to LEU 6", "LEU 7 to LEU 8")

    def test_ring_closed_by_a_bond(self):
        chain = backbone_cb(3)
        ring = dataclasses.replace(chain, bonds=(*chain.bonds, (0, 13)))
        phi, psi = backbone_dihedrals(ring)
        assert phi[0].tolist() == [13, 0, 1, 3]
        assert psi[-1].tolist() == [10, 11, 13, 0]

    @pytest.mark.parametrize("change", ["gap in numbers", "other chain"])
    def test_no_peptide_bond_without_bonds(self, change):
        topology = without_bonds(DIPEPTIDE)
        if change == "gap in numbers":
            topology = dataclasses.replace(topology, residue_ids=(1, 2, 2, 2, 4))
        else:
            topology = dataclasses.replace(topology, chain_ids=("A", "A", "A", "A", "B"))
        with pytest.raises(InvalidInputError, match="no phi/psi pair"):
            backbone_dihedrals(topology)

    def test_beads_without_backbone(self):
        topology = make_topology([("CA", "GLY", i) for i in range(4)], [(0, 1), (1, 2), (2, 3)])
        assert phi_psi_labels(topology) == ()
        with pytest.raises(InvalidInputError, match="no phi/psi pair among the beads CA CA CA CA"):
            backbone_dihedrals(topology)

    def test_doubled_name(self):
        topology = dataclasses.replace(DIPEPTIDE, names=("C", "N", "CA", "CA", "N"))
        with pytest.raises(InvalidInputError, match="ALA 2 has two beads named CA"):
            backbone_dihedrals(topology)


@pytest.fixture(scope="module")
def trajectory():
    return mdtraj.load(
        DATA / "alanine_dipeptide_200.dcd", top=mdtraj.load_topology(DATA / "alanine_dipeptide.pdb")
    )


class TestAgainstMDTraj:
    def test_phi_psi(self, trajectory):
        angles = phi_psi(trajectory.xyz[:, BEADS], DIPEPTIDE)
        assert angles.shape == (trajectory.n_frames, 1, 2)
        assert angles.dtype == np.float64
        for column, compute in enumerate((mdtraj.compute_phi, mdtraj.compute_psi)):
            difference = angles[:, 0, column] - compute(trajectory)[1][:, 0]
            np.testing.assert_allclose(np.sin(difference), 0, atol=2e-5)
            np.testing.assert_allclose(np.cos(difference), 1, atol=1e-8)

    def test_bond_lengths_and_angles(self, trajectory):
        positions = trajectory.xyz[:, BEADS]
        lengths = mdtraj.compute_distances(trajectory, [[4, 6], [6, 8], [8, 14], [14, 16]])
        np.testing.assert_allclose(bond_lengths(positions, DIPEPTIDE), lengths, rtol=1e-5)
        groups = {group.key: group for group in molecular_groups(DIPEPTIDE)}
        assert groups["angles"].labels == ("C1–N2–CA2", "N2–CA2–C2", "CA2–C2–N3")
        angles = mdtraj.compute_angles(trajectory, [[4, 6, 8], [6, 8, 14], [8, 14, 16]])
        found = np.radians(groups["angles"].values(positions))
        np.testing.assert_allclose(found, angles, atol=1e-4)


class TestShapes:
    def test_replicas_keep_their_axis(self):
        positions = np.random.default_rng(0).normal(size=(3, 4, 5, 3))
        for observable in (phi_psi, bond_lengths):
            values = observable(positions, DIPEPTIDE)
            assert values.shape[:2] == (3, 4)
            np.testing.assert_array_equal(values[2], observable(positions[2], DIPEPTIDE))

    def test_triples_and_quadruples(self):
        assert angle_triples(DIPEPTIDE).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
        assert bonded_quadruples(DIPEPTIDE).tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
        ring = make_topology([(f"B{i}", "X", 1) for i in range(3)], [(0, 1), (1, 2), (0, 2)])
        assert bonded_quadruples(ring).shape == (0, 4)

    def test_angles_at_a_branch(self):
        topology = make_topology([(f"B{i}", "X", 1) for i in range(4)], [(0, 1), (1, 2), (1, 3)])
        assert angle_triples(topology).tolist() == [[0, 1, 2], [0, 1, 3], [2, 1, 3]]


class TestBadInput:
    @pytest.mark.parametrize("observable", [phi_psi, bond_lengths])
    @pytest.mark.parametrize(
        ("positions", "complaint"),
        [
            (np.zeros((0, 5, 3)), "positions is empty"),
            (np.zeros((2, 4, 3)), r"must be \(frames, 5, 3\)"),
            (np.zeros((2, 5, 2)), r"must be \(frames, 5, 3\)"),
            (np.zeros((5, 3)), r"must be \(frames, ...\)"),
        ],
    )
    def test_shapes(self, observable, positions, complaint):
        with pytest.raises(InvalidInputError, match=complaint):
            observable(positions, DIPEPTIDE)

    @pytest.mark.parametrize("observable", [phi_psi, bond_lengths])
    def test_nan_names_the_frame(self, observable):
        positions = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
        positions[1, 4, 2, 0] = np.nan
        positions[1, 5] = np.inf
        with pytest.raises(InvalidInputError, match=r"replica 1, frame 4 \(2 frames in all\)"):
            observable(positions, DIPEPTIDE)

    def test_no_bonds(self):
        positions, topology = np.zeros((2, 5, 3)), without_bonds(DIPEPTIDE)
        with pytest.raises(InvalidInputError, match="no bonds"):
            bond_lengths(positions, topology)
        assert angle_triples(topology).shape == (0, 3)
