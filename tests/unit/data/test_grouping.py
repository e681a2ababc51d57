"""Beads of several atoms: where they lie, what they weigh, what binds them."""

import numpy as np
import pytest

from openmm_scoremd.data.atoms import load_topology
from openmm_scoremd.data.coarse_graining import (
    CoarseGrainingMap,
    coarse_grain_trajectory,
    read_rules,
)
from openmm_scoremd.errors import DatasetError, InvalidInputError

RULES = {"ALA": {"BB": ["N", "CA", "C", "O"], "SC": ["CB"]}, "*": {"ALL": ["*"]}}


@pytest.fixture
def peptide(make_peptide, tmp_path):
    chain = make_peptide([("ALA", 1), ("SER", 2), ("ALA", 3)])
    return chain, load_topology(chain.write_pdb(tmp_path / "top.pdb"))


def test_centres_of_mass_and_geometry(peptide):
    chain, topology = peptide
    mass = CoarseGrainingMap.from_rules(topology, RULES)
    assert mass.topology.names == ("BB", "SC", "ALL", "BB", "SC")
    # A bead of one atom is that atom.
    assert mass.topology.elements == ("", "C", "", "", "C")
    n, c, o = topology.masses[[0, 1, 4]]
    assert mass.topology.masses[0] == pytest.approx(n + 2 * c + o)
    assert mass.topology.masses[2] == pytest.approx(n + 3 * c + o)
    # Beads are bonded where their atoms are: SC to BB, BB to the next residue.
    assert mass.topology.bonds == ((0, 1), (0, 2), (2, 3), (3, 4))
    frames = chain.frames(3).xyz.astype(float)
    beads = mass.apply(frames)
    atoms, weights = frames[:, [0, 1, 2, 4]], np.array([n, c, c, o])
    expected = (atoms * weights[:, None]).sum(axis=1) / weights.sum()
    np.testing.assert_allclose(beads[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(beads[:, 1], frames[:, 3], atol=1e-12)
    geometry = CoarseGrainingMap.from_rules(topology, RULES, centre="geometry")
    np.testing.assert_allclose(geometry.apply(frames)[:, 0], atoms.mean(axis=1), atol=1e-12)
    assert geometry.topology == mass.topology


def test_trajectories_of_centres(peptide, tmp_path):
    chain, topology = peptide
    mapping = CoarseGrainingMap.from_rules(topology, RULES)
    frames = chain.frames(20)
    # Broken over the edges of a box, atom by atom.
    frames.unitcell_vectors = np.repeat(1.4 * np.eye(3)[None], 20, axis=0)
    whole = mapping.apply(frames.xyz.astype(float))
    frames.xyz %= 1.4
    frames.save(str(tmp_path / "x.dcd"))
    dataset = coarse_grain_trajectory(tmp_path / "x.dcd", topology, mapping, temperature=300.0)
    offsets = whole[:, :, None] - whole[:, None]
    found = dataset.positions[:, :, None] - dataset.positions[:, None]
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=-1), np.linalg.norm(offsets, axis=-1), atol=1e-5
    )


def test_atoms_that_are_not_there_are_named(peptide):
    _, topology = peptide
    mapping = CoarseGrainingMap.from_rules(topology, {"*": {"BB": ["N", "CA", "H"], "X": ["ZZ"]}})
    assert mapping.topology.names == ("BB",) * 3
    assert mapping.notes[0].startswith(
        "left out: atoms of the mapping that are not there: ALA1 BB (H)"
    )


def test_rules_for_other_residues_are_refused(peptide):
    _, topology = peptide
    with pytest.raises(DatasetError, match=r"beads for DPPC, and the topology has .*ALA, SER"):
        CoarseGrainingMap.from_rules(topology, {"DPPC": {"PO4": ["P"]}})


def test_masses_of_beads_can_be_given(peptide):
    _, topology = peptide
    mapping = CoarseGrainingMap.from_rules(topology, RULES, masses={"BB": 72.0})
    assert mapping.topology.masses[0] == 72.0
    assert mapping.topology.masses[1] == pytest.approx(12.011, abs=1e-3)


def test_rules_are_read_from_yaml(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text('ALA: {BB: [N, CA, C, O], SC: [CB]}\n"*": {ALL: ["*"]}\n')
    assert read_rules(path) == RULES


@pytest.mark.parametrize("text", ["ALA", "ALA: [N]", "ALA: {BB: 3}", "a: b: c", "\x00"])
def test_files_that_are_no_rules_are_refused(tmp_path, text):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(InvalidInputError, match=r"rules.yaml is no mapping of beads"):
        read_rules(tmp_path / "rules.yaml")
    with pytest.raises(InvalidInputError, match=r"absent.yaml is no mapping of beads"):
        read_rules(tmp_path / "absent.yaml")
