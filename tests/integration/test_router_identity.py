"""Does a real Postfix tell the router who sent a message, and does the router tell where the mail is stored?"""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from email.parser import BytesHeaderParser
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    config = {"lmtp": {"trusted": ["127.0.0.0/8"], "received": True, "max_hops": 5}}
    delivery = Delivery(root, new_state(), config=config)
    delivery.postfix.extra = ("lmtp_send_xforward_command = yes",)
    delivery.postfix.configure()
    with delivery:
        yield delivery


def new_user(group: Delivery) -> str:
    user = group.user()
    with group.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def test_the_client_of_postfix_is_known_where_the_mail_is(group: Delivery) -> None:
    users = [new_user(group), new_user(group)]
    for user in users:  # over a connection that Postfix keeps, or not
        with smtplib.SMTP(group.postfix.address, 25, local_hostname=f"{user}.client.lab", timeout=30) as client:
            assert client.sendmail("", [f"{user}@example.org"], message(user)) == {}
    group.postfix.wait_empty()
    for user in users:
        with group.be1.imap(user) as connection:
            (stored,) = imap.messages(connection)
        fields = [str(field) for field in BytesHeaderParser().parsebytes(stored).get_all("Received", [])]
        ours = [field for field in fields if "(cyrusext)" in field]
        assert len(ours) == 1
        assert f"from {user}.client.lab (" in ours[0], "the name is that of Postfix' client, not Postfix'"
        assert "with LMTP id " in ours[0]
        assert stored.endswith(message(user))


def test_a_message_that_goes_in_circles_is_ended(group: Delivery) -> None:
    user = new_user(group)
    circles = b"".join(b"Received: from a by b;\r\n\tsometime %d\r\n" % number for number in range(6))
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        result = client.deliver("a@example.net", [f"{user}@example.org"], circles + message("loop"))
        assert result.final[0].text.startswith("554 5.4.6")
        assert client.deliver("a@example.net", [f"{user}@example.org"], message("straight")).final[0].code == 250
    with group.be1.imap(user) as connection:
        assert len(imap.messages(connection)) == 1
