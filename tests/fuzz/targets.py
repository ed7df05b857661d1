"""What is fed with inputs that are nearly right: each reads what somebody else may write, and may
raise nothing but what its docstring says."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from gworkers.admin.server import Admin
from gworkers.cli import dead_letters as cli
from gworkers.cli import terminal
from gworkers.config import load as config
from gworkers.config import yaml
from gworkers.config.route import WHEN_NAMES
from gworkers.config.schema import Admin as Admin_
from gworkers.config.units import parse_amount, parse_duration, parse_rate, parse_size
from gworkers.errors import ConfigError
from gworkers.expressions import Expression
from gworkers.handlers.job import Job
from gworkers.kafka import green, producing, reading, unpacking
from gworkers.offsets import finished, journal, offset_map
from gworkers.offsets.suspects import Suspects
from gworkers.pipeline import retry_topics
from gworkers.pipeline.dead_letter_store import Letter
from gworkers.pipeline.dead_letters import OURS, SPRING
from gworkers.pipeline.retries import seconds_of
from gworkers.supervisor import run_file
from gworkers.text import safe, safe_json, safe_lines
from tests.fuzz.mutate import of_bytes, of_text

#: One input, made and fed. Raises what is a finding.
Feed = Callable[[random.Random], object]


def _short(*texts: str) -> None:
    assert all(len(text) < 5_000 for text in texts)


def _shown(text: str) -> None:
    """Nothing in it is obeyed by a terminal."""
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text)


def offset_maps() -> Feed:
    topic = bytes(range(16))
    examples = [
        offset_map.encode(base, unfinished, end, given) or ""
        for base, unfinished, end in ((5, [5, 7, 9], 500), (2**40, [2**40, 2**40 + 4000], 2**40 + 9000), (0, list(range(0, 3000, 2)), 3000))
        for given in (None, topic)
    ]
    words = ["gw1", "gw2", "gw9", "一", "䀀", "鿿", "\U00020000", "\0"]

    def feed(draw: random.Random) -> None:
        try:
            found = offset_map.decode(draw.choice((0, 5, 2**40)), of_text(draw, examples, words, 5_000), draw.choice((None, topic)))
        except offset_map.ForeignMetadataError:
            return
        assert found is None or (len(found.unfinished) <= 10**6 and all(offset < found.end for offset in found.unfinished))

    return feed


def journals() -> Feed:
    entry = struct.pack("=qq", 7, 20) + b"orders/4".ljust(journal.LABEL, b"\0")
    head = journal.HEAD.pack(journal.MAGIC, journal.VERSION, 1, 4711).ljust(journal.ENTRY, b"\0")
    examples = [head + entry, head + entry * 20, head]

    def feed(draw: random.Random) -> None:
        data = of_bytes(draw, examples)
        if journal._no_journal(data) is None:
            for span in journal._ran(data):
                assert 0 <= span.first <= span.last < span.first + journal.MOST_OF_A_BATCH

    return feed


def notes() -> Feed:
    made = finished.Notes(Path(tempfile.mkdtemp(prefix="gworkers-fuzz-")), "group", "boot")
    marks = [made.begin(b"orders/%d" % number, b"t" * 16, 10, "") for number in range(4)]
    made.add([mark | offset for mark in marks for offset in range(10, 40, 3)])
    made.committing([(marks[1], 12, "a")], everything=True)
    made.add([marks[1] | 2**40])
    example = bytes(made._bytes)
    entries = finished.HEAD_BYTES + 5 * finished.ENTRY.size
    halves = [finished._at(half) * 8 for half in (0, 1)]

    def feed(draw: random.Random) -> None:
        data = bytearray(example)
        for begin, end in ((0, entries), *((at, at + 400) for at in halves)):
            data[begin:end] = of_bytes(draw, [example[begin:end]], end - begin).ljust(end - begin, b"\0")
        left = finished.Left([memoryview(bytes(data))])
        for offset, metadata in ((10, ""), (12, "a"), (2**62, "")):
            found = left.finished(b"orders/1", b"t" * 16, offset, metadata)
            map_ = offset_map.with_finished(offset, None, found)
            assert map_ is None or map_.end <= offset + offset_map.MOST_UNFINISHED

    return feed


def suspects() -> Feed:
    folder = Path(tempfile.mkdtemp(prefix="gworkers-fuzz-"))
    told = {"orders/4": [[7, 1, 0], [8, 2, 1]], "a/b/0": [[2**40, 1, 1]]}
    old = {"version": 1, "suspects": [{"topic": "orders", "partition": 4, "offset": 7, "deaths": 2, "alone": True}]}
    examples = [json.dumps({"version": 2, "generation": 3, "suspects": told}).encode(), json.dumps(old).encode()]
    logs = [b'["orders", 4, [7]]\n["orders", 4, [8, 9]]\n']

    def feed(draw: random.Random) -> None:
        (folder / "suspects.json").write_bytes(of_bytes(draw, examples))
        (folder / "suspects.3.cleared").write_bytes(of_bytes(draw, logs))
        found = Suspects(folder)
        found._read()
        for one in found._known.values():
            assert all(offset >= 0 for offset in one)
        for moved in folder.glob("*.damaged-*"):
            moved.unlink()

    return feed


def run_files() -> Feed:
    folder = Path(tempfile.mkdtemp(prefix="gworkers-fuzz-"))
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    run_file.write(folder / "app.yaml", {"servers": "127.0.0.1:9092", "admin": None})
    (file,) = folder.glob("*/*.json")
    examples = [file.read_bytes()]

    def feed(draw: random.Random) -> None:
        file.write_bytes(of_bytes(draw, examples))
        found = run_file.read(folder / "app.yaml")
        assert found is None or isinstance(found["servers"], str)

    return feed


CONFIGURATION = """\
kafka: {group: "${GROUP:-pricing}", bootstrap_servers: "a:1,[::1]:2", client: {security_protocol: SSL}}
executor: thread
concurrency: 64
limits: {database: 20}
admin: {bind: 127.0.0.1:8080}
defaults: &d {attempts: 5, backoff: 200ms}
routes:
  price: &p
    topics: [orders]
    handler: shop.pricing:price
    order: key
    retry: {<<: *d, only: [a.b:C]}
    rate: 100/s burst 20
    when: headers.kind == 'order' and value.amount >= 100
    batch: {max_messages: 100, max_wait: 50ms, max_bytes: 1MiB}
  other: {<<: *p, topics: others, pattern: "^a.*"}
"""


def configurations() -> Feed:
    words = ["&a ", "*a", "<<: ", "!!int ", "!!python/object:os.system ", "{", "}", "[", "]", ": ", "- ", "\n  ", "? ", "| "]
    words += ["${A:-b}", "${file:x}", "0123", "no", "12:30", "1e9", ".inf", "null", "routes", "(((", "[[[[", "{{{{", "\t"]
    words += ["---\n", "# ", "%YAML 9", "'", '"']
    examples = [CONFIGURATION, "a: &a [*a, *a]\n", '{"kafka": {"group": "g"}, "routes": {"r": {"topics": ["t"], "handler": "a:b"}}}']

    def feed(draw: random.Random) -> None:
        text = of_text(draw, examples, words)
        try:
            document, problems = yaml.read_text(text, "app.yaml", Path("/nowhere"), {"GROUP": "g"})
            config.validate(document, Path("/nowhere"), problems)
        except ConfigError as error:
            _short(*map(str, error.problems))

    return feed


def expressions() -> Feed:
    examples = ["headers.kind == 'order' and value.amount >= 100", "key in ('a', 'b') or not headers['x-test']", "-offset < 3 != value[0]"]
    words = [
        "headers",
        "value",
        "key",
        ".",
        "[0]",
        "(",
        ")",
        " and ",
        " or ",
        "not ",
        " in ",
        " is ",
        "'",
        "-",
        "**",
        "lambda: ",
        "None",
        "\0",
        "{",
    ]
    values: list[Any] = [None, 1, "text", [1, [2]], {"a": {"b": 1}}, 1e300, True]

    def feed(draw: random.Random) -> None:
        try:
            found = Expression(of_text(draw, examples, words, 6_000), WHEN_NAMES)
        except ValueError as error:
            _short(str(error))
            return
        found.matches(lambda name: draw.choice(values))

    return feed


def _headers(draw: random.Random, names: list[str], examples: list[bytes]) -> list[tuple[str, bytes | None]]:
    return [
        (draw.choice(names), None if draw.random() < 0.05 else of_bytes(draw, examples, 2_000)) for _ in range(draw.choice((0, 3, 8, 12)))
    ]


def retry_headers() -> Feed:
    names = [retry_topics.PREFIX + name for name in ("group", "attempts", "first-failure", "topic", "partition", "offset", "timestamp")]
    examples = [b"g", b"3", b"1700000000000", b"orders", b"0", "٣".encode()]

    def feed(draw: random.Random) -> None:
        headers: list[tuple[str, bytes | None]] = [(name, draw.choice(examples)) for name in names]
        headers += _headers(draw, [*names, "x"], examples)
        job = Job(7, 1_700_000_000_000, None, b"", headers, 1)
        retry_topics.take_back(job, "g")
        if job.origin is not None:
            assert 0 <= job.origin.partition < 2**31
            assert 0 <= job.origin.offset < 2**63

    return feed


def letters() -> Feed:
    names = [SPRING + f"original-{name}" for name in ("topic", "partition", "offset", "timestamp", "timestamp-type")]
    names += [
        SPRING + "exception-fqcn",
        SPRING + "exception-message",
        OURS + "reason",
        OURS + "failed-at",
        OURS + "attempts",
        OURS + "route",
    ]
    examples = [
        b"orders",
        struct.pack(">i", 3),
        struct.pack(">q", 2**40),
        b"1700000000000",
        b"a.b.C",
        "Grüße\x1b[2J".encode(),
        "٣".encode(),
    ]

    def feed(draw: random.Random) -> None:
        job = Job(
            7, draw.choice((-1, 0, 1_700_000_000_000, 2**62)), None, of_bytes(draw, examples, 500), _headers(draw, names, examples), 1
        )
        letter = Letter("dead", 0, job, False)
        json.dumps(cli._as_json(letter))
        text = f"{letter.origin} {terminal.moment(letter.failed_at)} {letter.route} {letter.reason} {letter.error} {letter.exception}"
        _shown(safe(text))

    return feed


def record_batches() -> Feed:
    memory_records = green.module("kafka.record.memory_records")
    examples = []
    for codec in (0, 1, 3, 4):
        records = memory_records.MemoryRecordsBuilder(2, codec, 2**20)
        rows = [("t", None, b"key-%d" % n, b"value" * n, [("name", b"content"), ("none", None)], 1_700_000_000_000) for n in range(8)]
        producing._append(records, rows, 0, 99, 1_700_000_000_000)
        records.close()
        examples.append(bytes(records.buffer()))
    allowed = (green.module("kafka.errors").KafkaError, unpacking.TooLargeError)

    def feed(draw: random.Random) -> None:
        data = bytearray(of_bytes(draw, examples))
        if len(data) > 17:
            data[16] = 2  # the format that is read here; what it says of its own length is kept right, as the broker does
            data[8:12] = struct.pack(">i", len(data) - 12)
        if len(data) < 61:
            return
        try:
            batch = memory_records.MemoryRecords(bytes(data)).next_batch()
            if batch is not None:
                for _ in reading.read_records(batch, 2**20):
                    pass
        except allowed:
            pass

    return feed


def _read_all(connection: Any) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):  # what was sent after the end of the request
        while part := connection.recv(65536):
            answer += part
    return answer


def admin_requests() -> Feed:
    nobody_may = {"/healthz": lambda _: pytest.fail("no token was given")}
    admin = Admin(Admin_(read_token="0123456789abcdef"), "127.0.0.1:0", nobody_may, nobody_may)
    server = admin.serving(("127.0.0.1", 0))
    server.set_environ()
    server.init_socket()
    server.update_environ()
    examples = [b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD /metrics HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\n"]
    examples += [
        b"POST /healthz?route=a&partition=%31 HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: cross-site\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ]

    def feed(draw: random.Random) -> None:
        ours, theirs = gevent.socket.socketpair()
        reader = gevent.spawn(_read_all, ours)
        ours.sendall(of_bytes(draw, examples, 50_000))
        ours.shutdown(gevent.socket.SHUT_WR)
        server.handler_class(theirs, ("127.0.0.1", 1), server).handle()
        answer = reader.get()
        ours.close()
        assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:100]

    return feed


def units() -> Feed:
    examples = ["250ms", "1.5h", "64MiB", "100/s burst 20", "100 in 1m", "Mon, 12 Jan 1970 13:46:50 GMT", "2"]
    words = ["ms", "s", "d", "/", "burst", " in ", ".", "KiB", "9" * 400, "٣", "-", "e9", "inf"]

    def feed(draw: random.Random) -> None:
        text = of_text(draw, examples, words, 2_000)
        for parse in (parse_duration, parse_size, parse_rate, parse_amount):
            with contextlib.suppress(ValueError):
                parse(text)
        seconds = seconds_of(text)
        assert seconds is None or seconds >= 0

    return feed


def texts() -> Feed:
    examples = ["a\x1b[2Jb\x9bc\u202ed\u2028e", "Grüße, 東京 🙂", '{"a": "\\u0041"}']
    words = ["\x1b", "\x9b", "\u202e", "\ud800", "\r\n", "\x7f", "\U000e0041", "\0"]

    def feed(draw: random.Random) -> None:
        text = of_text(draw, examples, words, 3_000)
        _shown(safe(text))
        _shown(safe_lines(text).replace("\n", "").replace("\t", ""))
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # JSON joins two halves of a pair
        assert json.loads(safe_json(json.dumps(text, ensure_ascii=False))) == whole

    return feed


def _targets() -> Iterator[tuple[str, Callable[[], Feed]]]:
    for make in (
        offset_maps,
        journals,
        notes,
        suspects,
        run_files,
        configurations,
        expressions,
        retry_headers,
        letters,
        record_batches,
        admin_requests,
        units,
        texts,
    ):
        yield make.__name__.replace("_", "-"), make


TARGETS = dict(_targets())
