"""``gworkers try``, ``gworkers replay`` and the pytest plugin, as somebody uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.commands import gworkers
from tests.support.servers import ROOT, configuration, produce

ORDERS = "".join(
    json.dumps({"order": n, "customer": f"c-{n % 3}", "product": "apple" if n != 5 else "nothing", "count": n}) + "\n" for n in range(10)
)


def test_try_prints_what_would_be_sent(tmp_path: Path) -> None:
    done = gworkers("try", "price", "-c", "conf/app.yaml", "--key", "customer", given=ORDERS.splitlines()[1])
    assert (done.returncode, done.stderr) == (0, ""), done
    told = json.loads(done.stdout)
    assert (told["topic"], told["key"], json.loads(told["value"])) == ("priced", "c-1", {"order": 1, "customer": "c-1", "total": 0.4})
    done = gworkers("try", "price", "-c", "conf/app.yaml", given=ORDERS + "\n{\n")
    assert done.returncode == 65, done
    assert len(done.stdout.splitlines()) == 9
    assert "orders 0@5: failed for good after 1 attempt (failed): UnknownProduct: no such product: nothing, at " in done.stderr
    assert "shop/pricing.py:27" in done.stderr
    assert "orders 0@10: failed for good after 1 attempt (undecodable): DecodeError: the value is not valid json" in done.stderr
    assert "Traceback" not in done.stderr
    done = gworkers("try", "prize", "-c", "conf/app.yaml", given="{}")
    assert (done.returncode, done.stderr) == (64, "gworkers: there is no route prize; there are price\n")


def test_captured_messages_are_compared_with_a_recording(kafka_servers: str, source: str, tmp_path: Path) -> None:
    produce(kafka_servers, source, ((b"k%d" % (n % 3), b"%d" % n) for n in range(20)), headers=[("h", b"1")])
    (tmp_path / "app.py").write_text("def handle(value):\n    return value * 2\n")
    config = configuration(kafka_servers, "app:handle", source, "out", decode="json", encode="json", order="key")
    (tmp_path / "app.yaml").write_text(json.dumps(config))
    captured = gworkers("tail", source, "-c", "app.yaml", "--from", "beginning", "-n", "20", "--json", folder=tmp_path)
    (tmp_path / "captured.jsonl").write_text(captured.stdout)
    done = gworkers("replay", "captured.jsonl", "-c", "app.yaml", "--record", "before.jsonl", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done
    recorded = [json.loads(line) for line in (tmp_path / "before.jsonl").read_text().splitlines()]
    assert sorted(int(one["value"]) for one in recorded) == [2 * n for n in range(20)]
    assert {one["headers"][0][0] for one in recorded} == {"h"}
    done = gworkers("replay", "captured.jsonl", "-c", "app.yaml", "--against", "before.jsonl", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "20 results of 20 messages, all as recorded\n"), done
    (tmp_path / "app.py").write_text("def handle(value):\n    return value * 2 if value != 7 else 'seven'\n")
    done = gworkers("replay", "captured.jsonl", "-c", "app.yaml", "--against", "before.jsonl", folder=tmp_path)
    assert done.returncode == 65
    assert sum(line.startswith("+{") for line in done.stdout.splitlines()) == 1
    assert '+{"topic": "out", "key": "k1", "value": "\\"seven\\""' in done.stdout
    (tmp_path / "captured.jsonl").write_text("nonsense\n")
    done = gworkers("replay", "captured.jsonl", "-c", "app.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (
        64, "gworkers: captured.jsonl:1: expected a line of gworkers tail --json, with topic, key and value\n"
    )  # fmt: skip


PLUGIN = """
import shop

def test_a_price(gworkers_application):
    app = gworkers_application("app.yaml")
    assert shop.events == ["begin"]
    app.send("orders", {"n": 2})
    assert [sent.json for sent in app.run().sent] == [4]

def test_the_hooks_have_been_called():
    assert shop.events == ["begin", "end"]

def test_a_broker(gworkers_kafka):
    host, _, port = gworkers_kafka.rpartition(":")
    assert int(port)
"""
SHOP = """
events = []
def begin(): events.append("begin")
def end(): events.append("end")
def price(order): return order["n"] * 2
"""


def test_the_pytest_plugin(tmp_path: Path, kafka_servers: str) -> None:
    (tmp_path / "test_shop.py").write_text(PLUGIN)
    (tmp_path / "shop.py").write_text(SHOP)
    route = {"topics": ["orders"], "handler": "shop:price", "output": "priced", "decode": "json", "encode": "json"}
    hooks = {"process_start": "shop:begin", "process_stop": "shop:end"}
    (tmp_path / "app.yaml").write_text(json.dumps({"kafka": {"group": "g"}, "routes": {"price": route}, "hooks": hooks}))
    for more in ([], [f"--gworkers-kafka={kafka_servers}"]):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "gworkers.pytest_plugin", "-p", "no:cacheprovider", *more]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 passed" in done.stdout
