"""Whether a configuration can work here: values against each other, against this machine, against this version.

Rule: `findings` is the one list; `cyrusext config check` prints all of it, and a daemon starts with `require`, which
raises for the faults that concern it and returns the notices that it has to log.  A key without a function in this
version is in `NOT_YET`: a fault where ignoring it would do something else than asked, else a notice.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Literal

from cyrusext.errors import ConfigError
from cyrusext.net import address
from cyrusext.net.mechanisms import FILE_MECHANISMS, MECHANISMS, NEEDS_STORED_PASSWORD, package_of
from cyrusext.runtime.config import Config
from cyrusext.runtime.config_finding import Finding, open_secret, secret
from cyrusext.runtime.config_logins import client_logins
from cyrusext.runtime.config_schema import SECTIONS, MupdateSection
from cyrusext.runtime.config_transport import transport

Daemon = Literal["node", "lmtp-router"]

_CONCERNS: dict[Daemon, frozenset[str]] = {
    "node": frozenset(SECTIONS) - {"lmtp", "sieve"},
    "lmtp-router": frozenset({"node", "names", "users", "backends", "lookup", "lmtp", "log", "metrics", "ldap"}),
}

_SERVES_OTHERWISE = "leave it out; ignoring it would not do what it asks for"
_NOTHING_LISTENS = "nothing listens there"

NOT_YET: dict[tuple[str, str], tuple[bool, str]] = {
    ("users", "source"): (True, "a user's server is that of the INBOX' record; use `cyrusext mailbox import`"),
    ("users", "file"): (False, "use `cyrusext mailbox import`"),
    ("users", "base"): (False, "users are not read from LDAP"),
    ("users", "filter"): (False, "users are not read from LDAP"),
    ("users", "user_attr"): (False, "users are not read from LDAP"),
    ("users", "host_attr"): (False, "users are not read from LDAP"),
    ("backends", "weight"): (False, "new users are not placed"),
    ("backends", "tags"): (False, "new users are not placed"),
    ("discover", "admin"): (False, "backends are not asked"),
    ("discover", "password_file"): (False, "backends are not asked"),
    ("discover", "tls"): (False, "backends are not asked"),
    ("lookup", "socketmap"): (False, _NOTHING_LISTENS),
    ("lookup", "auth_http"): (False, _NOTHING_LISTENS),
    ("lookup", "route_http"): (False, _NOTHING_LISTENS),
    ("lookup", "hit_max_age_s"): (True, _SERVES_OTHERWISE),
    ("sieve", "listen"): (False, _NOTHING_LISTENS),
    ("log", "folders"): (False, "folder names are not logged"),
}
"""Keys that are read and have no function yet: whether setting one is a fault, and what it means."""


def findings(config: Config, sections: Set[str] = frozenset(SECTIONS)) -> list[Finding]:
    """Return all that is wrong with these `sections` of `config`, in the order of the documentation."""
    checks: dict[str, Callable[[Config], Iterator[Finding]]] = {
        "node": _node,
        "mupdate": _mupdate,
        "backends": _backends,
        "lmtp": _lmtp,
    }
    found = [finding for finding in _not_yet(config) if finding.section.partition(".")[0] in sections]
    for section, check in checks.items():
        if section in sections:
            found += check(config)
    order = list(SECTIONS)
    return sorted(found, key=lambda finding: order.index(finding.section.partition(".")[0]))


def require(config: Config, daemon: Daemon) -> list[str]:
    """Return the notices that `daemon` has to log at its start.

    Raises ConfigError, with one line per fault, when it can not run with this configuration.
    """
    mine = findings(config, _CONCERNS[daemon])
    faults = [finding.text(config.source) for finding in mine if finding.fatal]
    if faults:
        raise ConfigError("\n".join(faults))
    return [finding.text(config.source) for finding in mine]


def _not_yet(config: Config) -> Iterator[Finding]:
    if config.ldap is not None:
        yield Finding(
            "ldap", "", "the directory over LDAP is not available in this version: the store is embedded", True
        )
    for (section, key), (fatal, meaning) in NOT_YET.items():
        default = getattr(SECTIONS[section](), key)
        places = {section: getattr(config, section)}
        if section == "backends":
            places = {f"backends.{name}": backend for name, backend in config.backends.items()}
        for place, values in places.items():
            if getattr(values, key) != default:
                yield Finding(place, key, f"not available in this version: {meaning}", fatal)


def _node(config: Config) -> Iterator[Finding]:
    node = config.node
    for key, place in (("state_dir", node.state_dir), ("run_dir", node.run_dir)):
        if place.exists() and not place.is_dir():
            yield Finding("node", key, f"expected a directory, {place} is none", True)
    control = node.run_dir / "control"
    if len(os.fsencode(control)) > 107:
        yield Finding("node", "run_dir", f"the socket {control} would have a path of more than 107 bytes", True)
    if node.user and not _exists(pwd.getpwnam, node.user):
        yield Finding("node", "user", f"there is no user {node.user!r}", True)
    yield from _follow(config)
    for key, group in (("group", node.group), ("reader_group", node.reader_group)):
        if group and not _exists(grp.getgrnam, group):
            yield Finding("node", key, f"there is no group {group!r}", True)


def _follow(config: Config) -> Iterator[Finding]:
    node = config.node
    keys = ("follow_password_file", "follow_tls_ca")
    if not node.follow:
        for key in keys:
            if getattr(node, key):
                yield Finding("node", key, "has no effect without follow", False)
        return
    leader = address.parse(node.follow)
    if not isinstance(leader, address.TcpAddress) or not leader.host or not leader.port:
        yield Finding("node", "follow", f"expected host:port, got {node.follow!r}", True)
        return
    if str(leader) in {str(address.parse(text)) for text in config.mupdate.listen}:
        yield Finding("node", "follow", f"{leader} is where this node listens itself", True)
    if not node.follow_password_file:
        yield Finding("node", "follow_password_file", f"expected a file with the password of {node.follow_user}", True)
    else:
        yield from secret("node", "follow_password_file", node.follow_password_file)
    if node.follow_tls_ca:
        if not Path(node.follow_tls_ca).is_file():
            yield Finding("node", "follow_tls_ca", f"there is no file {node.follow_tls_ca}", True)
    elif not leader.is_local:
        message = f"{leader} is beyond loopback, where a password needs TLS: expected the CA of its certificate"
        yield Finding("node", "follow_tls_ca", message, True)


def _mupdate(config: Config) -> Iterator[Finding]:
    mupdate = config.mupdate
    if not mupdate.listen:
        yield Finding("mupdate", "listen", "expected at least one address", True)
    if not mupdate.admins:
        yield Finding("mupdate", "admins", "expected at least one user, else nobody can log in", True)
    if not mupdate.mechanisms:
        yield Finding("mupdate", "mechanisms", "expected at least one mechanism, else nobody can log in", True)
    yield from _mode(config)
    yield from _mechanisms(mupdate)
    yield from _tls(mupdate)
    if mupdate.pwcheck == "file":
        if not mupdate.password_file:
            yield Finding(
                "mupdate", "password_file", 'expected a file of lines user:password for pwcheck = "file"', True
            )
    elif mupdate.password_file:
        message = f'has no effect with pwcheck = "{mupdate.pwcheck}"'
        yield Finding("mupdate", "password_file", message, False)
    if mupdate.password_file:
        yield from secret("mupdate", "password_file", mupdate.password_file)
    if mupdate.sasldb_path and mupdate.pwcheck == "sasldb":
        yield from secret("mupdate", "sasldb_path", mupdate.sasldb_path)


def _mode(config: Config) -> Iterator[Finding]:
    mode = config.mupdate.mode
    if mode == "replicated" and config.mupdate.takeover == "allow":
        yield Finding("mupdate", "takeover", "has no effect in mode replicated: no record has a server", False)
    if mode != "unified":
        return
    if not config.backends:
        message = "unified: no server stands in [backends]; each is told of its own mailboxes unless it changed them"
        yield Finding("mupdate", "mode", message, False)
    seen: set[str] = set()
    for name, backend in config.backends.items():
        if backend.host in seen:
            message = f"{backend.host} is the host of several servers; in mode unified it tells which one it is"
            yield Finding(f"backends.{name}", "host", message, True)
        seen.add(backend.host)


def _mechanisms(mupdate: MupdateSection) -> Iterator[Finding]:
    # Loaded here: the router reads its configuration with this module and logs nobody in.
    from cyrusext.net.sasl import installed_mechanisms

    wanted = [mechanism.upper() for mechanism in mupdate.mechanisms]
    if unknown := [mechanism for mechanism in wanted if mechanism not in MECHANISMS]:
        message = f"unknown: {', '.join(unknown)}; expected some of {', '.join(MECHANISMS)}"
        yield Finding("mupdate", "mechanisms", message, True)
    known = [mechanism for mechanism in wanted if mechanism in MECHANISMS]
    if mupdate.pwcheck == "file":
        if other := [mechanism for mechanism in known if mechanism not in FILE_MECHANISMS]:
            message = f'pwcheck = "file" serves PLAIN only, not {", ".join(other)}'
            yield Finding("mupdate", "mechanisms", message, True)
        return
    if mupdate.pwcheck == "saslauthd" and (stored := [one for one in known if one in NEEDS_STORED_PASSWORD]):
        message = f"saslauthd can not check {', '.join(stored)}: only who has the password itself can"
        yield Finding("mupdate", "mechanisms", message, True)
    installed = installed_mechanisms()
    for mechanism in known:
        if mechanism not in installed:
            message = f"the installed libsasl2 has no {mechanism} (Debian: {package_of(mechanism)})"
            yield Finding("mupdate", "mechanisms", message, True)


def _tls(mupdate: MupdateSection) -> Iterator[Finding]:
    wanted = {mechanism.upper() for mechanism in mupdate.mechanisms}
    if mupdate.tls_cert:
        from cyrusext.net.tls import ServerTls

        try:
            ServerTls(mupdate.tls_cert, mupdate.tls_key, mupdate.tls_client_ca)
        except ConfigError as error:
            yield Finding("mupdate", "tls_cert", str(error), True)
        if mupdate.tls_key:
            yield from open_secret("mupdate", "tls_key", mupdate.tls_key)
    else:
        for key in ("tls_key", "tls_client_ca"):
            if getattr(mupdate, key):
                yield Finding("mupdate", key, "has no effect without tls_cert", True)
    if "EXTERNAL" in wanted and not mupdate.tls_client_ca:
        message = "EXTERNAL needs client certificates, and so tls_cert and tls_client_ca"
        yield Finding("mupdate", "mechanisms", message, True)
    if mupdate.tls_client_ca and "EXTERNAL" not in wanted:
        yield Finding("mupdate", "tls_client_ca", "has no effect without EXTERNAL in mechanisms", False)
    clear = [text for text in mupdate.listen if not address.parse(text).is_local]
    if clear and not mupdate.tls_cert and wanted and wanted <= {"PLAIN", "EXTERNAL"}:
        yield Finding(
            "mupdate",
            "listen",
            f"{', '.join(clear)} is beyond loopback, where PLAIN needs TLS: passwords would cross the network in clear;"
            " set tls_cert, or offer SCRAM-SHA-256",
            True,
        )


def _backends(config: Config) -> Iterator[Finding]:
    for name, backend in config.backends.items():
        if any(character.isspace() or character == "/" for character in backend.host):
            yield Finding(f"backends.{name}", "host", f"expected a host name or address, got {backend.host!r}", True)


def _lmtp(config: Config) -> Iterator[Finding]:
    lmtp = config.lmtp
    if not lmtp.listen and not lmtp.smtp_listen:
        yield Finding("lmtp", "listen", "expected at least one address", True)
    taken = {str(address.parse(text)) for text in lmtp.listen}
    for text in lmtp.smtp_listen:
        if str(address.parse(text)) in taken:
            yield Finding("lmtp", "smtp_listen", f"{text} is in listen too: expected LMTP or SMTP there", True)
    open_to_all = [text for text in (*lmtp.listen, *lmtp.smtp_listen) if not address.parse(text).is_local]
    if open_to_all and not lmtp.trusted and not (lmtp.pwcheck != "off" and lmtp.tls_cert):
        yield Finding(
            "lmtp",
            "listen",
            f"{', '.join(open_to_all)} is beyond loopback without a `trusted` list: nobody may deliver there, and with"
            " one that names all, anybody could deliver mail; or set tls_cert and pwcheck, and clients have to log in",
            True,
        )

    yield from transport(lmtp)
    yield from client_logins(lmtp)
    if lmtp.backend_user and not lmtp.backend_password_file:
        yield Finding("lmtp", "backend_password_file", "expected a file, because backend_user is set", True)
    if lmtp.backend_password_file:
        yield from secret("lmtp", "backend_password_file", lmtp.backend_password_file)


def _exists(find: object, name: str) -> bool:
    assert callable(find)
    try:
        find(name)
    except KeyError:
        return False
    return True
