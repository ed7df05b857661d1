"""The admin address as somebody finds it who means no good."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gworkers.config.load import Loaded
from gworkers.config.schema import Config
from gworkers.kafka.clients import Clients
from gworkers.kafka.connections import KafkaConnections
from gworkers.kafka.protocols import TopicPartition
from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

ECHO = "def handle(value):\n    open(__file__).close()\n    return value\n"
TOKEN, READ_TOKEN = "operate-0123456789abcdef", "read-0123456789abcdef"


@pytest.fixture
def serving(kafka_servers: str, source: str, output: str, start: Any) -> Any:
    def begin(app: str = ECHO, **admin: Any) -> tuple[Any, str]:
        config = configuration(kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0", **admin})
        server = start(config, app=app)
        address = server.says(r"admin at (\S+)")[1]
        server.says("assigned: ")
        return server, address

    return begin


@contextlib.contextmanager
def connections(address: str, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = address.rpartition(":")
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found.append(socket.create_connection((host, int(port)), timeout=5))
        yield found
    finally:
        for one in found:
            one.close()


def descriptors(server: Any) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def test_idle_connections_shut_nobody_out_and_are_closed(serving: Any, kafka_servers: str, source: str, output: str) -> None:
    server, address = serving()
    before = descriptors(server)
    with connections(address, 500) as idle:
        for _ in range(5):
            begun = time.monotonic()
            assert requests.get(f"http://{address}/healthz", timeout=5).status_code == 200
            assert time.monotonic() - begun < 1
        assert descriptors(server) < before + 70
        produce(kafka_servers, source, ((None, b"%d" % n) for n in range(500)))
        until(lambda: len(consume(kafka_servers, output)) == 500, what="the results, whose handlers open files")
        until(lambda: all(closed(one) for one in idle), 10, "all of them closed")
    assert descriptors(server) <= before + 2
    assert server.stop() == 0


def closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_request_that_takes_its_time_is_cut_off(serving: Any) -> None:
    server, address = serving()
    with connections(address, 1) as (slow,):
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET /healthz HTTP/1.1\r\n" + b"X-Slow: yes\r\n" * 100:
                slow.sendall(bytes([byte]))
                time.sleep(0.1)
        assert 4 < time.monotonic() - begun < 8
    assert server.stop() == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_only_reading_is_answered(serving: Any, method: str) -> None:
    _, address = serving()
    answer = requests.request(method, f"http://{address}/healthz", timeout=5)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD" if method == "POST" else "GET, HEAD, POST")
    head = requests.head(f"http://{address}/healthz", timeout=5)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["Content-Length"]) > 10


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    b"GET\r\n\r\n",
    b"GET /healthz\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /\xff\xfe\x00 HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\x1b[2J: x\r\n\r\n",
    b"\r\n" * 1000,
]


def test_garbage_costs_nothing_and_leaves_no_line_in_the_log(serving: Any) -> None:
    server, address = serving()
    length = len(server.log)
    for _ in range(20):
        for garbage in GARBAGE:
            with connections(address, 1) as (one,), contextlib.suppress(OSError):
                one.sendall(garbage)
                one.settimeout(0.2)
                one.recv(1000)
    assert requests.get(f"http://{address}/healthz", timeout=5).status_code == 200
    assert len(server.log) - length < 500, server.log[length:][:2000]
    assert server.stop() == 0


def test_somebody_who_does_not_read_the_answers_leaves_no_line_in_the_log(serving: Any) -> None:
    server, address = serving()
    length = len(server.log)
    with connections(address, 3) as deaf:
        for one in deaf:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            one.settimeout(3)
            with contextlib.suppress(OSError):
                one.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000)
        time.sleep(6)
    assert requests.get(f"http://{address}/healthz", timeout=5).status_code == 200
    assert "Traceback" not in server.log[length:]
    assert server.stop() == 0


def test_a_token_is_asked_for(serving: Any) -> None:
    _, address = serving(token=TOKEN, read_token=READ_TOKEN)
    url = f"http://{address}/metrics"
    for wrong in (None, "", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer ünïcödé", TOKEN):
        headers = {"Authorization": wrong.encode()} if wrong is not None else {}
        answer = requests.get(url, headers=headers, timeout=5)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "gworkers_" not in answer.text
    for token in (TOKEN, READ_TOKEN):
        assert "gworkers_done" in requests.get(url, headers={"Authorization": f"bearer {token}"}, timeout=5).text


def test_beyond_loopback_there_is_none_without_a_token(kafka_servers: str, source: str, start: Any, tmp_path: Path) -> None:
    for bind in ("0.0.0.0:0", "[::]:0", "10.1.2.3:80", "example.org:80"):
        server = start(configuration(kafka_servers, "app:handle", source, admin={"bind": bind}))
        assert server.wait(20) == 78
        assert f"admin.bind: {bind} can be reached from other machines; set admin.token" in server.log
    (tmp_path / "t").write_text(TOKEN + "\n")
    server = start(configuration(kafka_servers, "app:handle", source, admin={"bind": "0.0.0.0:0", "token": "${file:t}"}))
    address = server.says(r"admin at (\S+)")[1]
    assert requests.get(f"http://{address}/healthz", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5).status_code == 200
    assert TOKEN not in server.log
    assert server.stop() == 0


def test_health_answers_while_the_server_is_saturated(kafka_servers: str, start: Any) -> None:
    source, output = create_topic(kafka_servers, unique("in")), create_topic(kafka_servers, unique("out"))
    config = configuration(kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0"}, concurrency=64)
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(200_000)))
    server = start(config, app="def handle(value):\n    return value\n")
    address = server.says(r"admin at (\S+)")[1]
    server.says("assigned: ")
    times = []
    for _ in range(40):
        begun = time.monotonic()
        answer = requests.get(f"http://{address}/healthz", timeout=5)
        times.append(time.monotonic() - begun)
        assert json.loads(answer.text)["ok"]
    assert sorted(times)[20] < 0.1
    assert server.stop() == 0


def test_status_says_how_it_is_and_what_holds_it_back(serving: Any, kafka_servers: str, source: str, output: str) -> None:
    app = "import pathlib, time\ndef handle(value):\n    while not pathlib.Path('go-on').exists(): time.sleep(0.02)\n    return value\n"
    server, address = serving(app)

    def told() -> Any:
        return requests.get(f"http://{address}/status", timeout=5).json()

    until(lambda: told()["holds_back"] == "nothing", what="it has joined")
    assert told()["why"] == "there is nothing to do"
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(200)))
    until(lambda: told()["holds_back"] == "handlers", what="busy handlers")
    until(lambda: told()["lag"] == 200, what="a lag of all messages")
    found = told()
    assert (found["ok"], found["why"], found["running"]) == (True, "all 8 handlers are busy", 8)
    assert sum(partition["lag"] or 0 for partition in found["partitions"]) == 200
    shown = gworkers("status", "-c", str(server.file), folder=server.folder)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("well: all 8 handlers are busy (handlers) · pid ")
    assert f"{source}[0] at " in shown.stdout
    lines = gworkers("status", "-c", str(server.file), "--json", folder=server.folder).stdout.splitlines()
    assert [json.loads(line)["running"] for line in lines] == [8]
    (server.folder / "go-on").touch()
    until(lambda: told()["done"] == 200, what="the end of it")
    assert server.stop() == 0
    gone = gworkers("status", "-c", str(server.file), folder=server.folder)
    assert (gone.returncode, gone.stderr) == (69, f"gworkers: no server runs {server.file}; start one with gworkers -c {server.file}\n")


def test_lag_grows_while_nothing_more_is_read(start: Any, kafka_servers: str, source: str) -> None:
    app = "import pathlib, time\ndef handle(value):\n    while not pathlib.Path('go-on').exists(): time.sleep(0.02)\n    return value\n"
    server = start(configuration(kafka_servers, "app:handle", source, admin={"bind": "127.0.0.1:0"}, buffer={"messages": 20}), app=app)
    address = server.says(r"admin at (\S+)")[1]

    def told() -> Any:
        return requests.get(f"http://{address}/status", timeout=5).json()

    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(100)), partition=0)
    until(lambda: any(partition["paused"] for partition in told()["partitions"]), what="a paused partition")
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(400)), partition=0)
    until(lambda: told()["lag"] == 500, what="the lag of all messages")
    (server.folder / "go-on").touch()
    until(lambda: (told()["done"], told()["lag"]) == (500, 0), what="the end of it")
    assert server.stop() == 0


def test_status_without_an_address_or_with_a_wrong_token_is_a_sentence(
    serving: Any, kafka_servers: str, source: str, start: Any, tmp_path: Path
) -> None:
    server = start(configuration(kafka_servers, "app:handle", source), app=ECHO)
    server.says("assigned: ")
    done = gworkers("status", "-c", str(server.file), folder=server.folder)
    assert done.returncode == 69
    assert "has no admin address; set admin.bind, for example to 127.0.0.1:0" in done.stderr
    guarded, _ = serving(read_token=READ_TOKEN)
    assert gworkers("status", "-c", str(guarded.file), folder=guarded.folder).returncode == 0
    done = gworkers("status", "-c", str(guarded.file), "--set", "admin.read_token=another-0123456789", folder=guarded.folder)
    assert done.returncode == 69
    assert "cannot be asked: " in done.stderr


def over(path: Path, target: str) -> bytes:
    """What a Unix socket answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b"GET %s HTTP/1.0\r\n\r\n" % target.encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize("processes", [1, 2])
def test_a_unix_socket_is_for_whoever_may_use_its_file(real_kafka: str, source: str, start: Any, tmp_path: Path, processes: int) -> None:
    path = tmp_path / "admin.sock"
    admin = {"bind": f"unix:{path}", "mode": "0660"}
    server = start(configuration(real_kafka, "app:handle", source, admin=admin) | {"processes": processes}, app=ECHO)
    assert server.says(r"admin at (\S+)")[1] == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    until(lambda: over(path, "/readyz").startswith(b"HTTP/1.1 200"), 30, "it is ready")
    sockets = [path] if processes == 1 else [path, *(tmp_path / f"admin.sock.{number}" for number in range(processes))]
    until(lambda: all(one.exists() for one in sockets), 30, "the sockets of the processes")
    assert {stat.S_IMODE(one.stat().st_mode) for one in sockets} == {0o660}
    shown = gworkers("status", "-c", str(server.file), folder=server.folder)
    assert (shown.returncode, shown.stdout.count("route main")) == (0, processes), shown
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            over(path, "/status")
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert server.stop() == 0
    assert not [one for one in sockets if one.exists()]


def test_a_unix_socket_that_was_left_is_taken_and_one_in_use_is_not(kafka_servers: str, source: str, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    config = configuration(kafka_servers, "app:handle", source, admin={"bind": f"unix:{path}"})
    first = start(config, app=ECHO)
    first.says("assigned: ")
    other = start(configuration(kafka_servers, "app:handle", source, admin={"bind": f"unix:{path}"}), app=ECHO)
    assert other.wait(30) == 69
    assert f"admin.bind unix:{path} cannot be listened on: another program listens on it; name another" in other.log
    first.process.kill()
    first.wait(10)
    assert path.exists()
    second = start(config, app=ECHO)
    second.says("assigned: ")
    assert over(path, "/livez").startswith(b"HTTP/1.1 200")
    assert second.stop() == 0
    path.write_text("kept")
    for bind, why in (
        (f"unix:{path}", "there is a file of that name, which is no socket; name another"),
        (f"unix:{tmp_path}/none/admin.sock", "there is no such folder; make it"),
        (f"unix:{tmp_path}/{'a' * 100}", "AF_UNIX path too long, which is 107 bytes at most; name another"),
    ):
        third = start(configuration(kafka_servers, "app:handle", source, admin={"bind": bind}), app=ECHO)
        assert third.wait(30) == 69, third.log
        assert f"admin.bind {bind} cannot be listened on: {why}" in third.log
    assert path.read_text() == "kept"


def test_the_end_of_a_partition_that_no_fetch_tells_is_asked_for(kafka_servers: str, source: str) -> None:
    """A partition that went and came back between two fetches is one to the broker that never went: it
    says nothing of it until a message comes (KIP-227)."""
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(3)), partition=0)
    config = Config.model_validate(configuration(kafka_servers, "app:handle", source))
    group = KafkaConnections(Clients(Loaded.of(config), kafka_servers), 30).group
    came: list[TopicPartition] = []

    class Listening:
        async def revoked(self, tps: Iterable[TopicPartition]) -> None: ...

        async def lost(self, tps: Iterable[TopicPartition]) -> None: ...

        async def assigned(self, tps: Iterable[TopicPartition]) -> None:
            came.extend(tps)

    try:
        group.subscribe([source], {}, Listening())
        first = TopicPartition(source, 0)
        until(lambda: group.poll(100, 10) is not None and group.end(first) == 3, what="the end, as a fetch tells it")
        group._consumer._subscription.assignment[first].highwater = None
        assert group.end(first) is None
        group.look_for_ends()
        assert group.end(first) == 3
    finally:
        group.close(5)


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_the_application_has_a_say_in_whether_it_is_ready(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    app = """
import os, time
def handle(value): return value
def ready():
    open("asked", "a").write(".")
    if os.path.exists("hangs"):
        time.sleep(3)
    if os.path.exists("fails"):
        raise ConnectionError("the database is away")
    return not os.path.exists("false")
"""
    more = {"admin": {"bind": "127.0.0.1:0"}, "executor": executor}
    config = {**configuration(kafka_servers, "app:handle", source, output, **more), "hooks": {"ready": "app:ready"}}
    server = start(config, app=app)
    address = server.says(r"admin at (\S+)")[1]

    def asked() -> tuple[int, Any]:
        answer = requests.get(f"http://{address}/readyz", timeout=5)
        return answer.status_code, answer.json().get("why")

    until(lambda: asked() == (200, None), what="ready")
    (server.folder / "fails").touch()
    until(lambda: asked() == (503, "hooks.ready: ConnectionError: the database is away"), what="the reason")
    (server.folder / "fails").unlink()
    (server.folder / "false").touch()
    until(lambda: asked() == (503, "hooks.ready returned False"), what="the reason")
    (server.folder / "false").unlink()
    (server.folder / "hangs").touch()
    until(lambda: re.fullmatch(r"hooks.ready has not answered for \d s", asked()[1] or ""), what="it hangs")
    before = len((server.folder / "asked").read_text())
    for _ in range(5):
        asked()
    assert len((server.folder / "asked").read_text()) <= before + 1, "one at a time"
    (server.folder / "hangs").unlink()
    until(lambda: asked() == (200, None), what="ready again")
    assert requests.get(f"http://{address}/livez", timeout=5).status_code == 200
    assert server.stop() == 0
