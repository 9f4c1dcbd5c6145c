"""Run the commands of a page of the documentation on the machines that it names.

Rule: what the page shows is what is run, line by line and nothing else.  A block ``sh be1 be2`` is run on both, the
``text`` block behind it is what it must print (``...`` stands for anything).  Only programs that no test machine has
(systemctl, scp to another machine, saslpasswd2) are played by the harness.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.harness.cyrus import CyrusServer
from tests.harness.ours import Node
from tests.harness.sandbox import Sandbox, SandboxError
from tests.harness.server import Server

FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
Played = Callable[[list[str]], None]


class Block(NamedTuple):
    """Commands for some machines, and what they must print (None: anything)."""

    line: int
    words: tuple[str, ...]
    text: str
    expected: str | None


def section(page: Path, title: str) -> tuple[str, int]:
    """Return the text below the heading `title`, up to the next of its level, and the number of its first line."""
    text = page.read_text()
    match = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    if match is None:
        raise AssertionError(f"{page.name} has no section {title!r}")
    end = re.search(rf"^#{{1,{len(match[1])}}} ", text[match.end() :], re.MULTILINE)
    stop = match.end() + end.start() if end else len(text)
    return text[match.end() : stop], text[: match.end()].count("\n") + 1


def blocks(text: str, first_line: int = 1) -> Iterator[Block]:
    """Yield the blocks of commands in `text`."""
    fences = list(FENCE.finditer(text))
    for index, fence in enumerate(fences):
        if fence[1] != "sh":
            continue
        follower = fences[index + 1] if index + 1 < len(fences) else None
        expected = None
        if follower is not None and follower[1] == "text" and "\n#" not in text[fence.end() : follower.start()]:
            expected = follower[3]
        yield Block(first_line + text[: fence.start()].count("\n"), tuple(fence[2].split()), fence[3], expected)


def matches(expected: str, printed: str) -> bool:
    """Say whether `printed` is `expected`, runs of blanks aside."""
    pattern = "".join(
        ".*?" if part == "..." else r"\s+" if part.isspace() else re.escape(part)
        for part in re.split(r"(\.\.\.|\s+)", expected.strip())
    )
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class Machine:
    """Where commands run; `played` are the programs that the harness stands in for, `places` what the page calls
    otherwise than the test does: addresses and files of a machine of our own."""

    def __init__(
        self, sandbox: Sandbox, home: Path, played: dict[str, Played], places: dict[str, str] | None = None
    ) -> None:
        self.sandbox = sandbox
        self.home = home
        self.played = played
        self.places = places or {}
        home.mkdir(exist_ok=True)

    def before(self) -> str:
        """What the shell does before the commands."""
        raise NotImplementedError

    def in_test(self, text: str) -> str:
        """Return `text` of the page with what the test calls otherwise."""
        for theirs, ours in self.places.items():
            text = text.replace(theirs, ours)
        return text

    def run(self, text: str) -> str:
        """Run the lines of a block; returns what they printed.  Raises SandboxError for one that fails."""
        text = self.in_test(text)
        printed, lines = "", ""
        for line in re.sub(r"\\\n\s*", "", text).splitlines(keepends=True):
            words = shlex.split(line, comments=True)
            if words and words[0] in self.played:
                printed += self._shell(lines)
                lines = ""
                self.played[words[0]](words[1:])
            else:
                lines += line
        return printed + self._shell(lines)

    def _shell(self, lines: str) -> str:
        if not lines.strip():
            return ""
        return self.sandbox.run("sh", "-euc", f"{self.before()}\ncd {self.home}\n{lines}", timeout_s=120)


def _systemctl(server: Server, verb: str) -> None:
    if verb in ("stop", "restart"):
        server.stop()
    if verb in ("start", "restart"):
        server.start()


class CyrusMachine(Machine):
    """A Cyrus server's machine, with everything where Debian has it."""

    def __init__(self, server: CyrusServer, played: dict[str, Played]) -> None:
        super().__init__(server.sandbox, server.state / "home", {"systemctl": self._systemctl, **played})
        self.server = server

    def before(self) -> str:
        state = self.server.state
        return (
            f"cat {state}/imapd.conf >/etc/imapd.conf; cat {state}/cyrus.conf >/etc/cyrus.conf\n"
            f"rm -rf /var/lib/cyrus; ln -s {state}/conf /var/lib/cyrus\n"
            f"trap 'cat /etc/imapd.conf >{state}/imapd.conf; cat /etc/cyrus.conf >{state}/cyrus.conf' EXIT"
        )

    def _systemctl(self, words: list[str]) -> None:
        verb, unit = words
        assert unit == "cyrus-imapd", unit
        _systemctl(self.server, verb)


class NodeMachine(Machine):
    """The machine of our node; ``cyrusext`` finds the node's configuration as if it were in /etc."""

    def __init__(self, node: Node, played: dict[str, Played], places: dict[str, str]) -> None:
        super().__init__(node.sandbox, node.state / "home", {"systemctl": self._systemctl, **played}, places)
        self.node = node

    def before(self) -> str:
        program = shlex.join(map(str, self.node.program()))
        environment = " ".join(f"{key}={shlex.quote(value)}" for key, value in self.node.environment().items())
        cyx = Path(sys.executable).parents[2] / "build/bin"
        return (
            f"export {environment} PATH={os.environ['PATH']}:{cyx}\n"
            f'cyrusext() {{ {program} "$@" -c {self.node.config_file}; }}'
        )

    def _systemctl(self, words: list[str]) -> None:
        verb, unit = words
        assert unit == "cyrusext-node", unit
        _systemctl(self.node, verb)


class Runbook:
    """A page and its machines by name."""

    def __init__(self, page: Path, machines: dict[str, Machine]) -> None:
        self.page = page
        self.machines = machines
        for machine in machines.values():
            machine.played.setdefault("scp", self._copier(machine))

    def run(self, title: str, leave_out: Collection[str] = ()) -> int:
        """Run the blocks below the heading `title` but those marked with a word of `leave_out`; return how many."""
        done = 0
        for block in blocks(*section(self.page, title)):
            if not set(block.words) & set(leave_out):
                self._run_block(block)
                done += 1
        assert done, f"nothing to run in {title!r}"
        return done

    def _run_block(self, block: Block) -> None:
        names = [word for word in block.words if word in self.machines]
        assert names, f"{self.page.name}:{block.line} names no machine"
        for name in names:
            try:
                printed = self.machines[name].run(block.text)
            except SandboxError as error:
                raise AssertionError(f"{self.page.name}:{block.line} on {name}: {error}") from error
            if block.expected is not None and not matches(self.machines[name].in_test(block.expected), printed):
                raise AssertionError(
                    f"{self.page.name}:{block.line} on {name} printed\n{printed}\ninstead of\n{block.expected}"
                )

    def _copier(self, here: Machine) -> Played:
        def copy(words: list[str]) -> None:
            source, target = words
            name, _, path = source.partition(":")
            assert target == ".", target
            (here.home / Path(path).name).write_bytes((self.machines[name].home / path).read_bytes())

        return copy
