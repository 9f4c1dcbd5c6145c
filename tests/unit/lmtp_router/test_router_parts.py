"""The small parts: breaker, routing, replies, body, settings, what the log shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyrusext.backends import Backend, Backends
from cyrusext.errors import ConfigError, LocalProtocolError
from cyrusext.lookup import Answer, Verdict
from cyrusext.runtime import config
from lmtp_router.body import Body
from lmtp_router.breaker import FIRST_INTERVAL_S, LAST_INTERVAL_S, THRESHOLD, Breaker
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.results import Replies
from lmtp_router.routing import Route, Routing
from lmtp_router.settings import settings_of


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(THRESHOLD):
        assert breaker.allow(at)
        breaker.failed(at)
    return breaker


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(THRESHOLD * 3):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.closed
    assert not opened().allow(0.0)


def test_one_probe_at_a_time_and_a_growing_interval() -> None:
    breaker, now, interval = opened(), 0.0, FIRST_INTERVAL_S
    for _ in range(10):
        assert not breaker.allow(now + interval - 0.01)
        now += interval
        assert breaker.allow(now)
        assert not breaker.allow(now), "one probe, not two"
        breaker.failed(now)
        interval = min(interval * 2, LAST_INTERVAL_S)
    now += interval
    assert breaker.allow(now)
    breaker.succeeded()
    assert breaker.closed
    assert breaker.allow(now)


def test_attempts_that_were_under_way_do_not_lengthen_the_pause() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.failed(0.1)
    assert breaker.allow(FIRST_INTERVAL_S + 0.1)


class Table:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    def server_of(self, address: bytes) -> str | None:
        return None

    def servers_of(self, addresses: list[bytes]) -> list[str] | None:
        return None

    def recipient(self, address: bytes) -> Answer:
        self.asked.append(address)
        return self.answer


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (Answer(Verdict.ABSENT, reason="no such mailbox"), b"550 5.1.1"),
        (Answer(Verdict.TEMPORARY, reason="list is old"), b"451 4.4.3"),
        (Answer(Verdict.TEMPORARY, reason="held", unsettled=True), b"451 4.2.1"),
        (Answer(Verdict.FOUND, server="off"), b"451 4.3.2"),
    ],
)
def test_verdicts_as_replies(answer: Answer, reply: bytes) -> None:
    backends = Backends({"off": Backend("off", state="down")})
    route = Routing(Table(answer), backends).route(Rcpt(b"<u@example.org>"))
    assert isinstance(route, Reply)
    assert route.raw.startswith(reply)


def test_routes() -> None:
    backends = Backends({"be1": Backend("be1", host="10.0.0.1", lmtp=2003)})
    table = Table(Answer(Verdict.FOUND, server="be1"))
    assert Routing(table, backends).route(Rcpt(b'<"u"@example.org>')) == Route("be1", "10.0.0.1", 2003)
    assert table.asked == [b'"u"@example.org']
    elsewhere = Table(Answer(Verdict.FOUND, server="be9.example.org"))
    assert Routing(elsewhere, backends).route(Rcpt(b"<u>")) == Route("be9.example.org", "be9.example.org", 24)


def test_a_patient_reply_waits_for_the_next_but_not_for_ever() -> None:
    replies = Replies()
    replies.add(b"mail\r\n", patient=True)
    assert replies.ready() == b"mail\r\n", "nothing is behind it"
    replies.add(b"mail\r\n", patient=True)
    slot = replies.reserve()
    assert replies.ready() == b""
    replies.fill(slot, b"rcpt\r\n")
    with pytest.raises(LocalProtocolError):
        replies.fill(slot, b"again\r\n")
    assert replies.ready() == b"mail\r\nrcpt\r\n"
    assert replies.owed == 0


def test_an_eager_reply_does_not_wait() -> None:
    replies = Replies()
    replies.add(b"one\r\n")
    replies.reserve()
    assert replies.ready() == b"one\r\n"
    assert replies.owed == 1


def test_the_body_is_held_until_nobody_joins() -> None:
    body = Body(10)
    body.append(b"12345")
    body.append(b"67890")
    assert body.full
    assert b"".join(body.chunks()) == b"1234567890"
    body.drop()
    body.append(b"more")
    assert not body.full
    with pytest.raises(ValueError, match="gone"):
        body.chunks()


def test_what_the_log_shows() -> None:
    shown = Disclosure.FULL.fields(b"<a@example.org>", b"<b@example.org>")
    assert shown == {"from": b"<a@example.org>", "to": b"<b@example.org>"}
    assert Disclosure.OFF.fields(b"<a@example.org>", b"<b@example.org>") == {}
    hashed = Disclosure.HASHED.fields(b"<a@example.org>", b"<B@example.org>")
    assert hashed["to"] == Disclosure.HASHED.fields(b"<>", b"<b@example.org>")["to"]
    assert "example" not in str(hashed)
    said = Reply(250, b"250-2.1.5 one\r\n250 2.1.5 <b@example.org> delivered\r\n")
    assert "<b@example.org>" in Disclosure.FULL.reply(said)
    assert Disclosure.HASHED.reply(said) == Disclosure.OFF.reply(said) == "250 2.1.5"
    assert Disclosure.OFF.reply(Reply(550, b"550 <b@example.org> unknown\r\n")) == "550"


def settings(text: str) -> object:
    return settings_of(config.parse(text.encode(), "test.toml"))


def test_credentials(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pässword\n")
    text = f'[lmtp]\nbackend_user = "murder"\nbackend_password_file = "{secret}"\n'
    assert settings_of(config.parse(text.encode(), "test.toml")).credentials == ("murder", "pässword")
    secret.write_text("")
    with pytest.raises(ConfigError, match="backend_password_file"):
        settings(text)
    secret.unlink()
    with pytest.raises(ConfigError, match="can not be read"):
        settings(text)
    with pytest.raises(ConfigError, match="backend_user is set"):
        settings('[lmtp]\nbackend_user = "murder"\n')


def test_a_name_that_can_not_be_sent() -> None:
    with pytest.raises(ConfigError, match="name"):
        settings('[node]\nname = "nöde"\n')


@pytest.mark.parametrize(
    ("peer", "admitted"),
    [
        (("127.0.0.1", 1), True),
        (("127.9.9.9", 1), True),
        (("::1", 1, 0, 0), True),
        ("", True),
        (("10.1.2.3", 1), True),
        (("10.2.2.3", 1), False),
        (("fd00::1", 1, 0, 0), True),
        (("fe80::1%eth0", 1, 0, 2), False),
    ],
)
def test_who_may_deliver(peer: object, admitted: bool) -> None:
    text = b'[lmtp]\ntrusted = ["10.1.0.0/16", "fd00::/8"]\n'
    assert settings_of(config.parse(text, "test.toml")).admits(peer) is admitted
