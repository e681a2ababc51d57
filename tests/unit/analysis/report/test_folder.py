"""Reports: pictures of what the topology has, numbers of the comparison, nothing half-written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.measures import compare_with_reference
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.observables.internal_coordinates import bond_lengths, phi_psi
from openmm_scoremd.analysis.report import folder as report
from openmm_scoremd.analysis.report.folder import ReportHeader, write_report
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.errors import InvalidInputError

DATASET = Path(__file__).parents[4] / "examples" / "data" / "alanine_dipeptide.npz"
FAST = Resampling(n_resamples=4, n_repeats=2)
PICTURES = {"ramachandran.png", "dihedrals.png", "bonds.png"}


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(DATASET).subset(range(1200))


@pytest.fixture
def make_report(dataset, tmp_path):
    """Return a function that writes a report into ``tmp_path / "report"``."""

    def make(topology=dataset.topology, **changes):
        x = changes.pop("x", dataset.positions)
        samples = {"iid": x[300:500], "simulation": x[500:700].reshape(4, 50, *x.shape[1:])}
        options = {"floor": x, "resampling": FAST, **changes}
        reference = options.pop("reference", x[:300])
        samples = options.pop("samples", samples)
        sets = {name: SampleSet(frames) for name, frames in samples.items()}
        options["summary"] = summarise({"reference": SampleSet(x[:300]), **sets}, topology)
        options["header"] = ReportHeader("alanine", {"seed": "0"})
        return write_report(tmp_path / "report", reference, samples, topology, **options)

    return make


@pytest.fixture
def drawn(monkeypatch):
    """What the report hands to its plotting functions; nothing is drawn."""
    calls = {}

    def recorder(name):
        return lambda values, *_args, **_options: calls.update({name: values})

    for name in ("plot_ramachandran", "plot_dihedral_profiles", "plot_histograms"):
        monkeypatch.setattr(report, name, recorder(name))
    return calls


def files(tmp_path):
    return {path.name for path in (tmp_path / "report").iterdir()}


def test_files_and_numbers(make_report, dataset, tmp_path):
    comparison = make_report()
    assert files(tmp_path) == PICTURES | {"metrics.json", "report.html"}
    for name in PICTURES:
        height, width = imread(tmp_path / "report" / name).shape[:2]
        assert width > height > 200
    x = dataset.positions
    expected = compare_with_reference(
        x[:300],
        {"iid": x[300:500], "simulation": x[500:700].reshape(4, 50, 5, 3)},
        dataset.topology,
        floor_positions=x,
        resampling=FAST,
    )
    assert comparison == expected
    stored = json.loads((tmp_path / "report" / "metrics.json").read_text())
    # Programs read these keys.
    assert stored.items() >= json.loads(json.dumps(expected.to_dict())).items()
    assert stored.keys() >= {"verdict", "sample_sets", "pairs", "basins", "timescales"}


def test_pictures_show_the_floor_as_reference_and_all_frames_of_all_replicas(
    make_report, dataset, drawn
):
    make_report()
    x, topology = dataset.positions, dataset.topology
    surfaces = drawn["plot_ramachandran"]
    assert list(surfaces) == ["reference", "iid", "simulation"]
    for name, frames in {"reference": x, "iid": x[300:500], "simulation": x[500:700]}.items():
        phi, psi = phi_psi(frames, topology)[:, 0].T
        surface = surfaces[name]
        counts, _, _ = np.histogram2d(phi, psi, bins=(surface.x_edges, surface.y_edges))
        assert counts.sum() == len(frames)
        np.testing.assert_array_equal(np.isfinite(surface.values), counts > 0)
        assert surface.values.flat[counts.argmax()] == 0.0
        for axis, angle in (("φ", phi), ("ψ", psi)):
            profile = drawn["plot_dihedral_profiles"][axis][name]
            counts, _ = np.histogram(angle, bins=profile.edges)
            np.testing.assert_array_equal(np.isfinite(profile.values), counts > 0)
        np.testing.assert_array_equal(
            drawn["plot_histograms"][name], bond_lengths(frames, topology)
        )


def test_beads_without_a_backbone(make_report, dataset, tmp_path):
    comparison = make_report(dataclasses.replace(dataset.topology, names=tuple("ABCDE")))
    assert files(tmp_path) == {"bonds.png", "metrics.json", "report.html"}
    assert [m.key for m in comparison.sets[0].metrics] == ["bond_wasserstein"]


def test_beads_without_bonds(make_report, dataset, tmp_path):
    make_report(dataclasses.replace(dataset.topology, bonds=()))
    assert files(tmp_path) == {
        "ramachandran.png",
        "dihedrals.png",
        "metrics.json",
        "report.html",
    }


def test_beads_with_neither(make_report, dataset, tmp_path):
    nameless = dataclasses.replace(dataset.topology, names=tuple("ABCDE"), bonds=())
    comparison = make_report(nameless)
    assert files(tmp_path) == {"metrics.json", "report.html"}
    assert [m.key for m in comparison.sets[0].metrics] == ["distance_wasserstein"]


def test_point_in_a_plane(make_report, tmp_path):
    dataset = sample_mueller_brown(900, seed=0)
    x = dataset.positions
    comparison = make_report(
        dataset.topology, reference=x[:300], floor=x, samples={"iid": x[300:600]}, x=x
    )
    assert files(tmp_path) == {"free_energy.png", "metrics.json", "report.html"}
    assert [m.key for m in comparison.sets[0].metrics] == ["js_divergence", "pmf_error"]


@pytest.mark.parametrize("broken", ["samples", "reference", "floor"])
def test_bad_frames_leave_nothing(make_report, dataset, tmp_path, broken):
    frames = dataset.positions[:100].copy()
    frames[3, 2, 1] = np.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        make_report(**{broken: {"iid": frames} if broken == "samples" else frames})
    assert not (tmp_path / "report").exists()
