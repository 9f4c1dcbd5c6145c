"""Mailbox names: Cyrus' internal form, the external form of administrators, and mail addresses.

Rule: the internal form is the key of every record; hierarchy separator `.`, a literal dot written `^`, a domain in
front with `!`.  Nothing here guesses: what has no form on the other side raises InvalidName.  The rules are those of
Cyrus' mbname_from_recipient, mbname_from_extname and mbname_extname as an administrator sees them (no
altnamespace, no INBOX of one's own).
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from cyrusext.errors import InvalidName
from cyrusext.model import check_name

_USER = b"user"
_DOMAIN_MARK = b"!"
_LOCAL_SPECIALS = frozenset(b'<>()[]\\,;:"@')
"""RFC 5321 section 4.1.2: what a local part may hold only inside quotes."""
_DOMAIN_SPECIALS = frozenset(b'<>()\\,;"@!/')


_FOLDER = re.compile(rb"((?:^|[!.])user\.[^.]+)\..*", re.DOTALL)


class NameRules(NamedTuple):
    """How names are written at this site: the `[names]` section, to agree with imapd.conf."""

    virtdomains: bool = False
    """Users and mailboxes have a domain (imapd.conf: ``virtdomains``)."""
    default_domain: str = ""
    """The domain whose names carry none (``defaultdomain``)."""
    unix_hierarchy_separator: bool = False
    """External names use `/` between levels and may have dots (``unixhierarchysep``)."""
    recipient_delimiter: str = "+"
    """Characters that end the user part of an address; empty: none does."""
    postuser: str = ""
    """Local part that stands for "no user": ``postuser+shared.folder@domain`` (``postuser``); without a folder, too."""
    downcase: bool = True
    """Lower-case user and domain of an address (``lmtp_downcase_rcpt``)."""


def mailbox_of_address(address: bytes, rules: NameRules) -> bytes:
    """Return the internal name of the mailbox that decides where mail to `address` goes.

    For a user this is the INBOX, whatever folder the detail names; for ``postuser+folder`` it is the shared mailbox.
    The address may have angle brackets, a source route (ignored, RFC 5321 section 4.1.1.3) and a quoted local part
    (equal to the unquoted one, section 4.1.2).  Raises InvalidName for anything else.
    """
    local, domain = _split_address(address)
    user, detail = _split_detail(local, rules)
    if rules.downcase:
        user, domain = user.lower(), domain.lower()
    prefix = _domain_prefix(domain, rules) if rules.virtdomains else b""
    if user == rules.postuser.encode("utf-8"):
        separator = b"/" if rules.unix_hierarchy_separator else b"."
        # Empty levels are skipped, as Cyrus does: `+shared..dept` is shared.dept.
        levels = [level for level in _to_imap_utf7(detail).split(separator) if level]
        if not levels:
            raise InvalidName("address names neither a user nor a shared mailbox")
        return check_name(prefix + b".".join(_to_internal_level(level, rules) for level in levels))
    if not user:
        raise InvalidName("address has no local part")
    return check_name(prefix + _USER + b"." + _to_internal_level(user, rules))


def inbox_of_user(user: bytes, rules: NameRules) -> bytes:
    """Return the internal name of the INBOX of `user` (``alice``, or ``alice@example.org`` with virtual domains).

    Raises InvalidName for the empty user, and for a domain other than the default one where there are no virtual
    domains: dropping it could make two users one.
    """
    local, mark, domain = user.rpartition(b"@")
    if not mark:
        local, domain = user, b""
    if not local:
        raise InvalidName("user name is empty")
    prefix = _domain_prefix(domain, rules)
    if prefix and not rules.virtdomains:
        raise InvalidName("user name has a domain, but [names] virtdomains is false")
    return check_name(prefix + _USER + b"." + _to_internal_level(local, rules))


def user_of_mailbox(name: bytes, rules: NameRules) -> bytes | None:
    """Return the user that owns the mailbox `name` (internal form), or None for a shared or deleted mailbox."""
    domain, levels = _split_internal(name, rules)
    if len(levels) < 2 or levels[0] != _USER or not levels[1]:
        return None
    user = levels[1].replace(b"^", b".")
    return user + b"@" + domain if domain else user


def is_inbox(name: bytes, rules: NameRules) -> bool:
    """Tell whether `name` (internal form) is a user's INBOX."""
    _, levels = _split_internal(name, rules)
    return len(levels) == 2 and levels[0] == _USER and bool(levels[1])


def to_external(name: bytes, rules: NameRules) -> bytes:
    """Return the external form of an internal name as an administrator sees it in IMAP.

    ``example.org!user.al^ice.Sent`` is ``user/al.ice/Sent@example.org`` with virtual domains and
    unix_hierarchy_separator.  Raises InvalidName where the external form would be read back as another mailbox (a `/`
    in a name, an `@` with virtual domains).
    """
    check_name(name)
    domain, levels = _split_internal(name, rules)
    if rules.unix_hierarchy_separator:
        text = b"/".join(level.replace(b"^", b".") for level in levels)
    else:
        text = b".".join(levels)
    if domain:
        text += b"@" + domain
    canonical = (domain + _DOMAIN_MARK if domain else b"") + b".".join(levels)
    try:
        same = from_external(text, rules) == canonical
    except InvalidName:
        same = False
    if not same:
        raise InvalidName("mailbox name has no external form under these [names] rules")
    return text


def from_external(text: bytes, rules: NameRules) -> bytes:
    """Return the internal name of a mailbox given in external form (`to_external` says how it looks).

    Raises InvalidName for a name that Cyrus would refuse: `^` with unix_hierarchy_separator, `/` without it, an empty
    level, INBOX (whose INBOX?), or what no record can hold; and for one that could not be written down again: with
    virtual domains, an `@` in a name of the default domain.
    """
    prefix = b""
    path = text
    if rules.virtdomains:
        path, mark, domain = text.rpartition(b"@")
        if mark:
            prefix = _domain_prefix(domain, rules)
            if not prefix and b"@" in path:
                raise InvalidName("mailbox name has an `@` in front of that of its domain, which is the default one")
        else:
            path = text
    separator, foreign = (b"/", b"^") if rules.unix_hierarchy_separator else (b".", b"/")
    if foreign in path:
        raise InvalidName(f"mailbox name has a `{foreign.decode()}`, which external names can not have here")
    levels = path.split(separator)
    if not all(levels):
        raise InvalidName("mailbox name has an empty level")
    if levels[0].upper() == b"INBOX":
        raise InvalidName("INBOX names no mailbox without a user: write the user's name")
    return check_name(prefix + b".".join(_to_internal_level(level, rules) for level in levels))


def _split_internal(name: bytes, rules: NameRules) -> tuple[bytes, list[bytes]]:
    """Split an internal name into its domain (empty for none and for the default one) and its levels."""
    domain = b""
    if rules.virtdomains and _DOMAIN_MARK in name:
        domain, _, name = name.partition(_DOMAIN_MARK)
        if _is_default(domain, rules):
            domain = b""
    return domain, name.split(b".")


def _to_internal_level(level: bytes, rules: NameRules) -> bytes:
    """Return one level as it stands in an internal name; a `!` in it would make a domain of what precedes it."""
    if rules.virtdomains and _DOMAIN_MARK in level:
        raise InvalidName("name has a `!`, which ends the domain of a mailbox name")
    return level.replace(b".", b"^")


def _is_default(domain: bytes, rules: NameRules) -> bool:
    # Domains compare without case (RFC 5321 section 2.4).
    return domain.lower() == rules.default_domain.lower().encode("utf-8")


def _domain_prefix(domain: bytes, rules: NameRules) -> bytes:
    if not domain or _is_default(domain, rules):
        return b""
    if any(byte <= 0x20 or byte == 0x7F or byte in _DOMAIN_SPECIALS for byte in domain):
        raise InvalidName("domain has a character that no domain can have")
    return domain + _DOMAIN_MARK


def _split_address(address: bytes) -> tuple[bytes, bytes]:
    """Split an address into its local part, unquoted, and its domain (empty for none)."""
    path = address
    if path.startswith(b"<") != path.endswith(b">"):
        raise InvalidName("address has one angle bracket")
    if path.startswith(b"<"):
        path = path[1:-1]
    if path.startswith(b"@"):
        route, mark, path = path.partition(b":")
        if not mark or not all(hop.startswith(b"@") and len(hop) > 1 for hop in route.split(b",")):
            raise InvalidName("address has a malformed source route")
    if path.startswith(b'"'):
        local, rest = _unquote(path)
    else:
        end = path.rfind(b"@")
        local, rest = (path, b"") if end < 0 else (path[:end], path[end:])
        if any(byte <= 0x20 or byte == 0x7F or byte in _LOCAL_SPECIALS for byte in local):
            raise InvalidName("local part has a character that needs quotes")
    if rest[:1] not in (b"", b"@") or rest == b"@":
        raise InvalidName("address is not of the form local-part@domain")
    domain = rest[1:]
    if any(byte <= 0x20 or byte == 0x7F or byte in _DOMAIN_SPECIALS for byte in domain):
        raise InvalidName("domain has a character that no domain can have")
    return local, domain


def _unquote(path: bytes) -> tuple[bytes, bytes]:
    """Read a Quoted-string at the start of `path` (RFC 5321 section 4.1.2); return its content and what follows."""
    content = bytearray()
    position = 1
    while position < len(path):
        byte = path[position]
        if byte == 0x22:
            return bytes(content), path[position + 1 :]
        if byte == 0x5C:
            position += 1
            if position == len(path):
                break
            byte = path[position]
        if byte < 0x20 or byte == 0x7F:
            raise InvalidName("local part has a control character")
        content.append(byte)
        position += 1
    raise InvalidName("local part has no closing quote")


def _split_detail(local: bytes, rules: NameRules) -> tuple[bytes, bytes]:
    """Split a local part at the first delimiter into user and detail."""
    delimiters = rules.recipient_delimiter.encode("utf-8")
    for position, byte in enumerate(local):
        if byte in delimiters:
            return local[:position], local[position + 1 :]
    return local, b""


def _to_imap_utf7(text: bytes) -> bytes:
    """Encode UTF-8 as IMAP's modified UTF-7 (RFC 3501 section 5.1.3), the form of mailbox names in Cyrus."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidName("folder in the address is not UTF-8") from None
    out = bytearray()
    pending: list[str] = []

    def flush() -> None:
        if pending:
            encoded = base64.b64encode("".join(pending).encode("utf-16-be"), b"+,").rstrip(b"=")
            out.extend(b"&" + encoded + b"-")
            pending.clear()

    for character in decoded:
        if " " <= character <= "~":
            flush()
            out.extend(b"&-" if character == "&" else character.encode("ascii"))
        else:
            pending.append(character)
    flush()
    return bytes(out)


def without_folder(name: bytes) -> bytes:
    """Return `name` as the log shows it: of what is below a user's INBOX, only whose it is."""
    return _FOLDER.sub(rb"\1.*", name)
