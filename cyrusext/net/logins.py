"""What checks passwords, as a section of the configuration says it.

Rule: libsasl2's options belong to the process, so one process has one way to check passwords.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from cyrusext.net.mechanisms import MECHANISMS
from cyrusext.net.sasl import FileLogins, Logins, SaslLogins

SASLDB = "/etc/sasldb2"
"""Where libsasl2 looks for passwords by itself."""


class Passwords(Protocol):
    """The keys of a section that say where passwords are checked."""

    @property
    def pwcheck(self) -> Literal["off", "sasldb", "saslauthd", "file"]: ...

    @property
    def sasldb_path(self) -> str: ...

    @property
    def saslauthd_path(self) -> str: ...

    @property
    def realm(self) -> str: ...

    @property
    def password_file(self) -> str: ...


def logins_of(section: Passwords, service: str, hostname: str) -> Logins:
    """Return what checks passwords for `service` (its name in SASL) at `hostname`.  Raises ConfigError."""
    if section.pwcheck == "file":
        return FileLogins(Path(section.password_file))
    # libsasl2's options are set once for the process; which of these are offered may change while it runs.
    options = {"mech_list": " ".join(MECHANISMS)}
    passwords = None
    if section.pwcheck == "saslauthd":
        options |= {"pwcheck_method": "saslauthd"}
        if section.saslauthd_path:
            options |= {"saslauthd_path": section.saslauthd_path}
    else:
        options |= {"pwcheck_method": "auxprop", "auxprop_plugin": "sasldb"}
        passwords = Path(section.sasldb_path or SASLDB)
        options |= {"sasldb_path": str(passwords)}
    return SaslLogins(
        service=service, hostname=hostname, realm=section.realm or hostname, options=options, passwords=passwords
    )
