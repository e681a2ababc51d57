"""MDTraj and MDAnalysis read what a simulation writes: bonds, residues, coordinates, times.

VMD reads the same PSF and DCD; NGLView shows what MDTraj or MDAnalysis hold, or the PDB itself.
"""

import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.cli.main import main

with warnings.catch_warnings():
    # Some of its own dependencies, and readers for formats that nobody here writes.
    warnings.simplefilter("ignore")
    import MDAnalysis

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt"
BONDS = [(0, 1), (1, 2), (2, 3), (3, 4)]
NAMES = ["C", "N", "CA", "C", "N"]
RESIDUES = ["ACE", "ALA", "ALA", "ALA", "NME"]
#: MDAnalysis says which attributes it makes up for files that lack them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:MDAnalysis"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:MDAnalysis"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Independent frames of the shipped model, as ``scoremd sample`` writes them."""
    folder = tmp_path_factory.mktemp("readers") / "iid"
    assert main(["sample", str(MODEL), str(folder), "--frames", "4", "--steps", "5"]) == 0
    return folder


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    """A short simulation of the shipped model, as ``scoremd simulate`` writes it."""
    folder = tmp_path_factory.mktemp("readers") / "md"
    options = ["--replicas", "2", "--steps", "30", "--interval", "10"]
    assert main(["simulate", str(MODEL), str(folder), *options]) == 0
    return folder


@pytest.mark.parametrize("topology", ["topology.pdb", "topology.psf"])
def test_trajectories_of_replicas(simulation, topology):
    paths = sorted(simulation.glob("*.dcd"))
    assert len(paths) == 2
    for path in paths:
        universe = MDAnalysis.Universe(simulation / topology, path)
        assert len(universe.bonds) == len(BONDS)
        assert [step.time for step in universe.trajectory] == pytest.approx(
            [0.02, 0.04, 0.06], abs=1e-4
        )
        positions = [step.positions / 10.0 for step in universe.trajectory]
        frames = mdtraj.load(path, top=simulation / topology)
        np.testing.assert_allclose(positions, frames.xyz, atol=1e-6)
        lengths = universe.bonds.values() / 10.0
        assert lengths.min() > 0.1
        assert lengths.max() < 0.2


@pytest.mark.parametrize("topology", ["topology.pdb", "topology.psf"])
def test_mdtraj(folder, topology):
    frames = mdtraj.load(folder / "iid.dcd", top=folder / topology)
    assert frames.xyz.shape == (4, 5, 3)
    atoms = list(frames.topology.atoms)
    assert [atom.name for atom in atoms] == NAMES
    assert [atom.residue.name for atom in atoms] == RESIDUES
    assert sorted(sorted((a.index, b.index)) for a, b in frames.topology.bonds) == [
        list(bond) for bond in BONDS
    ]


@pytest.mark.parametrize("topology", ["topology.pdb", "topology.psf"])
def test_mdanalysis(folder, topology):
    universe = MDAnalysis.Universe(folder / topology, folder / "iid.dcd")
    assert list(universe.atoms.names) == NAMES
    assert list(universe.atoms.resnames) == RESIDUES
    assert list(universe.atoms.resids) == [1, 2, 2, 2, 3]
    assert sorted(tuple(sorted(bond)) for bond in universe.bonds.indices) == BONDS
    np.testing.assert_allclose(
        universe.atoms.masses, [12.011, 14.007, 12.011, 12.011, 14.007], atol=0.01
    )
    frames = mdtraj.load(folder / "iid.dcd", top=folder / "topology.pdb")
    positions = [step.positions / 10.0 for step in universe.trajectory]
    np.testing.assert_allclose(positions, frames.xyz, atol=1e-6)
    selected = universe.select_atoms("resname ALA and name CA")
    assert selected.n_atoms == 1


def test_the_first_frame_is_that_of_the_pdb(folder):
    pdb = mdtraj.load(folder / "topology.pdb")
    dcd = mdtraj.load(folder / "iid.dcd", top=pdb.topology)
    np.testing.assert_allclose(pdb.xyz[0], dcd.xyz[0], atol=1e-3)
    assert dcd.unitcell_lengths is None


# MDAnalysis writes a unit cell of 1 A where there is none, and MDTraj says that it ignores it.
@pytest.mark.filterwarnings("ignore:Unlikely unit cell vectors:UserWarning")
def test_bonds_survive_what_viewers_do(folder, tmp_path):
    """NGLView hands MDTraj's and MDAnalysis's own PDB to the browser."""
    frames = mdtraj.load(folder / "topology.pdb")
    frames.save_pdb(tmp_path / "mdtraj.pdb")
    universe = MDAnalysis.Universe(folder / "topology.pdb")
    universe.atoms.write(tmp_path / "mdanalysis.pdb", bonds="all")
    for name in ("mdtraj.pdb", "mdanalysis.pdb"):
        assert mdtraj.load(tmp_path / name).topology.n_bonds == len(BONDS), name
