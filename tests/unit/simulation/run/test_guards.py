import json
import logging
import math

import numpy as np
import pytest

from openmm_scoremd.simulation.run.guards import Guard, make_guard, with_energies

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
    assert ("bond lengths are not watched" in caplog.text) is not watched


def test_energies(metadata, chain):
    guard = make_guard(metadata, chain(3, 4), 0.25, temperature=300.0)
    assert guard.broken_energies(np.array([-1e9, 1e9])) == {}
    guard = with_energies(guard, np.array([-10.0, 10.0, 0.0]), temperature=300.0, degrees=12)
    np.testing.assert_allclose(guard.energies, (-210.0, 210.0))
    found = guard.broken_energies(np.array([-211.0, 209.0, np.nan, 211.0]))
    assert sorted(found) == [0, 3]
    assert "the potential energy is -211 kJ/mol" in found[0]
    narrow = with_energies(guard, np.array([1.0, 1.0]), temperature=300.0, degrees=12)
    np.testing.assert_allclose(narrow.energies, (1.0 - 124.7, 1.0 + 124.7), atol=0.1)
    assert with_energies(Guard(), np.array([1.0, 2.0]), temperature=300.0, degrees=12).energies == (-math.inf, math.inf)


def test_round_trip(metadata, chain):
    for guard in (
        Guard(),
        make_guard(metadata, chain(3, 4), 0.25, temperature=300.0),
        with_energies(make_guard(metadata, chain(3, 4), 0.25, temperature=300.0), np.array([0.1, 0.7]), temperature=300.0, degrees=12),
    ):
        again = Guard.from_dict(json.loads(json.dumps(guard.to_dict())))
        assert (again.bonds, again.energies) == (guard.bonds, guard.energies)
        np.testing.assert_array_equal(again.shortest, guard.shortest)
        np.testing.assert_array_equal(again.longest, guard.longest)
