"""A store as the format before this one was really written, and what its own tools said of it."""

from __future__ import annotations

import lzma
from pathlib import Path

FORMAT_1 = Path(__file__).resolve().parents[1] / "unit/store/format1"
WALK = FORMAT_1 / "walk"
"""What `cyx walk` of the version that wrote it printed."""


def unpack(state_dir: Path, packed: str = "data.mdb.xz") -> Path:
    """Lay the store of format 1 into `state_dir` as it was left there; returns its file."""
    (state_dir / "store").mkdir(parents=True)
    data = state_dir / "store/data.mdb"
    with data.open("wb") as file:
        for block in iter_blocks(lzma.decompress((FORMAT_1 / packed).read_bytes())):
            if block.strip(b"\0"):
                file.write(block)
            else:
                file.seek(len(block), 1)  # a hole, as it was
        file.truncate()
    return data


def iter_blocks(raw: bytes, size: int = 4096) -> list[bytes]:
    """Return `raw` in pieces of `size` bytes."""
    return [raw[at : at + size] for at in range(0, len(raw), size)]
