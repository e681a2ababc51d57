"""The few pieces of HTML that a report is made of; every text is escaped here and only here."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence

from openmm_scoremd.analysis.report.styles import Style

__all__ = [
    "document",
    "legend",
    "number",
    "paragraph",
    "picture",
    "plain_number",
    "section",
    "table",
    "wrapped",
]

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1b1b1b;
       background: #fff; max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid #ddd; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: break-word; }
.meta { color: #555; font-size: .92rem; margin-bottom: .3rem; }
.verdict { border-left: .5rem solid; padding: .6rem 1rem; margin: 1rem 0; background: #f6f6f6; }
.verdict.yes { border-color: #00704f; }
.verdict.no { border-color: #b34700; }
.verdict p { margin: .2rem 0; }
.word { font-size: 1.25rem; font-weight: 700; }
.pictures { display: grid; gap: .8rem;
            grid-template-columns: repeat(auto-fill, minmax(17.5rem, 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; max-width: 26rem; height: auto; display: block; margin: 0 auto; }
figcaption { font-size: .85rem; color: #555; text-align: center; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .4rem 0; font-size: .95rem; }
.legend span { display: inline-flex; align-items: center; gap: .4rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #e4e4e4; text-align: right;
         vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
td.text { white-space: normal; min-width: 9rem; }
thead th { border-bottom: 2px solid #bbb; white-space: normal; }
.bad { color: #a03c00; font-weight: 600; }
code { overflow-wrap: anywhere; }
@media (max-width: 34rem) {
  body { font-size: 15px; padding: .7rem; }
  table { font-size: .78rem; } th, td { padding-right: .5rem; } td.text { min-width: 5.2rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  .pictures { grid-template-columns: repeat(3, 1fr); }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th, td { white-space: normal; padding-right: .4rem; }
  tr { break-inside: avoid; }
  .verdict { border: 1px solid; border-left-width: .5rem; }
  @page { margin: 15mm; }
}
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page. Nothing of it is loaded from anywhere, and the page forbids it."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def section(title: str, parts: Iterable[str], *, level: int = 2) -> str:
    """Return a heading and what stands below it."""
    return "\n".join([f"<h{level}>{html.escape(title)}</h{level}>", *parts])


def paragraph(text: str, *, kind: str = "") -> str:
    """Return a paragraph."""
    attribute = f' class="{html.escape(kind)}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def wrapped(kind: str, parts: Iterable[str]) -> str:
    """Return parts inside of a block of a class."""
    return f'<div class="{html.escape(kind)}">' + "\n".join(parts) + "</div>"


def picture(svg: str, *, text: str) -> str:
    """Return a picture inside the page with a text for those who cannot see it."""
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure><img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{data}"></figure>'
    )


def legend(styles: dict[str, Style]) -> str:
    """Return names with the colours and line styles of pictures."""
    entries = []
    for name, style in styles.items():
        dashes = {"-": "", "--": "5 2", "-.": "5 2 1 2", ":": "1 2"}
        pattern = (
            dashes[style.line]
            if isinstance(style.line, str)
            else " ".join(str(length) for length in style.line[1])
        )
        line = (
            f'<svg width="34" height="10" aria-hidden="true"><line x1="0" y1="5" x2="34" y2="5" '
            f'stroke="{style.color}" stroke-width="2.5" stroke-dasharray="{pattern}"/></svg>'
        )
        entries.append(f"<span>{line}{html.escape(name)}</span>")
    return f'<div class="legend">{"".join(entries)}</div>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    text_columns: Sequence[int] = (0,),
    bad: Iterable[int] = (),
) -> str:
    """Return a table that scrolls where the screen is too narrow.

    Parameters
    ----------
    head : sequence of str
        Column titles.
    rows : iterable of sequences of str
        Cells.
    caption : str
        What the table shows.
    text_columns : sequence of int
        Columns that hold words: left-aligned, and broken into lines.
    bad : iterable of int
        Rows that stand out.
    """
    marked = {*bad}
    left = {*text_columns}
    cells = [
        "<tr"
        + (' class="bad"' if i in marked else "")
        + ">"
        + "".join(
            f"<td{' class=' + chr(34) + 'text' + chr(34) if k in left else ''}>"
            f"{html.escape(cell)}</td>"
            for k, cell in enumerate(row)
        )
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    titles = "".join(
        f'<th scope="col"{" class=" + chr(34) + "text" + chr(34) if k in left else ""}>'
        f"{html.escape(cell)}</th>"
        for k, cell in enumerate(head)
    )
    # Outside of what scrolls: on a phone the end of the line would lie beyond the edge.
    above = paragraph(caption, kind="meta") if caption else ""
    return (
        f'{above}<div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(cells)}</tbody></table></div>"
    )


def number(value: float, error: float) -> str:
    """Return a number and its error, with as many decimals as the error has two digits."""
    if not (math.isfinite(error) and error > 0.0):
        return plain_number(value, error)
    return f"{plain_number(value, error)} ± {error:.{_decimals(error)}f}"


def plain_number(value: float, error: float) -> str:
    """Return a number alone, with the decimals that stand beside its error."""
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(error) and error > 0.0):
        return f"{value:.4g}".replace("-", "−")
    return f"{value:.{_decimals(error)}f}".replace("-", "−")


def _decimals(error: float) -> int:
    return min(6, max(0, 1 - math.floor(math.log10(error))))
