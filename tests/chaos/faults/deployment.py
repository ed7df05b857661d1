"""Servers of two versions, of two assignors, and two under one name."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.faults.registry import NotHere, fault
from tests.chaos.harness import FENCED, Round
from tests.chaos.judge import Verdict
from tests.support.broker import ROOT
from tests.support.servers import Running

#: A version of this project from before there were notes of what has finished, a master, hooks.
EARLIER = "b91bc2f"
#: The status of one that its group refuses.
UNAVAILABLE = 69


@fault("two of one name", any_twice=True)
def two_of_one_name(this: Round, times: int = 3) -> Verdict:
    """A server is started under the name of one that runs: it takes its place, and the other ends."""
    this.static = True
    server = this.start("same")
    this.ready(server)
    with this.load():
        for _ in range(times):
            this.sleep(0.5, 1.5)
            other = this.start("same")
            this.fault()
            this.ready(other)
            status = server.wait(60)
            if status != FENCED:
                this.verdict.notes.append(f"the one whose place was taken ended with {status}")
            server = other
        this.sleep(0.5, 1.0)
    return this.finish()


def _rolled(this: Round, steps: list[dict[str, Any]], between: Callable[[], None] = lambda: None) -> Verdict:
    """Two servers, replaced one after the other at each step, which says how they are started."""
    servers = [this.start(**steps[0]), this.start(**steps[0])]
    for server in servers:
        this.ready(server)
    with this.load():
        for options in steps[1:]:
            for place in range(2):
                this.sleep(0.5, 1.5)
                _leave(this, servers[place])
                servers[place] = this.start(**options)
                this.ready(servers[place])
                this.fault()
            between()
        this.sleep(0.5, 1.0)
    return this.finish()


def _leave(this: Round, server: Running) -> None:
    status = server.stop()
    if status != 0:
        this.verdict.notes.append(f"a server that was asked to stop ended with {status}")


@fault("two versions", short=False)
def two_versions(this: Round) -> Verdict:
    """From an earlier version of this project to this one and back, one server after the other. The
    earlier one's map of what is finished ahead does not say which offset it is relative to, so that it
    is not gone by, and what it knew runs again (at-least-once)."""
    this.verdict.allowed_twice = 4 * this.concurrency
    with tempfile.TemporaryDirectory(prefix="gworkers-earlier-") as folder:
        tree = Path(folder)
        archive = subprocess.run(["git", "archive", EARLIER, "gworkers"], cwd=ROOT, capture_output=True)
        if archive.returncode:
            raise NotHere(f"the earlier version is not in this checkout: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "x", "-C", str(tree)], input=archive.stdout, check=True)
        old = {"env": {"PYTHONPATH": str(tree)}}
        return _rolled(this, [old, {}, old, {}])


@fault("two assignors", short=False)
def two_assignors(this: Round) -> Verdict:
    """From one assignor to another and back, in two steps: a member that knows both stands between.
    Meanwhile one comes that gives partitions up one by one (cooperative), where the others give up all
    of them (eager): it has to be refused, and nobody else may notice."""
    ways = [["range"], ["sticky", "range"], ["sticky"], ["sticky", "range"], ["range"]]
    options = [{"consumer": {"partition_assignment_strategy": way}} for way in ways]

    def intrude() -> None:
        intruder = this.start(consumer={"partition_assignment_strategy": ["cooperative-sticky"]})
        if intruder.wait(30) != UNAVAILABLE:
            this.verdict.notes.append(f"a member of another way ended with {intruder.process.returncode}")

    return _rolled(this, options, between=intrude)
