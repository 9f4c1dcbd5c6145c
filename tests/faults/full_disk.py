"""A disk without room, as the node has it: a small tmpfs for its state_dir."""

from __future__ import annotations

from pathlib import Path

from tests.harness.mupdate import Mupdate
from tests.harness.ours import Node

WRITE_WAIT_S = 4.0
ACL = b"x\tl\t" * 500


def fill(directory: Path) -> Path:
    """Leave no block free; return the file that took them."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("it can not be filled")


def use_up(client: Mupdate, acl: bytes = ACL, stem: bytes = b"user.full") -> set[bytes]:
    """Change until a change is refused: pages that are free inside the store's file still serve.

    Returns the names that were granted.
    """
    granted: set[bytes] = set()
    for number in range(2000):
        name = b"%s%d" % (stem, number)
        answer = client.command(b"ACTIVATE", name, b"be1!default", acl, timeout_s=WRITE_WAIT_S + 20)[-1]
        if answer.verb == "NO":
            assert answer.text == "no space left for the change"
            return granted
        granted.add(name)
    raise AssertionError("it takes everything")


class SmallNode(Node):
    """A node whose state_dir is a tmpfs of 8 MiB that only it sees."""

    def command(self) -> list[str | Path]:
        mount = 'mount -t tmpfs -o size=8m,mode=755 tmpfs "$1" && shift && exec "$@"'
        return ["sh", "-c", mount, "sh", self.config["node"]["state_dir"], *super().command()]

    @property
    def seen_state(self) -> Path:
        """Its state_dir as it sees it."""
        return Path(f"/proc/{self.pid}/root{self.config['node']['state_dir']}")


def fill_up(node: SmallNode, client: Mupdate) -> tuple[Path, set[bytes]]:
    """Fill the disk until a change is refused; return the file to remove, and the names that were granted."""
    return fill(node.seen_state), use_up(client)
