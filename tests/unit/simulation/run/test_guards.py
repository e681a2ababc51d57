import json
import logging
import math

import numpy as np
import pytest
from scipy import stats

from openmm_scoremd.artifact.metadata import SelfTest
from openmm_scoremd.simulation.run.guards import Guard, make_guard, with_energies
from openmm_scoremd.topology import BeadTopology

RANGES = ((0.1, 0.2), (0.1, 0.2), (0.1, 0.2))


@pytest.fixture
def metadata(make_metadata):
    return make_metadata(bond_ranges=RANGES)


def test_replicas_out_of_range_are_named(metadata, chain):
    frames = chain(6, 4)
    guard = make_guard(metadata, frames, 0.25, temperature=300.0)
    np.testing.assert_allclose(guard.shortest, 0.075)
    np.testing.assert_allclose(guard.longest, 0.25)
    assert guard.broken(frames) == {}
    frames[1, 2, 0] = np.nan
    frames[2, 0, 0] = np.inf
    frames[3, 3] += 0.3
    frames[4, 1] = frames[4, 0]
    frames[5] += 1e6
    broken = guard.broken(frames)
    assert sorted(broken) == [1, 2, 3, 4]
    assert broken[1] == broken[2] == "a coordinate is NaN or infinite"
    assert broken[3].startswith("bond 2-3 is 0.")
    assert broken[4].startswith("bond 0-1 is 0.0000 nm long, outside 0.0750 to 0.2500")
    frames[3] = 1e200 * frames[3]
    assert 3 in guard.broken(frames)


def test_without_ranges_those_of_the_start_frames_count(make_metadata, chain):
    frames = chain(20, 4)
    guard = make_guard(make_metadata(), frames, 0.1, temperature=300.0)
    lengths = np.linalg.norm(np.diff(frames, axis=1), axis=-1)
    np.testing.assert_allclose(guard.shortest, 0.9 * lengths.min(axis=0))
    np.testing.assert_allclose(guard.longest, 1.1 * lengths.max(axis=0))


def test_infinite_margins_leave_nan_only(metadata, chain):
    frames = chain(3, 4)
    guard = make_guard(metadata, frames, math.inf, temperature=300.0)
    frames[0] *= 100.0
    frames[1, 0, 0] = np.nan
    assert [*guard.broken(frames)] == [1]


@pytest.mark.parametrize(("bad", "watched"), [(5, True), (6, False)])
def test_a_model_that_does_not_know_its_bonds_is_not_judged_by_them(
    metadata, chain, caplog, bad, watched
):
    frames = chain(10, 4)
    frames[:bad] *= 3.0
    with caplog.at_level(logging.WARNING):
        guard = make_guard(metadata, frames, 0.25, temperature=300.0)
    assert bool(guard.bonds) is watched
    assert len(guard.neighbours) == (0 if watched else 3)
    assert ("bond lengths are not watched" in caplog.text) is not watched


def test_energies(metadata, chain):
    guard = make_guard(metadata, chain(3, 4), 0.25, temperature=300.0)
    assert guard.broken_energies(np.array([-1e9, 1e9])) == {}
    guard = with_energies(guard, np.array([-10.0, 10.0, 0.0]), temperature=300.0, degrees=12)
    np.testing.assert_allclose(guard.energies, (-210.0, 210.0))
    found = guard.broken_energies(np.array([-211.0, 209.0, np.nan, 211.0]))
    assert sorted(found) == [0, 3]
    assert "the potential energy is -211 kJ/mol" in found[0]


@pytest.mark.parametrize(("degrees", "in_kt"), [(12, 50.0), (390, 195.0 + 10.0 * 390**0.5)])
def test_limits_of_energies_grow_with_the_molecule(degrees, in_kt):
    # From a minimum an energy rises by half a kT for every degree of freedom.
    guard = with_energies(Guard(), np.array([1.0, 1.0]), temperature=600.0, degrees=degrees)
    margin = in_kt * 0.0083144626 * 600.0
    np.testing.assert_allclose(guard.energies, (1.0 - margin, 1.0 + margin))


def test_bonds_may_swing_further_when_it_is_hot(metadata, chain):
    guard = make_guard(metadata, chain(3, 4), 0.0, temperature=1200.0)
    np.testing.assert_allclose(guard.shortest, 0.15 - 2.0 * 0.05)
    np.testing.assert_allclose(guard.longest, 0.15 + 2.0 * 0.05)
    cold = make_guard(metadata, chain(3, 4), 0.0, temperature=100.0)
    np.testing.assert_allclose(cold.longest, 0.2)


@pytest.mark.parametrize("degrees", [3, 12, 390])
def test_temperatures_that_chance_does_not_explain(degrees, make_metadata):
    guard = make_guard(
        make_metadata(**unbound(degrees // 3)),
        np.zeros((1, degrees // 3, 3)),
        0.25,
        temperature=300.0,
    )
    beyond = stats.chi2.sf(degrees * guard.hottest / 300.0, degrees)
    assert 1e-30 < beyond < 1e-17
    assert guard.broken_temperatures(np.array([300.0, np.nan, guard.hottest])) == {}
    found = guard.broken_temperatures(np.array([300.0, 2.0 * guard.hottest]))
    assert [*found] == [1]
    assert f"above {guard.hottest:.6g}" in found[1]


def unbound(n_beads, bonds=()):
    """Changes of metadata: a topology with these bonds, and stored frames that fit."""
    topology = BeadTopology(
        names=("CA",) * n_beads,
        elements=("C",) * n_beads,
        residue_names=("ALA",) * n_beads,
        residue_ids=tuple(range(n_beads)),
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=bonds,
    )
    frames = np.zeros((1, n_beads, 3))
    frames[..., 0] = 0.4 * np.arange(n_beads)
    test = SelfTest(
        positions=frames, energies=np.zeros(1), forces=np.zeros_like(frames), tolerance=1e-5
    )
    return {"topology": topology, "self_test": test}


@pytest.mark.parametrize(
    ("bonds", "neighbours"),
    [
        ((), ((0, 1), (1, 2), (2, 3))),
        (((0, 1), (2, 3)), ((1, 2),)),
        (((0, 1), (1, 2), (2, 3)), ()),
        (((0, 2), (1, 3)), ((0, 1),)),
    ],
)
def test_beads_that_no_bond_holds_are_held_by_neighbours(make_metadata, bonds, neighbours):
    changes = unbound(4, bonds)
    frames = np.repeat(changes["self_test"].positions, 3, axis=0)
    frames[1, :, 2] += 500.0
    guard = make_guard(make_metadata(**changes), frames, 0.25, temperature=300.0)
    assert guard.neighbours == neighbours
    # Three times as far as in any frame, or ten units of the network, 0.2 nm each.
    np.testing.assert_allclose(guard.farthest, 2.0)
    assert guard.broken(frames) == {}
    frames[2, 2:, 1] += 45.0
    broken = guard.broken(frames)
    assert [*broken] == [2]
    if not bonds:
        assert broken[2].startswith("distance 1-2 is 45.0018 nm long, outside 0.0000 to 2.0000")


def test_neighbours_may_be_as_far_as_they_are_in_start_frames(make_metadata):
    changes = unbound(2)
    frames = np.repeat(changes["self_test"].positions, 2, axis=0)
    frames[1, 1, 0] = 7.0
    guard = make_guard(make_metadata(**changes), frames, 0.25, temperature=300.0)
    np.testing.assert_allclose(guard.farthest, 21.0)


def test_in_the_plane_z_means_nothing(make_metadata):
    changes = unbound(2) | {"n_dims": 2}
    frames = changes["self_test"].positions.copy()
    guard = make_guard(make_metadata(**changes), frames, 0.25, temperature=300.0)
    frames[0, 1, 2] = 1e4
    assert guard.broken(frames) == {}


def test_round_trip(metadata, chain):
    for guard in (
        Guard(),
        make_guard(metadata, chain(3, 4), 0.25, temperature=300.0),
        with_energies(
            make_guard(metadata, chain(3, 4), 0.25, temperature=300.0),
            np.array([0.1, 0.7]),
            temperature=300.0,
            degrees=12,
        ),
    ):
        again = Guard.from_dict(json.loads(json.dumps(guard.to_dict())))
        for name in ("bonds", "energies", "neighbours", "hottest", "n_dims"):
            assert getattr(again, name) == getattr(guard, name)
        np.testing.assert_array_equal(again.farthest, guard.farthest)
        np.testing.assert_array_equal(again.shortest, guard.shortest)
        np.testing.assert_array_equal(again.longest, guard.longest)


def test_limits_of_runs_that_watched_less():
    before = {"bonds": [[0, 1]], "shortest": [0.1], "longest": [0.2], "energies": [None, 5.0]}
    guard = Guard.from_dict(before)
    assert (guard.bonds, guard.energies) == (((0, 1),), (-math.inf, 5.0))
    assert (guard.neighbours, guard.hottest, guard.n_dims) == ((), math.inf, 3)
