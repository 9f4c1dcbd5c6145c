"""docs/conformance/lmtp.md names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/conformance/lmtp.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:lmtp_router|tests)/[^`*]+)`", PAGE))))
def test_each_file_named_exists(path: str) -> None:
    assert (ROOT / path).is_file()
