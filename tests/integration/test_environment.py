"""bin/gworkers in a fresh clone: the environment it makes for itself, and the first look."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ROOT, until

#: In their order and in one process: each finds the environment as the one before has left it.
pytestmark = pytest.mark.xdist_group("environment")

OWN = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
BARE = {name: value for name, value in os.environ.items() if name not in OWN}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What git would give a stranger, of the tree as it is now."""
    folder = tmp_path_factory.mktemp("clone")
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)


def start(clone: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with open(log, "wb") as sink:
        return subprocess.Popen(
            [str(clone / "bin/gworkers"), *arguments], cwd=clone, env=BARE, stdout=sink, stderr=sink, start_new_session=True
        )


def test_a_package_that_cannot_be_had_is_a_sentence_and_69_and_nothing_half_made_stays(clone: Path) -> None:
    lock = clone / "requirements/runtime.txt"
    whole = lock.read_text()
    lock.write_text(whole + "no-such-package-of-gworkers==1.0 --hash=sha256:" + "0" * 64 + "\n")
    try:
        done = subprocess.run([str(clone / "bin/gworkers"), "--version"], cwd=clone, env=BARE, capture_output=True, text=True, timeout=300)
    finally:
        lock.write_text(whole)
    assert done.returncode == 69
    assert re.search(r"^gworkers: a package cannot be had: .*no-such-package-of-gworkers", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert not (clone / ".venv/gworkers-lock").exists(), "a half-made environment would be taken for a whole one"


def test_a_checkout_that_cannot_be_written_is_a_sentence(clone: Path) -> None:
    """As another user's is; the tests may run as root, who may write everywhere but there."""
    (clone / ".venv.lock").unlink(missing_ok=True)
    (clone / ".venv.lock").mkdir()
    try:
        done = subprocess.run([str(clone / "bin/gworkers"), "--version"], cwd=clone, env=BARE, capture_output=True, text=True, timeout=60)
    finally:
        (clone / ".venv.lock").rmdir()
    assert done.returncode == 69
    assert re.fullmatch(
        r"gworkers: the environment \S+/\.venv cannot be made: Is a directory: \S+/\.venv\.lock\. Run it once as the user that .*\n",
        done.stderr,
    )


def test_somebodys_settings_of_pip_put_the_packages_nowhere_else(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(f"[install]\nuser = true\n[global]\nprefix = {tmp_path}/prefix\n")
    environment = {**BARE, "PIP_TARGET": str(tmp_path / "target"), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_DRY_RUN": "1"}
    done = subprocess.run(
        [str(clone / "bin/gworkers"), "--version"], cwd=clone, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gworkers ")
    assert {path.name for path in tmp_path.iterdir()} == {"pip.conf"}
    shutil.rmtree(clone / ".venv")


def test_an_environment_in_which_nothing_starts_is_not_taken_for_whole(clone: Path) -> None:
    module = clone / "gworkers/message.py"
    whole = module.read_text()
    module.write_text("import no_such_module\n")
    try:
        done = subprocess.run([str(clone / "bin/gworkers"), "--version"], cwd=clone, env=BARE, capture_output=True, text=True, timeout=300)
    finally:
        module.write_text(whole)
    assert done.returncode == 69
    assert done.stderr.endswith("and the program does not start in it: ModuleNotFoundError: No module named 'no_such_module'\n")
    assert not (clone / ".venv/gworkers-lock").exists()


def test_two_that_start_at_once_make_one_environment_and_the_first_look_works(clone: Path, tmp_path: Path) -> None:
    """The README's first command, twice at once, in a clone that holds what a failed attempt left."""
    begun = time.monotonic()
    arguments = ("-c", "conf/app.yaml", "--until-idle", "2s")
    processes = [start(clone, tmp_path / f"log-{n}", *arguments) for n in range(2)]
    try:
        for process in processes:
            assert process.wait(240) == 0, (tmp_path / "log-0").read_text() + (tmp_path / "log-1").read_text()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    logs = [(tmp_path / f"log-{n}").read_text() for n in range(2)]
    assert sum("making .venv for requirements/runtime.txt" in log for log in logs) == 1
    assert sum("is being made by another process; waiting for it" in log for log in logs) == 1
    for log in logs:
        closing = re.search(
            r"the sample is through: 2,400 messages in ([\d.]+) s, (\d+) retried, (\d+) dead-lettered; "
            r"one at a time it would have taken \S+",
            log,
        )
        assert closing, log
        assert (closing[2], closing[3]) == ("15", "10")
        assert "\r" not in log, "a progress line where there is no terminal"
    print(f"two first looks took {time.monotonic() - begun:.0f} s")


def test_the_next_start_makes_nothing_and_serves_until_it_is_asked_to_stop(clone: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(clone, log, "-c", "conf/app.yaml")
    try:
        until(lambda: "the sample is through" in log.read_text(), 60, "the sample")
        assert "making" not in log.read_text()
        assert process.poll() is None
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        assert len(children) == 1, "the embedded broker is a child process"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        until(lambda: not Path(f"/proc/{children[0]}").exists(), what="the end of the embedded broker")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_broker_does_not_outlive_a_server_that_is_killed(clone: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(clone, log, "-c", "conf/app.yaml")
    try:
        until(lambda: "route price" in log.read_text(), 60)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    finally:
        process.kill()
        process.wait()
    assert children
    until(lambda: not Path(f"/proc/{children[0]}").exists(), what="the end of the embedded broker")


def test_a_terminal_gets_a_living_line(clone: Path) -> None:
    """In a pseudo-terminal: figures that change in place, log lines above them, and a clean end."""
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen(
        [str(clone / "bin/gworkers"), "-c", "conf/app.yaml", "--until-idle", "1s"],
        cwd=clone,
        env=BARE,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    seen = b""
    try:
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # the other end has gone
                break
            if not part:
                break
            seen += part
        assert process.wait(60) == 0
    finally:
        os.close(parent)
        if process.poll() is None:
            process.kill()
            process.wait()
    text = seen.decode()
    lines = re.findall(r"\r\x1b\[K(done [^\r\n]*)", text)
    assert len(lines) > 3
    assert re.fullmatch(r"done [\d,]+ · [\d,]+/s · running \d+ · waiting [\d,]+ · retried \d+ · dead-lettered \d+ · lag [\d,?]+", lines[-1])
    assert text.rstrip().endswith("stopped: 2,400 done, everything settled")
