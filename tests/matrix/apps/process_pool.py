"""concurrent.futures: a pool of processes, started by spawn, which is safe beside threads."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

pool: ProcessPoolExecutor | None = None


def begin() -> None:
    global pool
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def end() -> None:
    if pool is not None:
        pool.shutdown()


def double(n: int) -> int:
    return n * 2


def handle(value: str) -> str:
    if pool is None:
        begin()
    assert pool is not None
    return str(pool.submit(double, int(value)).result(60))
