"""Threads whose waiting work is given up when the block ends early."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; an error or an interrupt waits only for what has started.

    `ThreadPoolExecutor` itself first does everything that was passed to it.
    """
    pool = ThreadPoolExecutor(num_threads)
    try:
        yield pool
    finally:
        # After a block that ran to its end nothing is left to cancel: its results were taken.
        pool.shutdown(wait=True, cancel_futures=True)
