"""Whether this node decides on changes or follows one that does, and what it tells of that.

Rule: a node has one role from its start to its end.  What decides lets itself be followed; what follows does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cyrusext.directory.base import Directory
from cyrusext.directory.embedded import EmbeddedDirectory, SuspectWork
from cyrusext.directory.follow import FollowDirectory
from cyrusext.directory.modes import ModeRules
from cyrusext.errors import NodeFollows
from cyrusext.model import MailboxRecord
from cyrusext.mupdate.follower import Follower, Target
from cyrusext.mupdate.leading import Leading
from cyrusext.net.address import TcpAddress, parse
from cyrusext.replica.copying import begin_to_lead
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime.config import Config
from cyrusext.runtime.lifecycle import Service
from cyrusext.runtime.metrics import Values
from cyrusext.store import Store


@dataclass(frozen=True)
class Role:
    """The directory of this node; exactly one of `leading` and `follower` is there."""

    METRICS: ClassVar[dict[str, str]] = {
        "cyrusext_followers": "Nodes that follow this one.",
        "cyrusext_follower_copies_total": "Full copies sent to followers.",
        "cyrusext_follower_resumes_total": "Followers that went on from the change log.",
        "cyrusext_follow_connected": "1 while this node follows the one that writes.",
        "cyrusext_follow_lag_seconds": "Seconds since this node knew all that was granted; -1: not connected.",
        "cyrusext_follow_lag_changes": "Changes that the leader told of and this node has not applied.",
        "cyrusext_follow_copies_total": "Full copies begun by this node.",
        "cyrusext_follow_resumes_total": "Times this node went on from the leader's change log.",
        "cyrusext_follow_held_deletions": "Deletions that wait for an operator (cyrusext replica deletes).",
        "cyrusext_follow_writes_waiting": "Changes on their way to the leader.",
    }

    directory: Directory
    reload: Callable[[Config], None]
    """Takes what may change while the node runs."""
    mark: Callable[[MailboxRecord], object]
    """Makes a record suspect; only who decides may change records."""
    leading: Leading | None = None
    follower: Follower | None = None

    @property
    def name(self) -> str:
        return "master" if self.follower is None else "follower"

    @property
    def leader(self) -> str:
        """The node that this one follows, "" for none."""
        return "" if self.follower is None else str(self.follower.target.address)

    @property
    def services(self) -> list[Service]:
        return [] if self.follower is None else [self.follower]

    def check_decides(self) -> None:
        """Raise NodeFollows where an operator's change is to be asked of another node."""
        if self.follower is not None:
            raise NodeFollows(f"this node follows {self.leader}, which decides on changes: ask for them there")

    def deletes(self, accept: bool) -> dict[str, object]:
        """Return the deletions that wait for an operator, and with `accept` let them be made."""
        held = None if self.follower is None else self.follower.held
        if held is None or self.follower is None:
            return {"count": 0, "names": [], "leader": self.leader}
        if accept:
            self.follower.accept()
        return {"count": held.count, "names": held.names, "leader": self.leader}

    def status(self) -> dict[str, object]:
        """Return what `cyrusext status` shows of it."""
        if self.follower is not None:
            follower = self.follower
            return {
                "leader": self.leader,
                "follow": {
                    "state": follower.state,
                    "problem": follower.problem,
                    "store": follower.cookie.store_id if follower.cookie else "",
                    "seq": follower.cookie.seq if follower.cookie else 0,
                    "lag_changes": self._lag(follower),
                    "lag_s": follower.age_s,
                    "full_copies": follower.full_copies,
                    "resumed": follower.resumed,
                    "writes_forwarded": follower.forwarding.forwarded,
                    "writes_waiting": len(follower.forwarding),
                    "held_deletions": follower.held.count if follower.held else 0,
                },
            }
        assert self.leading is not None
        return {
            "store": self.leading.store_id,
            "followers": {f"{each.node} seq": each.sent for each in self.leading.followers},
            "follower_copies": self.leading.full,
            "follower_resumes": self.leading.resumed,
        }

    def metrics(self) -> Values:
        """Return the values of `METRICS` that this role has."""
        if self.follower is None:
            assert self.leading is not None
            return {
                "cyrusext_followers": len(self.leading.followers),
                "cyrusext_follower_copies_total": self.leading.full,
                "cyrusext_follower_resumes_total": self.leading.resumed,
            }
        follower = self.follower
        return {
            "cyrusext_follow_connected": float(follower.state == "following"),
            "cyrusext_follow_lag_seconds": -1.0 if follower.age_s is None else follower.age_s,
            "cyrusext_follow_lag_changes": self._lag(follower),
            "cyrusext_follow_copies_total": follower.full_copies,
            "cyrusext_follow_resumes_total": follower.resumed,
            "cyrusext_follow_held_deletions": follower.held.count if follower.held else 0,
            "cyrusext_follow_writes_waiting": len(follower.forwarding),
        }

    def unready(self) -> str:
        """Say why this node should not be asked now, or ""."""
        if self.directory.may_answer and self.directory.is_fresh:
            return ""
        if self.follower is None:
            return "not all changes are known here"
        what = "is not complete" if not self.directory.may_answer else "may be old"
        return f"the copy of {self.leader} {what}: {self.follower.problem or self.follower.state}"

    @staticmethod
    def _lag(follower: Follower) -> int:
        return max(0, follower.leader_seq - (follower.cookie.seq if follower.cookie else 0))


def take_role(config: Config, store: Store, writer: GroupCommit, rules: ModeRules) -> Role:
    """Return the role that the configuration gives this node; to be called before `writer` starts.

    Raises StoreError where the store can not be led with.
    """
    node = config.node
    if not node.follow:
        embedded = EmbeddedDirectory(writer, takeover=config.mupdate.takeover == "allow", table=rules.table)

        def reload(taken: Config) -> None:
            embedded.set_takeover(taken.mupdate.takeover == "allow")

        leading = Leading(begin_to_lead(store), node.cluster_id, store, config.mupdate.mode)
        return Role(embedded, reload, lambda record: writer.submit(SuspectWork(record)), leading=leading)
    address = parse(node.follow)
    assert isinstance(address, TcpAddress)  # config_check
    target = Target(
        address,
        user=node.follow_user,
        password_file=node.follow_password_file,
        tls_ca=node.follow_tls_ca,
        cluster_id=node.cluster_id,
        murder=config.mupdate.mode,
        node=node.name,
    )
    follower = Follower(
        target,
        store,
        writer,
        write_wait_s=config.mupdate.write_wait_s,
        no_max_age_s=config.lookup.no_max_age_s,
    )
    directory = FollowDirectory(follower, node.follow)
    return Role(
        directory,
        lambda taken: follower.set_no_max_age(taken.lookup.no_max_age_s),
        lambda _record: None,
        follower=follower,
    )
