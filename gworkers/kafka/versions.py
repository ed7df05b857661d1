"""Which versions of kafka-python this room knows the inside of, and what the next one will change
here.

The range is what setup.py asks for; the tests run against both of its ends. 3.0.5 to 3.0.8 are left
out because with an eager assignor and a rebalance listener they never fetch a retained partition
again (kafka-python #3131).

The next one, 3.1, was tried on 2026-11-25 at its development head (a3b3836f): producing in blocks,
reading, splitting a batch, a partition added and one transaction after the other passed as they
are. What it changes for this room:

- network back ends can be exchanged (``net=``), and one on asyncio comes along; ours stays the
  selector's. They are loaded by ``importlib.import_module``, which green.py answers with the
  private modules since;
- the producer's Sender is a coroutine on the I/O loop and no thread of its own: "on the Sender
  greenlet" becomes "on the I/O greenlet", so an acknowledgement that takes long holds up heartbeats
  too. Nothing of ours waits there;
- the ``asyncio`` module is imported by its abstract back end; the test that forbids this has to
  allow that one file;
- ``_consumer._net.sleep`` and ``_consumer._client._manager`` (group.py) keep their names,
  ``net.run`` becomes ``net.wait_for``, which nothing here calls.
"""

from __future__ import annotations

from gworkers.errors import UnavailableError
from gworkers.kafka import green

#: From the first, up to but without the second.
KNOWN = ((3, 0, 9), (3, 1, 0))


def installed() -> str:
    """The installed kafka-python's version as it tells it."""
    text: str = green.module("kafka.version").__version__
    return text


def check() -> None:
    """Raises UnavailableError when the installed kafka-python is not one whose inside is known, or
    cannot work in this process."""
    if not __debug__:
        raise UnavailableError(
            "Python runs with -O or PYTHONOPTIMIZE, which leaves out statements that kafka-python needs to reach Kafka; start it without"
        )
    version = tuple(int(part) for part in installed().split(".")[:3] if part.isdigit())
    if not KNOWN[0] <= version < KNOWN[1]:
        first, end = (".".join(map(str, bound)) for bound in KNOWN)
        raise UnavailableError(
            f"kafka-python {installed()} is installed, and this version of gworkers works with {first} up to but without {end}; "
            f"install one of these: pip install 'kafka-python[crc32c]>={first},<{end}'"
        )
