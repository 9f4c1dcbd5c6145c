"""The node: the store, the MUPDATE server and the control socket, assembled from the configuration.

Rule: what needs root comes first (directories, listening sockets), then root is given up, then everything else; the
parts start in order, stop in reverse, and what was opened is closed however the node ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from cyrusext.directory.embedded import EmbeddedDirectory
from cyrusext.errors import ConfigError, CyrusExtError, StoreError
from cyrusext.mupdate.leftover import Leftovers
from cyrusext.mupdate.server import MupdateServer
from cyrusext.mupdate.service import Bounds, Network, Order, Service
from cyrusext.net import address
from cyrusext.net.sasl import FileLogins, LoginPool, Logins, SaslLogins
from cyrusext.net.tls import ServerTls
from cyrusext.node.control import NodeControl
from cyrusext.replica.feed import ChangeFeed
from cyrusext.replica.upkeep import Upkeep
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import lifecycle as life
from cyrusext.runtime import logging, metrics, privileges
from cyrusext.runtime.config import Config, load
from cyrusext.runtime.config_check import require
from cyrusext.runtime.config_schema import MupdateSection
from cyrusext.runtime.control import ControlServer
from cyrusext.store import Store

log = logging.get()


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
        addresses = [address.parse(text) for text in config.mupdate.listen]
        sockets = _owned(stack, address.bind_all(addresses, listen=False))
        metrics_sockets: list[socket.socket] = []
        if config.metrics.listen:
            metrics_sockets = _owned(stack, address.bind(address.parse(config.metrics.listen), listen=False))
        # Only a member of reader_group may give the store to it.
        privileges.drop(config.node.user, config.node.group, keep_group=config.node.reader_group)
        stack.enter_context(state_lock(config.node.state_dir))
        logins = open_logins(config)
        store = stack.enter_context(
            Store.open(
                config.node.state_dir,
                run_dir=config.node.run_dir,
                names=config.names.rules()._asdict(),
                reader_group=config.node.reader_group,
                no_max_age_s=config.lookup.no_max_age_s,
            )
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, store, logins, tls, sockets, metrics_sockets))


async def _serve(
    config: Config,
    store: Store,
    logins: Logins,
    tls: ServerTls | None,
    sockets: Sequence[socket.socket],
    metrics_sockets: Sequence[socket.socket],
) -> int:
    feed = ChangeFeed()
    writer = GroupCommit(store, write_wait_s=config.mupdate.write_wait_s)
    directory = EmbeddedDirectory(writer, takeover=config.mupdate.takeover == "allow")
    upkeep = Upkeep(store, writer, lambda: directory.is_fresh)
    writer.on_commit(upkeep.beat)
    writer.on_commit(feed.publish)
    service = Service(
        hostname=config.node.name,
        version=version(),
        records=store,
        directory=directory,
        feed=feed,
        logins=logins,
        login_pool=LoginPool(),
        admins=frozenset(config.mupdate.admins),
        mechanisms=tuple(mechanism.upper() for mechanism in config.mupdate.mechanisms),
        tls=tls,
        resend_after_s=config.mupdate.resend_after_s,
        orders=orders(config.mupdate),
        bounds=Bounds(connections=config.mupdate.max_connections),
        leftovers=Leftovers(store.get, store.seq),
    )
    server = MupdateServer(service, sockets)
    control = NodeControl(config.node.name, version(), store, writer, directory, feed, server)
    parts: list[life.Service] = [
        writer,
        upkeep,
        ControlServer(config.node.run_dir / "control", control.handle),
        server,
    ]
    if metrics_sockets:
        registry = metrics.new_registry(control.metrics, control.METRICS)
        parts.append(metrics.MetricsServer(metrics_sockets, registry, control.unready))

    def ready() -> None:
        listening = " ".join(_name_of(sock) for sock in sockets)
        log.info("node.ready", node=config.node.name, version=version(), listen=listening, seq=store.seq)

    lifecycle = life.Lifecycle(parts)
    code = await lifecycle.run(ready, reload=lambda: reload(config, tls))
    if writer.is_running:
        # It hangs in a commit: closing the store under it is not possible, and what it had acknowledged is durable.
        log.critical("node.abandoned", node=config.node.name, reason="a commit does not end")
        os._exit(CyrusExtError.exit_code)
    log.info("node.stopped", node=config.node.name, seq=store.seq)
    return code


def reload(config: Config, tls: ServerTls | None = None) -> None:
    """SIGHUP: take the log level and the certificates anew; password files are read anew by themselves.

    A bad file changes nothing.
    """
    try:
        fresh = load(None if config.source == Config().source else Path(config.source))
        if tls is not None:
            tls.reload()
    except ConfigError as error:
        log.error("node.reload_failed", error=error)
        return
    logging.setup(fresh.log.level)
    log.info("node.reloaded", log_level=fresh.log.level)


def open_tls(section: MupdateSection) -> ServerTls | None:
    """Return what STARTTLS needs, None where there is no certificate.  Raises ConfigError."""
    return ServerTls(section.tls_cert, section.tls_key, section.tls_client_ca) if section.tls_cert else None


def orders(section: MupdateSection) -> list[tuple[Network, Order]]:
    """Return the networks of `order`, the most specific first."""
    entries: list[tuple[Network, Order]] = [
        (ipaddress.ip_network(entry.net, strict=False), entry.order) for entry in section.order
    ]
    return sorted(entries, key=lambda entry: entry[0].prefixlen, reverse=True)


def open_logins(config: Config) -> Logins:
    """Return what checks passwords.  Raises ConfigError."""
    section = config.mupdate
    if section.pwcheck == "file":
        return FileLogins(Path(section.password_file))
    options = {"mech_list": " ".join(section.mechanisms)}
    if section.pwcheck == "saslauthd":
        options |= {"pwcheck_method": "saslauthd"}
        if section.saslauthd_path:
            options |= {"saslauthd_path": section.saslauthd_path}
    else:
        options |= {"pwcheck_method": "auxprop", "auxprop_plugin": "sasldb"}
        if section.sasldb_path:
            options |= {"sasldb_path": section.sasldb_path}
    return SaslLogins(
        service="mupdate", hostname=config.node.name, realm=section.realm or config.node.name, options=options
    )


def prepare_directories(config: Config) -> None:
    """Make state_dir and run_dir where they are missing, for the user that the node becomes.  Raises ConfigError."""
    uid, gid = privileges.resolve(config.node.user, config.node.group)
    for place in (config.node.state_dir, config.node.run_dir):
        try:
            if not place.is_dir():
                place.mkdir(mode=0o755, parents=True)
                if os.geteuid() == 0:
                    os.chown(place, uid, gid)
        except OSError as error:
            raise ConfigError(f"{place} can not be made: {error.strerror}") from error


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock of `state_dir`; raises StoreError, naming the process, when another node has it."""
    path = state_dir / "node.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(f"{state_dir} is in use by another node (process {pid})") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _owned(stack: contextlib.ExitStack, sockets: list[socket.socket]) -> list[socket.socket]:
    for sock in sockets:
        stack.callback(_release, sock, str(sock.getsockname()) if sock.family == socket.AF_UNIX else "")
    return sockets


def _release(sock: socket.socket, path: str) -> None:
    sock.close()
    if path:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _name_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if sock.family == socket.AF_UNIX else str(address.TcpAddress(name[0], name[1]))
