"""The client's side of SASL mechanisms by hand: SCRAM (RFC 5802) and DIGEST-MD5 (RFC 2831), with `hashlib` alone.

Rule: nothing of libsasl2 in here, which is what is under test; what the server says is checked, not only answered.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets


class Scram:
    """One SCRAM exchange: `first`, then `final` with the server's first message, then `verify` with its last."""

    def __init__(self, mechanism: str, user: str, password: str, authzid: str = "") -> None:
        self._digest = mechanism.removeprefix("SCRAM-").replace("-", "").lower()
        self._password = password.encode()
        self._header = f"n,a={authzid}," if authzid else "n,,"
        self._bare = f"n={user},r={secrets.token_hex(12)}"
        self._signature = b""

    def first(self) -> bytes:
        return (self._header + self._bare).encode()

    def final(self, server_first: bytes) -> bytes:
        items = dict(item.split("=", 1) for item in server_first.decode().split(","))
        assert items["r"].startswith(self._bare.partition("r=")[2])
        salt, rounds = base64.b64decode(items["s"]), int(items["i"])
        salted = hashlib.pbkdf2_hmac(self._digest, self._password, salt, rounds)
        key = self._hmac(salted, b"Client Key")
        without_proof = f"c={base64.b64encode(self._header.encode()).decode()},r={items['r']}"
        signed = ",".join([self._bare, server_first.decode(), without_proof]).encode()
        signature = self._hmac(hashlib.new(self._digest, key).digest(), signed)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        assert server_final == b"v=" + base64.b64encode(self._signature), server_final

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, self._digest).digest()


class DigestMd5:
    """One DIGEST-MD5 exchange without a security layer."""

    def __init__(self, user: str, password: str, host: str) -> None:
        self._user, self._password, self._uri = user, password, f"mupdate/{host}"
        self._expected = ""

    def final(self, challenge: bytes) -> bytes:
        pairs = re.findall(r'([a-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^,]*))', challenge.decode())
        offered = {key: quoted or bare for key, quoted, bare in pairs}
        assert "auth" in offered["qop"].split(","), offered
        realm, nonce, mine = offered["realm"], offered["nonce"], secrets.token_hex(12)
        secret = hashlib.md5(f"{self._user}:{realm}:{self._password}".encode()).digest()
        first = hashlib.md5(secret + f":{nonce}:{mine}".encode()).hexdigest()

        def response(method: str) -> str:
            second = hashlib.md5(f"{method}:{self._uri}".encode()).hexdigest()
            return hashlib.md5(f"{first}:{nonce}:00000001:{mine}:auth:{second}".encode()).hexdigest()

        self._expected = response("")
        return (
            f'username="{self._user}",realm="{realm}",nonce="{nonce}",cnonce="{mine}",nc=00000001,qop=auth,'
            f'digest-uri="{self._uri}",response={response("AUTHENTICATE")},charset=utf-8'
        ).encode()

    def verify(self, server_final: bytes) -> None:
        assert server_final == f"rspauth={self._expected}".encode(), server_final
