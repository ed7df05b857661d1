"""The machine: its clock, disk, descriptors, memory."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.faults.registry import NotHere, fault
from tests.chaos.harness import RESTART, Round
from tests.chaos.judge import Verdict
from tests.support import faketime
from tests.support.servers import Running

#: An error inside, or what only a new process can mend: a supervisor starts the server again.
INTERNAL = 70


@fault("clock jumps")
def clock_jumps(this: Round, times: int = 4) -> Verdict:
    """The servers' wall clock goes an hour or a day ahead, or back."""
    shift = this.folder / "clock"
    shift.write_text("+0")
    try:
        env = faketime.environment(shift)
    except faketime.NoFaketime as error:
        raise NotHere(str(error)) from None
    for server in [this.start(env=env), this.start(env=env)]:
        this.ready(server)
    with this.load(failing=0.05) as load:
        for _ in range(times):
            this.sleep(0.7, 1.5)
            shift.write_text(this.draw.choice(("+3600", "-3600", "+86400", "-86400", "+0", "+5", "-5")))
            this.fault()
        this.sleep(1.0, 2.0)
    return this.finish(set(range(this.verdict.messages)) - load.failing)


@fault("disk full", any_twice=True)
def disk_full(this: Round) -> Verdict:
    """There is no room left in the state directory while the server runs, when it is killed, and when
    it starts again."""
    with small_disk(this, "256k") as state:
        server = this.start("full", state_dir=str(state))
        this.ready(server)
        with this.load():
            this.sleep(1.0, 2.0)
            fill(state / "filler")
            this.fault()
            this.sleep(1.0, 2.0)
            if server.process.poll() is not None:
                this.verdict.notes.append(f"the server ended with {server.process.returncode}")
            server.signal(signal.SIGKILL)
            server.wait()
            server = this.start("full", state_dir=str(state))
            this.fault()
            this.ready(server)
            this.sleep(1.0, 2.0)
            (state / "filler").unlink()
            this.sleep(1.0, 2.0)
        return this.finish()


@contextmanager
def small_disk(this: Round, size: str) -> Iterator[Path]:
    """A folder with room for no more than ``size``; the servers of the round end before it does."""
    disk = this.folder / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True, text=True)
    if done.returncode:
        raise NotHere(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        for server in this.running:
            server.close()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(file: Path) -> None:
    with open(file, "wb", buffering=0) as sink:
        for piece in (4096, 1):
            try:
                while True:
                    sink.write(b"x" * piece)
            except OSError:
                continue


@fault("out of descriptors", proxied=True, any_twice=True)
def out_of_descriptors(this: Round, times: int = 2) -> Verdict:
    """A server may open nothing any more while its connections break, for a while."""
    servers = this.pair()
    with this.load():
        for _ in range(times):
            this.sleep(0.5, 1.5)
            victim = this.draw.choice(servers)
            soft, hard = resource.prlimit(victim.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(victim.process.pid, resource.RLIMIT_NOFILE, (3, hard))
            this.world.proxy.cut()
            this.fault()
            this.sleep(1.0, 6.0)
            if victim.process.poll() is None:
                resource.prlimit(victim.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
            _start_again_if_ended(this, servers)
        this.sleep(1.0, 2.0)
    _start_again_if_ended(this, servers)
    return this.finish()


@fault("out of memory", any_twice=True)
def out_of_memory(this: Round, times: int = 2) -> Verdict:
    """A server gets no more memory than it has, while handlers ask for more."""
    servers = this.pair()
    with this.load(hungry=0.02):
        for _ in range(times):
            this.sleep(1.0, 2.0)
            victim = this.draw.choice(servers)
            size = 4096 * int(Path(f"/proc/{victim.process.pid}/statm").read_text().split()[0])
            resource.prlimit(victim.process.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
            this.fault()
            this.sleep(1.0, 4.0)
            if victim.process.poll() is None:
                resource.prlimit(victim.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            _start_again_if_ended(this, servers)
        this.sleep(1.0, 2.0)
    _start_again_if_ended(this, servers)
    return this.finish()


def _start_again_if_ended(this: Round, servers: list[Running]) -> None:
    for place, server in enumerate(servers):
        if server.process.poll() is None:
            continue
        if server.process.returncode not in (INTERNAL, RESTART):
            this.verdict.notes.append(f"a server ended with {server.process.returncode}")
        servers[place] = this.start()
        this.ready(servers[place])
