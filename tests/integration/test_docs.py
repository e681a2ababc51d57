"""The documentation as web pages: it builds without a warning, and links lead somewhere."""

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from openmm_scoremd.cli.main import COMMANDS, build_parser
from openmm_scoremd.training.config import TrainingConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.slow


def build(source, folder):
    return subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"),
            *("-d", str(folder / "doctrees"), str(source), str(folder / "html")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    done = build(DOCS, folder)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Page(html.parser.HTMLParser):
    """What a page links to, what can be linked to in it, and what it would load from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.links, self.targets, self.resources = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            self.targets.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        resource = {"script": "src", "img": "src", "link": "href"}.get(tag)
        if resource and attributes.get(resource):
            self.resources.append(attributes[resource])


def pages_of(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def text_of(path):
    return re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))


def broken_links(pages):
    """Return links within the site that lead nowhere."""
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.resources]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = {"", *pages[file].targets} if file in pages else {parts.fragment}
            if not file.is_file() or unquote(parts.fragment) not in there:
                broken.append(f"{path.name}: {link}")
    return broken


def test_links_lead_somewhere(site):
    pages = pages_of(site)
    assert len(pages) > 15
    assert broken_links(pages) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here"></a><a href="c.html"></a>')
    (tmp_path / "b.html").write_text('<p id="there"></p><img src="d.png">')
    assert sorted(broken_links(pages_of(tmp_path))) == [
        "a.html: b.html#here",
        "a.html: c.html",
        "b.html: d.png",
    ]


def test_nothing_comes_from_other_hosts(site):
    loaded = [url for page in pages_of(site).values() for url in page.resources]
    assert [url for url in loaded if urlsplit(url).netloc] == []


def test_a_warning_fails_the_build(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("conf.py", "_extensions", "_static"):
        (source / name).symlink_to(DOCS / name)
    (source / "index.md").write_text("# Title\n\n[nowhere](nowhere.md)\n")
    done = build(source, tmp_path)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


def test_tables_list_every_option_and_entry(site):
    text = text_of(site / "user_guide.html")
    for command in COMMANDS:
        if command != "train":
            for action in build_parser(command)._actions:
                assert (action.option_strings or [action.dest])[-1] in text, (command, action)
    for entry in TrainingConfig.__dataclass_fields__:
        assert entry in text
    # An entry with its default and its meaning.
    assert re.search(r"noise_floor\s+none\s+Conditions the network on the noise level", text)


def test_tutorials_are_pages(site):
    for script in (DOCS / "tutorials").glob("*.py"):
        text = text_of(site / "tutorials" / f"{script.stem}.html")
        assert f"python docs/tutorials/{script.name}" in text
        # Text cells are text.
        assert "# %%" not in text


def test_formulas_are_drawn_by_the_browser(site):
    page = (site / "theory.html").read_text(encoding="utf-8")
    assert page.count("<math ") > 20
    assert re.search(r"<script[^>]*mathjax", page, re.I) is None
