"""What can be wrong with the logins of the router's clients, `[lmtp] pwcheck` and what belongs to it.

Rule: what the worker will open later is looked at here, so that a fault is one of the start or of the reload.
"""

from __future__ import annotations

from collections.abc import Iterator

from cyrusext.net.mechanisms import package_of
from cyrusext.runtime.config_finding import Finding, secret
from cyrusext.runtime.config_schema import LmtpSection

_OF: dict[str, tuple[str, ...]] = {
    "off": (),
    "sasldb": ("auth_users", "realm", "sasldb_path"),
    "saslauthd": ("auth_users", "realm", "saslauthd_path"),
    "file": ("auth_users", "password_file"),
}
"""The keys that have an effect with each value of `pwcheck`."""
_KEYS = ("auth_users", "sasldb_path", "saslauthd_path", "realm", "password_file")


def client_logins(lmtp: LmtpSection) -> Iterator[Finding]:
    """Yield what is wrong."""
    for key in _KEYS:
        if getattr(lmtp, key) and key not in _OF[lmtp.pwcheck]:
            yield Finding("lmtp", key, f'has no effect with pwcheck = "{lmtp.pwcheck}"', False)
    if lmtp.pwcheck == "off":
        return
    if lmtp.pwcheck == "file":
        if lmtp.password_file:
            yield from secret("lmtp", "password_file", lmtp.password_file)
        else:
            message = 'expected a file of lines user:password for pwcheck = "file"'
            yield Finding("lmtp", "password_file", message, True)
        return
    if lmtp.pwcheck == "sasldb" and lmtp.sasldb_path:
        yield from secret("lmtp", "sasldb_path", lmtp.sasldb_path)
    # Loaded here: a router that logs nobody in does without the library.
    from cyrusext.net.sasl import installed_mechanisms

    if "PLAIN" not in installed_mechanisms():
        message = f"the installed libsasl2 has no PLAIN (Debian: {package_of('PLAIN')})"
        yield Finding("lmtp", "pwcheck", message, True)
