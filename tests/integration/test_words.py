"""Every command and every configuration in the documentation, as a reader would type them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gworkers.config.load import load
from tests.support.debian import NotHere
from tests.support.servers import ROOT, until
from tests.support.terminal import Terminal

PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SERVE = "bin/gworkers -c conf/app.yaml"
LIVE = "bin/gworkers top -c conf/app.yaml"

#: Commands that cannot be run inside the tests as they stand, and what is run in their place.
INSTEAD = {
    "bin/test": "bin/test --help",  # it is running
    "bin/test unit": "bin/test --help",
    "bin/bench": "bin/bench --help",  # it takes minutes
    "bin/test chaos --minutes 60": "bin/test --help",
}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for found in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, found


def commands() -> list[str]:
    return [line for _, block in blocks("sh") for line in block.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the tree with the tests' environment in the place of one that bin/gworkers would
    make (test_environment.py does that)."""
    folder = tmp_path / "checkout"
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shims = tmp_path / "shims"
    shims.mkdir()
    for program, run in {"gworkers": "-m gworkers", "pip": "-m pip"}.items():
        (shims / program).write_text(f'#!/bin/sh\nexec {sys.executable} {run} "$@"\n')
        (shims / program).chmod(0o755)
    (folder / "bin/gworkers").write_text(f'#!/bin/sh\nPYTHONPATH="$PWD" exec {sys.executable} -m gworkers "$@"\n')
    for name in ("test", "bench"):  # they would make environments of their own
        text = (folder / "bin" / name).read_text()
        (folder / "bin" / name).write_text(
            text.replace("environment.ensure(", f"(lambda *_: __import__('pathlib').Path({sys.executable!r}))(")
        )
    return folder


def test_every_command_works(checkout: Path, tmp_path: Path) -> None:
    typed = commands()
    assert SERVE in typed
    assert "bin/test" in typed
    environment = {**os.environ, "PATH": f"{tmp_path / 'shims'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(checkout)}
    log = tmp_path / "log"
    with open(log, "wb") as sink:
        server = subprocess.Popen(
            ["sh", "-c", f"exec {SERVE}"], cwd=checkout, env=environment, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        until(lambda: "the sample is through" in log.read_text(), 60, "the first look")
        for command in typed:
            if command == SERVE:
                continue
            if command == LIVE:
                _look(checkout, environment)
                continue
            run = INSTEAD.get(command, command)
            if run == "pip install .":
                run = f"pip install -q --disable-pip-version-check --no-deps --target {tmp_path / 'installed'} ."
            done = subprocess.run(["bash", "-c", run], cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, command
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _look(checkout: Path, environment: dict[str, str]) -> None:
    """The screen of the first look's server, in a terminal."""
    with suppress(NotHere):
        screen = Terminal(checkout, LIVE.split(), env=environment)
        try:
            assert re.search(r"done 2,4\d\d", screen.shows("price "))
            screen.type("q")
            assert until(lambda: screen.ended() is not None and [screen.ended()], what="its end") == [0]
        finally:
            screen.close()


def test_every_configuration_is_valid(tmp_path: Path) -> None:
    found = list(blocks("yaml"))
    assert found
    for page, text in found:
        file = tmp_path / "app.yaml"
        file.write_text(text)
        for named in re.findall(r"\$\{file:([^}]+)\}", text):
            (tmp_path / named).write_text("secret")
        for named in re.findall(r"env_file: ([^,}\s]+)", text):
            (tmp_path / named).write_text("")
        assert load(file).config.routes, page


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
