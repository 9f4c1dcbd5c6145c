"""One table of all rows that have a target, read from the page that the scripts have written.

Rule: it adds nothing; what it shows stands in a section of the page.
"""

from __future__ import annotations

from collections.abc import Iterable

SUMMARY = "summary"
"""Marks where it stands."""
HEAD = ["| Section | Row | ratio | target | node | stock |", "| --- | --- | --- | --- | --- | --- |"]


def summary(lines: Iterable[str]) -> list[str]:
    """The table, from the lines of the page's sections."""
    rows = list(HEAD)
    title, of_what, units = "", "", ["", ""]
    inside = has_targets = False
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("<!-- "):
            inside = line.startswith("<!-- begin ") and line != f"<!-- begin {SUMMARY} -->"
        elif line.startswith("## "):
            title = of_what = line[3:]
        elif line.endswith(":"):
            of_what = f"{title}. {line[:-1]}"
        elif not cells:
            has_targets = False
        elif cells[2:3] == ["target"]:
            has_targets, units = True, [head.partition(", ")[2] for head in cells[3:5]]
        elif inside and has_targets and cells[2].strip("-"):
            label, ratio, target, *figures = cells[:5]
            shown = [_with_unit(figure, unit) for figure, unit in zip(figures, units, strict=True)]
            rows.append("| " + " | ".join([of_what, label, ratio, target, *shown]) + " |")
    return rows


def _with_unit(figure: str, unit: str) -> str:
    """Only the median, with its unit; a sentence in place of a figure as it is."""
    return f"{figure.partition(' (')[0]} {unit}" if figure[:1].isdigit() else figure
