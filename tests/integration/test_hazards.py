"""What ordinary code does that breaks in a process patched by gevent with native threads: four
hazards, 10,000 messages each."""

from __future__ import annotations

import http.server
import re
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

COUNT = 10_000

LOGGING = """
import logging, sys
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
log = logging.getLogger("app")
def handle(value):
    log.info("handling %s", value)
    return value
"""

POOLED = """
import os, requests
from requests.adapters import HTTPAdapter
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=4, pool_block=True))
def handle(value):
    answer = session.get(os.environ["PEER"] + "/" + value.decode())
    answer.raise_for_status()
    return answer.content
"""

# A process for each message would take minutes; one in twenty shows the hazard all the same, and
# all run beside one another.
SUBPROCESS = """
import subprocess
def handle(value):
    if int(value) % 20:
        return value
    done = subprocess.run(["cat"], input=value, capture_output=True, timeout=60, check=True)
    return done.stdout
"""

THREADS = """
import queue, threading
def handle(value):
    answers = queue.Queue()
    threads = [threading.Thread(target=answers.put, args=(part,)) for part in (value[:2], value[2:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert {answers.get(timeout=60), answers.get(timeout=60)} == {value[:2], value[2:]}
    return value
"""


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet

    def do_GET(self) -> None:
        body = self.path[1:].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def peer() -> Iterator[str]:
    """The address of an HTTP server that answers with the path it was asked for, over connections
    that stay open."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("app", [LOGGING, POOLED, SUBPROCESS, THREADS], ids=["logging", "a pooled connection", "subprocess", "threads"])
def test_ordinary_code_works(kafka_servers: str, source: str, output: str, start: Any, executor: str, app: str, peer: str) -> None:
    produce(kafka_servers, source, ((None, b"%05d" % n) for n in range(COUNT)))
    config = configuration(kafka_servers, "app:handle", source, output, executor=executor, concurrency=16)
    server = start(config, "--until-idle", "300ms", app=app, env={"PEER": peer})
    assert server.wait(120) == 0, server.log[-3000:]
    assert sorted(int(m.value()) for m in consume(kafka_servers, output)) == list(range(COUNT))
    if app is LOGGING:
        assert server.log.count("handling b'") == COUNT


@pytest.mark.parametrize("shape", ["single", "batch"])
def test_what_one_message_sets_in_a_context_variable_the_next_does_not_see(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, shape: str
) -> None:
    app = """
import contextvars, time
user = contextvars.ContextVar("user", default="nobody")
def single(value):
    before = user.get()
    user.set(value)
    time.sleep(0.001)
    assert user.get() == value
    return before
def batch(values):
    before = user.get()
    user.set(values[0])
    return [before for value in values]
"""
    produce(kafka_servers, source, ((b"k%d" % (n % 10), b"%d" % n) for n in range(1000)))
    more = {"batch": {"max_messages": 10}} if shape == "batch" else {}
    config = configuration(kafka_servers, f"app:{shape}", source, output, decode="text", encode="text", executor=executor, **more)
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    assert [m.value() for m in consume(kafka_servers, output)] == [b"nobody"] * 1000


def test_setup_runs_before_the_handlers_module_is_imported(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    """As models of Django want it; check calls it only where an import fails without it."""
    config = configuration(kafka_servers, "app:handle", source, output, executor=executor, app={"setup": "boot:setup"})
    boot = "import pathlib\nready = False\ndef setup():\n    global ready\n    ready = True\n    open('setups', 'a').write('x')\n"
    app = "import boot\nif not boot.ready: raise RuntimeError('the registry is not ready')\ndef handle(value):\n    return value\n"
    server = start(config, app="")
    server.wait()
    (server.folder / "boot.py").write_text(boot)
    produce(kafka_servers, source, [(None, b"1")])
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    assert len(consume(kafka_servers, output)) == 1
    assert (server.folder / "setups").read_text() == "x"
    done = gworkers("check", "-c", str(server.file), folder=server.folder)
    assert done.returncode == 0, done.stderr
    assert (server.folder / "setups").read_text() == "xx"
    (server.folder / "app.py").write_text("def handle(value):\n    return value\n")
    assert gworkers("check", "-c", str(server.file), folder=server.folder).returncode == 0
    assert (server.folder / "setups").read_text() == "xx"


ALARM = """
import signal, time
class Late(Exception): pass
def ring(number, frame): raise Late("the alarm")
{at_import}
def handle(value):
    if value.startswith("alarm"):
        {in_handler}
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            time.sleep(2)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    {others}
    return value
"""


@pytest.mark.parametrize("where", ["in the handler", "at import"])
def test_an_alarm_is_raised_where_it_was_set_and_ends_no_server(
    kafka_servers: str, source: str, output: str, start: Any, where: str
) -> None:
    """In greenlets, where Python would raise it in whatever runs at that moment."""
    setting = "signal.signal(signal.SIGALRM, ring)"
    inside = where == "in the handler"
    app = ALARM.format(
        at_import="" if inside else setting, in_handler=setting if inside else "pass", others="time.sleep(0.01)" if inside else "pass"
    )
    words = [f"good {n}" for n in range(400)] + (["alarm"] if inside else []) + [f"good {n}" for n in range(400, 800)]
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, ((None, word.encode()) for word in words))
    options = {"decode": "text", "encode": "text", "executor": "greenlet", "dead_letter": dead, "retry": {"attempts": 1}}
    server = start(configuration(kafka_servers, "app:handle", source, output, **options), app=app)
    server.says("assigned: ")
    if not inside:
        until(lambda: len(consume(kafka_servers, output)) == 800, what="the good ones")
        server.signal(signal.SIGALRM)
        server.says("the application's handler of SIGALRM raised Late outside of any message, which changes nothing")
        produce(kafka_servers, source, [(None, b"good 800")])
        until(lambda: len(consume(kafka_servers, output)) == 801, what="one more")
    else:
        until(lambda: len(consume(kafka_servers, output)) == 800 and len(consume(kafka_servers, dead)) == 1, what="all of them")
        (letter,) = consume(kafka_servers, dead)
        assert letter.value() == b"alarm"
        assert dict(letter.headers())["kafka_dlt-exception-message"] == b"the alarm"
    assert server.stop() == 0, server.log


COROUTINES = """
import asyncio, logging, gworkers
log = logging.getLogger("shop")
tries = {}
running = most = 0
async def handle(value):
    global running, most
    running += 1
    most = max(most, running)
    try:
        await asyncio.sleep(0.02)
        if value == "bad": raise ValueError("as it was asked to")
        if value == "once" and not tries.setdefault(value, 0):
            tries[value] = 1
            raise KeyError("the first time")
        if value == "late":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.info("cancelled, %s", gworkers.idempotency_key())
                raise
        assert gworkers.time_left() > 0
        if value == "most": return str(most)
        return value
    finally:
        running -= 1
"""


def test_coroutine_functions_are_awaited_many_at_once(kafka_servers: str, source: str, output: str, start: Any) -> None:
    words = [*(f"good {n}" for n in range(1000)), "bad", "once", "late"]
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, ((None, word.encode()) for word in words))
    options = {"decode": "text", "encode": "text", "dead_letter": dead, "retry": {"attempts": 2, "backoff": "10ms"}, "timeout": "1s"}
    server = start(configuration(kafka_servers, "app:handle", source, output, concurrency=32, **options), app=COROUTINES)
    until(lambda: len(consume(kafka_servers, output)) == 1001 and len(consume(kafka_servers, dead)) == 2, 60, "all of them")
    assert {m.value().decode() for m in consume(kafka_servers, output)} == {word for word in words if word not in ("bad", "late")}
    reasons = {m.value(): dict(m.headers())["gworkers-reason"] for m in consume(kafka_servers, dead)}
    assert reasons == {b"bad": b"failed", b"late": b"timed-out"}
    server.says(r"INFO shop \[\S+ \d@\d+\]: cancelled, " + source + r"-\d-\d+")
    produce(kafka_servers, source, [(None, b"most")])
    until(lambda: len(consume(kafka_servers, output)) == 1002, what="the last one")
    assert 16 < max(int(m.value()) for m in consume(kafka_servers, output) if m.value().isdigit()) <= 32
    assert "given up" not in server.log
    assert server.stop() == 0, server.log


HOOKED = """
import logging, threading
log = logging.getLogger("shop")
guard = threading.Lock()
open_, closed = [], []
pool = None
def start():
    global pool
    pool = []
    log.info("started")
def stop():
    log.info("stopped with %d of %d closed, pool %s", len(closed), len(open_), pool)
    raise RuntimeError("a stop hook that fails")
local = threading.local()
def connect():
    local.connection = object()
    with guard: open_.append(local.connection)
def disconnect():
    time.sleep(WAITS)
    with guard: closed.append(local.connection)
def handle(value):
    assert pool is not None and local.connection
    return value
"""


@pytest.mark.parametrize("waits", ["0", "0.5"])
def test_hooks_run_when_processes_and_threads_begin_and_end(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, waits: str
) -> None:
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(500)))
    hooks = {"process_start": "app:start", "process_stop": "app:stop", "thread_start": "app:connect", "thread_stop": "app:disconnect"}
    config = configuration(kafka_servers, "app:handle", source, output, concurrency=6, executor=executor) | {"hooks": hooks}
    server = start(config, "--until-idle", "300ms", app=f"import time\nWAITS = {waits}\n{HOOKED}")
    assert server.wait() == 0, server.log
    assert len(consume(kafka_servers, output)) == 500
    told = re.search(r"INFO shop: stopped with (\d+) of (\d+) closed, pool \[\]", server.log)
    assert told, server.log
    assert told[1] == told[2]
    assert "hooks.thread_stop failed" not in server.log, "it was let end"
    assert int(told[1]) == 6 if executor == "thread" else 1 <= int(told[1]) <= 6  # a greenlet that ran nothing has begun nothing
    assert "hooks.process_stop failed, and the stop goes on" in server.log
    assert "everything settled" in server.log


@pytest.mark.parametrize("name", ["process_start", "thread_start"])
def test_a_start_hook_that_fails_ends_the_process_with_its_reason(
    kafka_servers: str, source: str, start: Any, executor: str, name: str
) -> None:
    produce(kafka_servers, source, [(None, b"1")])
    config = configuration(kafka_servers, "app:handle", source, executor=executor) | {"hooks": {name: "app:begin"}}
    server = start(config, app="def begin():\n    raise OSError('no database')\ndef handle(value): pass\n")
    assert server.wait(30) == 70, server.log
    assert f"ERROR gworkers: hooks.{name} failed: OSError: no database" in server.log
    done = gworkers("check", "-c", str(server.file), "--set", f"hooks.{name}=app:nothing", folder=server.folder)
    assert done.returncode == 78
    assert f"hooks.{name}: app has no nothing" in done.stderr
