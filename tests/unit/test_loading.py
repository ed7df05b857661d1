"""Finding the application's callables, and saying why one cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gworkers.config.load import load
from gworkers.errors import ConfigError
from gworkers.handlers import loading
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition

pytestmark = pytest.mark.usefixtures("modules_as_before")


def written(folder: Path, source: str, route: str = "handler: app:handle", more: str = "") -> Path:
    (folder / "app.py").write_text(source)
    file = folder / "app.yaml"
    file.write_text(f"kafka: {{group: g}}\nroutes:\n  r:\n    topics: [t]\n    {route}\n{more}")
    return file


def problems(folder: Path, source: str, route: str = "handler: app:handle", more: str = "") -> list[str]:
    file = written(folder, source, route, more)
    with pytest.raises(ConfigError) as caught:
        loading.load_routes(load(file))
    return [str(problem).replace(f"{folder}/", "").replace(str(folder), "HERE") for problem in caught.value.problems]


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    (sentence,) = problems(tmp_path, "", "handler: shop.pricing:price")
    assert sentence.startswith("app.yaml:5: routes.r.handler: there is no module shop; looked in HERE")


def test_a_module_that_imports_what_is_not_there(tmp_path: Path) -> None:
    assert problems(tmp_path, "import os\nimport nothing_of_that_name\n") == [
        "app.yaml:5: routes.r.handler: app.py:2 imports nothing_of_that_name, which is not installed "
        f"in {sys.prefix}; install it there, or name the Python that has it in app.python"
    ]


def test_a_module_that_fails_while_being_imported(tmp_path: Path) -> None:
    (tmp_path / "deeper.py").write_text("\n\nx = {}['key']\n")
    assert problems(tmp_path, "import deeper\n") == [
        "app.yaml:5: routes.r.handler: the module app fails while being imported, at deeper.py:3: KeyError: 'key'"
    ]


def test_a_module_that_ends_the_interpreter(tmp_path: Path) -> None:
    assert "at app.py:1: SystemExit: 3" in problems(tmp_path, "raise SystemExit(3)\n")[0]


def test_a_module_that_is_no_python(tmp_path: Path) -> None:
    assert problems(tmp_path, "def handle(value)\n    return 1\n")[0].startswith("app.yaml:5: routes.r.handler: app.py:1: expected ':'")


def test_an_attribute_that_is_not_there_or_cannot_be_called(tmp_path: Path) -> None:
    source = "def price(value): pass\nhandle = 5\n"
    assert problems(tmp_path, source) == ["app.yaml:5: routes.r.handler: app:handle is int, which cannot be called"]
    assert problems(tmp_path, source, "handler: app:prize") == ["app.yaml:5: routes.r.handler: app has no prize; it has price"]


@pytest.mark.parametrize(
    "source",
    [
        "async def handle(value): pass",
        "class C:\n    async def __call__(self, value): pass\nhandle = C()",
        "import functools\nasync def f(x, value): pass\nhandle = functools.partial(f, 1)",
    ],
)
def test_a_coroutine_function_is_awaited_in_threads_and_refused_in_greenlets(tmp_path: Path, source: str) -> None:
    assert len(loading.load_routes(load(written(tmp_path, source)))) == 1
    (sentence,) = problems(tmp_path, source, more="executor: greenlet\n")
    assert sentence.endswith(
        "is a coroutine function, and with executor: greenlet there is no thread for asyncio's loop; set executor: thread, or make it "
        "a plain function"
    )


def test_an_asynchronous_generator_is_told_what_to_do(tmp_path: Path) -> None:
    (sentence,) = problems(tmp_path, "async def handle(value):\n    yield 1")
    assert sentence.endswith("is an asynchronous generator; make it a coroutine that returns a list of Records, or a generator")


def test_a_handler_of_two_arguments(tmp_path: Path) -> None:
    assert problems(tmp_path, "def handle(a, b): pass\n")[0].endswith("app:handle(a, b) cannot be called with one argument, the message")


def test_all_problems_of_all_routes_at_once(tmp_path: Path) -> None:
    route = 'handler: app:one\n    decode: app:two\n    retry: {only: ["app:three"], never: ["app:four"]}'
    found = problems(tmp_path, "three = 3\ndef four(): pass\n", route)
    assert [sentence.split(": ")[1] for sentence in found] == [
        "routes.r.handler",
        "routes.r.decode",
        "routes.r.retry.only[0]",
        "routes.r.retry.never[0]",
    ]
    assert "app:three is not an exception class" in found[2]


def test_what_is_named_is_found(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("class C:\n    @staticmethod\n    def method(value): return value\n    class E(Exception): pass\n")
    file = tmp_path / "app.yaml"
    file.write_text('kafka: {group: g}\nroutes: {r: {topics: [t], handler: "app:C.method", retry: {never: ["app:C.E"]}}}\n')
    (route,) = loading.load_routes(load(file))
    assert [error.__name__ for error in route.never] == ["E"]


def test_arguments_are_given_by_keyword(tmp_path: Path) -> None:
    route = "{handler: 'app:handle', arguments: {currency: EUR, rates: [1, 2]}}"
    source = "def handle(value, currency, rates=()):\n    return f'{value} {currency} {rates}'\n"
    file = written(tmp_path, source)
    file.write_text(f"kafka: {{group: g}}\nroutes:\n  r: {route[:-1]}, topics: [t], decode: text, encode: text, output: o}}\n")
    (found,) = loading.load_routes(load(file))
    job = Job(0, 0, None, b"7", [], 1)
    job.partition = Partition("t", 0, found)
    found.handle(job)
    assert job.error is None
    assert [row[3] for row in job.rows or ()] == [b"7 EUR [1, 2]"]


def test_arguments_that_the_handler_does_not_take_are_named(tmp_path: Path) -> None:
    source = "def handle(value, currency): pass\n"
    (sentence,) = problems(tmp_path, source, "handler: app:handle\n    arguments: {curency: EUR}")
    assert sentence.startswith("app.yaml:5: routes.r.handler: app:handle")
    assert "curency" in sentence


@pytest.mark.parametrize("encode", ["json", "app:encode"])
def test_a_class_whose_objects_cannot_be_sent_is_refused(tmp_path: Path, encode: str) -> None:
    source = "class Price:\n    def __init__(self, value): pass\ndef encode(value): return b''\n"
    route = f"handler: app:Price\n    encode: {encode}\n    output: o"
    if encode == "json":
        (sentence,) = problems(tmp_path, source, route)
        assert "app:Price is a class, and what calling it makes cannot be sent" in sentence
    else:
        assert len(loading.load_routes(load(written(tmp_path, source, route)))) == 1
