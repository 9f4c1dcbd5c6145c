"""packaging/ldap/ says everything twice, for slapd.conf and for cn=config: both say the same."""

from __future__ import annotations

import re
from pathlib import Path

PLACE = Path(__file__).resolve().parents[3] / "packaging" / "ldap"
KINDS = {
    "objectidentifier": "olcObjectIdentifier",
    "attributetype": "olcAttributeTypes",
    "objectclass": "olcObjectClasses",
}
SETTINGS = {
    "threads": "olcThreads",
    "idletimeout": "olcIdleTimeout",
    "conn_max_pending": "olcConnMaxPending",
    "conn_max_pending_auth": "olcConnMaxPendingAuth",
    "sockbuf_max_incoming_auth": "olcSockbufMaxIncomingAuth",
    "disallow": "olcDisallows",
    "require": "olcRequires",
    "security": "olcSecurity",
    "TLSCertificateFile": "olcTLSCertificateFile",
    "TLSCertificateKeyFile": "olcTLSCertificateKeyFile",
    "TLSCACertificateFile": "olcTLSCACertificateFile",
    "moduleload": "olcModuleLoad",
    "directory": "olcDbDirectory",
    "maxsize": "olcDbMaxSize",
    "index": "olcDbIndex",
    "limits": "olcLimits",
    "access": "olcAccess",
    "syncprov-checkpoint": "olcSpCheckpoint",
    "syncprov-sessionlog": "olcSpSessionlog",
    "loglevel": "olcLogLevel",
}


def conf(name: str) -> list[tuple[str, str]]:
    """The directives of a slapd.conf: a line that begins with a blank goes on with the one before."""
    lines = [line for line in (PLACE / name).read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\n ", " ").splitlines()
    return [(words[0], " ".join(words[1:])) for words in (line.split() for line in joined)]


def ldif(name: str) -> list[tuple[str, str]]:
    text = "\n".join(line for line in (PLACE / name).read_text().splitlines() if not line.startswith("#"))
    pairs = [line.partition(": ") for line in text.replace("\n ", "").splitlines() if line]
    return [(key, " ".join(value.split())) for key, _, value in pairs]


def test_the_schema_is_the_same() -> None:
    said = [(KINDS[key], value) for key, value in conf("cyrusext.schema")]
    assert len(said) > 20
    assert [pair for pair in ldif("cyrusext.ldif") if pair[0] in KINDS.values()] == said


def test_the_configuration_is_the_same() -> None:
    said = sorted((SETTINGS[key], value) for key, value in conf("slapd.conf") if key in SETTINGS)
    there = sorted(pair for pair in ldif("voter.ldif") if pair[0] in SETTINGS.values())
    own = [pair for pair in there if "cn=peercred" in pair[1]]  # of the configuration itself, which slapd.conf has not
    assert len(own) == 1
    assert [pair for pair in there if pair not in own] == said
    assert {key for key, _ in conf("slapd.conf")} - SETTINGS.keys() == {
        "include", "modulepath", "pidfile", "argsfile", "database", "suffix", "overlay"
    }  # fmt: skip


def test_nothing_is_there_that_loses_writes_or_goes_round_the_rules() -> None:
    for name in ("slapd.conf", "voter.ldif"):
        text = "\n".join(f"{key} {value}" for key, value in (conf if name.endswith("conf") else ldif)(name))
        assert not re.search(r"nosync|writemap|rootdn|rootpw|syncrepl|serverid", text, re.IGNORECASE)
