"""kafka-python on gevent, and nobody else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gworkers.kafka import green

KAFKA = Path(green.module().__file__).parent

#: What kafka-python imports when it is asked for: compression, tokens, its command line. None of it
#: waits.
COMMAND_LINES = {"admin", "cli", "__main__.py"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(KAFKA.rglob("*.py")):
        yield file, ast.parse(file.read_text())


def imported(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, name or None) of every import statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_kafka_python_uses_nothing_of_threading_beyond_what_stands_in_for_it() -> None:
    used: set[str] = set()
    for file, tree in sources():
        if "test" in file.name:
            continue
        used |= {name for module, name in imported(tree) if module == "threading" and name is not None}
        used |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "threading"
        }
    assert used
    assert used <= set(green.THREADING_NAMES), f"not stood in for: {used - set(green.THREADING_NAMES)}"


def test_kafka_python_imports_nothing_else_that_waits() -> None:
    """concurrent.futures, queue, asyncio, subprocess … would bring native threads or block the hub."""
    waits = {"concurrent", "queue", "asyncio", "subprocess", "multiprocessing", "_thread", "signal", "socketserver", "http"}
    for file, tree in sources():
        if COMMAND_LINES & set(file.relative_to(KAFKA).parts):
            continue
        roots = {module.split(".")[0] for module, _ in imported(tree)}
        assert not roots & waits, f"{file} imports {roots & waits}"


def test_every_lazy_import_goes_through_the_green_loader() -> None:
    """Import statements in functions look up __import__ in their module's globals, which are ours,
    in every loaded module."""
    green.module("kafka.consumer.group")
    modules = green.private_modules()
    assert len(modules) > 50
    for name, module in modules.items():
        assert vars(module)["__builtins__"]["__import__"].__self__.__class__.__name__ == "_Loader", name
        for stand_in in ("threading", "socket", "selectors", "time", "ssl", "select"):
            found = vars(module).get(stand_in)
            if found is not None and not callable(found):
                assert found is not sys.modules.get(stand_in), f"{name} has the ordinary {stand_in}"


def test_the_applications_kafka_is_the_ordinary_one() -> None:
    green.module("kafka.consumer.group")
    program = """
import sys, threading, socket, selectors, time
before = (threading.Lock, threading.Thread, socket.socket, selectors.DefaultSelector, time.sleep)
from gworkers.kafka import green
private = green.module()
assert not any(name == "kafka" or name.startswith("kafka.") for name in sys.modules), "sys.modules was touched"
import kafka
assert kafka is not private
assert kafka.KafkaConsumer is not private.KafkaConsumer
import kafka.producer.kafka as producer
assert producer.threading is threading and not producer.threading.__name__.startswith("gevent")
assert before == (threading.Lock, threading.Thread, socket.socket, selectors.DefaultSelector, time.sleep)
assert green.module() is private
from kafka.errors import KafkaError
assert KafkaError is not green.module("kafka.errors").KafkaError
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_greenlet_stands_in_for_a_thread() -> None:
    seen: list[Any] = []
    thread = green.Thread(target=lambda x: seen.append((x, green.current_thread().name)), name="sender", args=(1,), daemon=True)
    assert not thread.is_alive()
    thread.start()
    assert thread.is_alive()
    thread.join(5)
    assert seen == [(1, "sender")]
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        thread.start()
    assert green.current_thread().name == "MainThread"


def test_a_condition_wakes_its_waiters_in_order_and_gives_the_lock_back() -> None:
    condition = green.Condition()
    woken: list[int] = []

    def wait(number: int) -> None:
        with condition:
            assert condition.wait(5)
            woken.append(number)

    waiters = [gevent.spawn(wait, number) for number in range(3)]
    gevent.sleep(0)
    with condition:
        condition.notify()
    gevent.sleep(0.01)
    assert woken == [0]
    with condition:
        condition.notify_all()
    gevent.joinall(waiters, 5)
    assert woken == [0, 1, 2]
    with condition:
        assert not condition.wait(0.01)
