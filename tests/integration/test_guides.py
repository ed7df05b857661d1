"""The guides, step by step: their files, their commands, and what they say comes of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import ROOT, consume, create_topic, produce, unique, until

GUIDES = ROOT / "docs" / "guide"


class Guide:
    """A page, whose files are written into a folder; topics have names of the test's own."""

    def __init__(self, name: str, folder: Path, kafka: str, names: dict[str, str]) -> None:
        self.folder = folder
        text = (GUIDES / name).read_text()
        for old, new in names.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(old)}(?![\w.-])", new, text)
        self.files = re.findall(r"^```\w+ ([\w.]+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        self.steps = [block.strip().splitlines() for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
        for file, content in self.files:
            (folder / file).write_text(content)
        programs = folder / "programs"
        programs.mkdir()
        for program, module in (("gworkers", "gworkers"), ("supervisorctl", "supervisor.supervisorctl")):
            script = programs / program
            script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m {module} "$@"\n')
            script.chmod(0o755)
        self.env = {**os.environ, "KAFKA": kafka, "PATH": f"{programs}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(folder)}

    def run(self, command: str) -> str:
        """What it says, when it ends well."""
        done = subprocess.run(command, shell=True, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr


@contextmanager
def running(*command: str, folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with open(folder / "running.log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def orders(first: int, end: int) -> list[tuple[bytes, bytes]]:
    return [(b"c-%d" % (n % 20), json.dumps({"order": n, "price": 2, "count": n}).encode()) for n in range(first, end)]


def numbers(kafka: str, topic: str) -> list[int]:
    return sorted(json.loads(message.value())["order"] for message in consume(kafka, topic))


def test_from_a_kafka_python_loop_and_back(real_kafka: str, tmp_path: Path) -> None:
    names = {name: unique(name) for name in ("orders", "priced")}
    group = unique("pricing")
    guide = Guide("kafka-python.md", tmp_path, real_kafka, names)
    for file in ("loop.py", "app.yaml"):
        path = tmp_path / file
        path.write_text(path.read_text().replace('group_id="pricing"', f'group_id="{group}"').replace("group: pricing", f"group: {group}"))
    source, output = create_topic(real_kafka, names["orders"]), create_topic(real_kafka, names["priced"])
    create_topic(real_kafka, f"{names['orders']}.dead")
    produce(real_kafka, source, orders(0, 1000))
    loop = (sys.executable, "loop.py")
    with running(*loop, folder=tmp_path, env=guide.env) as process:
        until(lambda: len(consume(real_kafka, output)) > 20, 60, "results of the loop")
        process.send_signal(signal.SIGINT)
        process.wait(30)
    by_loop = len(consume(real_kafka, output))
    assert by_loop < 500
    check, doctor, tried = (guide.run(command) for command in guide.steps[0])
    assert check.endswith("all right\n")
    assert "error" not in doctor.lower()
    assert json.loads(json.loads(tried)["value"]) == {"order": 1, "total": 6}
    began = time.monotonic()
    said = guide.run(guide.steps[1][0])
    assert "everything settled" in said
    assert time.monotonic() - began < 45, "as many at once as there may be; the loop would have taken 50 s"
    found = numbers(real_kafka, output)
    assert sorted(set(found)) == list(range(1000))
    assert len(found) <= 1001, "the one that the loop had sent and not committed"
    produce(real_kafka, source, orders(1000, 1010))
    with running(*loop, folder=tmp_path, env=guide.env):
        until(lambda: set(range(1000, 1010)) <= set(numbers(real_kafka, output)), 60, "the loop's results")
    assert len(consume(real_kafka, output)) == len(found) + 10


def test_from_celery(real_kafka: str, tmp_path: Path) -> None:
    names = {"charges.dead": unique("dead"), "charges": unique("charges"), "charged": unique("charged"), "charging": unique("charging")}
    guide = Guide("celery.md", tmp_path, real_kafka, {})
    text = (tmp_path / "app.yaml").read_text()
    for key, old in (("topics: [", "charges"), ("output: ", "charged"), ("dead_letter: ", "charges.dead"), ("group: ", "charging")):
        text = text.replace(f"{key}{old}", f"{key}{names[old]}")
    (tmp_path / "app.yaml").write_text(text)
    for topic in ("charges", "charged", "charges.dead"):
        create_topic(real_kafka, names[topic], 1)
    check, tried = (guide.run(command) for command in guide.steps[0])
    assert check.endswith("all right\n")
    assert json.loads(json.loads(tried)["value"]) == {"order": 1, "charged": 5}
    said = [
        guide.run(command.replace(" charges ", f" {names['charges']} ").replace(" charged ", f" {names['charged']} "))
        for command in guide.steps[1]
    ]
    assert "2 done, everything settled" in said[2]
    assert said[2].count("the next in") == 2, "the route retries, as the task did"
    results: list[dict[str, Any]] = [json.loads(message.value()) for message in consume(real_kafka, names["charged"])]
    assert sorted(result["order"] for result in results) == [1, 2]
    assert all(str(result["charged"]) in said[3] for result in results)


def test_programs_under_supervisord_are_restarted_one_after_the_other(real_kafka: str, tmp_path: Path) -> None:
    names = {"orders": unique("orders"), "priced": unique("priced")}
    guide = Guide("supervisord.md", tmp_path, real_kafka, names)
    group = unique("pricing")
    path = tmp_path / "app.yaml"
    path.write_text(path.read_text().replace("group: pricing", f"group: {group}"))
    conf = tmp_path / "supervisord.conf"
    with_ports = conf.read_text().replace("127.0.0.1:1808%(process_num)d", "unix:%(here)s/admin-%(process_num)d")
    conf.write_text(with_ports)
    source, output = create_topic(real_kafka, names["orders"]), create_topic(real_kafka, names["priced"])
    assert shutil.which("supervisorctl", path=guide.env["PATH"])
    with running(sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf", folder=tmp_path, env=guide.env) as process:

        def log(number: int) -> str:
            file = tmp_path / f"pricing-{number}.log"
            return file.read_text() if file.exists() else ""

        until(lambda: all("assigned" in log(number) for number in (0, 1)), 60, "two members")
        produce(real_kafka, source, orders(0, 500))
        for number, command in enumerate(guide.steps[0]):
            guide.run(command)
            until(lambda number=number: log(number).count("assigned") >= 2, 60, "its partitions again")  # type: ignore[misc]
            assert "everything settled" in log(number)
            produce(real_kafka, source, orders(500 + 100 * number, 600 + 100 * number))
        until(lambda: numbers(real_kafka, output) == list(range(700)), 60, "each result once")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert all("Traceback" not in log(number) for number in (0, 1))


def test_every_file_and_command_of_a_guide_is_used_by_a_test() -> None:
    assert {page.name for page in GUIDES.glob("*.md")} == {"kafka-python.md", "celery.md", "supervisord.md"}


@pytest.mark.parametrize("name", ["kafka-python.md", "celery.md", "supervisord.md"])
def test_links_of_guides_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (GUIDES / name).read_text()):
        assert (GUIDES / target).resolve().exists(), target
