"""The node: the store, the MUPDATE server, the doors and the control socket, assembled from the configuration.

Rule: what needs root comes first (directories, listening sockets), then root is given up, then everything else; the
parts start in order, stop in reverse, and what was opened is closed however the node ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
from typing import NamedTuple

import uvloop

from cyrusext.directory.modes import RULES, Mode
from cyrusext.doors.kick import KickDoor
from cyrusext.errors import CyrusExtError
from cyrusext.mupdate.leftover import Leftovers
from cyrusext.mupdate.server import MupdateServer
from cyrusext.mupdate.service import Service
from cyrusext.net.login_pool import LoginPool
from cyrusext.net.sasl import Logins
from cyrusext.net.tls import ServerTls
from cyrusext.node import refilling
from cyrusext.node.control import NodeControl
from cyrusext.node.listeners import Listeners
from cyrusext.node.places import look_at_store, prepare_directories, settle_mode, state_lock
from cyrusext.node.reload import Reload
from cyrusext.node.role import take_role
from cyrusext.node.settings import configured, metrics_addresses, open_logins, open_tls
from cyrusext.replica.feed import ChangeFeed
from cyrusext.replica.hot import HotTable
from cyrusext.replica.unsettled import Unsettled
from cyrusext.replica.upkeep import Upkeep
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import lifecycle as life
from cyrusext.runtime import logging, metrics, privileges
from cyrusext.runtime.config import Config
from cyrusext.runtime.config_check import require
from cyrusext.runtime.control import ControlServer
from cyrusext.runtime.log_limit import PeerLog
from cyrusext.runtime.watchdog import Watchdog
from cyrusext.store import Store

log = logging.get()


class Places(NamedTuple):
    """Where a node is asked: what was bound while it was root."""

    mupdate: Listeners
    metrics: Listeners
    kicks: KickDoor


def version() -> str:
    """Return the version of the installed cyrusext; "unknown" when it runs without being installed."""
    try:
        return importlib.metadata.version("cyrusext")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def run(config: Config) -> int:
    """Run the node until SIGTERM or SIGINT; return its exit status.

    Raises ConfigError or StoreError where it can not start; nothing is left running then.
    """
    logging.setup(config.log.level)
    for notice in require(config, "node"):
        log.warning("config.notice", notice=notice)
    tls = open_tls(config.mupdate)  # the key may be root's alone
    with contextlib.ExitStack() as stack:
        prepare_directories(config)
        # Bound now and listened on last: until the node can answer, clients are refused and not kept waiting.
        places = Places(stack.enter_context(Listeners()), stack.enter_context(Listeners()), KickDoor())
        stack.callback(places.kicks.close)
        places.mupdate.bind(config.mupdate.listen)
        places.metrics.bind(metrics_addresses(config))
        places.kicks.set_paths(config.lookup.kick_sockets)
        # Only a member of reader_group may give the store to it.
        privileges.drop(config.node.user, config.node.group, keep_group=config.node.reader_group)
        stack.enter_context(state_lock(config.node.state_dir))
        logins = open_logins(config)
        look_at_store(config)
        store = stack.enter_context(
            Store.open(
                config.node.state_dir,
                run_dir=config.node.run_dir,
                names=config.names.rules()._asdict(),
                reader_group=config.node.reader_group,
                no_max_age_s=config.lookup.no_max_age_s,
            )
        )
        settle_mode(store, Mode(config.mupdate.mode))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, store, logins, tls, places))


async def _serve(config: Config, store: Store, logins: Logins, tls: ServerTls | None, places: Places) -> int:
    if was := store.forget_upgrade():
        log.warning("store.upgraded", from_format=was)
    feed = ChangeFeed()
    writer = GroupCommit(store, write_wait_s=config.mupdate.write_wait_s)
    rules = RULES[Mode(config.mupdate.mode)]
    role = take_role(config, store, writer, rules)
    directory = role.directory
    peer_log = PeerLog(log)
    upkeep = Upkeep(store, writer, lambda: directory.is_fresh, peer_log)
    writer.on_commit(upkeep.beat)
    writer.on_commit(feed.publish)
    if role.follower is not None:
        role.follower.on_turn = upkeep.beat
    if role.leading is not None:
        writer.on_commit(role.leading.committed)
    unsettled = Unsettled(store, role.mark)
    writer.on_commit(unsettled.learn)
    refill = refilling.load(store, config.node.state_dir, decides=role.follower is None)
    service = Service(
        hostname=config.node.name,
        version=version(),
        records=store,
        directory=directory,
        feed=feed,
        logins=logins,
        login_pool=LoginPool(),
        admins=frozenset(),
        give_way=writer.quiet,
        leftovers=Leftovers(store.get) if rules.push_removes else None,
        refill=refill,
        rules=rules,
        leading=role.leading,
        leader=role.leader,
        peer_log=peer_log,
    )
    server = MupdateServer(configured(service, config, tls, logins), places.mupdate.sockets)

    places.kicks.is_caught_up = lambda: directory.is_fresh
    reload = Reload(config, store, writer, server)
    refills = refilling.Refilling(store, writer, refill, directory)
    shown = (role, feed, server, upkeep, unsettled, places.kicks, reload, rules.location, refills)
    control = NodeControl(version(), store, writer, *shown)
    registry = metrics.new_registry(control.metrics, control.METRICS, control.LABELS)
    door = metrics.MetricsServer(places.metrics.sockets, registry, control.unready)
    reload.add_door(server, places.mupdate, lambda taken: taken.mupdate.listen)
    reload.add_door(door, places.metrics, metrics_addresses)
    reload.on_reload(role.reload)
    reload.on_reload(lambda taken: places.kicks.set_paths(taken.lookup.kick_sockets))

    def ready() -> None:
        names = places.mupdate.names()
        log.info("node.ready", node=config.node.name, version=version(), listen=names, seq=store.seq)

    sockets = ControlServer(config.node.run_dir / "control", control.handle)
    hot = HotTable(store)
    parts: list[life.Service] = [writer, upkeep, hot, unsettled, *role.services, sockets, server, places.kicks, door]
    lifecycle = life.Lifecycle(parts, watchdog=Watchdog(lambda: writer.hung))
    code = await lifecycle.run(ready, reload=reload.run)
    if writer.is_running:
        # It hangs in a commit: closing the store under it is not possible, and what it had acknowledged is durable.
        log.critical("node.abandoned", node=config.node.name, reason="a commit does not end")
        os._exit(CyrusExtError.exit_code)
    log.info("node.stopped", node=config.node.name, seq=store.seq)
    return code
