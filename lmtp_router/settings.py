"""What a worker's sessions have in common, from the configuration.

Rule: everything that can be wrong with it is a ConfigError of the parent, before there is a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cyrusext.errors import ConfigError
from cyrusext.runtime.config import Config
from lmtp_router.interfaces import Deadlines
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol.handshake import Tls
from lmtp_router.protocol.server import Limits

if TYPE_CHECKING:
    # Loaded only where there is TLS, or where clients log in.
    from cyrusext.net.tls import ClientTls, ServerTls
    from lmtp_router.logins import ClientLogins


UNIX = "unix"
"""In `[lmtp] trusted`: clients by a UNIX socket."""


class BackendTls(NamedTuple):
    """How connections to backends are encrypted.

    ``external``: `tls` has a certificate that says who we are.  ``name_of`` gives the name that the certificate of a
    server must have.
    """

    mode: Tls
    tls: ClientTls
    external: bool
    name_of: Callable[[str], str]


class PoolLimits(NamedTuple):
    """Bounds of the connections to one backend, of each worker."""

    connections: int = 200
    waiting: int = 2000
    """Deliveries that wait for one of them."""
    idle_s: float = 60.0
    noop_s: float = 0.0
    """How often an unused one is asked whether it lives; 0: never."""


class Settings(NamedTuple):
    """What a worker's sessions have in common."""

    hostname: str
    limits: Limits
    replace_bare_newlines: bool
    body_buffer: int
    deadlines: Deadlines
    idle_s: float
    credentials: tuple[str, str] | None
    disclosure: Disclosure
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that may deliver, besides this machine itself, and whose word on others is believed."""
    trusts_unix: bool = False
    """So is that of clients by a UNIX socket."""
    tls: ServerTls | None = None
    """For clients; None: none is offered."""
    max_hops: int = 0
    """Received fields that a message may have; 0: nobody counts."""
    received: bool = False
    """Write one before each message."""
    backend_tls: BackendTls | None = None
    """None: in the clear."""
    pool: PoolLimits = PoolLimits()
    backend_xclient: bool = False
    logins: ClientLogins | None = None
    """None: clients can not log in."""

    def admits(self, peer: object) -> bool:
        """True if the client at `peer` (a socket address, empty for a UNIX socket) may deliver."""
        return is_local(peer) or self.believes(peer)

    @property
    def hears_strangers(self) -> bool:
        """True if who may not deliver by his address may come to log in."""
        return self.logins is not None and self.tls is not None

    def believes(self, peer: object) -> bool:
        """True if what the client at `peer` says of others, and of who comes through it, is believed."""
        if not isinstance(peer, tuple):
            return self.trusts_unix
        if not self.trusted:
            return False
        address = ip_address(peer[0].partition("%")[0])
        return any(address in network for network in self.trusted)


def is_local(peer: object) -> bool:
    """True if `peer` (a socket address, empty for a UNIX socket) is of this machine."""
    return not isinstance(peer, tuple) or peer[0].startswith("127.") or peer[0] == "::1"


def settings_of(config: Config) -> Settings:
    """Return what the sessions need; reads the password file.  Raises ConfigError."""
    lmtp = config.lmtp
    hostname = config.node.name
    if not (hostname.isascii() and hostname.isprintable() and " " not in hostname):
        raise ConfigError(f"{config.source}: [node] name: expected a name that can be sent in LHLO, got {hostname!r}")
    return Settings(
        hostname=hostname,
        limits=Limits(max_size=lmtp.max_size_bytes),
        replace_bare_newlines=lmtp.bare_newline == "replace",
        body_buffer=lmtp.body_buffer_bytes,
        deadlines=lmtp.timeouts,
        idle_s=lmtp.timeouts.idle,
        credentials=_credentials(config),
        disclosure=Disclosure(config.log.recipients),
        tls=_tls(config),
        pool=PoolLimits(lmtp.backend_connections, lmtp.backend_waiting, lmtp.backend_idle_s, lmtp.backend_noop_s),
        backend_xclient=lmtp.backend_xclient,
        max_hops=lmtp.max_hops,
        received=lmtp.received,
        backend_tls=_backend_tls(config),
        trusted=tuple(ip_network(text, strict=False) for text in lmtp.trusted if text != UNIX),
        trusts_unix=UNIX in lmtp.trusted,
        logins=_logins(config),
    )


def _logins(config: Config) -> ClientLogins | None:
    lmtp = config.lmtp
    if lmtp.pwcheck == "off":
        return None
    from cyrusext.net.sasl import PasswordFile
    from lmtp_router.logins import ClientLogins

    if lmtp.pwcheck == "file":
        PasswordFile(Path(lmtp.password_file))
    return ClientLogins(lmtp, frozenset(lmtp.auth_users))


def _tls(config: Config) -> ServerTls | None:
    lmtp = config.lmtp
    if not lmtp.tls_cert:
        return None
    from cyrusext.net.tls import ServerTls

    return ServerTls(lmtp.tls_cert, lmtp.tls_key)


def _backend_tls(config: Config) -> BackendTls | None:
    lmtp = config.lmtp
    if lmtp.backend_tls == "off":
        return None
    from cyrusext.net.tls import ClientTls

    verify = lmtp.backend_tls == "verify"
    tls = ClientTls(lmtp.backend_tls_ca, lmtp.backend_tls_cert, lmtp.backend_tls_key, verify=verify)
    mode = Tls.VERIFY if verify else Tls.MAY
    return BackendTls(mode, tls, external=bool(lmtp.backend_tls_cert), name_of=config.backends.certificate_name)


def _credentials(config: Config) -> tuple[str, str] | None:
    lmtp = config.lmtp
    if not lmtp.backend_user:
        return None
    if not lmtp.backend_password_file:
        raise ConfigError(f"{config.source}: [lmtp] backend_password_file: expected, because backend_user is set")
    try:
        lines = Path(lmtp.backend_password_file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config.source}: [lmtp] backend_password_file: can not be read: {error}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{config.source}: [lmtp] backend_password_file: its first line is empty")
    return lmtp.backend_user, lines[0]
