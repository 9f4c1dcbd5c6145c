"""Every dialogue file against the master in memory: the codec, the states and the ownership table, without I/O."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cyrusext.directory.modes import Mode
from cyrusext.mupdate.quirks import Quirk
from tests.dialogues.memory import MemoryMaster, MemoryWire
from tests.dialogues.runner import Dialogue, DialogueError, Mismatch, dialogues, load, run_on

ALL = dialogues()


def test_there_are_dialogues() -> None:
    assert len(ALL) >= 15


@pytest.mark.parametrize("dialogue", ALL, ids=lambda dialogue: dialogue.path.stem)
def test_dialogue_in_memory(dialogue: Dialogue) -> None:
    assert run_on(dialogue, MemoryMaster(mode=dialogue.mode).connect, "ours") > 0


@pytest.mark.parametrize("dialogue", ALL, ids=lambda dialogue: dialogue.path.stem)
def test_dialogue_in_memory_byte_by_byte(dialogue: Dialogue) -> None:
    master = MemoryMaster(mode=dialogue.mode)
    chunk = 4096 if "literal_announced" in dialogue.path.name else 1
    assert run_on(dialogue, lambda: MemoryWire(master, chunk), "ours") > 0


def test_every_quirk_is_shown() -> None:
    told = set(re.findall(r"quirk ([A-Z_]+)", "".join(dialogue.path.read_text() for dialogue in ALL)))
    assert told == set(Quirk.__members__)


def file(tmp_path: Path, body: str, head: str = "title: t") -> Path:
    path = tmp_path / "x.txt"
    path.write_text(f"{head}\n\n{body}\n")
    return path


@pytest.mark.parametrize(
    "body",
    [
        "open a\nlogin",
        "C x\nS: y",
        "quirk NO_SUCH\nS: x\nstock\nS: y\nend",
        "quirk BARE_LF\nS: x\nend",
        "quirk BARE_LF\nS: x\nstock\nS: y",
        "stock\nS: y",
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, body: str) -> None:
    with pytest.raises(DialogueError):
        load(file(tmp_path, body))


@pytest.mark.parametrize(
    "head", ["needs: empty", "title:", "title: x\nneeds: luck", "title: x\ncolour: red", "title: x\nmode: y"]
)
def test_a_wrong_head_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(DialogueError):
        load(file(tmp_path, "open a\nS: x", head))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('open a\nC: x NOOP\nS: x OK "Noop done"', r"x\.txt:5 .*wanted S: x OK.*\n.*Please login first"),
        ("open a\nlogin\nC: x NOOP\nS~ x NO .*", r"x\.txt:6 .*wanted S~ x NO.*\n.*Noop done"),
        ("open a\nlogin\nS: x", r"x\.txt:5 .*\ngot nothing"),
        ("open a\nC: x LOGOUT\nS~ x OK.*\nS: y", r"x\.txt:6 .*\ngot the end"),
        ("open a\nC: x FIND\nS: [EOF]", r"x\.txt:5 .*\n.*Please login"),
        ("open a\nC: x FIND\nS~ x .*\nC: y NOOP\nS? z", "nobody asked for"),
    ],
)
def test_a_mismatch_names_file_line_and_answer(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(Mismatch, match=words):
        run_on(load(file(tmp_path, body)), MemoryMaster().connect, "ours")


def test_the_stock_answers_are_not_ours() -> None:
    """A quirk block that both flavours would pass shows no quirk."""
    for dialogue in ALL:
        if dialogue.quirks:
            with pytest.raises((Mismatch, TimeoutError)):
                run_on(dialogue, MemoryMaster(mode=dialogue.mode).connect, "stock")


def test_an_empty_server_is_insisted_on() -> None:
    master = MemoryMaster()
    wire = master.connect()
    dialogue = next(dialogue for dialogue in dialogues(Mode.STANDARD) if dialogue.needs_empty)
    run_on(dialogue, master.connect, "ours")
    wire.send(b'A AUTHENTICATE "PLAIN" "AG11cmRlcgBtdXJkZXJwdw=="\r\nX ACTIVATE "user.x" "be1!d" ""\r\n')
    with pytest.raises(Mismatch, match="empty"):
        run_on(dialogue, master.connect, "ours")
