"""Tables with the ratio first, and their place in RESULTS.md.

Rule: a ratio needs both sides of the same invocation: a row without one of them raises, and a script that raises writes
nothing.  A peer that ran and could not do it has a sentence instead of figures, and no ratio.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig.masters import Name
from benchmarks.rig.summary import SUMMARY, summary


class PeerMissing(Exception):
    """One of the two sides has no figures."""


@dataclass(frozen=True, slots=True)
class Unit:
    """How a figure is shown, and whether more of it is better."""

    show: Callable[[float], str]
    more_is_better: bool


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _fine(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


RATE = Unit(_whole, more_is_better=True)
COST = Unit(_fine, more_is_better=False)
"""Times, memory: less is better."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: the figures of each round, or what kept a side from having any."""

    label: str
    node: Sequence[float] | str
    stock: Sequence[float] | str
    target: str = ""
    more: Sequence[str] = ()
    """Cells of further columns."""

    def cells(self, unit: Unit) -> list[str]:
        for name, figures in (("node", self.node), ("stock", self.stock)):
            if not figures:
                raise PeerMissing(f"{self.label}: {name} has no figures")
        return [
            self.label,
            self._ratio(unit),
            self.target,
            _spread(self.node, unit),
            _spread(self.stock, unit),
            *self.more,
        ]

    def _ratio(self, unit: Unit) -> str:
        if isinstance(self.node, str) or isinstance(self.stock, str):
            return "–"
        node, stock = statistics.median(self.node), statistics.median(self.stock)
        up, down = (node, stock) if unit.more_is_better else (stock, node)
        return f"{up / down:.2f}×" if down else "–"


def _spread(figures: Sequence[float] | str, unit: Unit) -> str:
    """The median, and in brackets the lowest and the highest."""
    if isinstance(figures, str):
        return figures
    middle = unit.show(statistics.median(figures))
    return middle if len(figures) == 1 else f"{middle} ({unit.show(min(figures))}–{unit.show(max(figures))})"


def table(rows: Iterable[Row], unit: Unit, what: str, more: Sequence[str] = ()) -> list[str]:
    """The lines of a table; `what` names the figure.  A ratio above 1 is in favour of the node, whatever the unit."""
    ratio = "node / stock" if unit.more_is_better else "stock / node"
    head = ["", ratio, "target", f"node, {what}", f"stock, {what}", *more]
    lines = [head, ["---"] * len(head), *(row.cells(unit) for row in rows)]
    return ["| " + " | ".join(cells).strip() + " |" for cells in lines]


@dataclass(frozen=True, slots=True)
class Figures:
    """Collects the figures of rounds that alternate between the two sides, by row."""

    rows: dict[str, dict[Name, list[float]]]

    def add(self, row: str, name: Name, figure: float) -> None:
        self.rows.setdefault(row, {}).setdefault(name, []).append(figure)

    def row(self, label: str, target: str = "", more: Sequence[str] = ()) -> Row:
        found = self.rows.get(label, {})
        return Row(label, found.get("node", []), found.get("stock", []), target, more)

    def last(self, label: str, name: Name) -> float:
        return self.rows[label][name][-1]

    def median(self, label: str, name: Name) -> float:
        return statistics.median(self.rows[label][name])


def write_section(page: Path, script: str, lines: Sequence[str]) -> None:
    """Put the section of `script` into `page`, in the place of its last one or at the end, and bring its summary up."""
    text = page.read_text() if page.exists() else "# Results\n"
    text = _replace(text, script, lines) or f"{text.rstrip()}\n\n{_marked(script, lines)}\n"
    page.write_text(_replace(text, SUMMARY, summary(text.splitlines())) or text)


def _marked(name: str, lines: Sequence[str]) -> str:
    return "\n".join([f"<!-- begin {name} -->", *lines, f"<!-- end {name} -->"])


def _replace(text: str, name: str, lines: Sequence[str]) -> str:
    """`text` with what stands between the marks of `name` replaced, or "" where there are none."""
    old = re.compile(f"<!-- begin {re.escape(name)} -->.*?<!-- end {re.escape(name)} -->", re.DOTALL)
    return old.sub(lambda _: _marked(name, lines), text) if old.search(text) else ""
