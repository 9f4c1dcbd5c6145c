"""The programs of benchmarks/mlookup: how each is made, where its database is, and how it is run.

Rule: whatever goes wrong with one of them is a LoadFailed or a PeerMissing with its name in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.rig.generator import FLAGS, LoadFailed
from benchmarks.rig.results import PeerMissing
from tests.harness.roots import USERS, Root
from tests.harness.sandbox import CHECKOUT, Sandbox, SandboxError

SOURCES = CHECKOUT / "benchmarks" / "mlookup"
LIBRARY = CHECKOUT / "csrc"
OBJECTS = CHECKOUT / "build" / "obj" / "shared"
TIMEOUT_S = 3600

Pages = Literal["never", "always"]
"""Large pages: the option `huge` of a tmpfs."""
Figures = dict[str, float]


class Engine(NamedTuple):
    """One program that answers look-ups, and what it is called in the tables."""

    label: str
    program: str
    libraries: tuple[str, ...] = ()
    place: str = ""
    """Whose database it reads; its own where this is empty."""
    pages: Pages = "never"
    environment: Mapping[str, str] = {}
    in_root: bool = False
    largest: int = 1 << 62
    """The most names it is measured with."""
    lookups: int = 1_000_000
    """How many names it is asked for, over and over; fewer where each takes microseconds."""

    @property
    def directory(self) -> str:
        return self.place or self.program

    @property
    def is_ours(self) -> bool:
        return self.directory == "cyx"


def compile_engine(program: str, libraries: Sequence[str]) -> Path:
    """Compile one engine's program; anew each time, it takes a moment."""
    sources = ["main.c", "questions.c", "keys.c", f"e_{program}.c"]
    if program in ("twoskip", "mboxlist"):
        return _compile(program, [*sources, "cyrus.c"], "-rdynamic")  # Cyrus' libraries call back
    if program == "cyx":
        return _compile(program, [*sources, "node_side.c"], *with_library())
    return _compile(program, sources, *(f"-l{name}" for name in libraries))


def compile_node() -> Path:
    sources = ["node.c", "count.c", "visible.c", "updates.c", "questions.c", "keys.c", "node_side.c"]
    return _compile("node", sources, *with_library())


def compile_chase() -> Path:
    return _compile("chase", ["chase.c", "questions.c", "keys.c"])


def with_library() -> list[str]:
    """The objects of libcyrusext as it is installed, with what it does not export."""
    command = ["make", "-s", "-C", str(LIBRARY), f"OUT={CHECKOUT / 'build'}", "all"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if made.returncode:
        raise PeerMissing(f"libcyrusext can not be built:\n{made.stderr[-2000:]}")
    objects = [str(OBJECTS / f"{source.stem}.o") for source in sorted((LIBRARY / "libcyrusext").glob("*.c"))]
    return [f"-I{LIBRARY}/include", f"-I{LIBRARY}/libcyrusext", *objects, "-llmdb", "-pthread"]


def _compile(program: str, sources: Sequence[str], *options: str) -> Path:
    target = CHECKOUT / "build" / "bin" / f"mlookup-{program}"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", *FLAGS, "-o", str(target), *(str(SOURCES / name) for name in sources), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise PeerMissing(f"{program} can not be built:\n{done.stderr[-2000:]}")
    return target


def on_tmpfs(directory: Path, pages: Pages) -> list[str]:
    """What stands before a command that is to see a memory file system of its own at `directory`."""
    mount = f'mount -t tmpfs -o mode=755,huge={pages} tmpfs "$0" && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(directory)]


def run_in_root(root: Root, place: Path, label: str, *command: object) -> Figures:
    """Run a program in a private root; it may become Cyrus' own user, which may then read and write `place`."""
    uid, gid = USERS["cyrus"]
    for path in [place, *place.rglob("*")]:
        os.chown(path, uid, gid, follow_symlinks=False)
    try:
        printed = Sandbox(place, root).run(*map(str, command), timeout_s=TIMEOUT_S)
    except SandboxError as error:
        raise LoadFailed(f"{label}: {error}") from error
    return _figures(label, printed.splitlines()[-1])


def run_here(label: str, command: Sequence[object], environment: Mapping[str, str] | None = None) -> Figures:
    """Run a program; returns what it printed."""
    return _figures(label, printed_by(label, command, environment))


def printed_by(label: str, command: Sequence[object], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **(environment or {})},
        cwd=CHECKOUT,
    )
    if done.returncode:
        raise LoadFailed(f"{label}: {done.stderr.strip() or f'ended with {done.returncode}'}")
    return done.stdout


def _figures(label: str, text: str) -> Figures:
    try:
        return {name: float(value) for name, value in json.loads(text).items()}
    except ValueError as error:
        raise LoadFailed(f"{label} printed no figures but {text!r}") from error
