"""Frames that cannot be right are refused with numbers, or taken with a warning if forced."""

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.data.atoms import AtomTopology, load_topology
from openmm_scoremd.data.coarse_graining import CoarseGrainingMap, coarse_grain_trajectory
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.geometry import distances

CHAIN = [("ALA", k + 1) for k in range(6)]


@pytest.fixture
def peptide(make_peptide, tmp_path):
    """A peptide, its topology as read from a file, and the map of its preset."""
    chain = make_peptide(CHAIN)
    topology = load_topology(chain.write_pdb(tmp_path / "top.pdb"))
    return chain, topology, CoarseGrainingMap.from_preset(topology, "backbone-cb")


def grain(frames, topology, mapping, tmp_path, name="x.dcd", **options):
    frames.save(str(tmp_path / name))
    return coarse_grain_trajectory(tmp_path / name, topology, mapping, temperature=300.0, **options)


def test_good_frames_pass(peptide, tmp_path):
    chain, topology, mapping = peptide
    dataset = grain(chain.frames(60), topology, mapping, tmp_path)
    assert dataset.notes == ("box: none",)
    assert dataset.n_frames == 60


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (10.0, "10 times too long: numbers in Angstrom were written as nm"),
        (0.1, "10 times too short: numbers in nm were written as Angstrom"),
        (0.012, "far too short: are these fractions of the box"),
    ],
)
@pytest.mark.parametrize("beads", ["backbone-cb", [0, 7, 20]])
def test_other_units_are_noticed_whatever_the_beads(peptide, tmp_path, factor, message, beads):
    chain, topology, mapping = peptide
    if beads != "backbone-cb":  # No two of them are bonded: the atoms left out tell.
        mapping = CoarseGrainingMap.from_indices(topology, beads)
    frames = chain.frames(5)
    frames.xyz *= factor
    with pytest.raises(DatasetError, match=f"{message}.*--force"):
        grain(frames, topology, mapping, tmp_path)


def test_another_order_of_atoms_is_noticed(peptide, tmp_path):
    chain, topology, mapping = peptide
    frames = chain.frames(5)
    frames.xyz = frames.xyz.reshape(5, 6, 5, 3).swapaxes(1, 2).reshape(5, 30, 3)
    with pytest.raises(DatasetError, match=r"of the 29 bonds between atoms.*order of atoms"):
        grain(frames, topology, mapping, tmp_path)


def test_molecules_broken_over_a_lost_box_are_noticed(peptide, tmp_path):
    chain, topology, mapping = peptide
    frames = chain.frames(40)
    # Only later frames: the first one is whole.
    frames.xyz[30:, 12:] += [0.0, 2.5, 0.0]
    with pytest.raises(DatasetError, match=r"bonds have lengths.*broken over the edges of a box"):
        grain(frames, topology, mapping, tmp_path)
    frames.xyz[30:39, 12:] -= [0.0, 2.5, 0.0]
    with pytest.raises(DatasetError, match=r"of 29 bonds have.*\(0\.14\d+ to 2\.4"):
        grain(frames, topology, mapping, tmp_path, "y.dcd")


def test_one_torn_frame_among_many_is_named(peptide, tmp_path):
    chain, topology, mapping = peptide
    frames = chain.frames(300)
    frames.xyz[200, 12:] += [0.0, 1.5, 0.0]
    message = r"torn in 1 of 300 frames, first in 200: CA3-C\w+ has 0\.15.*broken over the edges"
    with pytest.raises(DatasetError, match=message):
        grain(frames, topology, mapping, tmp_path)


@pytest.mark.parametrize(
    ("length", "fine"), [(0.28, True), (0.40, True), (0.25, False), (0.5, False)]
)
def test_ca_distances_have_their_own_range(tmp_path, length, fine):
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for number in (1, 2):
        residue = topology.add_residue("ALA", chain, resSeq=number)
        topology.add_atom("CA", mdtraj.core.element.carbon, residue)
    topology.add_bond(topology.atom(0), topology.atom(1))
    mapping = CoarseGrainingMap.from_preset(topology, "ca")
    xyz = np.random.default_rng(0).normal(size=(3, 2, 3)) * 1e-3
    xyz[:, 1, 2] += length
    frames = mdtraj.Trajectory(xyz, topology)
    if fine:
        assert grain(frames, topology, mapping, tmp_path).n_frames == 3
        return
    with pytest.raises(DatasetError, match=r"CA1-CA2 has 0.*0.270 to 0.420 nm"):
        grain(frames, topology, mapping, tmp_path)


def test_force_goes_on_and_says_so(peptide, tmp_path, caplog):
    chain, topology, mapping = peptide
    frames = chain.frames(5)
    frames.xyz *= 10.0
    dataset = grain(frames, topology, mapping, tmp_path, on_problem="warn")
    assert dataset.n_frames == 5
    assert "Angstrom" in caplog.text
    assert [note for note in dataset.notes if note.startswith("forced: ")]


def test_repeated_frames_are_named_also_over_files(peptide, tmp_path):
    chain, topology, mapping = peptide
    frames = chain.frames(6)
    first, second = frames[:4], frames[3:]
    first.save(str(tmp_path / "a.dcd"))
    second.save(str(tmp_path / "b.dcd"))
    files = [tmp_path / "a.dcd", tmp_path / "b.dcd"]
    message = "1 of 7 frames are exact copies.*frame 0 of b.dcd, which equals frame 3 of a.dcd"
    with pytest.raises(DatasetError, match=message):
        coarse_grain_trajectory(files, topology, mapping, temperature=300.0, chunk_size=2)
    frozen = frames[[0, 1, 2, 2, 2, 2]]
    with pytest.raises(
        DatasetError, match=r"3 of 6 frames.*frame 3 of x.dcd, which equals frame 2"
    ):
        grain(frozen, topology, mapping, tmp_path)
    # Only frames that are kept count.
    assert grain(frozen, topology, mapping, tmp_path, "y.dcd", stride=2, on_problem="warn")


def test_frames_that_drift_are_noticed(make_peptide, tmp_path):
    chain = make_peptide(CHAIN, CHAIN)
    topology = AtomTopology.from_mdtraj(chain.frames().topology)
    mapping = CoarseGrainingMap.from_indices(topology, range(0, 60, 3))
    frames = chain.frames(100)
    assert grain(frames, topology, mapping, tmp_path).n_frames == 100
    frames.xyz[:, 30:] += np.linspace(0.0, 2.0, 100)[:, None, None] * [0.0, 1.0, 0.0]
    with pytest.raises(DatasetError, match="the frames drift: the radius of gyration is"):
        grain(frames, topology, mapping, tmp_path, "y.dcd")


def test_random_walks_of_equilibrium_are_no_drift(peptide, tmp_path):
    chain, topology, mapping = peptide
    for seed in range(20):
        frames = chain.frames(60, noise=0.004, seed=seed)
        assert grain(frames, topology, mapping, tmp_path, f"{seed}.dcd").n_frames == 60


def test_one_bead_is_blamed_on_the_choice(peptide, tmp_path):
    chain, topology, _ = peptide
    mapping = CoarseGrainingMap.from_indices(topology, [1])
    with pytest.raises(InvalidInputError, match=r"the only bead is CA1.*choose at least two"):
        grain(chain.frames(3), topology, mapping, tmp_path)


def test_beads_of_no_element_are_only_asked_for_a_sane_length(tmp_path):
    topology = mdtraj.Topology()
    residue = topology.add_residue("W", topology.add_chain())
    for name in ("BB", "SC1"):
        topology.add_atom(name, mdtraj.core.element.virtual, residue)
    topology.add_bond(topology.atom(0), topology.atom(1))
    mapping = CoarseGrainingMap.from_indices(topology, [0, 1], masses=72)
    for length, fine in ((0.35, True), (0.95, True), (3.5, False), (0.035, False)):
        rng = np.random.default_rng(0)
        xyz = np.array([[[0.0, 0.0, 0.0], [length, 0.0, 0.0]]] * 4) + 1e-3 * rng.normal(
            size=(4, 2, 3)
        )
        frames = mdtraj.Trajectory(xyz, topology)
        if fine:
            dataset = grain(frames, topology, mapping, tmp_path, f"{length}.dcd")
            assert distances(dataset.positions, [[0, 1]]).mean() == pytest.approx(length, abs=2e-3)
        else:
            with pytest.raises(DatasetError, match=r"-SC1. has"):
                grain(frames, topology, mapping, tmp_path, f"{length}.dcd")
