"""Metrics of sets as a whole: those of the metric functions, at the sizes of their noise floors."""

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.metrics import (
    bond_length_wasserstein,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.observables.internal_coordinates import bond_lengths, phi_psi
from openmm_scoremd.analysis.statistics.fractions import population
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.analysis.statistics.uncertainty import bootstrap, noise_floor
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology

TOPOLOGY = BeadTopology(
    names=("C", "N", "CA", "C", "N"),
    elements=("C", "N", "C", "C", "N"),
    residue_names=("ACE", "ALA", "ALA", "ALA", "NME"),
    residue_ids=(1, 2, 2, 2, 3),
    chain_ids=("A",) * 5,
    masses=(12.0, 14.0, 12.0, 12.0, 14.0),
    bonds=((0, 1), (1, 2), (2, 3), (3, 4)),
)
FAST = Resampling(n_resamples=8, n_repeats=4)
DEGREES = ((-180.0, 180.0), (-180.0, 180.0))
JS = partial(js_divergence, bins=64, limits=DEGREES)
PMF = partial(pmf_error, bins=64, limits=DEGREES)


def fold(phi, psi, lengths):
    """Frames (n, 5, 3) with these dihedrals, bond lengths (n, 4) in nm and right angles."""
    zero, one = np.zeros_like(phi), np.ones_like(phi)
    second = np.stack([zero, zero, one], axis=-1)
    first = np.stack([-one, zero, zero], axis=-1)
    third = np.stack([np.cos(phi), np.sin(phi), zero], axis=-1)
    # The fourth bond turns around the third one; cis to the second one at psi = 0.
    fourth = -np.cos(psi)[:, None] * second - np.sin(psi)[:, None] * np.cross(third, second)
    bonds = np.stack([first, second, third, fourth], axis=1) * lengths[:, :, None]
    return np.concatenate([np.zeros((len(phi), 1, 3)), np.cumsum(bonds, axis=1)], axis=1)


def peptide(rng, n, *, phi_shift=0.0, scale=1.0):
    """Frames (n, 5, 3) in nm around two values of phi (one in five positive) and two of psi."""
    phi = rng.choice([-1.2, 1.0], size=n, p=[0.8, 0.2]) + 0.2 * rng.normal(size=n) + phi_shift
    psi = rng.choice([-0.5, 2.5], size=n) + 0.2 * rng.normal(size=n)
    return fold(phi, psi, scale * (0.14 + 0.003 * rng.normal(size=(n, 4))))


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return {
        "reference": peptide(rng, 400),
        "pool": peptide(rng, 1500),
        "good": peptide(rng, 300),
        "bad": peptide(rng, 300, phi_shift=0.5, scale=1.02),
        "simulation": peptide(rng, 600).reshape(12, 50, 5, 3),
    }


@pytest.fixture(scope="module")
def angles(frames):
    """φ and ψ in degrees, in double precision."""
    return {name: np.degrees(phi_psi(v, TOPOLOGY)[..., 0, :]) for name, v in frames.items()}


def compare(frames, *names, topology=TOPOLOGY, **options):
    sets = {name: SampleSet(frames[name]) for name in ("reference", *names)}
    return summarise(sets, topology, **{"resampling": FAST, **options})


@pytest.fixture(scope="module")
def summary(frames):
    return compare(frames, "good", "bad", "simulation", pool=frames["pool"])


@pytest.fixture(scope="module")
def results(summary):
    """Per set, its pair with the reference."""
    return {pair.second: pair for pair in summary.pairs if pair.first == "reference"}


def row(pair, key):
    return next(one for one in pair.metrics if one.key == key)


def test_the_frames_of_these_tests_are_what_they_should_be():
    phi, psi = np.array([-2.0, 0.5, 1.5]), np.array([3.0, -0.3, 0.9])
    lengths = np.array([[0.1, 0.2, 0.3, 0.4]] * 3)
    frames = fold(phi, psi, lengths)
    np.testing.assert_allclose(phi_psi(frames, TOPOLOGY)[:, 0], np.stack([phi, psi], -1))
    np.testing.assert_allclose(bond_lengths(frames, TOPOLOGY), lengths)


class TestMolecules:
    def test_values_are_those_of_the_metrics(self, frames, angles, results):
        lengths = {name: bond_lengths(value, TOPOLOGY) for name, value in frames.items()}
        for name, pair in results.items():
            wasserstein = bond_length_wasserstein(lengths["reference"], lengths[name]).mean
            expected = {
                "js_divergence": JS(angles["reference"], angles[name]),
                "pmf_error": PMF(angles["reference"], angles[name]),
                "bond_wasserstein": wasserstein,
                "positive_phi": (angles[name][..., 0] > 0).mean(),
            }
            assert {one.key: one.value.value for one in pair.metrics} == pytest.approx(expected)
            assert row(pair, "positive_phi").floor.mean == (angles["reference"][:, 0] > 0).mean()

    def test_floor_has_the_sizes_of_the_comparison(self, angles, results):
        for (_, pair), n in zip(results.items(), (300, 300, 600), strict=True):
            metric = row(pair, "js_divergence")
            assert (metric.floor.n_reference, metric.floor.n_samples) == (400, n)
            assert pair.n_frames == (400, n)
            assert metric.at_floor_size == metric.value.value
            sizes = {"n_reference": 400, "n_samples": n, "n_repeats": 4, "seed": 0}
            assert metric.floor == noise_floor(JS, angles["pool"], **sizes)
            assert metric.ratio == metric.value.value / metric.floor.mean

    def test_tells_good_from_bad(self, results):
        for key in ("js_divergence", "pmf_error", "bond_wasserstein"):
            for name in ("good", "simulation"):
                assert 0.6 < row(results[name], key).ratio < 1.6
                assert row(results[name], key).p_value > 0.01
            assert row(results["bad"], key).ratio > 1.6
            assert row(results["bad"], key).p_value < 1e-3

    def test_sets_are_compared_with_each_other_too(self, summary, angles):
        pair = next(p for p in summary.pairs if (p.first, p.second) == ("good", "simulation"))
        metric = row(pair, "js_divergence")
        assert metric.value.value == pytest.approx(JS(angles["good"], angles["simulation"]))
        assert (metric.floor.n_reference, metric.floor.n_samples) == (300, 600)
        expected = population(angles["good"].reshape(100, 3, 2)[..., 0] > 0)
        floor = row(pair, "positive_phi").floor
        assert (floor.mean, floor.spread) == pytest.approx((expected.value, expected.error))

    def test_errors_rest_on_units(self, angles, results):
        js = partial(JS, angles["reference"])
        for name, units in (("good", angles["good"].reshape(100, 3, 2)),
                            ("simulation", angles["simulation"])):  # fmt: skip
            expected = bootstrap(js, units, n_resamples=8, seed=0)
            found = row(results[name], "js_divergence").value
            assert found.error == pytest.approx(expected.error)

    def test_too_few_reference_frames_for_the_floor(self, frames):
        summary = compare(frames, "good")
        metric = row(summary.pairs[0], "js_divergence")
        assert (metric.floor.n_reference, metric.floor.n_samples) == (200, 200)
        # Fewer frames on both sides: the metric at that size is larger, and the ratio is fair.
        assert metric.at_floor_size > 1.1 * metric.value.value
        assert metric.ratio == metric.at_floor_size / metric.floor.mean
        assert 0.7 < metric.ratio < 1.4
        assert "  200 frames against 200" in summary.format_table()

    def test_table_and_verdict_rest_on_the_same_frames(self, frames):
        options = dataclasses.replace(FAST, max_frames=120)
        found = compare(frames, "good", "simulation", resampling=options)
        assert [one.n_frames for one in found.sets] == [100, 100, 120]
        spaced = {
            "reference": SampleSet(frames["reference"][::4]),
            "good": SampleSet(frames["good"][::3]),
            "simulation": SampleSet(frames["simulation"][:, ::5]),
        }
        assert found.pairs == summarise(spaced, TOPOLOGY, resampling=FAST).pairs
        for one in found.pairs[1].observables:
            assert (one.floor.n_reference, one.floor.n_samples) == found.pairs[1].n_frames

    def test_beads_without_bonds_or_backbone(self, frames):
        def keys(topology):
            return [one.key for one in compare(frames, "good", topology=topology).pairs[0].metrics]

        unbound = dataclasses.replace(TOPOLOGY, bonds=())
        assert keys(unbound) == ["js_divergence", "pmf_error", "positive_phi"]
        nameless = dataclasses.replace(TOPOLOGY, names=tuple("ABCDE"))
        assert keys(nameless) == ["bond_wasserstein"]
        assert keys(dataclasses.replace(nameless, bonds=())) == ["distance_wasserstein"]

    def test_planes_of_several_residues_have_names(self):
        two = dataclasses.replace(
            TOPOLOGY,
            names=("C", "N", "CA", "C", "N", "CA", "C", "N"),
            elements=("C",) * 8,
            residue_names=("ACE", *("ALA",) * 3, *("GLY",) * 3, "NME"),
            residue_ids=(1, 2, 2, 2, 3, 3, 3, 4),
            chain_ids=("A",) * 8,
            insertion_codes=(),
            residue_indices=(),
            masses=(12.0,) * 8,
            bonds=tuple((i, i + 1) for i in range(7)),
        )
        rng = np.random.default_rng(0)
        shape = np.cumsum(rng.normal(size=(8, 3)), axis=0)
        sets = {n: SampleSet(shape + 0.2 * rng.normal(size=(200, 8, 3))) for n in "ab"}
        (pair,) = summarise(sets, two, resampling=FAST).pairs
        assert [one.label for one in pair.metrics] == [
            "JS φ/ψ ALA 2", "PMF error φ/ψ ALA 2", "JS φ/ψ GLY 3", "PMF error φ/ψ GLY 3", "bond W1",
            "P(φ > 0) ALA 2", "P(φ > 0) GLY 3",
        ]  # fmt: skip

    def test_pool_with_broken_frames(self, frames):
        pool = frames["pool"].copy()
        pool[3, 1, 0] = np.nan
        with pytest.raises(InvalidInputError, match="NaN"):
            compare(frames, "good", pool=pool)


class TestOutput:
    def test_json(self, summary, results):
        content = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
        assert content["n_reference"] == 400
        assert content["n_pool"] == 1500
        assert [one["name"] for one in content["sets"]] == ["good", "bad", "simulation"]
        # Programs have read these keys from the first version on.
        first = content["sets"][0]["metrics"][0]
        metric = results["good"].metrics[0]
        assert first["key"] == "js_divergence"
        assert first["estimate"] == dataclasses.asdict(metric.value)
        assert first["floor"]["mean"] == metric.floor.mean
        assert first["ratio"] == metric.ratio
        shares = content["sets"][2]["populations"][0]
        assert shares["key"] == "positive_phi"
        assert shares["reference"]["value"] == row(results["good"], "positive_phi").floor.mean

    def test_a_basin_the_reference_never_visits(self, frames, angles):
        negative = frames["reference"][angles["reference"][:, 0] < 0]
        summary = compare({**frames, "reference": negative}, "good")
        assert math.isnan(row(summary.pairs[0], "positive_phi").ratio)
        assert summary.to_dict()["sets"][0]["populations"][0]["ratio"] is None
        assert "nan" not in summary.format_table()

    def test_table_fits_a_terminal_and_holds_every_number(self, summary):
        table = summary.format_table()
        assert max(len(line) for line in table.splitlines()) <= 80
        for text in ("good: 300 frames, against 400 of reference", "in 12 replicas",
                     "simulation: 600 frames in 12 replicas, against 300 of good",
                     "bond W1 (pm)", "good and reference: consistent (p = "):  # fmt: skip
            assert text in table
        for pair in summary.pairs:
            assert f"all {pair.n_regions} regions" in table
            for one in pair.metrics:
                assert f"{one.ratio:.2f}" in table

    def test_columns_of_large_numbers_do_not_touch(self, results):
        large = dataclasses.replace(
            results["good"].metrics[0],
            value=dataclasses.replace(
                results["good"].metrics[0].value, value=123456.7, error=0.001
            ),
            at_floor_size=1e9,
        )
        cells = large.cells
        assert cells[1] == "123456.7000 ± 0.0010"
        from openmm_scoremd.analysis.comparison.table import text_table

        line = text_table([("", [cells])]).splitlines()[-1]
        assert [part.strip() for part in line.split("  ") if part] == list(cells)


class TestCoordinates:
    def test_range_is_that_of_the_pool(self):
        rng = np.random.default_rng(0)
        pool = rng.normal(size=(1200, 1, 2))
        sets = {"reference": pool[:300], "replicas": rng.normal(size=(10, 30, 1, 2))}
        point = BeadTopology(("P",), ("",), ("P",), (1,), ("A",), (1.0,))
        sets = {name: SampleSet(positions) for name, positions in sets.items()}
        summary = summarise(sets, point, pool=pool, resampling=FAST)
        (pair,) = summary.pairs
        metric = row(pair, "js_divergence")
        low, high = pool.min(axis=(0, 1)), pool.max(axis=(0, 1))
        margin = 0.1 * (high - low)
        limits = list(zip(low - margin, high + margin, strict=True))
        first, second = (one.positions.reshape(-1, 2) for one in sets.values())
        expected = js_divergence(first, second, bins=100, limits=limits)
        assert metric.value.value == pytest.approx(expected)
        assert (metric.floor.n_reference, metric.floor.n_samples) == (300, 300)
        assert 0.5 < metric.ratio < 2
        assert [one.label for one in pair.metrics] == ["JS divergence", "PMF error"]
        # Coordinates of a toy system are of the size that its maker liked.
        assert pair.observables[0].cells[0] == "x (nm)"
