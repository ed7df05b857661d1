"""The pid file, and a server that gives up root's rights."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import ROOT, configuration, consume, produce, unique, until

ECHO = "def handle(value):\n    return value\n"
WHO = "import os\ndef handle(value):\n    return f'{os.getuid()} {os.getgid()} {os.environ[\"HOME\"]}'.encode()\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_the_pid_file_is_there_while_it_runs(kafka_servers: str, source: str, start: Any, tmp_path: Path, processes: int) -> None:
    pid_file = tmp_path / "pid"
    config = {**configuration(kafka_servers, "app:handle", source), "processes": processes}
    server = start(config, "--pidfile", str(pid_file), app=ECHO)
    server.says("assigned: ")
    assert pid_file.read_text() == f"{server.process.pid}\n"
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("assigned: ") > 1, 60, "it has begun anew")
    assert pid_file.read_text() == f"{server.process.pid}\n"
    command = [sys.executable, "-m", "gworkers", "-c", str(server.file), "--pidfile", str(pid_file)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert second.returncode == 69
    assert second.stderr.endswith(f"says that process {server.process.pid} runs already; stop that one, or name another file\n")
    assert server.stop() == 0, server.log
    assert not pid_file.exists()


@pytest.mark.parametrize("left", ["999999999\n", "no number", "", "-1", "1\n"])
def test_what_was_left_behind_is_no_reason_not_to_start(kafka_servers: str, source: str, start: Any, tmp_path: Path, left: str) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(left)
    server = start(configuration(kafka_servers, "app:handle", source), "--pidfile", str(pid_file), app=ECHO)
    server.says("assigned: ")
    assert pid_file.read_text() == f"{server.process.pid}\n"
    assert server.stop() == 0


def test_a_pid_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    config = configuration("127.0.0.1:1", "app:handle", "in")
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
    for name, told in ((tmp_path / "nothing/pid", "No such file or directory"), (tmp_path, "Is a directory")):
        command = [sys.executable, "-m", "gworkers", "-c", str(tmp_path / "app.yaml"), "--pidfile", str(name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == 69
        assert f"the pid file {name} cannot be written: {told}" in done.stderr


def test_a_start_that_fails_leaves_no_pid_file(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("kafka: {grup: x}\n")
    command = [sys.executable, "-m", "gworkers", "-c", str(tmp_path / "app.yaml"), "--pidfile", str(tmp_path / "pid")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 78
    assert not (tmp_path / "pid").exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can read."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def python_of_all() -> tuple[str, dict[str, str]] | None:
    """A Python of this version that anybody may run, with what gworkers needs; None where there is
    none."""
    found = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *site.getsitepackages())), "HOME": "/"}
    nobody = pwd.getpwnam("nobody")
    command = [found, "-c", "import gzip, gworkers.cli.main, gworkers.supervisor.server"]
    try:
        done = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[]
        )
    except OSError:
        return None
    return (found, environment) if done.returncode == 0 else None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_started_as_root_it_becomes_another_user(kafka_servers: str, source: str, output: str, open_folder: Path) -> None:
    python = python_of_all()
    if python is None:
        pytest.skip("there is no Python here that another user may run")
    nobody = pwd.getpwnam("nobody")
    (open_folder / "app.py").write_text(WHO)
    config = {
        **configuration(kafka_servers, "app:handle", source, output),
        "kafka": {"bootstrap_servers": kafka_servers, "group": unique("g")},
    }
    (open_folder / "app.yaml").write_text(yaml.safe_dump(config))
    produce(kafka_servers, source, [(None, b"x")])
    log = open_folder / "log"
    with log.open("w") as file:
        command = [python[0], "-m", "gworkers", "-c", "app.yaml", "--until-idle", "1s", "--user", "nobody"]
        done = subprocess.run(command, cwd=open_folder, env=python[1], stdout=file, stderr=file, timeout=90)
    assert done.returncode == 0, log.read_text()
    assert [m.value() for m in consume(kafka_servers, output)] == [f"{nobody.pw_uid} {nobody.pw_gid} {nobody.pw_dir}".encode()]


@pytest.mark.parametrize(
    ("options", "told"),
    [(("--user", "no-such-user"), "there is no user no-such-user"), (("--group", "no-such"), "there is no group no-such")],
)
def test_a_user_or_group_that_is_not_there_is_a_sentence(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(configuration("127.0.0.1:1", "app:handle", "in")))
    command = [sys.executable, "-m", "gworkers", "-c", str(tmp_path / "app.yaml"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (64, f"gworkers: {told}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_not_read_what_it_runs_on_is_told(open_folder: Path) -> None:
    package = open_folder / "gworkers"
    shutil.copytree(ROOT / "gworkers", package)
    package.chmod(0o700)
    (open_folder / "app.yaml").write_text(yaml.safe_dump(configuration("127.0.0.1:1", "app:handle", "in")))
    command = [sys.executable, "-m", "gworkers", "-c", "app.yaml", "--user", "nobody"]
    environment = {**os.environ, "PYTHONPATH": str(open_folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=open_folder, env=environment)
    assert done.returncode == 69, done.stderr
    assert re.search(r"gworkers: the user nobody may not read \S+, which gworkers runs on; have it in a folder that others", done.stderr)
    assert "Traceback" not in done.stderr
