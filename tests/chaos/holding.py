"""Single requests that are held up in the network, and arrive later on the connection they were sent
on, which its client has long given up.

A Holder reads what clients send (4 bytes of length, then API key and version) as a proxy passes it on,
and takes requests of one kind out of it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

#: API keys of Kafka's protocol.
PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 0, 22, 24, 25, 26, 28
#: The longest after the moment it waits for that a request is delivered, in seconds.
SOON = 0.03


@dataclass(eq=False)
class Held:
    """A request on its own connection to the broker. ended: a transaction has ended since."""

    frame: bytes
    far: socket.socket
    ended: bool = False
    due: bool = False


@dataclass
class Holder:
    """Takes every ``every``-th request of ``kind``. cut: the client's side of the connection is reset,
    else it is left waiting; itself: held requests are delivered by ``release`` alone. answered: what
    the broker said to those that came late, as error codes of EndTxn (None: of another kind)."""

    kind: int
    every: int = 3
    cut: bool = True
    itself: bool = False
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    held: list[Held] = field(default_factory=list)
    answered: list[int | None] = field(default_factory=list)
    _seen: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def passes(self, frame: bytes, far: socket.socket) -> bool:
        """Whether a request goes on; one that does not is kept, and ``far`` with it."""
        (kind,) = struct.unpack_from(">h", frame, 4)
        with self._guard:
            due = []
            for held in () if self.itself else self.held:
                if kind == END_TXN:
                    held.ended = True
                elif kind in (ADD_PARTITIONS, ADD_OFFSETS) and held.ended and not held.due:
                    held.due = True
                    due.append(held)
            taken = False
            if kind == self.kind:
                self._seen += 1
                if self._seen % self.every == 0:
                    self.held.append(Held(frame, far))
                    taken = True
        for held in due:
            threading.Timer(self.draw.uniform(0, SOON), self._deliver, (held,)).start()
        return not taken

    def release(self) -> None:
        """Deliver all that is held."""
        for held in list(self.held):
            self._deliver(held)

    def _deliver(self, held: Held) -> None:
        with self._guard:
            if held not in self.held:
                return
            self.held.remove(held)
        code = None
        with contextlib.suppress(OSError, struct.error):
            held.far.settimeout(10)
            held.far.sendall(held.frame)
            answer = self._answer(held)
            if self.kind == END_TXN:  # correlation, tags, throttle time, error
                (code,) = struct.unpack_from(">h", answer, 4 + 1 + 4)
        held.far.close()
        self.answered.append(code)

    @staticmethod
    def _answer(held: Held) -> bytes:
        """The answer to the request; those to earlier ones on its connection come before it."""
        data = b""
        while True:
            while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
                more = held.far.recv(65536)
                if not more:
                    return b""
                data += more
            end = 4 + int.from_bytes(data[:4], "big")
            if data[4:8] == held.frame[8:12]:  # the correlation id
                return data[4:end]
            data = data[end:]

    def settle(self, timeout: float = 10) -> int:
        """Deliver what is left; how many came late in all."""
        self.release()
        deadline = time.monotonic() + timeout
        while self.held and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(self.answered)
