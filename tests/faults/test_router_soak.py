"""The short version of `make soak`, and that the long one would notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import Figures, soak

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SECONDS = 900.0 if os.environ.get("CYREXT_LONG") else 25.0


def test_nothing_is_lost_and_nothing_grows(tmp_path: Path) -> None:
    figures = soak(tmp_path, SECONDS, int(os.environ.get("CYREXT_SEED", "20261130")))
    print(figures.text())
    assert figures.findings() == [], figures.text()
    assert figures.messages > 10 * SECONDS


def test_what_must_not_be_is_found() -> None:
    flat = [1000] * 40
    good = Figures(kills=1, deferred=1, rss_kib=flat, descriptors=flat)
    assert good.findings() == []
    for wrong in (
        Figures(kills=1, deferred=1, rss_kib=flat, descriptors=flat, lost=1),
        Figures(kills=1, deferred=1, rss_kib=flat, descriptors=flat, false_250=1),
        Figures(kills=1, deferred=1, rss_kib=flat, descriptors=flat, odd=[b"550 no\r\n"]),
        Figures(kills=1, deferred=1, rss_kib=[1000 * n for n in range(40)], descriptors=flat),
        Figures(kills=1, deferred=1, rss_kib=flat, descriptors=list(range(40))),
        Figures(kills=1, deferred=1, rss_kib=flat, descriptors=flat, most_descriptors=999),
        Figures(kills=1, deferred=1, rss_kib=flat, descriptors=flat, express=0),
        Figures(kills=0, deferred=0, rss_kib=flat, descriptors=flat),
    ):
        assert len(wrong.findings()) == 1
