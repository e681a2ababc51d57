"""The page: whole, loads nothing, escapes everything, fits a phone and paper."""

import base64
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.report.curves import FokkerPlanckError
from openmm_scoremd.analysis.report.page import report_page
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.topology import BeadTopology

EVIL = "<script>alert('$1_$')</script>&\""
FAST = Resampling(2, 2)
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags with their attributes and visible text; checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def topology():
    return BeadTopology(
        names=("N", "CA", EVIL, "C"),
        elements=("N", "C", "", "C"),
        residue_names=(EVIL,) * 4,
        residue_ids=(1, 1, 1, 1),
        chain_ids=("A",) * 4,
        masses=(14.0, 12.0, 12.0, 12.0),
        bonds=((0, 1), (1, 2), (2, 3)),
    )


@pytest.fixture(scope="module")
def text(topology):
    rng = np.random.default_rng(0)
    shape = np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.2, 0.14, 0.0], [0.3, 0.15, 0.1]])
    reference = shape + 0.02 * rng.normal(size=(300, 4, 3))
    evil = 1.1 * shape + 0.02 * rng.normal(size=(200, 4, 3))
    runs = shape + 0.02 * rng.normal(size=(12, 40, 4, 3))
    sets = {
        "reference": SampleSet(reference),
        EVIL: SampleSet(evil),
        "simulation": SampleSet(runs, frame_interval=0.5),
    }
    times = np.geomspace(1e-5, 1.0, 5)
    errors = np.array([np.nan, 3.0, 2.0, 1.0, 0.5])
    curve = FokkerPlanckError(times, 9, errors, 0.1 * errors, errors / 2, 0.1 * errors, errors)
    summary = summarise(sets, topology, resampling=FAST)
    return report_page(summary, title=EVIL, about={EVIL: EVIL}, fokker_planck=curve)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_loaded_or_run(page):
    loading = {"script", "link", "iframe", "object", "embed", "audio", "video", "base", "form"}
    assert loading.isdisjoint(name for name, _ in page.tags)
    for name, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), name
            assert key not in ("href", "srcset", "action", "background"), name
            assert key != "src" or value.startswith("data:image/svg+xml;base64,")
    policies = [a["content"] for a in page.of("meta") if a.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_style_loads_nothing(text):
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "@media print" in style
    assert "max-width: 34rem" in style


def test_text_is_escaped(text, page):
    assert "<script" not in text
    seen = "".join(page.text)
    assert seen.count(EVIL) > 10
    assert any(EVIL in a["alt"] for a in page.of("img"))


def test_phone(page):
    viewports = [a["content"] for a in page.of("meta") if a.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]
    # What is wider than a phone scrolls by itself.
    assert len(page.of("table")) == sum(a.get("class") == "scroll" for a in page.of("div"))


def test_pictures_are_whole_and_load_nothing(page):
    pictures = page.of("img")
    # Bonds, angles, dihedral, distances and radius of gyration; plane, populations; times; error.
    assert len(pictures) >= 12
    for attributes in pictures:
        assert attributes["alt"]
        svg = base64.b64decode(attributes["src"].partition(",")[2])
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        for node in root.iter():
            links = [v for k, v in node.attrib.items() if k.endswith("href")]
            assert all(v.startswith(("#", "data:image/png")) for v in links)
    assert page.of("html") == [{"lang": "en"}]


def test_verdict_says_what_differs(page):
    seen = "".join(page.text)
    assert "Not consistent." in seen
    assert f"Where {EVIL} and reference differ" in seen
    assert "simulation and reference" in seen
    for heading in ("Samples", "Metrics", "Bond lengths", "Fokker–Planck error"):
        assert heading in page.text


def test_restarts_are_named_and_refused():
    rng = np.random.default_rng(0)
    sets = {
        "reference": SampleSet(rng.normal(size=(60, 1, 2))),
        "simulation": SampleSet(rng.normal(size=(12, 5, 1, 2)), restarts_per_frame=2.0),
    }
    point = BeadTopology(("P",), ("",), ("P",), (1,), ("A",), (1.0,))
    page = Page(report_page(summarise(sets, point, resampling=FAST), title="t", about={}))
    seen = "".join(page.text)
    assert "Cannot tell." in seen
    assert "started again 2 times for each frame" in seen
    assert any(a.get("class") == "verdict unknown" for a in page.of("div"))


def test_page_is_the_same_for_the_same_numbers():
    rng = np.random.default_rng(0)
    sets = {name: SampleSet(rng.normal(size=(60, 1, 2))) for name in ("reference", "iid")}
    point = BeadTopology(("P",), ("",), ("P",), (1,), ("A",), (1.0,))
    summary = summarise(sets, point, resampling=FAST)
    first, again = (report_page(summary, title="t", about={}) for _ in range(2))
    assert first == again
