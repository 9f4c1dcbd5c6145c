"""The SASL mechanisms that a node may offer, and what each needs.

Rule: a mechanism that is not here is never offered, whatever libsasl2 has: none that sends a password in another way
than PLAIN, none with a weaker digest, none that binds to the TLS channel (-PLUS), since Cyrus' client binds to nothing.
"""

from __future__ import annotations

MECHANISMS = ("PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "DIGEST-MD5", "EXTERNAL", "GSSAPI")

NEEDS_STORED_PASSWORD = frozenset({"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "DIGEST-MD5"})
"""These prove a password that never crosses the wire, so who checks it has to have it: sasldb, not saslauthd."""

FILE_MECHANISMS = frozenset({"PLAIN"})
"""What a password file serves."""

PACKAGES = {"GSSAPI": "libsasl2-modules-gssapi-mit"}
"""The Debian package that has a mechanism's plug-in, where it is not libsasl2-modules."""


def package_of(mechanism: str) -> str:
    """Return the Debian package that has the plug-in of `mechanism`."""
    return PACKAGES.get(mechanism, "libsasl2-modules")
