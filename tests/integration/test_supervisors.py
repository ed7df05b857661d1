"""The files for supervisord and systemd, read by supervisord and systemd."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gworkers.config.load import load
from tests.support.servers import ROOT, configuration, until


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (ROOT / "conf/gworkers.service").read_text()
    program = tmp_path / "gworkers"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "gworkers.service"
    unit.write_text(
        text.replace("/opt/gworkers/bin/gworkers -c", f"{program} -c").replace("/opt/gworkers/bin/gworkers check", f"{program} check")
    )
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    about = [line for line in (done.stdout + done.stderr).splitlines() if "gworkers" in line]
    assert done.returncode == 0, about
    assert not about
    unit.write_text(text + "[Service]\nTimeoutStopSec=soon\n")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert "Failed to parse time value" in done.stdout + done.stderr, "a mistake in the unit would be seen"


def test_the_unit_may_do_little() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(ROOT / "conf/gworkers.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) < 3.0


def test_both_wait_longer_than_the_grace() -> None:
    grace = load(ROOT / "conf/app.yaml").config.shutdown.grace
    for name, key in (("gworkers.service", "TimeoutStopSec="), ("supervisord.conf", "stopwaitsecs=")):
        (wait,) = [line.removeprefix(key) for line in (ROOT / "conf" / name).read_text().splitlines() if line.startswith(key)]
        assert int(wait) > grace


def test_supervisord_runs_and_stops_it(kafka_servers: str, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "bin").mkdir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/app.py").write_text("def handle(value):\n    return value\n")
    config: dict[str, Any] = configuration(kafka_servers, "app:handle", "in", "out")
    (tmp_path / "conf/app.yaml").write_text(yaml.safe_dump(config))
    program = tmp_path / "bin/gworkers"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m gworkers "$@"\n')
    program.chmod(0o755)
    file = tmp_path / "conf/supervisord.conf"
    file.write_text((ROOT / "conf/supervisord.conf").read_text().replace("/dev/stdout", str(tmp_path / "out.log")))
    log = tmp_path / "supervisord.log"
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)], stdout=sink, stderr=sink, cwd=tmp_path, env=dict(os.environ)
        )
    try:
        until(lambda: (tmp_path / "out.log").exists() and "assigned" in (tmp_path / "out.log").read_text(), what="a running server")
        until(lambda: "entered RUNNING state" in log.read_text(), what="supervisord's word")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "everything settled" in (tmp_path / "out.log").read_text()
        assert "exit status 0; expected" in log.read_text() or "stopped: gworkers (exit status 0)" in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Manager:
    """systemd's end of sd_notify: what it was told, in order."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.told: list[str] = []

    def hears(self, word: str, timeout: float = 30, since: int = 0) -> int:
        """Wait until it is told; how many words there were then."""

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.told.extend(self._socket.recv(4096).decode().split("\n"))
            return any(one.startswith(word) for one in self.told[since:])

        until(look, timeout, f"{word} among {self.told}")
        return len(self.told)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_systemd_is_told_what_it_wants_to_know(real_kafka: str, source: str, start: Any, tmp_path: Path, processes: int) -> None:
    manager = Manager(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
    try:
        config = configuration(real_kafka, "app:handle", source) | {"processes": processes}
        server = start(config, app="def handle(value):\n    return value\n", env=environment)
        heard = manager.hears("READY=1")
        assert f"MAINPID={server.process.pid}" in manager.told
        heard = manager.hears("WATCHDOG=1", since=heard)
        heard = manager.hears("WATCHDOG=1", since=heard)
        server.signal(signal.SIGHUP)
        heard = manager.hears("RELOADING=1", since=heard)
        heard = manager.hears("READY=1", since=heard)
        if processes == 2:
            until(lambda: len(re.findall("INFO gworkers: gworkers ", server.log)) == 4, what="two new ones")
            held = [int(pid) for pid in re.findall(r"INFO gworkers: gworkers \S+, pid (\d+),", server.log)][-1]
            os.kill(held, signal.SIGSTOP)
            time.sleep(2.5)  # longer than the watchdog waits, so that what was on its way is through
            manager.hears("")
            before = manager.told.count("WATCHDOG=1")
            time.sleep(2)
            manager.hears("")
            assert manager.told.count("WATCHDOG=1") == before, "a process that stands still is called well"
            os.kill(held, signal.SIGCONT)
        heard = manager.hears("WATCHDOG=1", since=len(manager.told))
        server.signal(signal.SIGTERM)
        manager.hears("STOPPING=1", since=heard)
        assert server.wait() == 0, server.log
    finally:
        manager.close()
