"""From a file to a configuration, and every way in which that can go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gworkers.config.load import Loaded, load
from gworkers.config.schema import Config
from gworkers.errors import ConfigError
from tests.support.servers import ENVIRONMENT

GOOD = """\
kafka:
  group: pricing
routes:
  price:
    topics: [orders]
    handler: shop.pricing:price
"""


def loaded(folder: Path, text: str, *overrides: str, env: dict[str, str] | None = None) -> Loaded:
    file = folder / "app.yaml"
    file.write_text(text)
    return load(file, overrides, env or {})


def problems(folder: Path, text: str, *overrides: str, env: dict[str, str] | None = None) -> list[str]:
    """The sentences, with the folder taken out of them."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, *overrides, env=env)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_variables_come_from_a_file_unless_they_are_set(tmp_path: Path) -> None:
    (tmp_path / "shop.env").write_text("# ours\nexport GROUP=from-file\nTOPIC='a topic'\nPASSWORD=\"x y#z\"\n\nKAFKA=k:1\n")
    text = "app: {env_file: '${WHERE}.env'}\nkafka: {group: '${GROUP}', bootstrap_servers: '${KAFKA}'}\n"
    text += "routes: {r: {topics: ['${ABSENT:-t}'], handler: 'a:b', arguments: {password: '${PASSWORD}'}}}\n"
    (tmp_path / "app.yaml").write_text(text)
    loaded = load(tmp_path / "app.yaml", environment={"WHERE": "shop", "KAFKA": "set:2"})
    assert (loaded.config.kafka.group, loaded.config.kafka.bootstrap_servers) == ("from-file", "set:2")
    assert loaded.config.routes["r"].arguments == {"password": "x y#z"}
    assert loaded.document.variables["TOPIC"] == "a topic"
    (tmp_path / "other.env").write_text("GROUP=other")
    again = load(
        tmp_path / "app.yaml", ["app.env_file=other.env", "state_dir=${GROUP}"], environment={"KAFKA": "k:1", "PASSWORD": "", "WHERE": ""}
    )
    assert (again.config.kafka.group, again.config.state_dir) == ("other", "other")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "the file {}/shop.env cannot be read: No such file or directory"),
        (b"A=1\n\nthis is = not\xff", "{}/shop.env is not text in UTF-8"),
        (b"A=1\n\nwhat is this?\nB=2\n", "{}/shop.env:3 is not NAME=value; mend the line, or put # before it"),
    ],
)
def test_a_file_of_variables_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "shop.env").write_bytes(content)
    (tmp_path / "app.yaml").write_text("kafka: {group: g}\napp: {env_file: shop.env}\nroutes: {r: {topics: [t], handler: 'a:b'}}\n")
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "app.yaml", environment={})
    assert str(raised.value) == f"{tmp_path}/app.yaml:2: app.env_file: {told.format(tmp_path)}"


def test_the_least_configuration_is_enough(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD).config
    assert (config.concurrency, config.executor, config.kafka.connect_timeout) == (64, "thread", 60.0)
    assert config.routes["price"].retry.attempts == 5


def test_json_is_the_yaml_it_is(tmp_path: Path) -> None:
    text = '{"kafka":\t{"group": "g"},\n\t"routes": {"r": {"topics": ["t"], "handler": "a:b"}}}'
    assert loaded(tmp_path, text).config.kafka.group == "g"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "app.yaml: the file is empty; it needs at least kafka: and routes:"),
        ("# nothing\n", "app.yaml: the file is empty; it needs at least kafka: and routes:"),
        ("- a\n", "app.yaml:1: the file is a list or a single value; it must have keys such as kafka: and routes:"),
        ("kafka: [\n", "app.yaml:2: this is not YAML: expected the node content, but found '<stream end>' (while parsing a flow node)"),
        (GOOD + "kafak: 1\n", 'app.yaml:7: kafak: unknown key; did you mean "kafka"?'),
        (GOOD + "concurrency: -3\n", "app.yaml:7: concurrency: expected 1 or more (for example 64), got -3"),
        (
            GOOD + "concurrency: many\n",
            "app.yaml:7: concurrency: expected a whole number, auto, or a section with min and max (for example 64), got 'many'",
        ),
        (
            GOOD + "executor: green\n",
            "app.yaml:7: executor: expected thread or greenlet, got 'green'",
        ),
        (
            GOOD + "kafka:\n  group: other\n",
            "app.yaml:7: kafka: the key stands here a second time, first at app.yaml:1; keep one of them",
        ),
        (
            GOOD.replace("    handler: shop.pricing:price\n", ""),
            "app.yaml:4: routes.price.handler: the key is missing (for example shop.pricing:price)",
        ),
        (
            GOOD.replace("shop.pricing:price", "shop.pricing.price"),
            "app.yaml:6: routes.price.handler: expected a dotted path, as package.module:callable (for example shop.pricing:price), "
            "got 'shop.pricing.price'",
        ),
        (
            GOOD.replace("[orders]", "[orders, 'bad topic']"),
            "app.yaml:5: routes.price.topics[1]: expected a topic name: at most 249 letters, digits, "
            "dots, underscores and hyphens, got 'bad topic'",
        ),
        (
            GOOD + "    retry: {backoff: 30}\n",
            "app.yaml:7: routes.price.retry.backoff: expected a duration with its unit, such as 250ms, 30s, 5m, 2h or 1d, got 30",
        ),
        (
            GOOD + "    retry: {backoff: 1m, max_backoff: 1s}\n",
            "app.yaml:7: routes.price.retry.backoff: it is longer than max_backoff; make it shorter, or max_backoff longer",
        ),
        (
            GOOD + "buffer: {bytes: lots}\n",
            "app.yaml:7: buffer.bytes: expected a size, such as 512KiB, 64MiB or 1GB, or a number of bytes, got 'lots'",
        ),
        (GOOD + "routes: 1\n", "app.yaml:7: routes: the key stands here a second time, first at app.yaml:3; keep one of them"),
        (
            "kafka: {group: g}\nroutes: {}\n",
            "app.yaml:2: routes: expected at least one route: a name with topics and a handler below it",
        ),
        (
            GOOD + "    pattern: '^x'\n",
            "app.yaml:4: routes.price: a route has either topics or a pattern: both are given",
        ),
        (
            GOOD + "  again:\n    topics: [orders]\n    handler: a:b\n",
            "app.yaml:8: routes.again.topics: the topic orders is consumed by the route price already; a topic has one route",
        ),
        (
            GOOD + "    output: orders\n",
            "app.yaml:7: routes.price.output: the route consumes orders itself, so every message would come back to it; name another topic",
        ),
        (
            GOOD + "buffer: {messages: 10}\n",
            "app.yaml:7: buffer.messages: buffer.messages (10) is less than concurrency (64), "
            "so some workers would never work; make it larger",
        ),
        (
            GOOD + "admin: {bind: here}\n",
            "app.yaml:7: admin.bind: expected host:port or unix:PATH (for example 127.0.0.1:8080), got 'here'",
        ),
        (
            GOOD.replace("  group: pricing", "  group: pricing\n  bootstrap_servers: 'kafka-1'"),
            "app.yaml:3: kafka.bootstrap_servers: 'kafka-1' is not host:port; write host:port,host:port or embedded",
        ),
        (GOOD + "routes2: !!python/object/apply:os.system [echo]\n", None),
        (
            GOOD + "concurrency: !!python/object/apply:os.getcwd []\n",
            "app.yaml:7: concurrency: !!python/object/apply:os.getcwd is not read; write plain values: text, numbers, lists, keys",
        ),
        (
            GOOD + "concurrency: ${WORKERS}\n",
            "app.yaml:7: concurrency: the environment variable WORKERS is not set; set it, or write ${WORKERS:-a default}",
        ),
        (
            GOOD + "    uses: [database]\nlimits: {db: 3}\n",
            "app.yaml:7: routes.price.uses[0]: there is no limit database in limits; there are db",
        ),
        (
            GOOD + "    max_age: {after: 1h, then: dead-letter}\n",
            "app.yaml:7: routes.price.max_age: then: dead-letter needs a dead_letter topic; name one",
        ),
        (
            GOOD + "    when: header.kind == 1\n",
            "app.yaml:7: routes.price.when: 'header.kind == 1' asks for header, and there are headers, key, offset, partition, timestamp, "
            "topic, value",
        ),
        (GOOD + "    timeout: 0s\n", "app.yaml:7: routes.price.timeout: expected more than 0 (for example 30s), got '0s'"),
        (
            GOOD + "    rate: 100\n",
            "app.yaml:7: routes.price.rate: expected a rate, such as 100/s, 30/m or 100/s burst 20, got 100",
        ),
        (
            GOOD + "    order: key\n    retry: {topics: [1m]}\n",
            "app.yaml:8: routes.price.retry.topics: later messages of a key overtake one that waits in a topic; use order: none, "
            "or leave it out",
        ),
        (
            GOOD.replace("topics: [orders]", "pattern: '^orders.*'") + "    dead_letter: orders.dead\n",
            "app.yaml:7: routes.price.dead_letter: the route's pattern matches orders.dead, so every message would come back to it; "
            "name another topic or a narrower pattern",
        ),
        (
            GOOD
            + "    output: a\n  b: {topics: [a], handler: 'a:b', output: c}\n  c: {pattern: '^c', handler: 'a:b', dead_letter: orders}\n",
            "app.yaml:7: routes.price.output: what is sent to a comes back to this route over b and c, for ever; break the circle",
        ),
        (
            GOOD + "    batch: {by: key}\n",
            "app.yaml:7: routes.price.batch.by: batches of a key keep its order; write order: key, not none",
        ),
        (
            GOOD + "    batch: {max_messages: 20000}\n",
            "app.yaml:7: routes.price.batch.max_messages: more than buffer.messages (10000), so a batch would never fill; "
            "make one of them fit the other",
        ),
        (
            "kafka: {group: g, bootstrap_servers: 'k:1'}\nroutes: {r: {topics: [t], handler: m:f}}\n"
            "delivery: exactly-once\ncommit: {map: off}\n",
            "app.yaml:4: commit.map: exactly-once needs the map of what is finished beyond the committed offset, or that comes twice after "
            "a crash; leave this out",
        ),
        (
            GOOD + "transaction: {interval: 50ms}\n",
            "app.yaml:7: transaction: it is for delivery: exactly-once; write that, or leave this out",
        ),
        (
            "kafka: {group: g, bootstrap_servers: embedded}\ndelivery: exactly-once\nroutes: {r: {topics: t, handler: 'a:b'}}\n",
            "app.yaml:2: delivery: the embedded broker knows no transactions; name an Apache Kafka in kafka.bootstrap_servers, "
            "or write at-least-once",
        ),
        (GOOD + "concurrency: ${file:none}\n", "app.yaml:7: concurrency: the file none cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_its_key(tmp_path: Path, text: str, wanted: str | None) -> None:
    found = problems(tmp_path, text)
    if wanted is None:
        assert any("is not read; write plain values" in sentence for sentence in found)
    else:
        assert wanted in found


def test_poison_needs_a_journal(tmp_path: Path) -> None:
    (sentence,) = problems(tmp_path, GOOD + "poison: {deaths: 2}")
    assert sentence == "app.yaml:7: poison: state_dir's journal tells which messages ran when the process died; name a folder there"


def test_concurrency_is_a_number_or_is_found(tmp_path: Path) -> None:
    def config(text: str) -> Config:
        (tmp_path / "app.yaml").write_text(GOOD + text)
        return load(tmp_path / "app.yaml").config

    assert (config("").first_concurrency, config("").most_concurrency, config("").steered) == (64, 64, None)
    assert config("concurrency: 8").first_concurrency == 8
    auto = config("concurrency: auto")
    assert (auto.first_concurrency, auto.most_concurrency) == (64, 512)
    assert config("concurrency: auto\nbuffer: {messages: 100}").most_concurrency == 100  # what auto means fits
    found = config("concurrency: {min: 2, max: 40, mode: observe}")
    assert found.steered is not None
    assert (found.first_concurrency, found.most_concurrency, found.steered.mode) == (40, 40, "observe")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("concurrency: 0", "app.yaml:7: concurrency: expected 1 or more"),
        ("concurrency: 10001", "app.yaml:7: concurrency: expected 10000 or less"),
        ("concurrency: lots", "app.yaml:7: concurrency: expected a whole number, auto, or a section"),
        ("concurrency: [4]", "app.yaml:7: concurrency: expected a whole number, auto, or a section"),
        ("concurrency: {least: 4}", "app.yaml:7: concurrency.least: unknown key"),
        ("concurrency: {min: 0}", "app.yaml:7: concurrency.min: expected 1 or more"),
        ("concurrency: {mode: watch}", "app.yaml:7: concurrency.mode: expected steer or observe"),
        ("concurrency: {min: 9, max: 8}", "app.yaml:7: concurrency.min: the least (9) is more than the most (8)"),
        ("concurrency: {max: 600}\nbuffer: {messages: 500}", "app.yaml:8: buffer.messages: buffer.messages (500) is less than"),
    ],
)
def test_what_is_wrong_with_a_concurrency_is_said(tmp_path: Path, text: str, wanted: str) -> None:
    (sentence,) = problems(tmp_path, GOOD + text)
    assert sentence.startswith(wanted)


def test_processes_are_a_number_or_as_many_as_there_are_cores(tmp_path: Path) -> None:
    def processes(text: str) -> int:
        (tmp_path / "app.yaml").write_text(GOOD + f"processes: {text}")
        return load(tmp_path / "app.yaml").config.processes

    assert processes("4") == 4
    assert 1 <= processes("auto") <= (os.cpu_count() or 1)
    for wrong in ("0", "many", "1.5"):
        (sentence,) = problems(tmp_path, GOOD + f"processes: {wrong}")
        assert sentence.startswith("app.yaml:7: processes: expected"), sentence


def test_what_replaces_a_process_is_validated(tmp_path: Path) -> None:
    (sentence,) = problems(tmp_path, GOOD + "recycle: {messages: -1}")
    assert "expected 0 or more" in sentence


def test_all_problems_are_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "kafka: {grup: x}\nconcurrency: 0\nroutes:\n  r: {topics: t, handler: nothing}\nlogging: {level: LOUD}\n"
    found = problems(tmp_path, text)
    assert [sentence.split(": ")[0] for sentence in found] == ["app.yaml:1", "app.yaml:1", "app.yaml:2", "app.yaml:4", "app.yaml:5"]


def test_a_missing_variable_is_said_once_not_also_as_a_wrong_type(tmp_path: Path) -> None:
    assert len(problems(tmp_path, GOOD + 'concurrency: ${WORKERS}\nbuffer: {messages: "${OTHER:-many}"}\n')) == 2


def test_variables_defaults_and_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    text = GOOD.replace("pricing\n", '"${TEAM}-${STAGE:-test}"\n  client: {sasl_plain_password: "${file:secret}"}\n')
    found = loaded(tmp_path, text, env={"TEAM": "shop"})
    assert found.config.kafka.group == "shop-test"
    assert found.config.kafka.client == {"sasl_plain_password": "hush"}
    assert ("kafka", "client", "sasl_plain_password") in found.document.replaced


def test_what_a_variable_holds_is_text_and_is_not_parsed_again(tmp_path: Path) -> None:
    assert loaded(tmp_path, GOOD.replace("pricing", '"${GROUP}"', 1), env={"GROUP": "a: [b]"}).config.kafka.group == "a: [b]"


def test_set_lays_values_over_the_file(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD, "concurrency=8", "routes.price.retry.attempts=2", "kafka.client={client_id: me}").config
    assert (config.concurrency, config.routes["price"].retry.attempts, config.kafka.client) == (8, 2, {"client_id": "me"})


@pytest.mark.parametrize(
    ("assignment", "wanted"),
    [
        ("concurrency", "--set: concurrency: write it as a.b.c=value"),
        ("a..b=1", "--set: a..b=1: write it as a.b.c=value"),
        (
            "concurrency=none",
            "--set: concurrency: expected a whole number, auto, or a section with min and max (for example 64), got 'none'",
        ),
        ("kafka.group.name=1", "--set: kafka.group.name: group is a value, not a section, at app.yaml:1"),
        ("kafak.group=1", '--set: kafak: unknown key; did you mean "kafka"?'),
    ],
)
def test_a_wrong_override_is_said_as_such(tmp_path: Path, assignment: str, wanted: str) -> None:
    assert problems(tmp_path, GOOD, assignment) == [wanted]


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "kafka: {group: g}\nroutes:\n  a: &a {topics: [x], handler: m:f, order: key}\n  b: {<<: *a, topics: [y]}\n"
    found: Any = loaded(tmp_path, text).config.routes["b"]
    assert (found.topics, found.order) == (["y"], "key")


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda file: None, "there is no such file; name it with -c FILE"),
        (lambda file: file.mkdir(), "this is a folder; name the file in it with -c FILE"),
        (lambda file: file.write_bytes(b"\xff\xfe\x00"), "this is not text; the configuration is YAML in UTF-8"),
    ],
)
def test_a_file_that_is_none_is_said_so(tmp_path: Path, make: Any, wanted: str) -> None:
    file = tmp_path / "app.yaml"
    make(file)
    with pytest.raises(ConfigError, match=wanted):
        load(file)


def test_an_empty_variable_has_its_default_as_in_a_shell(tmp_path: Path) -> None:
    text = GOOD.replace("pricing\n", "${TEAM:-pricing}\n", 1)
    assert loaded(tmp_path, text, env={"TEAM": ""}).config.kafka.group == "pricing"
    assert loaded(tmp_path, text, env={"TEAM": "shop"}).config.kafka.group == "shop"
    assert loaded(tmp_path, text).config.kafka.group == "pricing"
    assert problems(tmp_path, GOOD.replace("pricing\n", "${TEAM}\n", 1), env={"TEAM": ""}) == [
        "app.yaml:2 from $TEAM: kafka.group: expected text of at least one character (for example pricing), got a value that is (hidden)"
    ]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            "concurrency: 010\n",
            'app.yaml:7: concurrency: YAML reads 010 as the number 8; put it in quotes, "010", or write the number as usual',
        ),
        (
            "admin: {bind: 12:30}\n",
            'app.yaml:7: admin.bind: YAML reads 12:30 as the number 750; put it in quotes, "12:30", or write the number as usual',
        ),
        ("state_dir: no\n", 'app.yaml:7: state_dir: expected text (for example /var/lib/gworkers), got no; put it in quotes: "no"'),
        (
            "state_dir: 2026-11-25\n",
            'app.yaml:7: state_dir: expected text (for example /var/lib/gworkers), got 2026-11-25; put it in quotes: "2026-11-25"',
        ),
        ("commit: {interval: 1_000}\n", "expected a duration with its unit, such as 250ms, 30s, 5m, 2h or 1d, got 1_000"),
        ("commit: {map: 'no way'}\n", "app.yaml:7: commit.map: expected true or false, got 'no way'"),
    ],
)
def test_what_yaml_makes_of_plain_words_is_told(line: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in problems(tmp_path, GOOD + line)[0]


@pytest.mark.parametrize("word", ["on", "no", "1.5", "12345"])
def test_a_topic_that_yaml_takes_for_something_else_wants_quotes(word: str, tmp_path: Path) -> None:
    for written in (word, f"[{word}]"):
        (told,) = problems(tmp_path, GOOD.replace("[orders]", written))
        assert told.endswith(f'got {word}; put it in quotes: "{word}"')


def test_no_secret_is_shown_in_an_error(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2-in-a-file")
    text = GOOD + "concurrency: ${file:secret}\nexecutor: ${MODE}\nstate_dir: {password: hunter2}\n"
    text = text.replace("group: pricing", "group: pricing\n  bootstrap_servers: postgres://me:hunter2@db:1/x")
    told = problems(tmp_path, text, env={"MODE": "hunter2-in-a-variable"})
    assert len(told) == 4
    assert "hunter2" not in "\n".join(told)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: &a {<<: *a}\n",
        "a: {<<: 3}\n",
        "a: {? [1, 2] : 3}\n",
        "a: " + "[" * 5_000,
        "{a: " * 200 + "1" + "}" * 200,
        "a: !!int ''\n",
        "a: !!bool maybe\n",
        "a: !!timestamp now\n",
        "a: !!binary x\n",
        "a: " + "9" * 10_000,
        "a: \x07\n",
        "a: \ud800\n",
        "routes: {r: {when: '" + "(" * 300 + "'}}\n",
        "routes: {r: {when: '" + "-" * 3_000 + "1'}}\n",
        "routes: {r: {when: 'a\0b'}}\n",
        "routes: {r: {pattern: '" + "(" * 3_000 + "'}}\n",
        "routes: 3\nkafka: []\n",
        "x" * 3_000_000,
    ],
)
def test_a_file_out_of_all_proportion_is_a_sentence_and_at_once(text: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    file = tmp_path / "app.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load(file, (), {})
    assert all(len(str(problem)) < 1_000 for problem in caught.value.problems)
    assert time.monotonic() - begun < 20


def test_files_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_bytes("﻿# Preise für Köln\n".encode() + GOOD.replace("shop.", "läden.").encode())
    code = "import sys; from pathlib import Path; from gworkers.config.load import load; load(Path(sys.argv[1]), (), {})"
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "app.yaml")], env={**ENVIRONMENT, **plain}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
