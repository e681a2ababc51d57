import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.measures import (
    compare_coordinates,
    compare_with_reference,
)
from openmm_scoremd.analysis.comparison.metrics import (
    COMBINED_RANGE,
    DIHEDRAL_LIMITS,
    MUELLER_BROWN_LIMITS,
    bond_length_wasserstein,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.analysis.observables.internal_coordinates import bond_lengths, phi_psi
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
def comparison(frames):
    samples = {name: frames[name] for name in ("good", "bad", "simulation")}
    return compare_with_reference(
        frames["reference"], samples, TOPOLOGY, floor_positions=frames["pool"], resampling=FAST
    )


def test_the_frames_of_these_tests_are_what_they_should_be():
    phi, psi = np.array([-2.0, 0.5, 1.5]), np.array([3.0, -0.3, 0.9])
    lengths = np.array([[0.1, 0.2, 0.3, 0.4]] * 3)
    frames = fold(phi, psi, lengths)
    np.testing.assert_allclose(phi_psi(frames, TOPOLOGY)[:, 0], np.stack([phi, psi], -1))
    np.testing.assert_allclose(bond_lengths(frames, TOPOLOGY), lengths)


class TestMolecules:
    def test_values_are_those_of_the_metrics(self, frames, comparison):
        angles = {name: phi_psi(value, TOPOLOGY)[..., 0, :] for name, value in frames.items()}
        lengths = {name: bond_lengths(value, TOPOLOGY) for name, value in frames.items()}
        js = partial(js_divergence, bins=64, limits=DIHEDRAL_LIMITS)
        pmf = partial(pmf_error, bins=64, limits=DIHEDRAL_LIMITS)
        for result in comparison.sets:
            expected = {
                "js_divergence": js(angles["reference"], angles[result.name]),
                "pmf_error": pmf(angles["reference"], angles[result.name]),
                "bond_wasserstein": bond_length_wasserstein(
                    lengths["reference"], lengths[result.name]
                ).mean,
            }
            assert {m.key: m.estimate.value for m in result.metrics} == expected
            (positive_phi,) = result.populations
            assert positive_phi.estimate.value == pytest.approx(
                (angles[result.name][..., 0] > 0).mean()
            )
            assert positive_phi.reference.value == (angles["reference"][:, 0] > 0).mean()

    def test_floor_has_the_sizes_of_the_comparison(self, frames, comparison):
        angles = phi_psi(frames["pool"], TOPOLOGY)[:, 0]
        for result, n in zip(comparison.sets, (300, 300, 600), strict=True):
            metric = result.metric("js_divergence")
            assert (metric.floor.n_reference, metric.floor.n_samples) == (400, n)
            assert metric.at_floor_size == metric.estimate.value
            assert metric.floor == noise_floor(
                partial(js_divergence, bins=64, limits=DIHEDRAL_LIMITS),
                angles,
                n_reference=400,
                n_samples=n,
                n_repeats=FAST.n_repeats,
                seed=FAST.seed,
            )
            assert metric.ratio == metric.estimate.value / metric.floor.mean

    def test_tells_good_from_bad(self, comparison):
        good, bad, simulation = comparison.sets
        for key in ("js_divergence", "pmf_error", "bond_wasserstein"):
            assert 0.6 < good.metric(key).ratio < 1.6
            assert 0.6 < simulation.metric(key).ratio < 1.6
            assert bad.metric(key).ratio > 1.6

    def test_errors_rest_on_replicas(self, frames, comparison):
        good, _, simulation = comparison.sets
        assert (good.n_frames, good.n_units, good.unit_kind) == (300, 300, "frames")
        assert (simulation.n_frames, simulation.n_units, simulation.unit_kind) == (
            600,
            12,
            "replicas",
        )
        angles = {name: phi_psi(value, TOPOLOGY)[..., 0, :] for name, value in frames.items()}
        js = partial(js_divergence, angles["reference"], bins=64, limits=DIHEDRAL_LIMITS)
        expected = bootstrap(js, angles["simulation"], n_resamples=8, seed=0)
        assert simulation.metric("js_divergence").estimate == expected

    def test_few_replicas_are_cut_into_blocks(self, frames):
        samples = {"long": frames["simulation"].reshape(3, 200, 5, 3)}
        result = compare_with_reference(
            frames["reference"], samples, TOPOLOGY, resampling=FAST
        ).sets[0]
        assert (result.n_frames, result.n_units, result.unit_kind) == (600, 12, "blocks")

    def test_too_few_reference_frames_for_the_floor(self, frames):
        samples = {"good": frames["good"]}
        result = compare_with_reference(frames["reference"], samples, TOPOLOGY, resampling=FAST)
        metric = result.sets[0].metric("js_divergence")
        assert (metric.floor.n_reference, metric.floor.n_samples) == (200, 200)
        # Fewer frames on both sides: the metric at that size is larger, and the ratio is fair.
        assert metric.at_floor_size > 1.1 * metric.estimate.value
        assert metric.ratio == metric.at_floor_size / metric.floor.mean
        assert 0.7 < metric.ratio < 1.4
        assert "200 frames against 200" in result.format_table()

    def test_frames_kept(self, frames):
        options = dataclasses.replace(FAST, max_frames=120)
        samples = {"good": frames["good"], "simulation": frames["simulation"]}
        good, simulation = compare_with_reference(
            frames["reference"], samples, TOPOLOGY, resampling=options
        ).sets
        assert (good.n_frames, simulation.n_frames, simulation.n_units) == (120, 120, 12)
        spaced = frames["simulation"][:, ::5]
        by_hand = compare_with_reference(
            frames["reference"], {"simulation": spaced}, TOPOLOGY, resampling=FAST
        ).sets[0]
        assert simulation == by_hand

    def test_beads_without_bonds_or_backbone(self, frames):
        unbound = dataclasses.replace(TOPOLOGY, bonds=())
        samples = {"good": frames["good"]}
        result = compare_with_reference(frames["reference"], samples, unbound, resampling=FAST)
        assert [m.key for m in result.sets[0].metrics] == ["js_divergence", "pmf_error"]
        nameless = dataclasses.replace(TOPOLOGY, names=tuple("ABCDE"))
        result = compare_with_reference(frames["reference"], samples, nameless, resampling=FAST)
        assert [m.key for m in result.sets[0].metrics] == ["bond_wasserstein"]
        assert result.sets[0].populations == ()
        neither = dataclasses.replace(nameless, bonds=())
        result = compare_with_reference(frames["reference"], samples, neither, resampling=FAST)
        assert [m.key for m in result.sets[0].metrics] == ["distance_wasserstein"]

    def test_bad_input_names_the_set(self, frames):
        broken = frames["simulation"].copy()
        broken[3, 7, 1, 0] = np.nan
        compare = partial(compare_with_reference, frames["reference"], topology=TOPOLOGY)
        with pytest.raises(InvalidInputError, match=r"mine holds NaN .* replica 3, frame 7"):
            compare({"mine": broken})
        with pytest.raises(InvalidInputError, match="no samples"):
            compare({})
        with pytest.raises(InvalidInputError, match="mine is empty"):
            compare({"mine": np.zeros((0, 5, 3))})
        with pytest.raises(InvalidInputError, match="frames must be independent"):
            compare_with_reference(frames["simulation"], {"good": frames["good"]}, TOPOLOGY)

    def test_unknown_metric(self, comparison):
        with pytest.raises(InvalidInputError, match="there are js_divergence, pmf_error"):
            comparison.sets[0].metric("rmsd")


class TestOutput:
    def test_json(self, comparison):
        content = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
        assert content["n_reference"] == 400
        assert content["n_pool"] == 1500
        first = content["sets"][0]["metrics"][0]
        metric = comparison.sets[0].metrics[0]
        assert first["key"] == "js_divergence"
        assert first["estimate"] == {
            "value": metric.estimate.value,
            "error": metric.estimate.error,
        }
        assert first["floor"]["mean"] == metric.floor.mean
        assert first["ratio"] == metric.ratio
        assert content["sets"][2]["populations"][0]["key"] == "positive_phi"

    def test_a_basin_the_reference_never_visits(self, frames):
        negative = frames["reference"][phi_psi(frames["reference"], TOPOLOGY)[:, 0, 0] < 0]
        result = compare_with_reference(
            negative, {"good": frames["good"]}, TOPOLOGY, resampling=FAST
        )
        assert math.isnan(result.sets[0].populations[0].ratio)
        assert result.to_dict()["sets"][0]["populations"][0]["ratio"] is None
        assert "nan" not in result.format_table()

    def test_table_fits_a_terminal_and_holds_every_number(self, comparison):
        table = comparison.format_table()
        assert max(len(line) for line in table.splitlines()) <= 80
        for text in (
            "good: 300 frames, against 400 of reference",
            "in 12 replicas",
            "bond W1 (pm)",
        ):
            assert text in table
        for result in comparison.sets:
            for entry in (*result.metrics, *result.populations):
                assert f"{entry.ratio:.2f}" in table

    def test_numbers_are_printed_with_two_digits_of_their_error(self, comparison):
        metric = dataclasses.replace(
            comparison.sets[0].metric("bond_wasserstein"),
            estimate=dataclasses.replace(
                comparison.sets[0].metrics[0].estimate, value=1.2345e-4, error=2.3e-6
            ),
        )
        result = dataclasses.replace(comparison.sets[0], metrics=(metric,), populations=())
        table = dataclasses.replace(comparison, sets=(result,)).format_table()
        assert "0.1235 ± 0.0023" in table or "0.1234 ± 0.0023" in table


class TestCoordinates:
    def test_fixed_and_combined_edges(self):
        rng = np.random.default_rng(0)
        reference = rng.normal([-0.5, 1.0], 0.2, (800, 2))
        samples = {"iid": rng.normal([-0.4, 1.0], 0.2, (400, 2))}
        fixed = compare_coordinates(reference, samples, resampling=FAST).sets[0]
        combined = compare_coordinates(
            reference, samples, js_edges=COMBINED_RANGE, resampling=FAST
        ).sets[0]
        for result, limits in ((fixed, MUELLER_BROWN_LIMITS), (combined, COMBINED_RANGE)):
            expected = js_divergence(reference, samples["iid"], bins=100, limits=limits)
            assert result.metric("js_divergence").estimate.value == expected
            assert result.metric("pmf_error").estimate.value == pmf_error(
                reference, samples["iid"], bins=100, limits=MUELLER_BROWN_LIMITS
            )
        assert fixed.metric("js_divergence") != combined.metric("js_divergence")

    def test_floor_of_further_reference_frames(self):
        rng = np.random.default_rng(0)
        reference, more = rng.normal(size=(300, 2)), rng.normal(size=(900, 2))
        result = compare_coordinates(
            reference,
            {"replicas": rng.normal(size=(10, 30, 2))},
            floor_reference=more,
            bins=10,
            limits=((-3.0, 3.0), (-3.0, 3.0)),
            resampling=FAST,
        )
        assert (result.n_reference, result.n_pool) == (300, 900)
        metric = result.sets[0].metric("js_divergence")
        assert (metric.floor.n_reference, metric.floor.n_samples) == (300, 300)
        assert 0.5 < metric.ratio < 2
        assert result.sets[0].unit_kind == "replicas"

    def test_other_dimensions(self):
        with pytest.raises(InvalidInputError, match="2 values per frame and the samples have 3"):
            compare_coordinates(np.zeros((10, 2)), {"iid": np.zeros((10, 3))})
