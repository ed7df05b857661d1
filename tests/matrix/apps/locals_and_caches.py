"""contextvars, thread locals, lru_cache, decimal's context, a lock, and text of the locale."""

import contextvars
import decimal
import functools
import locale
import threading
import time

current: contextvars.ContextVar[str] = contextvars.ContextVar("current")
local = threading.local()
lock = threading.RLock()


@functools.lru_cache(maxsize=128)
def price(n: int) -> decimal.Decimal:
    return decimal.Decimal(n) / 3


def handle(value: str) -> str:
    assert current.get("") == "", "another message's"
    current.set(value)
    local.value = value
    with decimal.localcontext() as context:
        context.prec = 3 + int(value) % 5
        time.sleep(0.001)
        with lock:
            told = locale.format_string("%d", int(value))
        assert (current.get(), local.value, context.prec) == (value, value, 3 + int(value) % 5)
    return f"{told} {price(int(value) % 1000):.3f}"
