"""A block that ends early waits only for what its threads have started."""

import threading
from concurrent.futures import Future

import pytest

from moonshine_tune.core.parallel import thread_pool


def test_waiting_work_is_given_up_after_an_interrupt() -> None:
    ran: list[str] = []
    waiting: list[Future[None]] = []
    is_passed = threading.Event()

    def first() -> None:
        is_passed.wait()
        # Until the work behind it is given up.
        while not waiting[-1].cancelled():
            threading.Event().wait(0.001)
        ran.append("first")

    with pytest.raises(KeyboardInterrupt), thread_pool(1) as pool:
        started = pool.submit(first)
        while not started.running():
            threading.Event().wait(0.001)
        waiting += [pool.submit(ran.append, "more") for _ in range(3)]
        is_passed.set()
        raise KeyboardInterrupt
    assert started.done()
    assert ran == ["first"]


def test_results_come_in_order() -> None:
    with thread_pool(2) as pool:
        assert list(pool.map(lambda number: number * 2, range(5))) == [0, 2, 4, 6, 8]
