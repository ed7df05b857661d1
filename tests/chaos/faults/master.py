"""A master and its workers: one of them is killed, or all; the disk that the log is on is full."""

from __future__ import annotations

import os
import signal

from tests.chaos.faults.machine import fill, small_disk
from tests.chaos.faults.registry import fault
from tests.chaos.harness import Round
from tests.chaos.judge import Verdict
from tests.support.servers import Running, until, workers_of

#: How often a master is killed in a round.
TIMES = 2


def _start(this: Round) -> Running:
    """A master of two, both of which have partitions."""
    server = this.start(f"m{len(this.running)}-%(process)s", processes=2)
    until(lambda: server.log.count("assigned: ") >= 2, 60, "two workers with partitions")
    return server


def _both_again(server: Running, before: int) -> None:
    def there() -> bool:
        return server.log.count("assigned: ") > before and len(workers_of(server.process.pid)) == 2

    until(there, 60, "a dead worker's successor")


@fault("worker killed")
def worker_killed(this: Round, times: int = 3) -> Verdict:
    """Workers are killed under load; their master starts them again."""
    this.allow_twice_for(times)
    server = _start(this)
    with this.load():
        for _ in range(times):
            this.sleep(0.5, 2.0)
            before = server.log.count("assigned: ")
            os.kill(this.draw.choice(workers_of(server.process.pid)), signal.SIGKILL)
            this.fault()
            _both_again(server, before)
        this.sleep(0.5, 1.0)
    return this.finish()


@fault("master killed")
def master_killed(this: Round) -> Verdict:
    """Masters are killed under load; their workers drain, and another one is started at once."""
    this.allow_twice_for(0)
    return _killed_and_started(this, workers=False)


@fault("master and workers killed")
def all_killed(this: Round) -> Verdict:
    """All of them are killed at once, as by a container's end."""
    this.allow_twice_for(2 * TIMES)
    return _killed_and_started(this, workers=True)


def _killed_and_started(this: Round, *, workers: bool) -> Verdict:
    server = _start(this)
    with this.load():
        for _ in range(TIMES):
            this.sleep(0.5, 2.0)
            for pid in (server.process.pid, *(workers_of(server.process.pid) if workers else ())):
                os.kill(pid, signal.SIGKILL)
            server.wait()
            this.fault()
            server = _start(this)
        this.sleep(0.5, 1.0)
    return this.finish()


@fault("disk full at the log")
def log_disk_full(this: Round) -> Verdict:
    """The disk that the log is written to is full for a while, and a worker dies meanwhile."""
    this.allow_twice_for(1)
    home = this.folder
    with small_disk(this, "512k") as disk:
        this.folder = disk  # where it is started, and its log with it
        server = _start(this)
        this.folder = home
        with this.load(failing=0.1) as load:
            this.sleep(0.5, 1.0)
            fill(disk / "filler")
            this.fault()
            this.sleep(1.0, 2.0)
            os.kill(this.draw.choice(workers_of(server.process.pid)), signal.SIGKILL)
            this.fault()
            until(lambda: len(workers_of(server.process.pid)) == 2, 60, "its successor")
            this.sleep(1.0, 2.0)
            (disk / "filler").unlink()
            this.sleep(0.5, 1.0)
            if server.process.poll() is not None:
                this.verdict.notes.append(f"the master ended with {server.process.returncode}")
        return this.finish(set(range(this.verdict.messages)) - load.failing)
