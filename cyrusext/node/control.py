"""What the node answers on its control socket, and what it tells of itself to metrics.

Rule: requests are the operator's; a change goes through the same writer and feed as a backend's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from cyrusext.directory.batch import MAX_CHANGES, Applied, Wanted
from cyrusext.doors.kick import KickDoor
from cyrusext.errors import CyrusExtError
from cyrusext.model import ServerPartition
from cyrusext.mupdate.server import MupdateServer
from cyrusext.node.refilling import Refilling, RefillRequest
from cyrusext.node.reload import Reload
from cyrusext.node.role import Role
from cyrusext.replica.apply import ApplyWork
from cyrusext.replica.feed import ChangeFeed
from cyrusext.replica.unsettled import Unsettled
from cyrusext.replica.upkeep import Upkeep
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import logging
from cyrusext.runtime.control import error_reply
from cyrusext.runtime.metrics import Values
from cyrusext.store import Store

log = logging.get()


SHOWN_SUSPECTS = 10
"""Names of suspect mailboxes in `status`."""


class StatusRequest(msgspec.Struct, tag_field="op", tag="status"):
    """What the node is and does."""


class ApplyRequest(msgspec.Struct, tag_field="op", tag="apply"):
    """Make records so (replica.apply)."""

    changes: Annotated[list[Wanted], Meta(max_length=MAX_CHANGES)]
    force: bool = False
    dry_run: bool = False
    by: Annotated[str, Meta(max_length=200)] = "control"


class ClaimRequest(msgspec.Struct, tag_field="op", tag="claim"):
    """Let a backend take over mailboxes that are ACTIVE elsewhere, for so many seconds (0 ends it)."""

    server: Annotated[str, Meta(min_length=1)]
    seconds: Annotated[float, Meta(ge=0, le=86_400)]


class DeletesRequest(msgspec.Struct, tag_field="op", tag="deletes"):
    """Show the deletions that a follower holds back, and with `accept` let it make them."""

    accept: bool = False


Request = StatusRequest | ApplyRequest | ClaimRequest | DeletesRequest | RefillRequest


class NodeControl:
    """The operator's view of one node."""

    METRICS: ClassVar[dict[str, str]] = {
        "cyrusext_records": "Live records by server.",
        "cyrusext_tombstones": "Deletions remembered.",
        "cyrusext_seq": "Sequence of the last change.",
        "cyrusext_store_bytes": "Bytes used by the store.",
        "cyrusext_hot_generation": "Number of the hot table that answers look-ups; 0 when the store does.",
        "cyrusext_hot_load": "Part of its slots that is in use.",
        "cyrusext_hot_collisions": "Its slots and names for which the store is asked.",
        "cyrusext_fresh": "1 when all that is known is applied here.",
        "cyrusext_store_rebuilt": "1 when the store was built from a damaged one and its refill has not ended.",
        "cyrusext_commits_total": "Transactions committed.",
        "cyrusext_changes_total": "Records changed.",
        "cyrusext_write_queue": "Changes waiting for a commit.",
        "cyrusext_write_failing": "1 when the last commit failed.",
        "cyrusext_commit_seconds": "Time that a commit took.",
        "cyrusext_writes_refused_total": "Changes of MUPDATE clients that got NO.",
        "cyrusext_taken_over_total": "Mailboxes that a server took over from another.",
        "cyrusext_claims": "Seconds left of an operator's window for this server.",
        "cyrusext_suspect_records": "Records that have to be verified.",
        "cyrusext_reserved_too_long": "Reservations older than a minute.",
        "cyrusext_heartbeat_age_seconds": "Age of the heartbeat that readers go by.",
        "cyrusext_kicks_total": "Kicks of Cyrus processes answered.",
        "cyrusext_kick_sockets_failing": "Kick sockets that can not be had.",
        "cyrusext_reload_failing": "1 when the configuration file was not taken at the last reload.",
        "cyrusext_needs_restart": "Keys of the file that wait for a restart.",
        "cyrusext_build_info": "Always 1; its label has the version.",
        "cyrusext_mupdate_logins_total": "Logins.",
        "cyrusext_mupdate_failed_logins_total": "Failed logins.",
        "cyrusext_mupdate_queue_depth_max": "Records that wait for the subscriber that is furthest behind.",
        "cyrusext_mupdate_connections": "MUPDATE connections.",
        "cyrusext_mupdate_subscribers": "MUPDATE connections that stream.",
        "cyrusext_mupdate_turned_away_total": "Connections over max_connections.",
        "cyrusext_mupdate_gave_way_total": "Connections without a login that had to leave for new ones.",
        **Role.METRICS,
    }

    LABELS: ClassVar[dict[str, str]] = {
        "cyrusext_writes_refused_total": "reason",
        "cyrusext_mupdate_logins_total": "mechanism",
        "cyrusext_mupdate_failed_logins_total": "mechanism",
        "cyrusext_mupdate_connections": "state",
        "cyrusext_build_info": "version",
    }
    """Labels other than the server."""

    def __init__(
        self,
        version: str,
        store: Store,
        writer: GroupCommit,
        role: Role,
        feed: ChangeFeed,
        server: MupdateServer,
        upkeep: Upkeep,
        unsettled: Unsettled,
        kicks: KickDoor,
        reload: Reload,
        location: Callable[[bytes], ServerPartition],
        refills: Refilling,
    ) -> None:
        self._version = version
        self._kicks, self._reload = kicks, reload
        self._store, self._writer, self._role = store, writer, role
        self._directory = role.directory
        self._feed, self._server, self._location = feed, server, location
        self._upkeep, self._unsettled = upkeep, unsettled
        self._refills = refills
        self._since = time.monotonic()
        self._decoder = msgspec.msgpack.Decoder(Request)

    async def handle(self, frame: bytes) -> object:
        """Answer one request; raises msgspec.ValidationError for what is none."""
        request = self._decoder.decode(frame)
        if isinstance(request, DeletesRequest):
            return {"ok": True, **self._role.deletes(request.accept)}
        if isinstance(request, ApplyRequest | ClaimRequest):
            self._role.check_decides()
        if isinstance(request, ApplyRequest):
            return await self._apply(request)
        if isinstance(request, ClaimRequest):
            taken = self._directory.windows().get(request.server, {}).get("taken_over", 0)
            log.warning("backend.claim", server=request.server, seconds=request.seconds)
            self._directory.claim(request.server, request.seconds)
            return {"ok": True, "taken_over": taken}
        if isinstance(request, RefillRequest):
            self._role.check_decides()
            await self._refills.answer(request, self._reload.config.backends)
            return {"ok": True}
        return {"ok": True, "status": self.status()}

    async def _apply(self, request: ApplyRequest) -> object:
        work = ApplyWork(
            request.changes, force=request.force, dry_run=request.dry_run, by=request.by, location=self._location
        )
        applied: Applied | CyrusExtError = await self._writer.submit(work)
        if isinstance(applied, CyrusExtError):
            return error_reply(applied.code, str(applied))
        if not request.dry_run and applied.before:
            log.info(
                "records.applied",
                by=request.by,
                force=request.force,
                created=applied.created,
                changed=applied.changed,
                deleted=applied.deleted,
                refused=len(applied.refused),
            )
        return {"ok": True, **msgspec.structs.asdict(applied)}

    def status(self) -> dict[str, object]:
        """Return what `cyrusext status` shows."""
        stat, hot = self._store.stat(), self._store.hot()
        return {
            "node": self._reload.config.node.name,
            "version": self._version,
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._since,
            "role": self._role.name,
            "directory": "embedded",
            "fresh": self._directory.is_fresh,
            "refill": self._refills.status(),
            "seq": stat.seq,
            "entries": stat.entries,
            "active": stat.active,
            "reserved": stat.reserved,
            "tombstones": stat.tombstones,
            "servers": stat.servers,
            "store_bytes": stat.bytes_used,
            "hot": hot.shown() if hot else "none: look-ups ask the store",
            "connections": len(self._server),
            "subscribers": len(self._feed),
            "commits": self._writer.commits,
            "changes": self._writer.changes,
            "write_queue": self._writer.queued,
            "last_error": self._writer.last_error,
            "claims": self._directory.windows(),
            "suspects": self._unsettled.suspects,
            "reserved_too_long": self._unsettled.reserved_too_long,
            "suspect_mailboxes": [
                name.decode("utf-8", "backslashreplace") for name in self._unsettled.first(SHOWN_SUSPECTS)
            ],
            "kicks": self._kicks.kicks,
            "kick_sockets": {path: self._kicks.failures.get(path, "served") for path in self._kicks.paths},
            **self._role.status(),
            "needs_restart": self._reload.needs_restart,
            "reload_error": self._reload.failure,
        }

    def unready(self) -> str:
        """Say why this node should not be asked now, or ""."""
        return self._role.unready()

    def metrics(self) -> Values:
        """Return the values of `METRICS`."""
        stat, hot, tally = self._store.stat(), self._store.hot(), self._server.service.tally
        return {
            "cyrusext_records": {server: float(count) for server, count in stat.servers.items()},
            "cyrusext_tombstones": stat.tombstones,
            "cyrusext_seq": stat.seq,
            "cyrusext_store_bytes": stat.bytes_used,
            "cyrusext_hot_generation": hot.generation if hot else 0,
            "cyrusext_hot_load": hot.load if hot else 0.0,
            "cyrusext_hot_collisions": hot.alike + hot.homeless if hot else 0,
            "cyrusext_fresh": float(self._directory.is_fresh),
            "cyrusext_store_rebuilt": float(bool(self._refills.rebuilt_from)),
            "cyrusext_commits_total": self._writer.commits,
            "cyrusext_changes_total": self._writer.changes,
            "cyrusext_write_queue": self._writer.queued,
            "cyrusext_write_failing": float(bool(self._writer.last_error)),
            "cyrusext_commit_seconds": self._writer.latency,
            "cyrusext_writes_refused_total": dict(tally.refused),
            "cyrusext_taken_over_total": self._directory.taken_over,
            "cyrusext_claims": {server: window["seconds_left"] for server, window in self._directory.windows().items()},
            "cyrusext_suspect_records": self._unsettled.suspects,
            "cyrusext_reserved_too_long": self._unsettled.reserved_too_long,
            "cyrusext_heartbeat_age_seconds": self._upkeep.beat_age_s,
            "cyrusext_kicks_total": self._kicks.kicks,
            "cyrusext_kick_sockets_failing": len(self._kicks.failures),
            "cyrusext_reload_failing": float(bool(self._reload.failure)),
            "cyrusext_needs_restart": len(self._reload.needs_restart),
            "cyrusext_build_info": {self._version: 1.0},
            "cyrusext_mupdate_logins_total": dict(tally.logins),
            "cyrusext_mupdate_failed_logins_total": dict(tally.failed_logins),
            "cyrusext_mupdate_connections": self._server.by_state(),
            "cyrusext_mupdate_subscribers": len(self._feed),
            "cyrusext_mupdate_queue_depth_max": self._feed.deepest,
            "cyrusext_mupdate_turned_away_total": self._server.turned_away,
            "cyrusext_mupdate_gave_way_total": self._server.gave_way,
            **self._role.metrics(),
        }
