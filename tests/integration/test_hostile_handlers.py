"""Whatever a handler does costs its own message at the most: each id ends in the output or in the
dead letters, once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.servers import configuration, consume, create_topic, produce, unique

APP = """
import gc, locale, logging, os, resource, signal, sys, threading, time
log = logging.getLogger("shop")
class Mute(Exception):
    def __str__(self): raise RuntimeError("no words")
class Liar(Exception):
    def __getattribute__(self, name): raise KeyError(name)
def numbers(value):
    yield value
def recurse():
    return recurse()
def handle(value):
    kind = value["kind"]
    if kind == "base": raise BaseException("base")
    if kind == "exit": sys.exit(3)
    if kind == "interrupt": raise KeyboardInterrupt
    if kind == "recursion": recurse()
    if kind == "memory": raise MemoryError
    if kind == "stop": raise StopIteration
    if kind == "generator": return numbers(value)
    if kind == "huge": return "x" * 2_000_000
    if kind == "unencodable": return object()
    if kind == "mute": raise Mute
    if kind == "liar": raise Liar
    if kind == "assert": assert not value, "an assertion"
    if kind == "changes":
        n = value["n"]
        value.clear()
        return {"kind": kind, "n": n}
    if kind == "chdir": os.chdir("/")
    if kind == "locale": locale.setlocale(locale.LC_ALL, "C")
    if kind == "shutdown": logging.shutdown()
    if kind == "gc": gc.disable()
    if kind == "stdout": sys.stdout.close()
    if kind == "fork":
        child = os.fork()
        if not child: sys.exit(0)
        os.waitpid(child, 0)
    if kind == "forkreturn":
        child = os.fork()
        if not child: return {"kind": "from the child", "n": 0}
        os.waitpid(child, 0)
    if kind == "threads": threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    if kind == "files":
        held = []
        try:
            while True: held.append(open("/dev/null"))
        except OSError:
            pass
        for file in held: file.close()
    if kind == "logs": log.info("%d", "not a number")
    if kind == "umask": os.umask(0o077)
    return value
"""

FAIL = {
    **dict.fromkeys(("base", "exit", "interrupt", "recursion", "memory", "stop", "mute", "liar", "assert"), b"failed"),
    "unencodable": b"unencodable",
    "huge": b"too-large",
}
WORK = ["good"] * 8 + ["generator", "changes", "chdir", "locale", "shutdown", "gc", "stdout", "fork", "forkreturn", "threads", "files"]
WORK += ["logs", "umask"]


def test_every_message_ends_in_one_place(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    kinds = [*FAIL, *WORK] * 10
    wanted = [f'{{"kind":"{kind}","n":{n}}}'.encode() for n, kind in enumerate(kinds)]
    produce(kafka_servers, source, ((b"k%d" % (n % 50), value) for n, value in enumerate(wanted)))
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        decode="json",
        encode="json",
        order="key",
        timeout="20s",
        dead_letter=dead,
        retry={"attempts": 2, "backoff": "10ms"},
        executor=executor,
    )
    server = start(config, "--until-idle", "1s", app="import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n" + APP)
    assert server.wait(120) == 0, server.log
    results = Counter(m.value() for m in consume(kafka_servers, output))
    letters = consume(kafka_servers, dead)
    assert results == Counter(value for value, kind in zip(wanted, kinds, strict=True) if kind not in FAIL)
    assert Counter(m.value() for m in letters) == Counter(value for value, kind in zip(wanted, kinds, strict=True) if kind in FAIL)
    for letter in letters:
        kind = letter.value().split(b'"')[3].decode()
        assert dict(letter.headers())["gworkers-reason"] == FAIL[kind], kind
    assert not _children_of(server.process.pid)


def _children_of(pid: int) -> list[str]:
    """Processes that a server has left behind."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if os.getsid(int(folder.name)) == pid:  # it began a session of its own
                    found.append((folder / "cmdline").read_text())
            except OSError:
                continue
    return found
