"""An operator's windows: bounded, counted, for one server each."""

from __future__ import annotations

import pytest

from cyrusext.directory.claims import Claims


def test_a_window_ends_by_itself_and_says_what_it_was_used_for(capfd: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    claims = Claims(lambda: now[0])
    claims.set("be1", 60)
    claims.set("be2", 10)
    claims.count("be2")
    claims.count("be3")
    assert claims.servers == {"be1", "be2"}
    assert claims.status() == {
        "be1": {"seconds_left": 60.0, "taken_over": 0},
        "be2": {"seconds_left": 10.0, "taken_over": 1},
    }
    now[0] += 5
    assert not claims.expire()
    claims.set("be2", 20)  # another end, the same window
    now[0] += 10
    assert claims.status()["be2"] == {"seconds_left": 10.0, "taken_over": 1}
    now[0] += 10
    assert claims.expire()
    assert claims.servers == {"be1"}
    claims.set("be1", 0)
    assert not claims
    told = capfd.readouterr().err
    assert "event=backend.claim_ended server=be2 taken_over=1" in told
    assert "event=backend.claim_ended server=be1 taken_over=0" in told


def test_ending_what_is_not_open_opens_nothing() -> None:
    claims = Claims(lambda: 1.0)
    claims.set("be1", 0)
    assert not claims
    assert claims.status() == {}
