"""`make demo` shows a delivery, and leaves nothing behind, whether it ends by itself or by Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.roots import Root
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CHECKOUT = Path(__file__).resolve().parents[2]


class Demo:
    """A running demo whose temporary directory is ours to look into."""

    def __init__(self, root: Root, place: Path, *options: str) -> None:
        self.place = place
        self.output = place / "output"
        (place / "tmp").mkdir()
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.demo", "--release", root.suite, *options],
                cwd=CHECKOUT,
                env=os.environ | {"TMPDIR": str(place / "tmp")},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def leftovers(self) -> list[str]:
        """Processes, mounts and directories that belong to this demo."""
        mark = f"{self.place}/tmp"
        found = [str(path) for path in (self.place / "tmp").glob("cyx-demo-*")]
        found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if mark in line]
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = command.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in words:
                found.append(words)
        return found


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("d")


def test_each_copy_lands_on_its_backend(root: Root, place: Path) -> None:
    demo = Demo(root, place, "--once")
    assert demo.process.wait(150) == 0, demo.printed
    printed = demo.printed
    assert re.search(r"alice@example\.org +be1\.lab +250 2\.", printed), printed
    assert re.search(r"bob@example\.org +be2\.lab +250 2\.", printed), printed
    assert "copies: 1 on be1.lab, 0 on be2.lab" in printed
    assert "copies: 0 on be1.lab, 1 on be2.lab" in printed
    assert demo.leftovers() == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_it_stays_up_and_ends_cleanly(root: Root, place: Path, ending: signal.Signals) -> None:
    demo = Demo(root, place)
    try:
        wait_until(
            lambda: "Everything stays up" in demo.printed or demo.process.poll() is not None, "it is up", 120, 0.2
        )
        assert demo.process.poll() is None, demo.printed
        shown = re.search(r"^ *\.venv/bin/(cyrusext lookup alice -c \S+)$", demo.printed, re.MULTILINE)
        assert shown is not None, demo.printed
        program, *arguments = shown[1].split()
        looked = subprocess.run(
            [Path(sys.executable).with_name(program), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert looked.returncode == 0 and "be1.lab" in looked.stdout, looked.stdout + looked.stderr
        assert demo.leftovers() != []
    finally:
        demo.process.send_signal(ending)
        code = demo.process.wait(60)
    assert code == 0, demo.printed
    assert "Traceback" not in demo.printed
    assert demo.leftovers() == []
