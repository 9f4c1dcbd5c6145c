"""What the router tells of itself: to Prometheus, and to `lmtp-router status`.

Rule: it is one router, however many workers it has: figures are sums over them, at most about a second old, and
nothing here asks a worker.
"""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar

import msgspec

from cyrusext.runtime.metrics import Label, Values
from lmtp_router.listening import Listening
from lmtp_router.reload import Reload
from lmtp_router.supervisor import Crew
from lmtp_router.tally import pools_of


class StatusRequest(msgspec.Struct, tag_field="op", tag="status"):
    """What the router is and does."""


class Figures:
    """The operator's view of one router."""

    METRICS: ClassVar[dict[str, str]] = {
        "cyrusext_build_info": "Always 1; its label has the version.",
        "cyrusext_lmtp_sessions": "Clients connected.",
        "cyrusext_lmtp_sessions_total": "Clients that were greeted.",
        "cyrusext_lmtp_refused_total": "Clients that were not served, by reason.",
        "cyrusext_lmtp_logins_total": "Logins of clients, by what came of them.",
        "cyrusext_lmtp_transactions_total": "Transactions in which a recipient had its last word.",
        "cyrusext_lmtp_express_total": "Transactions that were passed on without being taken apart.",
        "cyrusext_lmtp_recipients_total": "Recipients by backend and by what became of them.",
        "cyrusext_lmtp_rejects_total": "Recipients not delivered, by code and enhanced status code.",
        "cyrusext_lmtp_received_bytes_total": "Octets of messages taken from clients.",
        "cyrusext_lmtp_delivered_bytes_total": "Octets of messages that a backend took.",
        "cyrusext_lmtp_phase_seconds": "How long a backend's transaction was in each phase.",
        "cyrusext_lmtp_connections": "Connections to a backend by state.",
        "cyrusext_lmtp_waiting": "Deliveries that wait for a connection to a backend.",
        "cyrusext_lmtp_breaker_open": "1 while nothing, or one attempt only, is made to reach a backend.",
        "cyrusext_lmtp_connects_total": "Connections made to a backend.",
        "cyrusext_lmtp_connect_failures_total": "Connections to a backend that did not come to be.",
        "cyrusext_lmtp_workers": "Worker processes, those that retire too.",
        "cyrusext_lmtp_workers_silent": "Workers that do not answer.",
        "cyrusext_lmtp_worker_restarts_total": "Workers that died and were replaced.",
        "cyrusext_lmtp_worker_hung_total": "Those of them that had been killed because they hung.",
        "cyrusext_lmtp_worker_cpu_seconds": "Processor time of the workers that live.",
        "cyrusext_lmtp_worker_resident_bytes": "Memory of the workers that live.",
        "cyrusext_lmtp_reload_failing": "1 when the configuration file was not taken at the last reload.",
        "cyrusext_lmtp_needs_restart": "Keys of the file that wait for a restart.",
    }

    LABELS: ClassVar[dict[str, Label]] = {
        "cyrusext_build_info": "version",
        "cyrusext_lmtp_refused_total": "reason",
        "cyrusext_lmtp_logins_total": "result",
        "cyrusext_lmtp_recipients_total": ("backend", "verdict"),
        "cyrusext_lmtp_rejects_total": "reason",
        "cyrusext_lmtp_delivered_bytes_total": "backend",
        "cyrusext_lmtp_phase_seconds": "phase",
        "cyrusext_lmtp_connections": ("endpoint", "state"),
        "cyrusext_lmtp_waiting": "endpoint",
        "cyrusext_lmtp_breaker_open": "endpoint",
        "cyrusext_lmtp_connects_total": "endpoint",
        "cyrusext_lmtp_connect_failures_total": "endpoint",
        "cyrusext_lmtp_worker_cpu_seconds": "pid",
        "cyrusext_lmtp_worker_resident_bytes": "pid",
    }

    def __init__(self, version: str, crew: Crew, listening: Listening, reload: Reload) -> None:
        self._version, self._crew, self._listening, self._reload = version, crew, listening, reload
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._decoder = msgspec.msgpack.Decoder(StatusRequest)

    async def handle(self, frame: bytes) -> object:
        """Answer one request; raises msgspec.ValidationError for what is none."""
        self._decoder.decode(frame)
        return {"ok": True, "status": self.status()}

    def unready(self) -> str:
        """Say why this router should not be given mail now, or ""."""
        if not self._crew.serving:
            return "no worker serves"
        return "no worker answers" if self._crew.silent >= self._crew.terms.workers else ""

    def status(self) -> dict[str, object]:
        """Return what `lmtp-router status` shows."""
        crew, tally = self._crew, self._crew.tally
        recipients: dict[str, int] = {}
        for verdicts in tally.recipients.values():
            for verdict, count in verdicts.items():
                recipients[verdict] = recipients.get(verdict, 0) + count
        return {
            "router": crew.terms.config.node.name,
            "version": self._version,
            "pid": os.getpid(),
            "uptime_s": self._loop.time() - self._since,
            "listen": self._listening.names(),
            "sessions": sum(snapshot.sessions for snapshot in crew.snapshots),
            "sessions_total": tally.sessions,
            "refused": tally.refused,
            "logins": tally.logins,
            "transactions": tally.transactions,
            "express": tally.express,
            "recipients": recipients,
            "received_bytes": tally.received_bytes,
            "backends": {
                endpoint: {
                    **msgspec.structs.asdict(pool),
                    "connects": tally.connects.get(endpoint, 0),
                    "failures": tally.failures.get(endpoint, 0),
                }
                for endpoint, pool in sorted(pools_of(crew.snapshots).items())
            },
            "phases": {
                phase: {"p50_ms": _ms(counts.quantile_s(0.5)), "p99_ms": _ms(counts.quantile_s(0.99))}
                for phase, counts in crew.recent().items()
            },
            "workers": [
                {
                    "worker": process.place,
                    "pid": process.pid,
                    "state": "retiring" if process.retiring else "serving" if process.ready else "starting",
                    "uptime_s": round(self._loop.time() - process.started, 1),
                    "silent_s": round(crew.silent_s(process), 1),
                    "sessions": process.snapshot.sessions,
                    "rss_bytes": process.snapshot.rss_bytes,
                }
                for process in crew.processes
            ],
            "workers_silent": crew.silent,
            "worker_restarts": crew.restarts,
            "worker_hung": crew.hung,
            "reloads": self._reload.count,
            "needs_restart": self._reload.needs_restart,
            "reload_error": self._reload.failure,
        }

    def metrics(self) -> Values:
        """Return the values of `METRICS`."""
        crew, tally = self._crew, self._crew.tally
        pools = pools_of(crew.snapshots)
        states: dict[Label, float] = {
            (endpoint, state): float(count)
            for endpoint, pool in pools.items()
            for state, count in (
                ("idle", pool.idle),
                ("busy", pool.connections - pool.idle),
                ("connecting", pool.connecting),
            )
        }
        recipients: dict[Label, float] = {
            (server, verdict): float(count)
            for server, verdicts in tally.recipients.items()
            for verdict, count in verdicts.items()
        }
        return {
            "cyrusext_build_info": {self._version: 1.0},
            "cyrusext_lmtp_sessions": sum(snapshot.sessions for snapshot in crew.snapshots),
            "cyrusext_lmtp_sessions_total": tally.sessions,
            "cyrusext_lmtp_refused_total": _floats(tally.refused),
            "cyrusext_lmtp_logins_total": _floats(tally.logins),
            "cyrusext_lmtp_transactions_total": tally.transactions,
            "cyrusext_lmtp_express_total": tally.express,
            "cyrusext_lmtp_recipients_total": recipients,
            "cyrusext_lmtp_rejects_total": _floats(tally.rejects),
            "cyrusext_lmtp_received_bytes_total": tally.received_bytes,
            "cyrusext_lmtp_delivered_bytes_total": _floats(tally.delivered_bytes),
            "cyrusext_lmtp_phase_seconds": {phase: counts.histogram() for phase, counts in tally.phases.items()},
            "cyrusext_lmtp_connections": states,
            "cyrusext_lmtp_waiting": {endpoint: float(pool.waiting) for endpoint, pool in pools.items()},
            "cyrusext_lmtp_breaker_open": {
                endpoint: float(pool.breaker != "closed") for endpoint, pool in pools.items()
            },
            "cyrusext_lmtp_connects_total": _floats(tally.connects),
            "cyrusext_lmtp_connect_failures_total": _floats(tally.failures),
            "cyrusext_lmtp_workers": len(crew.processes),
            "cyrusext_lmtp_workers_silent": crew.silent,
            "cyrusext_lmtp_worker_restarts_total": crew.restarts,
            "cyrusext_lmtp_worker_hung_total": crew.hung,
            "cyrusext_lmtp_worker_cpu_seconds": {str(one.pid): one.snapshot.cpu_s for one in crew.processes},
            "cyrusext_lmtp_worker_resident_bytes": {
                str(one.pid): float(one.snapshot.rss_bytes) for one in crew.processes
            },
            "cyrusext_lmtp_reload_failing": float(bool(self._reload.failure)),
            "cyrusext_lmtp_needs_restart": len(self._reload.needs_restart),
        }


def _floats(counts: dict[str, int]) -> dict[str, float]:
    return {key: float(count) for key, count in counts.items()}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
