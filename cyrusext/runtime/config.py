"""Loading cyrusext.toml: `load` gives the effective configuration or says what is wrong with the file.

Rule: nothing in the file is ignored in silence.  An unknown key, a wrong type or an impossible value is a ConfigError
whose lines each name file, key and what was expected; whether the values fit together and fit this machine is
config_check's matter (daemons call `config_check.require`, `cyrusext config check` shows all of it).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from cyrusext.backends import Backend, Backends
from cyrusext.errors import ConfigError
from cyrusext.net import address
from cyrusext.runtime.config_schema import (
    SECTIONS,
    BackendSection,
    DiscoverSection,
    LdapSection,
    LmtpSection,
    LogSection,
    LookupSection,
    MetricsSection,
    MupdateSection,
    NamesSection,
    NodeSection,
    Section,
    SieveSection,
    UsersSection,
    parse_size,
)

DEFAULT_PATH = Path("/etc/cyrusext/cyrusext.toml")

_BACKEND_NAME = re.compile(r"[!-~]+")
_S = TypeVar("_S", bound=Section)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The effective configuration; sections and keys as in docs/configuration.md."""

    source: str = "(defaults)"
    """The file it came from, for messages."""
    node: NodeSection = NodeSection()
    names: NamesSection = NamesSection()
    mupdate: MupdateSection = MupdateSection()
    ldap: LdapSection | None = None
    users: UsersSection = UsersSection()
    backends: Backends = Backends()
    discover: DiscoverSection = DiscoverSection()
    lookup: LookupSection = LookupSection()
    lmtp: LmtpSection = LmtpSection()
    sieve: SieveSection = SieveSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()


def load(path: Path | None = None) -> Config:
    """Load the file at `path`, or the default one, which need not exist.

    Raises ConfigError: the file is not there or not readable, is not TOML, or has a key or value that is not in the
    schema; its text has one line per fault.
    """
    place = DEFAULT_PATH if path is None else path
    try:
        raw = place.read_bytes()
    except FileNotFoundError:
        if path is None:
            return Config()
        raise ConfigError(f"{place}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{place}: can not be read: {error.strerror}") from error
    return parse(raw, str(place))


def parse(raw: bytes, source: str) -> Config:
    """Parse the text of a configuration file; `source` names it in messages.  Raises ConfigError as `load` does."""
    try:
        tables = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}:{line}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_message(error, raw, source)) from None
    faults: list[str] = []
    sections: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in SECTIONS:
            kind = "section" if isinstance(table, dict) else "key outside any section"
            shown = f"[{name}]" if isinstance(table, dict) else name
            faults.append(f"{shown}: unknown {kind}{_suggestion(name, SECTIONS)}")
        elif not isinstance(table, dict):
            faults.append(f"[{name}]: expected a section, got {_kind(table)}")
        elif name == "backends":
            sections[name] = _backends(table, faults)
        else:
            section = _section(SECTIONS[name], table, f"[{name}]", faults)
            if section is not None:
                faults.extend(f"[{name}] {fault}" for fault in _values(section))
                sections[name] = section
    if faults:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in faults))
    return Config(source=source, **sections)


def _backends(table: dict[str, Any], faults: list[str]) -> Backends:
    entries = {}
    for name, entry in table.items():
        where = f"[backends.{name}]"
        if not isinstance(entry, dict):
            faults.append(f"[backends] {name}: expected a section [backends.NAME], got {_kind(entry)}")
        elif not _BACKEND_NAME.fullmatch(name) or "!" in name:
            faults.append(f"{where}: expected a name of printable ASCII without blanks and `!`")
        elif (section := _section(BackendSection, entry, where, faults)) is not None:
            values = {key: getattr(section, key) for key in section.__struct_fields__}
            entries[name] = Backend(name=name, **values)
    return Backends(entries)


def _section(kind: type[_S], table: dict[str, Any], where: str, faults: list[str]) -> _S | None:
    """Convert one table; each fault is appended with its key."""
    known = kind.__struct_fields__
    hints = get_type_hints(kind, include_extras=True)
    before = len(faults)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            faults.append(f"{where} {key}: unknown key{_suggestion(key, known)}")
            continue
        try:
            values[key] = msgspec.convert(value, hints[key], dec_hook=_decode)
        except (msgspec.ValidationError, ValueError) as error:
            faults.append(f"{where} {key}: {_type_message(str(error), value, hints[key])}")
    return kind(**values) if len(faults) == before else None


def _decode(kind: type, value: object) -> object:
    if kind is Path:
        if not isinstance(value, str):
            raise ValueError(f"expected a path, got {_kind(value)}")
        if not value.startswith("/"):
            raise ValueError(f"expected an absolute path, got {value!r}")
        return Path(value)
    raise NotImplementedError(kind)


def _type_message(message: str, value: object, hint: object) -> str:
    """Turn msgspec's message into ours: `expected int, got str`, with the path inside the value if there is one."""
    text, _, inside = message.partition(" - at `$")
    text = text.replace("`", "")
    inside = inside.rstrip("`").replace("[...]", " entry").replace("[", " entry ").replace("]", "").lstrip(".")
    if text.startswith("Invalid enum value"):
        allowed = ", ".join(f'"{choice}"' for choice in _choices(hint))
        text = f"expected one of {allowed}, got {value!r}" if not inside else f"{text}, expected one of {allowed}"
    elif text.startswith("Object contains unknown field"):
        text = f"unknown key {text.removeprefix('Object contains unknown field ')}"
    elif text.startswith("Expected"):
        text = "expected" + text.removeprefix("Expected")
        if "got" not in text:
            text += f", got {value!r}"
    text = text.replace("array", "list").replace("object", "table").replace("boolean", "bool")
    return f"{inside.strip()}: {text}" if inside.strip() else text


def _choices(hint: object) -> list[str]:
    """All strings that the Literals within a type allow."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    found = [choice for part in get_args(hint) for choice in _choices(part)]
    if isinstance(hint, type) and issubclass(hint, Section):
        parts = get_type_hints(hint, include_extras=True)
        found += [choice for part in parts.values() for choice in _choices(part)]
    return found


def _kind(value: object) -> str:
    names = {dict: "table", list: "list", str: "str", bool: "bool", int: "int", float: "float"}
    return names.get(type(value), type(value).__name__)


def _suggestion(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _syntax_message(error: tomllib.TOMLDecodeError, raw: bytes, source: str) -> str:
    message = str(error)
    match = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if match is None:
        last = len(raw.splitlines())
        return f"{source}:{last}: {message.removesuffix(' (at end of document)')}, at the end of the file"
    return f"{source}:{match[1]}:{match[2]}: {message[: match.start()]}"


def _values(section: Section) -> list[str]:
    """Faults of values whose type is right: addresses, sizes, networks."""
    faults = []
    for key in _ADDRESS_LISTS.get(type(section), ()):
        faults += [f"{key}: {fault}" for text in getattr(section, key) if (fault := _address_fault(text))]
    if isinstance(section, NodeSection) and section.follow and (fault := _address_fault(section.follow)):
        faults.append(f"follow: {fault}")
    if isinstance(section, MetricsSection) and section.listen and (fault := _address_fault(section.listen)):
        faults.append(f"listen: {fault}")
    if isinstance(section, MupdateSection):
        faults += [f"order net: {fault}" for entry in section.order if (fault := _network_fault(entry.net))]
    if isinstance(section, LookupSection):
        faults += [f"kick_sockets: {fault}" for text in section.kick_sockets if (fault := _path_fault(text))]
    if isinstance(section, LmtpSection):
        listened = (*section.listen, *section.smtp_listen)
        faults += [
            f"implicit_tls: expected addresses of listen or smtp_listen, got {text!r}"
            for text in section.implicit_tls
            if text not in listened
        ]
        faults += [f"trusted: {fault}" for text in section.trusted if (fault := _network_fault(text))]
        faults += _size_faults(section)
    return faults


_ADDRESS_LISTS: dict[type[Section], tuple[str, ...]] = {
    MupdateSection: ("listen",),
    LookupSection: ("socketmap", "auth_http", "route_http"),
    LmtpSection: ("listen", "smtp_listen"),
    SieveSection: ("listen",),
}


def _address_fault(text: str) -> str:
    try:
        address.parse(text)
    except ConfigError as error:
        return str(error)
    return ""


def _path_fault(text: str) -> str:
    if not text.startswith("/"):
        return f"expected the absolute path of a socket, got {text!r}"
    return _address_fault(text)


def _network_fault(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"expected a network such as 10.1.0.0/16, got {text!r}"
    return ""


def _size_faults(section: LmtpSection) -> list[str]:
    faults = []
    for key, least in (("body_buffer", 64 << 10), ("max_size", 1 << 10)):
        try:
            size = parse_size(getattr(section, key))
        except ValueError as error:
            faults.append(f"{key}: {error}")
        else:
            if size < least:
                faults.append(f"{key}: expected at least {least >> 10}KiB, got {getattr(section, key)!r}")
    return faults
