"""A seeded minute's fraction of the framer's fuzz entry, and that it ran and saw something."""

from __future__ import annotations

from fuzz import framer


def test_seeded_cases() -> None:
    done, events = framer.run(seed=20260101, cases=3000)
    assert done == 3000
    assert events > 10 * done, "nearly nothing came through: the words are wrong"


def test_the_words_reach_every_kind_of_event() -> None:
    kinds: set[str] = set()
    for seed in range(3000):
        chunks = [framer.make(seed).data]
        for out in (framer.frame(chunks), framer.serve(chunks), framer.serve_user(chunks), framer.listen(chunks)):
            kinds |= {type(event).__name__ for event in out}
    assert {"tuple", "Poisoned", "Signal", "ProtocolViolation", "GoAhead", "str"} <= kinds
    assert {"Authenticate", "SaslResponse", "Find", "List", "Update", "Noop", "Logout", "Starttls"} <= kinds
    assert {"Ok", "Challenge"} <= kinds
