"""What a group of several machines does: how its rate grows with its members, and how long it stands
still when one comes, goes, is killed. ``bin/bench scaling`` runs it.

A machine is a master with its workers in a UTS namespace of its own, with another host name and
another home, so that nothing but Kafka is shared. Handlers wait 20 ms; a figure is how fast the
output grows while there is a backlog, a pause the longest time between two results.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tests.support import broker
from tests.support.servers import ENVIRONMENT, configuration, consume, create_topic, produce, unique, until, workers_of

CONCURRENCY = 64
SECONDS = 0.02
PARTITIONS = 16
APP = f"import time\n\ndef handle(value):\n    time.sleep({SECONDS})\n    return value\n"


class Machine:
    """A master with ``processes`` workers under a host name of its own."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any], processes: int) -> None:
        self.home = folder / name
        self.home.mkdir()
        (self.home / "app.py").write_text(APP)
        (self.home / "app.yaml").write_text(yaml.safe_dump({**config, "processes": processes}))
        self.log = self.home / "log"
        self.processes = processes
        command = f'hostname {name}; exec "$0" -m gworkers run -c app.yaml'
        env = {**ENVIRONMENT, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)}
        with open(self.log, "wb") as sink:
            self.process = subprocess.Popen(
                ["unshare", "--uts", "sh", "-c", command, sys.executable],
                cwd=self.home,
                env=env,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def ready(self) -> None:
        until(lambda: self.log.read_text().count("assigned: ") >= self.processes, 60, f"partitions for {self.home.name}")

    def close(self) -> None:
        """As when its power fails."""
        if self.process.poll() is None:
            for pid in (self.process.pid, *workers_of(self.process.pid)):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Group:
    """Topics and a configuration; machines come and go."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.servers = servers
        self.folder = folder / unique("group")
        self.folder.mkdir()
        self.source = create_topic(servers, unique("in"), PARTITIONS)
        self.output = create_topic(servers, unique("out"), PARTITIONS, message_timestamp_type="LogAppendTime")
        self.config = configuration(servers, "app:handle", self.source, self.output, concurrency=CONCURRENCY, commit={"interval": "1s"})
        self.machines: list[Machine] = []

    def add(self, processes: int) -> Machine:
        machine = Machine(self.folder, f"machine-{len(self.machines)}", self.config, processes)
        self.machines.append(machine)
        return machine

    def produce(self, count: int) -> None:
        """With keys, so that a result is in the partition with its message's number."""
        produce(self.servers, self.source, ((b"%d" % (n % 5000), b"%d" % n) for n in range(count)))

    def times(self) -> dict[int, list[float]]:
        """When each result was appended, in seconds, by the partition of its message."""
        found: dict[int, list[float]] = {number: [] for number in range(PARTITIONS)}
        for message in consume(self.servers, self.output, timeout=60):
            found[message.partition()].append(message.timestamp()[1] / 1000)
        return found

    def close(self) -> None:
        for machine in self.machines:
            machine.close()


def rate(group: Group, machines: int, processes: int) -> float:
    """Messages a second of ``machines`` with ``processes`` each, over six seconds of a backlog."""
    ideal = machines * processes * CONCURRENCY / SECONDS
    group.produce(int(ideal * 12))
    for machine in [group.add(processes) for _ in range(machines)]:
        machine.ready()
    began = time.time() + 1
    time.sleep(8)  # what is measured is a while of the backlog, not its end
    group.close()
    return sum(began <= at < began + 6 for times in group.times().values() for at in times) / 6


def pauses(group: Group) -> dict[str, float]:
    """The longest time without a result of a partition while members come and go; in seconds. Two
    machines of two under a backlog that outlasts it."""
    group.produce(700_000)
    for machine in [group.add(2), group.add(2)]:
        machine.ready()
    found: dict[str, tuple[float, float]] = {}

    def during(what: str, seconds: float) -> None:
        found[what] = (time.time(), time.time() + seconds)
        time.sleep(seconds)

    time.sleep(2)
    during("nothing happens", 4)
    third = group.add(2)
    third.ready()
    found["two members join"] = (time.time() - 6, time.time() + 2)
    time.sleep(3)
    third.process.send_signal(signal.SIGTERM)
    during("two members leave", 6)
    group.machines[1].close()
    during("a machine with two members is lost", 60)
    times = group.times()
    longest = {}
    for what, (begin, end) in found.items():
        longest[what] = max(gap for of_one in times.values() for gap in _gaps(begin, end, of_one))
    return longest


def _gaps(begin: float, end: float, times: list[float]) -> Iterator[float]:
    inside = [begin, *sorted(at for at in times if begin <= at <= end), end]
    return (after - before for before, after in pairwise(inside))


def main() -> int:
    kafka = broker.Kafka()
    folder = Path(tempfile.mkdtemp(prefix="gworkers-scaling-"))
    try:
        kafka.start()
        print("| machines × processes | handlers | ideal | messages/s | of ideal |\n|---|---:|---:|---:|---:|")
        for machines, processes in ((1, 1), (2, 1), (2, 2), (2, 3)):
            with closing(Group(kafka.servers, folder)) as group:
                found = rate(group, machines, processes)
            handlers = machines * processes * CONCURRENCY
            ideal = handlers / SECONDS
            print(f"| {machines} × {processes} | {handlers} | {ideal:,.0f} | {found:,.0f} | {found / ideal:.2f} |", flush=True)
        print("\n| while | longest time without a result of a partition |\n|---|---:|")
        with closing(Group(kafka.servers, folder)) as group:
            for what, longest in pauses(group).items():
                print(f"| {what} | {longest:.1f} s |", flush=True)
    finally:
        kafka.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    broker.close_when_asked_to_end()
    sys.exit(main())
