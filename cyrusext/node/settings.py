"""What the configuration means for the parts of a node: how its MUPDATE server behaves, who may log in, with what.

Rule: making these changes nothing; a ConfigError here leaves a running node as it is.
"""

from __future__ import annotations

import dataclasses
import ipaddress

from cyrusext.mupdate.audience import Audiences
from cyrusext.mupdate.service import Network, Order, Service
from cyrusext.net.logins import logins_of
from cyrusext.net.sasl import Logins
from cyrusext.net.tls import ServerTls
from cyrusext.runtime import descriptors, logging
from cyrusext.runtime.config import Config
from cyrusext.runtime.config_schema import MupdateSection

log = logging.get()


def open_tls(section: MupdateSection) -> ServerTls | None:
    """Return what STARTTLS needs, None where there is no certificate.  Raises ConfigError."""
    return ServerTls(section.tls_cert, section.tls_key, section.tls_client_ca) if section.tls_cert else None


def orders(section: MupdateSection) -> list[tuple[Network, Order]]:
    """Return the networks of `order`, the most specific first."""
    entries: list[tuple[Network, Order]] = [
        (ipaddress.ip_network(entry.net, strict=False), entry.order) for entry in section.order
    ]
    return sorted(entries, key=lambda entry: entry[0].prefixlen, reverse=True)


def open_logins(config: Config) -> Logins:
    """Return what checks passwords.  Raises ConfigError."""
    return logins_of(config.mupdate, "mupdate", config.node.name)


def configured(service: Service, config: Config, tls: ServerTls | None, logins: Logins) -> Service:
    """Return `service` with the settings of `config`; its parts stay the same.

    Asks for the descriptors that its connections need.
    """
    section = config.mupdate
    connections = descriptors.allow(section.max_connections)
    if connections < section.max_connections:
        log.warning("node.few_descriptors", connections=connections, max_connections=connections)
    return dataclasses.replace(
        service,
        admins=frozenset(section.admins),
        mechanisms=tuple(mechanism.upper() for mechanism in section.mechanisms),
        tls=tls,
        logins=logins,
        resend_after_s=section.resend_after_s,
        orders=orders(section),
        audiences=Audiences({name: backend.host for name, backend in config.backends.items()}),
        bounds=dataclasses.replace(service.bounds, connections=connections),
    )


def metrics_addresses(config: Config) -> tuple[str, ...]:
    """Return where metrics and health are asked for: one address or none."""
    return (config.metrics.listen,) if config.metrics.listen else ()
