"""A process that died is back at work at once: its group does not wait for its session."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from gworkers.server.members import Members
from tests.support.servers import configuration, consume, produce, until

#: Much less than the session of 45 s that a group would wait for; a lone start takes 1 s.
SOON = 8.0

ECHO = "import time\ndef handle(value):\n    time.sleep(0.005)\n    return value\n"


def killed_and_started(kafka: str, source: str, output: str, start: Any, config: Any, times: int) -> list[float]:
    """How long it took, each time, from the start to the first result."""
    took = []
    server = start(config, app=ECHO)
    for number in range(times):
        server.says("assigned: ")
        produce(kafka, source, ((None, b"%d-%d" % (number, n)) for n in range(200)))
        until(lambda: consume(kafka, output), what="a result")
        server.signal(signal.SIGKILL)
        server.wait()
        before = len(consume(kafka, output))
        produce(kafka, source, ((None, b"x%d-%d" % (number, n)) for n in range(200)))
        begun = time.monotonic()
        server = start(config, app=ECHO)
        until(lambda before=before: len(consume(kafka, output)) > before, 60, "a result after the restart")  # type: ignore[misc]
        took.append(time.monotonic() - begun)
    assert server.stop() == 0
    return took


@pytest.mark.parametrize("kind", ["plain", "state_dir", "exactly-once"])
def test_after_kill_9_it_is_back_at_work_at_once(real_kafka: str, source: str, output: str, start: Any, kind: str, tmp_path: Path) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    if kind == "state_dir":
        config["state_dir"] = str(tmp_path / "state")
    if kind == "exactly-once":
        config |= {"delivery": "exactly-once"}
    took = killed_and_started(real_kafka, source, output, start, config, 2)
    assert max(took) < SOON, took


def test_a_member_that_lives_is_never_removed(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    first = start(config, app=ECHO)
    first.says("assigned: ")
    second = start(config, app=ECHO, name="second.yaml")
    second.says("assigned: ")
    third = start(config, app=ECHO, name="third.yaml")
    third.says("assigned: ")
    assert not any("died on this machine" in server.log for server in (first, second, third))
    second.signal(signal.SIGSTOP)  # it lives, and says nothing
    fourth = start(config, app=ECHO, name="fourth.yaml")
    time.sleep(2)
    assert "died on this machine" not in fourth.log
    second.signal(signal.SIGCONT)
    fourth.says("assigned: ", 60)
    for server in (first, second, third, fourth):
        assert server.stop() == 0
        assert "lost, because" not in server.log


def test_one_that_died_beside_others_is_removed_by_whoever_starts_next(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    servers = [start(config, app=ECHO, name=f"{n}.yaml") for n in range(2)]
    for server in servers:
        server.says("assigned: ")
    servers[1].signal(signal.SIGKILL)
    servers[1].wait()
    third = start(config, app=ECHO, name="2.yaml")
    third.says("1 member of the group died on this machine")
    third.says("assigned: ", 15)
    for server in (servers[0], third):
        assert server.stop() == 0


def test_what_cannot_be_told_is_waited_for_and_said(
    real_kafka: str, source: str, output: str, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    config["kafka"]["consumer"] = {"session_timeout_ms": 12_000, "heartbeat_interval_ms": 3_000}
    elsewhere = [tmp_path / name for name in ("here", "there")]
    for folder in elsewhere:
        folder.mkdir()
    server = start(config, app=ECHO, env={"XDG_RUNTIME_DIR": str(elsewhere[0])})
    server.says("assigned: ")
    server.signal(signal.SIGKILL)
    server.wait()
    server = start(config, app=ECHO, env={"XDG_RUNTIME_DIR": str(elsewhere[1])})
    server.says(r"waiting for the group: one of its members does not answer.*its session ends within 12 s", 20)
    server.says("assigned: ", 30)
    assert server.stop() == 0


def test_files_of_members_are_believed_with_care(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    members = Members(tmp_path, "a:1", "g")
    contents = [
        json.dumps({"boot": boot, "member": "one"}),
        json.dumps({"boot": "another", "member": "elsewhere"}),
        "",
        "{",
        "[]",
        json.dumps({"boot": boot, "member": 7}),
        "[" * 4000,
        json.dumps({"boot": boot, "member": "two"}),
    ]
    for path, content in zip(members._paths, contents, strict=False):
        path.write_text(content)
    assert members.left_behind() == ["one", "two"]
    assert members.left_behind() == []
    members.claim()
    members.joined("three")
    assert json.loads(members._paths[0].read_text())["member"] == "three"
    members.left()
    assert Members(tmp_path, "a:1", "g").left_behind() == []
    assert Members(tmp_path, "a:1", "another group").left_behind() == []
