"""docs/conformance/mupdate.md names what there is: each quirk with sentence and dialogue, and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cyrusext.mupdate.quirks import Quirk

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/conformance/mupdate.md").read_text()
ROWS = {
    found[1]: found
    for found in re.finditer(r"^\| `([A-Z_]+)` \| (both|ours) \| (.+) \| (.+) \|$", PAGE, flags=re.MULTILINE)
}


@pytest.mark.parametrize("quirk", Quirk, ids=lambda quirk: quirk.name)
def test_each_quirk_has_its_row(quirk: Quirk) -> None:
    row = ROWS[quirk.name]
    assert row[3] == quirk.value
    for name in re.findall(r"`([^`]+)`", row[4]):
        assert re.search(rf"quirk {quirk.name}\b", (ROOT / "tests/dialogues" / name).read_text()), name


def test_no_row_is_about_nothing() -> None:
    assert set(ROWS) == set(Quirk.__members__)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:cyrusext|tests|fuzz)/[^`*]+)`", PAGE))))
def test_each_file_named_exists(path: str) -> None:
    assert (ROOT / path).is_file()
