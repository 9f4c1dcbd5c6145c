"""Who a subscriber is: which of the configured servers have the address that it comes from.

Rule: a name that can not be resolved within `RESOLVE_S` keeps nobody waiting; its server is then known by the changes
that came from the same address (directory.modes.Audience).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping

from cyrusext.directory.modes import Audience
from cyrusext.runtime import logging

log = logging.get()

RESOLVE_S = 2.0


class Audiences:
    """`hosts` maps servers to their hosts, names or addresses, as ``[backends]`` has them."""

    def __init__(self, hosts: Mapping[str, str] | None = None) -> None:
        self._hosts = dict(hosts or {})

    async def at(self, host: str) -> Audience:
        """Return who subscribes from the address `host` ("" = a UNIX socket)."""
        if not host:
            return Audience()
        address = ipaddress.ip_address(host.partition("%")[0])
        found = await asyncio.gather(*(self._is_at(server, name, address) for server, name in self._hosts.items()))
        servers = frozenset(server for server, here in zip(self._hosts, found, strict=True) if here)
        return Audience(host, servers)

    async def _is_at(self, server: str, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        try:
            return ipaddress.ip_address(name) == address
        except ValueError:
            pass
        try:
            async with asyncio.timeout(RESOLVE_S):
                answers = await asyncio.get_running_loop().getaddrinfo(name, None)
        except (OSError, TimeoutError) as error:
            log.warning("backend.unresolved", server=server, host=name, error=error)
            return False
        return any(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) == address for answer in answers)
