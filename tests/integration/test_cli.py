"""The commands, as they are typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.commands import gworkers
from tests.support.servers import ENVIRONMENT, ROOT, configuration, consume, create_topic, produce, unique


@pytest.fixture
def file(kafka_servers: str, source: str, output: str, tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text("def handle(value):\n    return value\n")
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(configuration(kafka_servers, "app:handle", source, output)))
    return path


@pytest.mark.parametrize("command", [(), ("run",), ("check",), ("config",), ("send",), ("tail",), ("lag",)])
def test_every_command_explains_itself_with_examples(command: tuple[str, ...]) -> None:
    done = gworkers(*command, "--help")
    assert done.returncode == 0
    assert "Usage: gworkers" in done.stdout
    assert "Examples:" in done.stdout
    assert not done.stderr


def test_no_command_and_wrong_ones_are_usage_errors() -> None:
    nothing = gworkers()
    assert (nothing.returncode, nothing.stdout) == (64, "")
    assert "Usage:" in nothing.stderr
    for arguments in (
        ("serve",),
        ("run",),
        ("run", "-c"),
        ("check", "-c", "x", "--loud"),
        ("run", "-c", "conf/app.yaml", "--until-idle", "5"),
    ):
        done = gworkers(*arguments)
        assert done.returncode == 64, arguments
        assert done.stderr.startswith("gworkers: ")
        assert "Traceback" not in done.stderr


def test_the_version() -> None:
    assert re.fullmatch(r"gworkers \d+\.\d+\.\d+\n", gworkers("--version").stdout)


def test_check_says_what_runs_and_what_is_wrong(tmp_path: Path) -> None:
    good = gworkers("check", "-c", "conf/app.yaml")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == "route price: orders ─► shop.pricing:price ─► priced\nconf/app.yaml: all right\n"
    bad = gworkers(
        "check", "-c", "conf/app.yaml", "--set", "routes.price.handler=shop.pricing:prize", "--set", "kafka.producer.compresion_type=lz4"
    )
    assert (bad.returncode, bad.stdout) == (78, "")
    lines = bad.stderr.splitlines()
    assert lines[0].startswith("--set: kafka.producer.compresion_type: unknown option")
    assert lines[1].startswith("--set: routes.price.handler: shop.pricing has no prize; it has")
    assert lines[2] == "gworkers: 2 problems in the configuration"


def test_config_shows_where_values_come_from_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(
        'kafka:\n  group: "${GROUP}"\n  client: {sasl_plain_password: hush, sasl_mechanism: PLAIN}\n'
        'routes:\n  r: {topics: [t], handler: "a:b"}\n'
    )
    done = gworkers("config", "-c", "app.yaml", "--set", "concurrency=8", folder=tmp_path, env={"GROUP": "shop"})
    assert done.returncode == 0, done.stderr
    lines = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in done.stdout.splitlines() if "#" in line}
    assert lines["group: (hidden)"] == "app.yaml:2 from $GROUP"
    assert lines["concurrency: 8"] == "--set"
    assert lines["sasl_plain_password: (hidden)"] == "app.yaml:3"
    assert lines["sasl_mechanism: PLAIN"] == "app.yaml:3"
    assert lines["grace: 30s"] == "default"
    assert "hush" not in done.stdout
    assert "shop" not in done.stdout
    yaml.safe_load(done.stdout)


def test_the_schema_is_one_that_editors_can_use() -> None:
    schema = json.loads(gworkers("config", "--schema").stdout)
    concurrency = {**schema["properties"]["concurrency"], "$defs": schema["$defs"]}
    for value, right in ((8, True), ("auto", True), ({"max": 32}, True), ("lots", False), (0, False), ({"most": 3}, False)):
        assert (not list(Draft202012Validator(concurrency).iter_errors(value))) is right, value
    assert "Retry" in schema["$defs"]


def test_send_and_tail(file: Path, source: str, kafka_servers: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"n": n, "who": f"c-{n % 3}"}) + "\n" for n in range(20))
    done = gworkers("send", source, "-c", str(file), "--key", "who", given=lines + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"20 messages sent to {source}\n")
    found = consume(kafka_servers, source)
    assert sorted(json.loads(m.value())["n"] for m in found) == list(range(20))
    assert all(m.key().decode() == json.loads(m.value())["who"] for m in found)
    (tmp_path / "lines.txt").write_text("plain\ntext")
    assert gworkers("send", source, "lines.txt", "-c", str(file), folder=tmp_path).returncode == 0
    shown = gworkers("tail", source, "-c", str(file), "--from", "beginning", "--no-follow", "--json")
    assert shown.returncode == 0, shown.stderr
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(rows) == 22
    assert {row["value"] for row in rows} >= {"plain", "text"}
    assert len(gworkers("tail", source, "-c", str(file), "--from", "beginning", "-n", "3").stdout.splitlines()) == 3
    ago = gworkers("tail", source, "-c", str(file), "--from", "10m", "--no-follow")
    assert len(ago.stdout.splitlines()) == 22
    one = next(row for row in rows if row["key"] == "c-1")
    at = gworkers("tail", source, "-c", str(file), "--from", f"{one['partition']}:{one['offset']}", "-n", "1")
    assert at.stdout.startswith(f"{one['partition']}@{one['offset']} ")
    assert one["value"] in at.stdout


def test_tail_shows_values_as_a_route_decodes_them(kafka_servers: str, source: str, tmp_path: Path) -> None:
    app = (
        "import datetime\n"
        "def parse(value, topic):\n"
        "    number, name = value.split(b'|')\n"
        "    return {'n': int(number), 'name': name.decode(), 'topic': topic, 'on': datetime.date(2026, 11, 27)}\n"
        "def handle(value): ...\n"
    )
    (tmp_path / "app.py").write_text(app)
    config = configuration(kafka_servers, "app:handle", source, decode="app:parse")
    (tmp_path / "app.yaml").write_text(json.dumps(config))
    produce(kafka_servers, source, [(b"k", b"7|apple"), (b"k", b"none"), (b"k", None)], partition=0)

    def tail(*more: str) -> str:
        done = gworkers("tail", source, "-c", "app.yaml", "--from", "beginning", "--no-follow", *more, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, second, third = tail("--as", "main").splitlines()
    assert first.endswith(f' k {{"n": 7, "name": "apple", "topic": "{source}", "on": "2026-11-27"}}')
    assert second.endswith(" k (not valid app:parse: ValueError: not enough values to unpack (expected 2, got 1))")
    assert third.endswith(" k (no value)")
    row = json.loads(tail("--as", "main", "--json").splitlines()[0])
    assert (row["value"], json.loads(row["decoded"])["n"]) == ("7|apple", 7)
    done = gworkers("tail", source, "-c", "app.yaml", "--as", "else", folder=tmp_path)
    assert (done.returncode, done.stderr) == (64, "gworkers: --as else: there is no such route; there are main\n")
    (tmp_path / "app.py").write_text("def handle(value): ...\n")
    done = gworkers("tail", source, "-c", "app.yaml", "--as", "main", folder=tmp_path)
    assert (done.returncode, done.stderr) == (64, "gworkers: --as main: app has no parse; it has handle\n")


def test_tail_shows_headers_and_missing_values(file: Path, source: str, kafka_servers: str) -> None:
    produce(kafka_servers, source, [(b"k", None)], headers=[("why", b"gone")], partition=0)
    done = gworkers("tail", source, "-c", str(file), "--from", "0:0", "-n", "1")
    assert re.fullmatch(r"0@0 \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} k \{why=gone\} \(no value\)\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("tail", "no-such-topic-here", "--from", "beginning"), 69, "there is no topic no-such-topic-here; there are "),
        (
            ("tail", "SOURCE", "--from", "soon"),
            64,
            "--from soon: expected beginning, end, an offset, partition:offset, a time or a duration",
        ),
        (("tail", "SOURCE", "--from", "9:0"), 64, "--from 9:0: there is no partition 9; there are 4"),
        (("send", "SOURCE", "none.txt"), 64, "none.txt"),
        (("send", "bad topic"), 69, "sending to bad topic failed"),
    ],
)
def test_mistakes_get_a_sentence(file: Path, source: str, arguments: tuple[str, ...], status: int, text: str) -> None:
    done = gworkers(*(a.replace("SOURCE", source) for a in arguments), "-c", str(file), given="x\n")
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_send_names_the_line_that_has_no_key(file: Path, source: str) -> None:
    done = gworkers("send", source, "-c", str(file), "--key", "who", given='{"who": 1}\n{"else": 1}\n')
    assert done.returncode == 64
    assert ":2: no JSON object with a field who; lines before it have been sent" in done.stderr


def test_output_that_nobody_reads_is_no_error(file: Path, source: str, kafka_servers: str) -> None:
    produce(kafka_servers, source, [(None, b"x" * 1000)] * 500)
    command = f"{sys.executable} -m gworkers tail {source} -c {file} --from beginning --no-follow | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1


def test_send_and_tail_reach_the_embedded_broker_of_a_running_server(start: Any, tmp_path: Path) -> None:
    config = configuration("embedded", "app:handle", "in", "out")
    config["kafka"].pop("client", None)
    nobody = gworkers("tail", "in", "-c", str(tmp_path / "app.yaml"))
    server = start(config)
    server.says("embedded, for a first look")
    assert nobody.returncode == 78, "there was no file yet"
    done = gworkers("send", "in", "-c", str(server.file), given="hello\n")
    assert done.returncode == 0, done.stderr
    shown = gworkers("tail", "out", "-c", str(server.file), "--from", "beginning", "-n", "1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.rstrip().endswith("hello")
    assert server.stop() == 0
    done = gworkers("send", "in", "-c", str(server.file), given="hello\n")
    assert done.returncode == 69
    assert "uses the embedded broker, which lives in its server, and no server runs it; start one with gworkers -c" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str) -> None:
    done = gworkers(env={"_GWORKERS_COMPLETE": f"{shell}_source"})
    assert "_GWORKERS_COMPLETE" in done.stdout
    words = {"COMP_WORDS": "gworkers ta", "COMP_CWORD": "1", "_GWORKERS_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        words["COMP_CWORD"] = "ta"
    assert "tail" in gworkers(env=words).stdout


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(environment)], check=True, timeout=120)
    libraries = next(Path(sys.prefix).glob("lib/python*/site-packages"))
    (next(environment.glob("lib/python*/site-packages")) / "shared.pth").write_text(f"{libraries}\n")
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    installed = subprocess.run(
        [str(environment / "bin/gworkers"), "check", "-c", str(ROOT / "conf/app.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert installed.returncode == 0, installed.stderr
    assert "all right" in installed.stdout
    told = subprocess.run(
        [
            str(environment / "bin/python"),
            "-c",
            "from importlib.metadata import metadata as m; d = m('gworkers'); print(d['Summary'], d['License'])",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert "Concurrent workers" in told.stdout


def test_whatever_kafka_can_hold_is_shown_and_nothing_of_it_reaches_the_terminal(real_kafka: str, tmp_path: Path) -> None:
    topic = create_topic(real_kafka, unique("odd"), partitions=1, message_timestamp_after_max_ms=str(2**62))
    value = b"\x1b[2J\x07 \xff line\nnext \xe2\x80\xae \xe2\x80\x8b end"
    produce(real_kafka, topic, [(b"\x1b]0;x\x07", value)], headers=[("n", b"1"), ("n", b"2"), ("n\r", None)], timestamp=2**61)
    produce(real_kafka, topic, [(None, None)], timestamp=10**17)
    file = tmp_path / "app.yaml"
    file.write_text(yaml.safe_dump(configuration(real_kafka, "app:handle", "elsewhere", dead_letter=topic)))
    common = (topic, "-c", str(file), "--from", "beginning", "--no-follow")
    done = gworkers("tail", *common)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.isprintable() or not re.search(r"[\x00-\x1f\u202e\u200b]", first)
    assert "\\x1b[2J\\x07 \\xff line\\nnext \\u202e \\u200b end" in first
    assert f"{2**61} ms" in first
    assert "{n=1 n=2 n\\r=}" in first
    assert second.endswith("- (no value)")
    shown = [json.loads(line) for line in gworkers("tail", *common, "--json").stdout.splitlines()]
    assert shown[0]["headers"] == [["n", "1"], ["n", "2"], ["n\r", None]]
    assert shown[0]["timestamp"] == 2**61
    assert "\x1b[2J" in gworkers("tail", *common, "--raw").stdout
    for command in (("ls",), ("ls", "--json"), ("count",), ("show", "0@0"), ("replay", "--dry-run", "--to", topic)):
        done = gworkers("dead-letters", *command, "-c", str(file))
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of an application's, with a package of its own."""
    folder = tmp_path_factory.mktemp("application") / "venv"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "only_there.py").write_text("def handle(value):\n    return value\n")
    (site / "yaml.py").write_text("raise RuntimeError('gworkers has its own')\n")
    return folder


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_the_packages_of_another_environment_are_found(environment: Path, tmp_path: Path, executor: str) -> None:
    file, handler = tmp_path / "app.yaml", "only_there:handle"
    config: dict[str, Any] = configuration("k:1", handler, "t", executor=executor)
    file.write_text(yaml.safe_dump(config))
    nothing = gworkers("check", "-c", str(file), env={"VIRTUAL_ENV": ""})
    assert (nothing.returncode, "there is no module only_there" in nothing.stderr) == (78, True)
    assert "app.python" in nothing.stderr
    active = gworkers("check", "-c", str(file), env={"VIRTUAL_ENV": str(environment)})
    assert (active.returncode, active.stderr.count("Error")) == (0, 0), active.stderr
    (tmp_path / "link").symlink_to(environment)
    file.write_text(yaml.safe_dump({**config, "app": {"python": "link/bin/python"}}))
    named = gworkers("check", "-c", str(file), env={"VIRTUAL_ENV": "/nowhere"})
    assert named.returncode == 0, named.stderr


def test_a_python_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    for name, says in (("other", '[[3, 8], ["/x/site-packages"]]'), ("odd", "hello")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    file = tmp_path / "app.yaml"
    expected = {
        "./other": "is Python 3.8, and this is 3.11, which cannot use its packages; pip install gworkers there, and start it from there",
        "./odd": "does not run as a Python: JSONDecodeError",
        "no-such-python": "no-such-python does not run as a Python: FileNotFoundError",
    }
    for python, told in expected.items():
        file.write_text(yaml.safe_dump(configuration("k:1", "app:handle", "t", app={"python": python})))
        done = gworkers("check", "-c", str(file))
        assert done.returncode == 78
        assert f"app.yaml:{file.read_text().splitlines().index(f'  python: {python}') + 1}: app.python: " in done.stderr
        assert told.replace("3.11", f"{sys.version_info[0]}.{sys.version_info[1]}") in done.stderr
        assert "Traceback" not in done.stderr
