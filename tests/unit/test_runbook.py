"""A page's commands are found as they stand, and what they print is held against what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.runbook import Block, blocks, matches, section

PAGE = """# A page

## One

```sh be1 be2
echo one
```

```text
one
```

```toml
[x]
```

### One and a half

```sh node
echo more
```

Words.

## Two

```sh node
echo two
```
"""


def test_the_blocks_of_a_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert list(blocks(*section(page, "One"))) == [
        Block(5, ("be1", "be2"), "echo one\n", "one\n"),
        Block(19, ("node",), "echo more\n", None),
    ]
    assert [block.text for block in blocks(*section(page, "One and a half"))] == ["echo more\n"]
    with pytest.raises(AssertionError, match="no section"):
        section(page, "Three")


def test_what_was_printed_must_be_what_is_shown() -> None:
    assert matches("", "\n")
    assert not matches("", "something")
    assert matches("WHAT VALUE\n...\nfresh yes\n...\n", "WHAT   VALUE\nnode  x\nfresh  yes\nlast  \n")
    assert not matches("created 3", "created 30")
    assert matches("undo file: final.undo-...\nrest", "undo file: final.undo-2026\nrest\n")
