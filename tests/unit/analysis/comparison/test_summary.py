"""Comparison of sets: known distances, verdicts, where, and how often it is wrong."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.observables.groups import coordinate_group, molecular_groups
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.topology import BeadTopology

FAST = Resampling(n_resamples=2, n_repeats=2)
POINT = BeadTopology(("P",), ("",), ("P",), (1,), ("A",), (1.0,))
CHAIN = BeadTopology(
    names=("CA",) * 6,
    elements=("C",) * 6,
    residue_names=("GLY",) * 6,
    residue_ids=(1, 2, 3, 4, 5, 6),
    chain_ids=("A",) * 6,
    masses=(57.0,) * 6,
    bonds=tuple((i, i + 1) for i in range(5)),
)


def gaussian(seed, *shape, shift=0.0):
    points = np.random.default_rng(seed).normal(size=(*shape, 1, 2))
    points[..., 0] += shift
    return SampleSet(points)


def beads(seed, *shape, noise=0.02):
    rng = np.random.default_rng(seed)
    zigzag = np.array([[0.3 * i, 0.2 * (i % 2), 0.05 * i * i] for i in range(6)])
    return zigzag + noise * rng.normal(size=(*shape, 6, 3))


def two_wells(seed, replicas, length, *, rate):
    """Points that hop between wells at x = -3 (80 %) and x = 3 (20 %)."""
    rng = np.random.default_rng(seed)
    right = rng.random(replicas) < 0.2
    points = rng.normal(size=(replicas, length, 1, 2))
    for frame in range(length):
        right ^= rng.random(replicas) < np.where(right, 0.8, 0.2) * rate
        points[:, frame, 0, 0] += np.where(right, 3.0, -3.0)
    return points


class TestVerdict:
    def test_sets_of_one_distribution_are_consistent(self):
        found = summarise(
            {"reference": gaussian(0, 4000), "iid": gaussian(1, 2000)}, POINT, resampling=FAST
        )
        assert found.consistent
        assert found.pairs[0].discrepancies == ()
        assert "iid and reference: consistent (p = " in found.format_verdict()

    def test_shifted_sets_are_not_and_it_says_where(self):
        sets = {"reference": gaussian(0, 4000), "iid": gaussian(1, 2000, shift=0.3)}
        found = summarise(sets, POINT, resampling=FAST)
        (pair,) = found.pairs
        assert found.verdict == "NOT consistent"
        assert pair.p_value < 1e-6
        assert {d.observable for d in pair.discrepancies} == {"x"}
        worst = pair.discrepancies[0]
        assert worst.region.endswith(" nm")
        clearness = [abs(d.second - d.first) / d.error for d in pair.discrepancies]
        assert clearness[0] == max(clearness)
        # The lowest tenth holds too few of what was shifted to the right, the highest too many.
        lowest = next(d for d in pair.discrepancies if d.region.startswith("below"))
        assert lowest.second < lowest.first
        assert "NOT consistent (p < 0.0001)\n  x, " in found.format_verdict()
        verdict = found.to_dict()["verdict"]
        assert verdict == {
            "consistent": False,
            "inconsistent_pairs": [["reference", "iid"]],
            "visible_from": 0.25,
        }

    def test_distance_of_shifted_gaussians_is_the_shift(self):
        sets = {"reference": gaussian(0, 20_000), "iid": gaussian(1, 20_000, shift=0.3)}
        x, y = summarise(sets, POINT, resampling=FAST).pairs[0].observables
        assert x.value.value == pytest.approx(0.3, abs=3 * x.value.error)
        assert 0.005 < x.value.error < 0.02
        assert y.value.value < 0.03
        assert 0.0 < x.floor.spread < x.floor.mean < 0.02
        assert x.p_value < 1e-4 < y.p_value
        # Mean of W1 of two samples of n: integral of sqrt(2 F (1 - F) / n) sqrt(2 / pi).
        grid = np.linspace(-6, 6, 4001)
        cumulative = np.cumsum(np.exp(-(grid**2) / 2)) / np.exp(-(grid**2) / 2).sum()
        width = np.sqrt(2 * cumulative * (1 - cumulative) / 20_000).sum() * (grid[1] - grid[0])
        assert y.floor.mean == pytest.approx(width * np.sqrt(2 / np.pi), rel=0.15)

    def test_pairs_without_a_reference(self):
        sets = {"iid": gaussian(0, 500), "simulation": gaussian(1, 12, 50)}
        found = summarise(sets, POINT, resampling=FAST)
        assert [(pair.first, pair.second) for pair in found.pairs] == [("iid", "simulation")]
        assert found.baseline == "iid"

    def test_level_is_shared_by_the_pairs(self):
        sets = {name: gaussian(i, 200) for i, name in enumerate(("reference", "iid", "other"))}
        assert [
            pair.alpha for pair in summarise(sets, POINT, resampling=FAST, alpha=0.06).pairs
        ] == [0.02] * 3

    @pytest.mark.slow
    def test_false_alarms_are_about_as_rare_as_promised(self):
        # Replicas of a few independent visits. 200 draws at 5 % exceed 21 with 0.05 %.
        alarms = 0
        for seed in range(200):
            wells = two_wells(seed, 1200, 1, rate=0.0)[:, 0]
            runs = two_wells(10_000 + seed, 14, 60, rate=0.05)
            sets = {"reference": SampleSet(wells), "simulation": SampleSet(runs)}
            verdict = summarise(sets, POINT, resampling=FAST, alpha=0.05).verdict
            alarms += verdict == "NOT consistent"
        assert alarms <= 21

    def test_a_slow_state_that_all_replicas_missed_is_no_evidence_and_told(self):
        # Twelve replicas that start in the large well and never leave it: 0.8^12 = 7 %.
        wells = two_wells(0, 5000, 1, rate=0.0)[:, 0]
        rng = np.random.default_rng(1)
        missed = rng.normal(size=(12, 400, 1, 2)) - [3.0, 0.0]
        found = summarise(
            {"reference": SampleSet(wells), "simulation": SampleSet(missed)}, POINT, resampling=FAST
        )
        (pair,) = found.pairs
        assert pair.p_value > 0.05
        assert pair.verdict == "cannot tell"
        # Thirty such replicas: 0.8^30 = 0.1 %.
        many = rng.normal(size=(60, 400, 1, 2)) - [3.0, 0.0]
        sets = {"reference": SampleSet(wells), "simulation": SampleSet(many)}
        assert summarise(sets, POINT, resampling=FAST).verdict == "NOT consistent"


class TestMolecules:
    def test_chain_without_phi_and_psi(self):
        sets = {
            "reference": SampleSet(beads(0, 800)),
            "simulation": SampleSet(beads(1, 12, 60), frame_interval=2.0, breaks={3: [20]}),
        }
        found = summarise(sets, CHAIN, resampling=FAST)
        assert [g.key for g in found.groups] == ["bonds", "angles", "dihedrals", "distances"]
        assert [len(g.labels) for g in found.groups] == [5, 4, 3, 7]
        assert found.consistent
        assert found.sets[1].n_segments == 13
        content = found.to_dict()
        assert json.loads(json.dumps(content, allow_nan=False)) == content

    def test_stretched_bonds_are_named(self):
        stretched = beads(1, 800)
        stretched[:, 5] += 0.03 * (stretched[:, 5] - stretched[:, 4])
        sets = {"reference": SampleSet(beads(0, 800)), "iid": SampleSet(stretched)}
        (pair,) = summarise(sets, CHAIN, resampling=FAST).pairs
        assert {d.observable for d in pair.discrepancies if d.group == "bonds"} == {"CA5–CA6"}

    def test_beads_without_bonds(self):
        loose = dataclasses.replace(CHAIN, bonds=())
        sets = {"reference": SampleSet(beads(0, 300)), "iid": SampleSet(beads(1, 300))}
        found = summarise(sets, loose, resampling=FAST)
        assert [(g.key, len(g.labels)) for g in found.groups] == [("distances", 16)]

    def test_energies_are_compared(self):
        sets = {"reference": SampleSet(beads(0, 900)), "iid": SampleSet(beads(1, 900))}
        asked = []

        def energy(frames):
            asked.append(len(frames))
            return frames[:, 0, 0] * 100.0

        found = summarise(sets, CHAIN, resampling=FAST, energy=energy, energy_frames=300)
        assert asked == [300, 300]
        assert found.pairs[0].observables[-1].unit == "kJ/mol"
        assert found.consistent
        with pytest.raises(NumericalError, match="not finite"):
            summarise(
                sets, CHAIN, resampling=FAST, energy=lambda frames: np.full(len(frames), np.nan)
            )

    def test_angles_are_compared_around_the_circle(self):
        flat = {}
        for name, turn in (("reference", 179.0), ("iid", -179.0)):
            frames = np.repeat(beads(0, 1, noise=0.0)[:, :4], 400, axis=0)
            t = np.radians(turn)
            frames[:, :3] = [[0.1, 0.1, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]
            frames[:, 3] = [0.1 * np.cos(t) - 0.1 * np.sin(t), 0.1 * np.sin(t) + 0.1 * np.cos(t),
                            0.1]  # fmt: skip
            flat[name] = SampleSet(frames)
        four = BeadTopology(("B",) * 4, ("C",) * 4, ("X",) * 4, (1, 2, 3, 4), ("A",) * 4,
                            (1.0,) * 4, ((0, 1), (1, 2), (2, 3)))  # fmt: skip
        values = [g for g in molecular_groups(four) if g.key == "dihedrals"]
        a, b = (values[0].compute(s.positions)[0, 0] for s in flat.values())
        found = summarise(flat, four, resampling=FAST).pairs[0]
        turned = next(o for o in found.observables if o.group == "dihedrals")
        expected = abs((a - b + 180.0) % 360.0 - 180.0)
        assert turned.value.value == pytest.approx(expected, abs=1.0)


def test_coordinates_of_a_point():
    group = coordinate_group()
    np.testing.assert_array_equal(group.compute(np.array([[[3.0, 4.0]]])), [[3.0, 4.0]])


@pytest.mark.parametrize(
    ("sets", "topology", "alpha", "message"),
    [
        ({"iid": gaussian(0, 9)}, POINT, 0.01, "there is one set"),
        ({}, POINT, 0.01, "there are no sets"),
        ({"a": gaussian(0, 9), "b": gaussian(1, 9)}, CHAIN, 0.01, "has 6 beads"),
        ({"a": gaussian(0, 9), "b": gaussian(1, 9)}, POINT, 1.0, "between 0 and 1"),
    ],
)
def test_impossible_input(sets, topology, alpha, message):
    with pytest.raises(InvalidInputError, match=message):
        summarise(sets, topology, alpha=alpha)


class TestPower:
    def test_few_frames_cannot_tell(self):
        # Four frames of four replicas, as everybody's first try.
        sets = {"reference": gaussian(0, 4000), "simulation": gaussian(1, 4, 4)}
        found = summarise(sets, POINT, resampling=FAST)
        (pair,) = found.pairs
        assert pair.p_value > pair.alpha
        assert pair.smallest_visible > 0.25
        assert (pair.verdict, found.verdict, found.consistent) == ("cannot tell",) * 2 + (False,)
        said = found.format_verdict()
        assert "simulation and reference: cannot tell (p = " in said
        assert f"only differences above {100 * pair.smallest_visible:.3g} % of the frames" in said
        assert "in a region of x" in said or "in a region of y" in said
        assert found.to_dict()["pairs"][0]["reason"] == pair.reason

    def test_four_frames_of_four_replicas_never_pass(self):
        for seed in range(30):
            sets = {"reference": gaussian(seed, 4000), "simulation": gaussian(100 + seed, 4, 4)}
            assert summarise(sets, POINT, resampling=FAST).verdict != "consistent"

    def test_many_stiff_bonds_do_not_hide_a_slow_angle(self):
        # Bonds are new in every frame; one bead lies above or below the chain, always.
        def stuck(seed, *shape):
            frames = beads(seed, *shape)
            frames[..., 5, 2] += 0.4 * (np.arange(shape[0]) % 2).reshape(-1, *[1] * len(shape[1:]))
            return SampleSet(frames)

        sets = {"reference": stuck(0, 800), "simulation": stuck(1, 12, 60)}
        (pair,) = summarise(sets, CHAIN, resampling=FAST).pairs
        rows = {row.label: row.visible for row in pair.observables}
        assert rows["CA1–CA2"] < 0.25 < pair.smallest_visible
        assert pair.verdict == "cannot tell"
        assert pair.least_visible in pair.reason

    def test_what_must_be_visible_can_be_said(self):
        sets = {"reference": gaussian(0, 4000), "iid": gaussian(1, 2000)}
        found = summarise(sets, POINT, resampling=FAST, visible_from=0.01)
        assert found.verdict == "cannot tell"
        assert "must from 1 % on" in found.pairs[0].reason
        visible = found.pairs[0].smallest_visible
        assert summarise(sets, POINT, resampling=FAST, visible_from=1.01 * visible).consistent
        with pytest.raises(InvalidInputError, match="visible_from is 0"):
            summarise(sets, POINT, visible_from=0.0)

    def test_power_stands_beside_a_verdict(self):
        sets = {"reference": gaussian(0, 4000), "iid": gaussian(1, 2000)}
        found = summarise(sets, POINT, resampling=FAST)
        # Of a tenth of the frames, for about 20 regions: 1 % on both sides together, and 80 %.
        errors = stats.norm.isf(0.005 / 20) + stats.norm.ppf(0.8)
        expected = errors * np.sqrt(0.09 * (1 / 4000 + 1 / 2000))
        assert found.pairs[0].smallest_visible == pytest.approx(expected, rel=0.15)
        shown = f", visible from {100 * found.pairs[0].smallest_visible:.3g} %)"
        assert shown in found.format_verdict()

    def test_a_difference_is_told_whatever_the_power(self):
        sets = {"reference": gaussian(0, 4000), "simulation": gaussian(1, 4, 4, shift=9.0)}
        assert summarise(sets, POINT, resampling=FAST).verdict == "NOT consistent"

    def test_rows_have_their_own(self):
        sets = {"reference": gaussian(0, 4000), "iid": gaussian(1, 2000)}
        (pair,) = summarise(sets, POINT, resampling=FAST).pairs
        for row in (*pair.metrics, *pair.observables):
            assert 0.01 < row.visible < 0.1
