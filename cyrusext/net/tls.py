"""TLS of a server and of a client: the certificates that they show, those that they believe, and whom these name.

Rule: files are read at start and at a reload; a reload that fails leaves what was.  TLS 1.2 is the least.  A server's
clients need not have a certificate; a client that verifies goes on only with one for the name that it was given.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cyrusext.errors import ConfigError


class Secured(NamedTuple):
    """A connection under TLS: its transport, whom the client's certificate names ("": nobody), and the cipher."""

    transport: asyncio.Transport
    identity: str
    cipher: str
    bits: int


class ServerTls:
    """The TLS settings of a server; `context` is for the next handshake."""

    def __init__(self, cert: str, key: str = "", client_ca: str = "") -> None:
        """Load the PEM files; `key` may be empty where `cert` holds it too.

        Raises ConfigError, naming the file, where one can not be used.
        """
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self.context = self._load()

    def reload(self) -> None:
        """Load the files again.  Raises ConfigError and changes nothing where one can not be used."""
        self.context = self._load()

    async def begin(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, handshake_s: float, shutdown_s: float
    ) -> Secured:
        """Begin TLS on `transport` as its server, within `handshake_s` seconds.

        Raises ConnectionAbortedError, with the reason, where it does not begin; `transport` is closed then.
        """
        return await _begin(transport, protocol, self.context, None, handshake_s, shutdown_s)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        for file in filter(None, (self._cert, self._key, self._client_ca)):
            _readable(file)
        _show(context, self._cert, self._key)
        if self._client_ca:
            _believe(context, self._client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


class ClientTls:
    """The TLS settings of a client."""

    def __init__(self, ca: str = "", cert: str = "", key: str = "", *, verify: bool) -> None:
        """Load the PEM files; without `ca` those are believed that this machine believes, without `cert` we show none.

        Raises ConfigError, naming the file, where one can not be used.
        """
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        for file in filter(None, (ca, cert, key)):
            _readable(file)
        if cert:
            _show(context, cert, key)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif ca:
            _believe(context, ca)
        else:
            context.load_default_certs()

    async def begin(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, name: str, handshake_s: float, shutdown_s: float
    ) -> Secured:
        """Begin TLS on `transport` as its client with the server `name` (or address), within `handshake_s` seconds.

        Raises ConnectionAbortedError, with the reason, where it does not begin; `transport` is closed then.
        """
        return await _begin(transport, protocol, self.context, name, handshake_s, shutdown_s)


async def _begin(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    server: str | None,
    handshake_s: float,
    shutdown_s: float,
) -> Secured:
    """Begin TLS: with the server of that name, or as a server where it is None."""
    try:
        secure = await asyncio.get_running_loop().start_tls(
            transport,
            protocol,
            context,
            server_side=server is None,
            server_hostname=server,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=shutdown_s,
        )
    except OSError as error:  # SSLError is an OSError
        transport.abort()
        raise ConnectionAbortedError(_reason(error)) from error
    except BaseException:
        transport.abort()
        raise
    if secure is None:
        raise ConnectionAbortedError("the client left" if server is None else "the server left")
    cipher, _, bits = secure.get_extra_info("cipher") or ("", "", 0)
    return Secured(secure, identity_of(secure.get_extra_info("peercert")), cipher, bits)


def _show(context: ssl.SSLContext, cert: str, key: str) -> None:
    files = f"{cert} and {key}" if key else cert
    try:
        # An encrypted key has nobody to ask for its password: the empty one does not fit.
        context.load_cert_chain(cert, key or None, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(f"{files}: no certificate with its key in PEM: {_reason(error)}") from error


def _believe(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise ConfigError(f"{ca}: no certificates in PEM: {_reason(error)}") from error


def _readable(file: str) -> None:
    try:
        with Path(file).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{file} can not be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return (isinstance(error, ssl.SSLError) and error.reason) or str(error) or "the connection was cut"


def identity_of(certificate: Mapping[str, Any] | None) -> str:
    """Return whom a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) names, "" for nobody.

    It is the subject's common name; where there is none, the one e-mail address of the alternative names.  A
    certificate with two common names, or a name with a control character, names nobody.
    """
    if not certificate:
        return ""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    if not names:
        names = [value for key, value in certificate.get("subjectAltName", ()) if key == "email"]
    if len(names) != 1 or not names[0].isprintable():
        return ""
    return str(names[0])
