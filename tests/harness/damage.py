"""Damage to the file of a store that nobody has open, placed where it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PAGE = 4096


def pages_with(content: bytes | bytearray, key: bytes) -> list[int]:
    """Return the places of all pages that have `key`, those of earlier transactions too."""
    return [at for at in range(2 * PAGE, len(content), PAGE) if key in content[at : at + PAGE]]


def key_of(name: bytes) -> bytes:
    """Return the store's key of a name without domain and `^` (csrc key.c)."""
    return b"N" + name.replace(b".", b"\x1f")


def damage(data: Path, key: bytes, change: Callable[[bytearray], None]) -> None:
    """Have `change` alter each page that has `key`."""
    content = bytearray(data.read_bytes())
    places = pages_with(content, key)
    assert places, key
    for at in places:
        page = content[at : at + PAGE]
        change(page)
        content[at : at + PAGE] = page
    data.write_bytes(content)


def tear_page(page: bytearray) -> None:
    """Let the end of the page's list of nodes be behind the page: LMDB would read there."""
    page[12:14] = b"\xfe\xff"


def flip_behind(key: bytes) -> Callable[[bytearray], None]:
    """Return what changes one bit of the value under `key`."""

    def change(page: bytearray) -> None:
        at = page.find(key)
        while at >= 0:
            page[at + len(key) + 8] ^= 0x04
            at = page.find(key, at + 1)

    return change
