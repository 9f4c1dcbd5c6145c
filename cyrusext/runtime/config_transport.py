"""What can be wrong with how the router's clients and backends are connected, `[lmtp]`: TLS on both sides.

Rule: certificates are loaded here as they will be later, so that a daemon that starts, or takes a configuration anew,
knows that they can be used.
"""

from __future__ import annotations

from collections.abc import Iterator

from cyrusext.errors import ConfigError
from cyrusext.runtime.config_finding import Finding, open_secret
from cyrusext.runtime.config_schema import LmtpSection


def transport(lmtp: LmtpSection) -> Iterator[Finding]:
    """Yield what is wrong, of clients first."""
    yield from _client_tls(lmtp)
    yield from _backend_tls(lmtp)


def _client_tls(lmtp: LmtpSection) -> Iterator[Finding]:
    if lmtp.tls_cert:
        # Loaded here, and below: a router without TLS does without the library.
        from cyrusext.net.tls import ServerTls

        try:
            ServerTls(lmtp.tls_cert, lmtp.tls_key)
        except ConfigError as error:
            yield Finding("lmtp", "tls_cert", str(error), True)
        yield from open_secret("lmtp", "tls_key", lmtp.tls_key or lmtp.tls_cert)
        return
    for key in ("tls_key", "implicit_tls"):
        if getattr(lmtp, key):
            yield Finding("lmtp", key, "has no effect without tls_cert", True)


def _backend_tls(lmtp: LmtpSection) -> Iterator[Finding]:
    if lmtp.backend_tls == "off":
        for key in ("backend_tls_ca", "backend_tls_cert", "backend_tls_key"):
            if getattr(lmtp, key):
                yield Finding("lmtp", key, 'has no effect with backend_tls = "off"', True)
        return
    if lmtp.backend_tls == "may" and lmtp.backend_tls_ca:
        yield Finding("lmtp", "backend_tls_ca", 'has no effect with backend_tls = "may": nothing is verified', False)
    if lmtp.backend_tls_key and not lmtp.backend_tls_cert:
        yield Finding("lmtp", "backend_tls_key", "has no effect without backend_tls_cert", True)
        return
    from cyrusext.net.tls import ClientTls

    try:
        ClientTls(lmtp.backend_tls_ca, lmtp.backend_tls_cert, lmtp.backend_tls_key, verify=lmtp.backend_tls == "verify")
    except ConfigError as error:
        yield Finding("lmtp", "backend_tls", str(error), True)
    if lmtp.backend_tls_cert:
        yield from open_secret("lmtp", "backend_tls_key", lmtp.backend_tls_key or lmtp.backend_tls_cert)
