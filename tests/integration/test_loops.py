"""Nothing that lives as long as the process dies alone: an exception inside any loop ends the
process, and names the loop."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.servers import configuration, produce

#: Loop, what is replaced inside of it, and keys of the configuration without which it would not get
#: there.
LOOPS: list[tuple[str, str, dict[str, Any]]] = [
    ("poller", "gworkers.pipeline.consumer:Consumer._catch_up", {}),
    ("committer", "gworkers.pipeline.committer:OffsetBuilder.build", {}),
    ("worker 1", "gworkers.pipeline.scheduler:Scheduler.take", {}),
    ("time keeper", "gworkers.pipeline.time_keeper:TimeKeeper._keep_limits", {}),
    ("retries", "gworkers.pipeline.retries:Retries._take_due", {}),
    ("refusals", "gworkers.pipeline.delivery:Refusals.take", {}),
    ("quarantine", "gworkers.pipeline.quarantine:Quarantine._next", {}),
    ("producer", "gworkers.kafka.producing:KafkaProducerClient.append", {}),
    ("output topics", "gworkers.kafka.producing:KafkaProducerClient.known_partitions", {}),
    ("look-up of ", "gworkers.pipeline.output_topics:Topic.has", {}),
    ("transactions", "gworkers.pipeline.committer:OffsetBuilder.moved", {"delivery": "exactly-once"}),
    ("a partition's wait", "gworkers.pipeline.pacing:Pacing._resume", {"rate": "1/s"}),
    ("a batch's wait", "gworkers.pipeline.pacing:Pacing._formed", {"order": "key", "batch": {"by": "key", "max_wait": "50ms"}}),
    ("watch", "gworkers.server.watch:Watch._look_for_topics", {}),
    ("progress", "gworkers.server.progress:Progress._show", {}),
    ("steering", "gworkers.pipeline.steering:Steering._settling", {"concurrency": "auto"}),
    ("history", "gworkers.admin.page.history:History._add", {"admin": {"bind": "127.0.0.1:0"}}),
    ("hub watchdog", "gworkers.handlers.hub_watchdog:HubWatchdog._take_over", {}),
]

APP = """
import importlib

def handle(value):
    return value

def fail(value):
    raise ValueError("as it was asked to")

def broken(*arguments):
    raise RuntimeError("injected")

module, _, path = {target!r}.partition(":")
cls, _, method = path.partition(".")
setattr(getattr(importlib.import_module(module), cls), method, broken)
"""


@pytest.mark.parametrize(("name", "target", "more"), LOOPS, ids=[name for name, _, _ in LOOPS])
def test_an_exception_inside_a_loop_ends_the_process_and_names_it(
    real_kafka: str, source: str, output: str, start: Any, name: str, target: str, more: dict[str, Any]
) -> None:
    produce(real_kafka, source, ((b"%d" % n, b"1") for n in range(20)))
    config = configuration(real_kafka, "app:handle", source, output, **{"shutdown": {"grace": "1s"}, **more})
    server = start(config, app=APP.format(target=target))
    assert server.wait(40) == 70, server.log
    assert re.search(rf"ERROR gworkers: the loop ['\"]{re.escape(name)}.* failed: RuntimeError: injected; the trace is above", server.log)
    assert "in broken\n" in server.log
