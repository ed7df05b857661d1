"""The rooms of the house: imports point down the list in ARCHITECTURE.md, form no circle, and
kafka-python's inside stays in one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.servers import ROOT

PACKAGE = ROOT / "gworkers"
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rooms() -> list[str]:
    """The folders as ARCHITECTURE.md lists them, from the top."""
    found = re.findall(r"^\| `gworkers/(\w+)/` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert set(found) == {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    return found


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Modules of this package that a file imports, and whether for types alone."""
    tree = ast.parse(file.read_text())
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gworkers":
            base = node.module or ""
            for alias in node.names:
                below = ROOT.joinpath(*base.split("."), alias.name).with_suffix(".py")
                yield (f"{base}.{alias.name}" if below.exists() else base), id(node) in guarded


def test_imports_point_down() -> None:
    order = rooms()
    wrong = []
    for file in FILES:
        own = file.relative_to(PACKAGE).parts[0]
        for module, _ in imports(file):
            parts = module.split(".")
            room = parts[1] if len(parts) > 1 else ""
            if own in order and room in order and order.index(room) < order.index(own):
                wrong.append(f"{name_of(file)} imports {module}")
    assert not wrong


def test_imports_form_no_circle() -> None:
    graph = {name_of(file): {module for module, types in imports(file) if not types} for file in FILES}
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, f"a circle: {' → '.join([*way, module])}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, [*way, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_nobody_outside_touches_a_private_name_of_kafka_python() -> None:
    """What is reached through a client of kafka-python and begins with an underscore is
    gworkers/kafka/'s business."""
    names = r"_(accumulator|sender|coordinator|fetcher|subscription|manager|net|client|metadata|transaction_manager|heartbeat)"
    for file in FILES:
        if file.relative_to(PACKAGE).parts[0] != "kafka":
            found = re.findall(rf"\w+\.{names}\._?\w+", re.sub(rf"self\.{names}\.", "self.own.", file.read_text()))
            assert not found, f"{name_of(file)}: {found}"


def test_errors_are_told_apart_by_class() -> None:
    for file in FILES:
        assert not re.search(r"type\(\w+\)\.__name__ (==|!=|in|not in)", file.read_text()), name_of(file)


def test_every_greenlet_that_stays_is_a_loop() -> None:
    """gevent.spawn appears where greenlets are made for somebody else: kafka-python's threads, and
    Loop itself."""
    for file in FILES:
        if name_of(file) not in ("gworkers.kafka.green", "gworkers.loop"):
            assert "gevent.spawn" not in file.read_text(), name_of(file)
            assert "gevent.Greenlet(" not in file.read_text(), name_of(file)


def test_a_file_has_one_role() -> None:
    """About 300 lines at most; the models of the configuration are one table, and exactly-once is
    one protocol."""
    long = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert {name for name, lines in long.items() if lines > 360} <= {"gworkers.pipeline.exactly_once"}
