"""The sections of cyrusext.toml: every key with its type, its default and what it means.

Rule: this file is the only place where a key is declared.  Loading, `config show`, and docs/configuration.md all read
it.  An empty file is a valid configuration of one machine without LDAP.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cyrusext.names import NameRules

_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?", re.ASCII)
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_size(text: str) -> int:
    """Parse ``512``, ``64KiB``, ``1MiB`` or ``2GiB`` into bytes; raises ValueError saying what was expected."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(match[1]) > 12:
        raise ValueError(f'expected a size such as "64KiB" or "1MiB", got {text!r}')
    return int(match[1]) * _UNITS[match[2] or ""]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections."""


Seconds = Annotated[float, Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class NodeSection(Section, frozen=True):
    """The node itself: its name, its places, its rights."""

    name: Annotated[str, Meta(min_length=1, description="Name of this node, as the banner and `status` show it.")] = (
        "node1"
    )
    state_dir: Annotated[Path, Meta(description="Directory of the store; survives reboots.")] = Path(
        "/var/lib/cyrusext"
    )
    run_dir: Annotated[Path, Meta(description="Directory of sockets and the heartbeat; may be a tmpfs.")] = Path(
        "/run/cyrusext"
    )
    user: Annotated[str, Meta(description="User to become after binding; empty: stay who we are.")] = ""
    group: Annotated[str, Meta(description="Group to become after binding; empty: the user's own group.")] = ""
    reader_group: Annotated[
        str, Meta(description="Group that may read the store (its lock file gets mode 0660); empty: nobody else.")
    ] = ""
    follow: Annotated[
        str, Meta(description="Embedded store only: `host:port` of the one node that writes; this one follows it.")
    ] = ""
    follow_user: Annotated[
        str, Meta(min_length=1, description="Who to log in as at the node that is followed: one of its `admins`.")
    ] = "murder"
    follow_password_file: Annotated[str, Meta(description="File with that user's password.")] = ""
    follow_tls_ca: Annotated[
        str,
        Meta(
            description="CA (PEM) of the certificate of the node that is followed; empty: no TLS, which is possible on"
            " loopback only."
        ),
    ] = ""
    cluster_id: Annotated[str, Meta(description="Names the cluster: a node follows only one that has the same.")] = ""


class NamesSection(Section, frozen=True):
    """How mailbox names and addresses are written; must agree with imapd.conf on the Cyrus machines."""

    virtdomains: Annotated[bool, Meta(description="Users have a domain (imapd.conf `virtdomains`).")] = False
    default_domain: Annotated[
        str, Meta(description="Domain whose users are named without it (imapd.conf `defaultdomain`).")
    ] = ""
    unix_hierarchy_separator: Annotated[
        bool, Meta(description="External names use `/` and may have dots (imapd.conf `unixhierarchysep`).")
    ] = False
    recipient_delimiter: Annotated[
        str, Meta(description="Characters that end the user in `user+detail@domain`; empty: none.")
    ] = "+"
    postuser: Annotated[
        str,
        Meta(description="Local part that stands for no user: `postuser+shared.folder@domain` (`postuser`)."),
    ] = ""
    downcase: Annotated[
        bool, Meta(description="Lower-case user and domain of an address (imapd.conf `lmtp_downcase_rcpt`).")
    ] = True

    def rules(self) -> NameRules:
        """Return the same as the value that cyrusext.names takes."""
        return NameRules(
            self.virtdomains,
            self.default_domain,
            self.unix_hierarchy_separator,
            self.recipient_delimiter,
            self.postuser,
            self.downcase,
        )


class ClientOrder(Section, frozen=True):
    """One entry of `order`: which order LIST and UPDATE have for the clients of a network."""

    net: str
    order: Literal["cyrus", "strcmp"] = "cyrus"


class MupdateSection(Section, frozen=True):
    """The MUPDATE server that Cyrus backends and frontends talk to."""

    listen: Annotated[
        tuple[str, ...], Meta(description="Where to listen: `host:port`, `[v6]:port` or `unix:/path`.")
    ] = ("127.0.0.1:3905",)
    mode: Annotated[
        Literal["standard", "unified", "replicated"],
        Meta(
            description="As Cyrus' `mupdate_config`. Unified: every server stands in `[backends]` with its host, which"
            " tells its slave from others. Replicated: locations are partitions, servers have no slave. See"
            " [the decision](decisions/modes.md)."
        ),
    ] = "standard"
    admins: Annotated[tuple[str, ...], Meta(description="Only these users may log in.")] = ("murder",)
    mechanisms: Annotated[
        tuple[str, ...],
        Meta(
            description="SASL mechanisms to offer, of PLAIN (on loopback, UNIX sockets and under TLS only),"
            " SCRAM-SHA-512, SCRAM-SHA-256, SCRAM-SHA-1, DIGEST-MD5, EXTERNAL (a client certificate) and GSSAPI;"
            " libsasl2 must have them."
        ),
    ] = ("PLAIN",)
    pwcheck: Annotated[
        Literal["sasldb", "saslauthd", "file"],
        Meta(description='Where passwords are checked; "file" (with `password_file`) serves PLAIN only.'),
    ] = "sasldb"
    sasldb_path: Annotated[str, Meta(description="The sasldb file; empty: libsasl2's own default.")] = ""
    saslauthd_path: Annotated[str, Meta(description="saslauthd's socket; empty: libsasl2's own default.")] = ""
    realm: Annotated[str, Meta(description="SASL realm of users without one; empty: the node's host name.")] = ""
    password_file: Annotated[str, Meta(description='For `pwcheck = "file"`: lines `user:password`.')] = ""
    takeover: Annotated[
        Literal["deny", "allow"], Meta(description='"allow": ACTIVATE may change the owner of an ACTIVE record.')
    ] = "deny"
    write_wait_s: Annotated[
        Seconds, Meta(description="How long a write is held while something recovers, before it gets NO.")
    ] = 8.0
    resend_after_s: Annotated[
        Seconds,
        Meta(description="After UPDATE's OK, when to repeat records that a stock slave loses in its merge."),
    ] = 0.5
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="More connections than this are refused; who has not logged in gives way to new ones.",
        ),
    ] = 4096
    tls_cert: Annotated[str, Meta(description="Certificate chain (PEM) for STARTTLS; empty: no TLS.")] = ""
    tls_key: Annotated[str, Meta(description="Its key (PEM); empty: the key is in `tls_cert`.")] = ""
    tls_client_ca: Annotated[
        str,
        Meta(
            description="CA of client certificates (PEM, SASL EXTERNAL): the subject's common name, or else the one"
            " e-mail address of the alternative names, is who logs in, if it is among `admins`."
        ),
    ] = ""
    order: Annotated[
        tuple[ClientOrder, ...],
        Meta(description='Order by client network: `[{ net = "10.1.0.0/16", order = "strcmp" }]`; else "cyrus".'),
    ] = ()


class LdapSection(Section, frozen=True):
    """The directory over LDAP; without this section the store is embedded."""

    uris: Annotated[tuple[str, ...], Meta(description="1, 3 or 5 independent slapds.")] = ()
    base: str = ""
    bind_dn: str = ""
    password_file: str = ""
    tls_ca: str = ""
    heartbeat_s: PositiveSeconds = 0.5
    projection_uri: Annotated[str, Meta(description="Where committed records are written for other LDAP readers.")] = ""
    projection_base: str = ""


class UsersSection(Section, frozen=True):
    """Where a user's server comes from."""

    source: Annotated[
        Literal["mupdate", "ldap", "static"], Meta(description="The INBOX' record, the LDAP entry or a file.")
    ] = "mupdate"
    base: Annotated[str, Meta(description="ldap: search base of the users.")] = ""
    filter: Annotated[str, Meta(description="ldap: which entries are users.")] = "(mailHost=*)"
    user_attr: Annotated[str, Meta(description="ldap: attribute of the user name.")] = "uid"
    host_attr: Annotated[str, Meta(description="ldap: attribute of the server.")] = "mailHost"
    file: Annotated[str, Meta(description="static: lines `user<TAB>server`.")] = ""


class BackendSection(Section, frozen=True):
    """One backend, `[backends.NAME]`; a server without an entry is used by its name with these ports."""

    host: Annotated[str, Meta(description="Host name or address; empty: NAME itself.")] = ""
    imap: Annotated[Port, Meta(description="Nothing connects to it in this version.")] = 143
    pop3: Annotated[Port, Meta(description="Nothing connects to it in this version.")] = 110
    lmtp: Port = 24
    sieve: Annotated[Port, Meta(description="Nothing connects to it in this version.")] = 4190
    http: Annotated[Port, Meta(description="Nothing connects to it in this version.")] = 80
    weight: Annotated[float, Meta(ge=0, description="Share of new users.")] = 1.0
    state: Annotated[
        Literal["up", "drain", "down"], Meta(description='"drain": no new users; "down": do not connect.')
    ] = "up"
    tls_name: Annotated[
        str,
        Meta(
            description="Name that its certificate must have; empty: `host`, or where that is an address and NAME is"
            " none, NAME."
        ),
    ] = ""
    tags: tuple[str, ...] = ()


class DiscoverSection(Section, frozen=True):
    """Administrator login on the backends: discovery, verification, reconcile."""

    admin: str = ""
    password_file: str = ""
    tls: bool = True


class LookupSection(Section, frozen=True):
    """The doors other servers ask at, and how old an answer may be."""

    socketmap: Annotated[tuple[str, ...], Meta(description="Where Postfix and Exim ask.")] = (
        "unix:/run/cyrusext/socketmap",
    )
    auth_http: Annotated[tuple[str, ...], Meta(description="Where nginx' mail proxy asks.")] = ()
    route_http: Annotated[tuple[str, ...], Meta(description="Where web proxies ask for a user's backend.")] = ()
    kick_sockets: Annotated[
        tuple[str, ...], Meta(description="`…/socket/mupdate.target` of Cyrus frontends on this machine.")
    ] = ()
    hit_max_age_s: Annotated[Seconds, Meta(description="A record older than this is not used; 0: no limit.")] = 0.0
    no_max_age_s: Annotated[
        PositiveSeconds, Meta(description='"No such mailbox" needs a node heartbeat at most this old.')
    ] = 2.0


class Timeouts(Section, frozen=True):
    """Deadlines in seconds of the router's conversations, `timeouts = { … }`."""

    connect: PositiveSeconds = 5.0
    greeting: PositiveSeconds = 10.0
    envelope: PositiveSeconds = 30.0
    mail: Seconds = 0.0
    rcpt: Seconds = 0.0
    go_ahead: Seconds = 0.0
    data: PositiveSeconds = 60.0
    final: PositiveSeconds = 300.0
    idle: PositiveSeconds = 300.0

    def __post_init__(self) -> None:
        for step in ("mail", "rcpt", "go_ahead"):
            if not getattr(self, step):
                msgspec.structs.force_setattr(self, step, self.envelope)


class LmtpSection(Section, frozen=True):
    """The LMTP router."""

    listen: Annotated[tuple[str, ...], Meta(description="Where to take LMTP.")] = ("127.0.0.1:2024",)
    smtp_listen: Annotated[
        tuple[str, ...], Meta(description="Where to take SMTP: one recipient for each message, or PRDR.")
    ] = ()
    implicit_tls: Annotated[
        tuple[str, ...],
        Meta(description="Those of these addresses where TLS begins at once, without STARTTLS; needs `tls_cert`."),
    ] = ()
    proxy_protocol: Annotated[
        tuple[str, ...],
        Meta(
            description="Those of these addresses where a balancer says first who comes (PROXY protocol 1 or 2):"
            " only networks in `trusted` may connect there, and who sends no header is cut off. Who may deliver is"
            " judged by the address in the header."
        ),
    ] = ()
    workers: Annotated[int, Meta(ge=0, le=1024, description="Worker processes; 0: one per core.")] = 0
    body_buffer: Annotated[str, Meta(description="Memory for the body of one transaction.")] = "1MiB"
    max_size: Annotated[str, Meta(description="Largest message, announced as SIZE.")] = "50MiB"
    bare_newline: Annotated[
        Literal["reject", "replace"], Meta(description="What to do with a bare LF or CR in a body; never passed on.")
    ] = "reject"
    deleted_mailbox: Annotated[
        Literal["ask", "defer"],
        Meta(
            description="What to do with mail to a mailbox that was deleted within the last hour, where nothing shows"
            ' that its backend has ended the deletion: "ask" that backend, or "defer" the mail, which backends with'
            " `autocreate_post: yes` need, for they would create the mailbox anew."
        ),
    ] = "ask"
    max_hops: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="A message with more Received fields than this is refused as a loop; 0: nobody counts.",
        ),
    ] = 50
    received: Annotated[
        bool, Meta(description="Write a Received field before each message; else it passes as it came, to the octet.")
    ] = False
    trusted: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks that may deliver, besides this machine, and whose XCLIENT, XFORWARD and PROXY are"
            ' believed; "unix": who comes by a UNIX socket is believed too.'
        ),
    ] = ()
    pwcheck: Annotated[
        Literal["off", "sasldb", "saslauthd", "file"],
        Meta(
            description="Where passwords of clients are checked (AUTH PLAIN, on loopback, UNIX sockets and under TLS"
            ' only); "off": there is no AUTH. With it and `tls_cert` everybody may come, and has to log in before MAIL'
            " unless he is in `trusted` or on this machine."
        ),
    ] = "off"
    auth_users: Annotated[
        tuple[str, ...], Meta(description="Only these users may log in; empty: all that have a password.")
    ] = ()
    sasldb_path: Annotated[str, Meta(description="The sasldb file; empty: libsasl2's own default.")] = ""
    saslauthd_path: Annotated[str, Meta(description="saslauthd's socket; empty: libsasl2's own default.")] = ""
    realm: Annotated[str, Meta(description="SASL realm of users without one; empty: the node's host name.")] = ""
    password_file: Annotated[str, Meta(description='For `pwcheck = "file"`: lines `user:password`.')] = ""
    backend_user: Annotated[str, Meta(description="User of the AUTH to backends; empty: no AUTH.")] = ""
    backend_password_file: Annotated[str, Meta(description="File with its password.")] = ""
    backend_connections: Annotated[
        int, Meta(ge=1, le=10_000, description="Connections to one backend, of each worker.")
    ] = 200
    backend_waiting: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Deliveries of a worker that may wait for one; more are deferred at once.",
        ),
    ] = 2000
    backend_idle_s: Annotated[
        PositiveSeconds,
        Meta(description="How long an unused connection is kept: at a Cyrus backend each ties a process."),
    ] = 60.0
    backend_xclient: Annotated[
        bool,
        Meta(
            description="Tell backends that offer XCLIENT and no XFORWARD (Dovecot, from its `login_trusted_networks`)"
            " who sends; they then take the client for their own."
        ),
    ] = False
    backend_noop_s: Annotated[
        Seconds,
        Meta(
            description="How often an unused connection is asked by NOOP whether it lives; 0: never, for one that"
            " died is replaced anyhow when it is used."
        ),
    ] = 0.0
    backend_tls: Annotated[
        Literal["off", "may", "verify"],
        Meta(
            description='STARTTLS to backends. "may": where offered, and nothing is verified; "verify": always, with a'
            " certificate for the name of the backend, and no mail without it."
        ),
    ] = "off"
    backend_tls_ca: Annotated[
        str, Meta(description="CA of the backends' certificates (PEM); empty: those that this machine believes.")
    ] = ""
    backend_tls_cert: Annotated[
        str, Meta(description="Our certificate (PEM) for backends that ask for one, and for AUTH EXTERNAL there.")
    ] = ""
    backend_tls_key: Annotated[str, Meta(description="Its key (PEM); empty: the key is in `backend_tls_cert`.")] = ""
    tls_cert: Annotated[
        str, Meta(description="Certificate chain (PEM) for STARTTLS and `implicit_tls`; empty: no TLS.")
    ] = ""
    tls_key: Annotated[str, Meta(description="Its key (PEM); empty: the key is in `tls_cert`.")] = ""
    timeouts: Annotated[
        Timeouts,
        Meta(
            description="Deadlines in seconds. Of a backend: connect, greeting (with LHLO and AUTH), envelope for each"
            " reply up to 354, data for progress of a body, final for each reply after the message; those of mail, rcpt"
            " and go_ahead (354) that are not set are envelope's. Of a client: data, and idle between commands."
        ),
    ] = Timeouts()

    @property
    def body_buffer_bytes(self) -> int:
        return parse_size(self.body_buffer)

    @property
    def max_size_bytes(self) -> int:
        return parse_size(self.max_size)


class SieveSection(Section, frozen=True):
    """The ManageSieve proxy."""

    listen: Annotated[tuple[str, ...], Meta(description="Where to listen.")] = ("127.0.0.1:4190",)


class LogSection(Section, frozen=True):
    """Logging: one line per event on standard error; passwords never."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    recipients: Annotated[Literal["full", "hashed", "off"], Meta(description="How recipients appear in the log.")] = (
        "full"
    )
    folders: Annotated[bool, Meta(description="Log names of folders below a user's INBOX.")] = False


class MetricsSection(Section, frozen=True):
    """Metrics and health over HTTP: /metrics, /healthz and /readyz."""

    listen: Annotated[str, Meta(description="Where the node answers; empty: nowhere.")] = ""
    router_listen: Annotated[
        str, Meta(description="Where the router answers, for it and the node read one file; empty: nowhere.")
    ] = ""


SECTIONS: dict[str, type[Section]] = {
    "node": NodeSection,
    "names": NamesSection,
    "mupdate": MupdateSection,
    "ldap": LdapSection,
    "users": UsersSection,
    "backends": BackendSection,
    "discover": DiscoverSection,
    "lookup": LookupSection,
    "lmtp": LmtpSection,
    "sieve": SieveSection,
    "log": LogSection,
    "metrics": MetricsSection,
}
"""Top-level tables in the order of the documentation; `backends` holds one BackendSection per name."""
