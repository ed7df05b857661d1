"""The testing kit: what serves in production, without a broker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gworkers import Config
from gworkers.errors import BreakerError, ConfigError, FatalError, UsageError
from gworkers.testing import Application

APP = """
import gworkers
from gworkers import BatchError, Record, Reject, Retry

tries = {}
events = []

def price(order):
    n = order["n"]
    tries[n] = tries.get(n, 0) + 1
    if order.get("fails", 0) >= tries[n]:
        raise Retry("busy", delay=order["delay"]) if "delay" in order else OSError("busy")
    if order.get("bad"):
        raise Reject("no")
    return {"n": n, "tries": tries[n], "id": gworkers.idempotency_key()}

def fan(message):
    return [Record(value=b"x", topic="extra", key="e", headers=[("h", b"1")]), Record(value=message.value)]

def invoice(value):
    return {"invoice": value["n"]}

def together(orders):
    if any(o == 3 for o in orders) and len(orders) > 1:
        raise BatchError({orders.index(3): ValueError("three")}, [o for o in orders])
    if orders == [3]:
        raise ValueError("three alone")
    return [o * 10 for o in orders]

def begin(): events.append("begin")
def end(): events.append("end")
"""


pytestmark = pytest.mark.usefixtures("modules_as_before")


@pytest.fixture
def made(tmp_path: Path) -> Any:
    (tmp_path / "app.py").write_text(APP)

    def make(routes: dict[str, Any], **more: Any) -> Application:
        (tmp_path / "app.yaml").write_text(yaml.safe_dump({"kafka": {"group": "g"}, "routes": routes, **more}))
        return Application(tmp_path / "app.yaml")

    return make


JSON = {"decode": "json", "encode": "json"}


def test_results_have_key_headers_and_timestamp_of_their_input(made: Any) -> None:
    app = made({"price": {"topics": ["orders"], "handler": "app:price", "output": "priced", **JSON}})
    app.send("orders", {"n": 1}, key="k", headers={"h": b"1"}, timestamp=1234)
    came = app.run()
    (sent,) = came.sent
    assert (sent.topic, sent.key, sent.headers, sent.timestamp, sent.json) == (
        "priced", b"k", (("h", b"1"),), 1234, {"n": 1, "tries": 1, "id": "orders-0-0"},
    )  # fmt: skip
    assert (came.done, came.dead, came.retried, came.waited) == (1, [], [], 0.0)
    assert app.run().done == 0


def test_waits_take_no_time_and_are_told(made: Any) -> None:
    retry = {"attempts": 4, "backoff": "10s", "jitter": 0}
    app = made({"price": {"topics": ["orders"], "handler": "app:price", "output": "priced", "order": "key", "retry": retry, **JSON}})
    app.send("orders", {"n": 1, "fails": 2}, key="k")
    app.send("orders", {"n": 2}, key="k")
    app.send("orders", {"n": 3, "fails": 1, "delay": "1h"}, key="other")
    came = app.run()
    assert [sent.json["n"] for sent in came.sent] == [1, 2, 3]  # in the order of their key, by the time it would have been
    assert sorted(wait.delay for wait in came.retried) == [10.0, 20.0, 3600.0]
    assert came.waited == 3600.0
    assert str(came.retried[0].error) == "busy"


def test_what_fails_for_good_is_a_dead_letter(made: Any) -> None:
    retry = {"attempts": 2, "backoff": "1s", "jitter": 0}
    app = made({"price": {"topics": ["orders"], "handler": "app:price", "output": "o", "dead_letter": "dead", "retry": retry, **JSON}})
    app.send("orders", {"n": 1, "fails": 9}, key="k")
    app.send("orders", {"n": 2, "bad": True})
    app.send("orders", b"{")
    came = app.run()
    assert sorted((letter.reason, letter.exception, letter.attempts) for letter in came.dead) == [
        ("failed", "builtins.OSError", 2),
        ("rejected", "gworkers.message.Reject", 1),
        ("undecodable", "json.decoder.JSONDecodeError", 1),
    ]
    assert {letter.topic for letter in came.dead} == {"dead"}
    assert came.sent == []
    assert came.done == 3


def test_what_would_end_the_process_is_raised(made: Any) -> None:
    app = made({"price": {"topics": ["orders"], "handler": "app:price", **JSON}})
    app.send("orders", {"n": 2, "bad": True})
    with pytest.raises(FatalError, match="has no dead_letter topic"):
        app.run()
    letters = {"stop_above": "2 in 1m"}
    app = made({"price": {"topics": ["orders"], "handler": "app:price", "dead_letter": "d", **JSON}}, dead_letters=letters)
    for n in range(5):
        app.send("orders", {"n": n, "bad": True})
    with pytest.raises(BreakerError, match="more than 2 messages failed for good"):
        app.run()


def test_routes_hand_on_to_each_other_and_to_retry_topics(made: Any) -> None:
    retry = {"attempts": 1, "topics": ["1m", "1h"]}
    app = made(
        {
            "price": {"topics": ["orders"], "handler": "app:price", "output": "priced", "retry": retry, "dead_letter": "dead", **JSON},
            "invoice": {"topics": ["priced"], "handler": "app:invoice", "output": "invoices", **JSON},
        }
    )
    app.send("orders", {"n": 1}, key="k")
    app.send("orders", {"n": 2, "fails": 2}, key="k")
    app.send("orders", {"n": 3, "fails": 9}, key="k")
    came = app.run()
    assert [sent.json["invoice"] for sent in came.sent if sent.topic == "invoices"] == [1, 2]
    topics = [sent.topic for sent in came.sent]
    assert (topics.count("orders.retry.1m"), topics.count("orders.retry.1h")) == (2, 2)
    assert [(letter.attempts, letter.message.topic) for letter in came.dead] == [(3, "orders")]


def test_records_and_messages(made: Any) -> None:
    app = made({"fan": {"topics": ["in"], "handler": "app:fan", "output": "out", "pass": "message", "decode": "text", "encode": "text"}})
    app.send("in", "v", key="k")
    came = app.run()
    assert [(sent.topic, sent.key, sent.text, sent.headers) for sent in came.sent] == [
        ("extra", b"e", "x", (("h", b"1"),)),
        ("out", b"k", "v", ()),
    ]


@pytest.mark.parametrize(("order", "by"), [("none", "route"), ("key", "key")])
def test_batches(made: Any, order: str, by: str) -> None:
    batch = {"max_messages": 4, "max_wait": "1h", **({"by": "key"} if by == "key" else {})}
    route = {"topics": ["in"], "handler": "app:together", "output": "out", "order": order, "batch": batch, **JSON}
    app = made({"r": {**route, "dead_letter": "dead", "retry": {"attempts": 2, "backoff": "1s"}}})
    for n in range(6):
        app.send("in", n, key="k")
    came = app.run()
    assert sorted(sent.json for sent in came.sent) == [0, 1, 2, 40, 50]
    assert [letter.attempts for letter in came.dead] == [2]
    assert came.done == 6


def test_hooks_are_called_around(made: Any) -> None:
    hooks = {"process_start": "app:begin", "process_stop": "app:end", "before": "app:begin"}
    app = made({"price": {"topics": ["orders"], "handler": "app:price", **JSON}}, hooks=hooks)
    with app:
        app.send("orders", {"n": 1})
        app.run()
    assert sys.modules["app"].events == ["begin", "begin", "end"]


def test_a_dictionary_or_a_config_will_do_and_mistakes_are_sentences(made: Any) -> None:
    made({"price": {"topics": ["orders"], "handler": "app:price"}})
    given = {"kafka": {"group": "g"}, "routes": {"r": {"topics": ["in"], "handler": "app:fan", "output": "out", "pass": "message"}}}
    for config in (given, Config.model_validate(given)):
        app = Application(config)
        app.send("in", "x")
        assert len(app.run().sent) == 2
    with pytest.raises(ConfigError, match="unknown key"):
        Application({**given, "concurency": 3})
    with pytest.raises(UsageError, match="no route consumes the topic orders; there are in"):
        Application(given).send("orders", 1)
