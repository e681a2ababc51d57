"""Reports: pictures of what the topology has, numbers of the comparison, nothing half-written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.image import imread
from matplotlib.patches import StepPatch

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.report import plots
from openmm_scoremd.analysis.report.folder import ReportHeader, write_report
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.data.toy import sample_mueller_brown

DATASET = Path(__file__).parents[4] / "examples" / "data" / "alanine_dipeptide.npz"
FAST = Resampling(n_resamples=2, n_repeats=2)
PICTURES = {"ramachandran.png", "dihedrals.png", "bonds.png"}


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(DATASET).subset(range(700))


@pytest.fixture
def make_report(dataset, tmp_path):
    """Return a function that writes a report into ``tmp_path / "report"``."""

    def make(topology=dataset.topology, x=dataset.positions):
        sets = {
            "reference": SampleSet(x[:300]),
            "iid": SampleSet(x[300:500]),
            "simulation": SampleSet(x[500:700].reshape(4, 50, *x.shape[1:])),
        }
        summary = summarise(sets, topology, pool=x, resampling=FAST)
        header = ReportHeader("alanine", {"seed": "0"})
        write_report(tmp_path / "report", summary, header)
        return summary

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The figures of files by name, which stay empty; those of the page are not rendered."""
    figures = {}

    def save(figure, path):
        figures[path.name] = figure
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()

    monkeypatch.setattr(plots, "save", save)
    monkeypatch.setattr(plots, "svg", lambda _figure: "<svg/>")
    return figures


def files(tmp_path):
    return {path.name for path in (tmp_path / "report").iterdir()}


def test_files_and_numbers(make_report, tmp_path):
    summary = make_report()
    assert files(tmp_path) == PICTURES | {"metrics.json", "report.html"}
    for name in PICTURES:
        height, width = imread(tmp_path / "report" / name).shape[:2]
        assert width > height > 200
    stored = json.loads((tmp_path / "report" / "metrics.json").read_text())
    # Programs read these keys.
    assert stored == json.loads(json.dumps(summary.to_dict()))
    assert stored.keys() >= {"verdict", "sample_sets", "pairs", "basins", "timescales", "sets"}


def test_pictures_show_all_frames_of_all_sets(make_report, dataset, drawn):
    summary = make_report()
    sets = {"reference": dataset.positions[:300], "iid": dataset.positions[300:500],
            "simulation": dataset.positions[500:700]}  # fmt: skip
    *planes, _bar = drawn["ramachandran.png"].axes
    assert [axes.get_title() for axes in planes] == list(sets)
    values = summary.planes[0].values
    for axes, (name, frames) in zip(planes, sets.items(), strict=True):
        (mesh,) = axes.findobj(QuadMesh)
        edges = [mesh.get_coordinates()[0, :, 0], mesh.get_coordinates()[:, 0, 1]]
        counts, _, _ = np.histogram2d(*values[name].reshape(-1, 2).T, bins=edges)
        assert counts.sum() == len(frames)
        filled = ~np.ma.getmaskarray(mesh.get_array()).reshape(counts.shape).T
        np.testing.assert_array_equal(filled, counts > 0)
    for axis, axes in enumerate(drawn["dihedrals.png"].axes):
        assert axes.get_title() == ("φ ALA 2 (°)", "ψ ALA 2 (°)")[axis]
        for step, name in zip(axes.findobj(StepPatch), sets, strict=True):
            heights, edges, _ = step.get_data()
            counts, _ = np.histogram(values[name][..., axis], bins=edges)
            np.testing.assert_array_equal(np.isfinite(heights), counts > 0)
    titles = [axes.get_title() for axes in drawn["bonds.png"].axes]
    assert titles == ["C1–N2", "N2–CA2", "CA2–C2", "C2–N3"]


def test_many_bonds_make_no_endless_picture(make_report, dataset, drawn):
    beads = 14
    chain = dataclasses.replace(
        dataset.topology,
        names=("B",) * beads,
        elements=("C",) * beads,
        residue_names=("X",) * beads,
        residue_ids=tuple(range(beads)),
        chain_ids=("A",) * beads,
        insertion_codes=(),
        residue_indices=(),
        masses=(12.0,) * beads,
        bonds=tuple((i, i + 1) for i in range(beads - 1)),
    )
    rng = np.random.default_rng(0)
    x = np.cumsum(0.1 * rng.normal(size=(beads, 3)), axis=0) + 0.01 * rng.normal(
        size=(700, beads, 3)
    )
    x[300:500, 9:] += 0.05  # the bond between 8 and 9 differs
    make_report(chain, x)
    titles = [axes.get_title() for axes in drawn["bonds.png"].axes]
    assert len(titles) == 12
    assert titles[0] == "B8–B9"


@pytest.mark.parametrize(
    ("changes", "pictures", "metrics"),
    [
        ({"names": tuple("ABCDE")}, {"bonds.png"}, ["bond_wasserstein"]),
        (
            {"bonds": ()},
            {"ramachandran.png", "dihedrals.png"},
            ["js_divergence", "pmf_error", "positive_phi"],
        ),
        ({"names": tuple("ABCDE"), "bonds": ()}, set(), ["distance_wasserstein"]),
    ],
)
@pytest.mark.usefixtures("drawn")
def test_what_the_topology_has(make_report, dataset, tmp_path, changes, pictures, metrics):
    summary = make_report(dataclasses.replace(dataset.topology, **changes))
    assert files(tmp_path) == pictures | {"metrics.json", "report.html"}
    assert [row.key for row in summary.pairs[0].metrics] == metrics


@pytest.mark.usefixtures("drawn")
def test_point_in_a_plane(make_report, tmp_path):
    dataset = sample_mueller_brown(700, seed=0)
    summary = make_report(dataset.topology, dataset.positions)
    assert files(tmp_path) == {"free_energy.png", "metrics.json", "report.html"}
    assert [row.key for row in summary.pairs[0].metrics] == ["js_divergence", "pmf_error"]
