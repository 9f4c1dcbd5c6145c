"""The bell between threads: no ring is lost, many are one, and a wait ends in time."""

from __future__ import annotations

import threading
import time

from cyrusext.replica.bell import Bell


def test_a_ring_before_the_wait_is_not_lost_and_many_are_one() -> None:
    bell = Bell()
    for _ in range(3):
        bell.ring()
    bell.wait(None)
    began = time.monotonic()
    bell.wait(0.05)
    assert time.monotonic() - began >= 0.04, "it had been hushed"
    bell.hush()
    bell.close()


def test_it_wakes_another_thread_each_time() -> None:
    there, back, heard = Bell(), Bell(), []

    def answer() -> None:
        for number in range(100):
            there.wait(30)
            heard.append(number)
            back.ring()

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(100):
        there.ring()
        back.wait(30)
        assert heard[-1] == number
    thread.join(30)
    for bell in (there, back):
        bell.close()
