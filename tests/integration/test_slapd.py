"""Does a real slapd with the configuration that we ship do what the registers ask of it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import ldap
import pytest
from ldap.controls.libldap import AssertionControl

from cyrusext.directory import schema
from cyrusext.directory.ballots import Ballot
from cyrusext.directory.register import Copy, Request, Step, Value
from cyrusext.model import Flag, MailboxRecord, State
from tests.harness import roots
from tests.harness.network import Network
from tests.harness.slapd import BASE, OPERATOR, SECRET, WRITER, Form, Slapd, voters
from tests.harness.waiting import accepts

pytestmark = pytest.mark.integration

NAME = b"user.alice. Sent  \xc3\xa9\t(*)\\"
ACL = b"alice\tlrswipkxtecda\tanyone\t"
FORMS: tuple[Form, ...] = ("slapd.conf", "cn=config")


@pytest.fixture(params=FORMS)
def slapd(
    request: pytest.FixtureRequest, release: str, root: roots.Root, new_state: Callable[[], Path]
) -> Iterator[Slapd]:
    network = Network()
    layer = roots.build(release, "openldap")
    with voters(layer, new_state(), network, 1, form=request.param) as servers:
        yield servers[0]
    network.close()


def connect(slapd: Slapd, dn: str = WRITER) -> ldap.ldapobject.LDAPObject:
    connection = ldap.initialize(slapd.uri)
    connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 10.0)
    connection.set_option(ldap.OPT_TIMEOUT, 10.0)
    connection.simple_bind_s(dn, SECRET)
    return connection


def send(connection: ldap.ldapobject.LDAPObject, request: Request) -> None:
    """One request, as python-ldap's exceptions where it is refused."""
    operation = schema.operation(request, NAME, BASE)
    if operation.attributes is not None:
        connection.add_s(operation.dn, operation.attributes)
    else:
        controls = [AssertionControl(True, operation.assertion)]
        connection.modify_ext_s(operation.dn, operation.changes, serverctrls=controls)


def copy_at(connection: ldap.ldapobject.LDAPObject) -> Copy:
    [(dn, found)] = connection.search_s(schema.dn_of(NAME, BASE), ldap.SCOPE_BASE, attrlist=list(schema.ATTRIBUTES))
    name, copy = schema.parse(found, dn.partition(",")[0].partition("=")[2])
    assert name == NAME
    return copy


def value(seq: int) -> Value:
    return Value(
        MailboxRecord(NAME, State.ACTIVE, "be1", "", ACL, seq, Flag.HELD, 1700000000000000, "murder@x"), b"op%d" % seq
    )


def test_a_register_at_a_slapd(slapd: Slapd) -> None:
    connection = connect(slapd)
    low, high, higher = Ballot(9, 5), Ballot(10, 3), Ballot(10, 4)
    prepare = Request(0, 1, Step.PREPARE, high)
    with pytest.raises(ldap.NO_SUCH_OBJECT):
        send(connection, prepare)
    send(connection, prepare._replace(create=True))
    with pytest.raises(ldap.ALREADY_EXISTS):
        send(connection, prepare._replace(create=True))
    for late in (low, high):  # a promise is kept, and is not given twice
        with pytest.raises(ldap.ASSERTION_FAILED):
            send(connection, prepare._replace(ballot=late))
    with pytest.raises(ldap.ASSERTION_FAILED):
        send(connection, Request(0, 1, Step.ACCEPT, low, value(1)))
    send(connection, Request(0, 1, Step.ACCEPT, high, value(1)))
    assert copy_at(connection) == (high, high, value(1))
    follow = Request(0, 1, Step.FOLLOW, high._replace(round=1), value(2), high)
    send(connection, follow)
    assert copy_at(connection).value == value(2)
    send(connection, prepare._replace(ballot=higher))
    assert copy_at(connection) == (higher, high._replace(round=1), value(2))
    with pytest.raises(ldap.ASSERTION_FAILED):
        send(connection, follow._replace(own=high._replace(round=1), ballot=high._replace(round=2)))
    slapd.kill()
    assert not accepts(slapd.address, 389)
    slapd.start()
    assert copy_at(connect(slapd)) == (higher, high._replace(round=1), value(2))


def test_only_the_generation_writes(slapd: Slapd) -> None:
    old = connect(slapd)
    send(old, Request(0, 1, Step.PREPARE, Ballot(1, 1), create=True))
    operator = connect(slapd, OPERATOR)
    with pytest.raises(ldap.NO_SUCH_OBJECT):  # the operator has no business with names
        operator.search_s(schema.dn_of(NAME, BASE), ldap.SCOPE_BASE)
    raised = [(ldap.MOD_REPLACE, "cyxWriter", [f"cn=generation-2,ou=writers,{BASE}".encode()])]
    with pytest.raises(ldap.INSUFFICIENT_ACCESS):
        old.modify_s(f"cn=generation,{BASE}", raised)
    operator.modify_s(f"cn=generation,{BASE}", raised)
    with pytest.raises(ldap.ASSERTION_FAILED):  # at once, on an open connection: it can not read what is asserted
        send(old, Request(0, 1, Step.PREPARE, Ballot(2, 1)))
    with pytest.raises(ldap.NO_SUCH_OBJECT):
        old.search_s(schema.dn_of(NAME, BASE), ldap.SCOPE_BASE)
    with pytest.raises(ldap.INAPPROPRIATE_AUTH):
        ldap.initialize(slapd.uri).simple_bind_s("", "")
