"""deploy/'s alert rules and dashboard, on a real Prometheus that reads a real server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support import debian
from tests.support.broker import free_port, java_is_wanted
from tests.support.servers import ROOT, configuration, create_topic, produce, unique, until

ALERTS = ROOT / "deploy/alerts.yaml"
DASHBOARD = ROOT / "deploy/dashboard.json"

APP = """
import time
def handle(value):
    time.sleep(0.002)
    if value.endswith(b"7"):
        raise ValueError("no")
    return value
"""


@pytest.fixture(scope="module")
def programs() -> Path:
    """Where prometheus and promtool are."""
    try:
        return debian.unpacked("prometheus") / "usr/bin"
    except debian.NotHere as error:
        if java_is_wanted():
            raise
        pytest.skip(str(error))


def test_the_alert_rules_are_valid_and_fire_when_they_should(programs: Path, tmp_path: Path) -> None:
    done = subprocess.run([programs / "promtool", "check", "rules", ALERTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = {
        "rule_files": [str(ALERTS)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'up{job="gworkers",instance="a"}', "values": "1x5 0x5"},
                    {"series": 'gworkers_lag_seconds{job="gworkers",instance="a",topic="orders"}', "values": "100 700x20"},
                    {"series": 'gworkers_dead_letters_total{job="gworkers",instance="a",route="price"}', "values": "0x10 0+5x10"},
                ],
                "alert_rule_test": [
                    {"eval_time": "5m", "alertname": "GworkersDown", "exp_alerts": []},
                    {"eval_time": "9m", "alertname": "GworkersDown", "exp_alerts": [_alert("GworkersDown", "page", instance="a")]},
                    {"eval_time": "3m", "alertname": "GworkersLagIsOld", "exp_alerts": []},
                    {
                        "eval_time": "8m",
                        "alertname": "GworkersLagIsOld",
                        "exp_alerts": [_alert("GworkersLagIsOld", "page", topic="orders")],
                    },
                    {"eval_time": "10m", "alertname": "GworkersDeadLetters", "exp_alerts": []},
                    {
                        "eval_time": "16m",
                        "alertname": "GworkersDeadLetters",
                        "exp_alerts": [_alert("GworkersDeadLetters", "ticket", route="price")],
                    },
                ],
            }
        ],
    }
    told = {alert["alert"]: alert["annotations"] for alert in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
    shown = {"GworkersDown": "a does not answer", "GworkersLagIsOld": "the oldest message of orders has waited 11m 40s"}
    for check in tests["tests"][0]["alert_rule_test"]:  # type: ignore[index]
        for alert in check["exp_alerts"]:
            name = check["alertname"]
            summary = shown.get(name, "route price dead-lettered 25 messages in ten minutes")
            alert["exp_annotations"] = {"summary": summary, "description": told[name]["description"]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run([programs / "promtool", "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _alert(name: str, severity: str, **labels: str) -> dict[str, Any]:
    return {"exp_labels": {"alertname": name, "severity": severity, "job": "gworkers", **labels}}


@pytest.fixture
def prometheus(programs: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts one that reads an address each second; gives a function that asks it."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(target: str) -> Any:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": "gworkers", "static_configs": [{"targets": [target]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        command = [str(programs / "prometheus"), f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        with open(tmp_path / "prometheus.log", "wb") as log:
            running.append(subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log))

        def ask(what: str, **parameters: str) -> Any:
            try:
                answer = requests.get(f"http://{address}/api/v1/{what}", params=parameters, timeout=5)
            except requests.ConnectionError:
                return None
            return answer.json().get("data") if answer.ok else None

        return ask

    yield begin
    for one in running:
        one.kill()
        one.wait()


def test_each_panel_and_each_rule_finds_the_figures_of_a_server(
    kafka_servers: str, source: str, output: str, start: Any, prometheus: Any
) -> None:
    dead = create_topic(kafka_servers, unique("dead"), 1)
    options = {"order": "key", "uses": ["database"], "limits": {"database": 4}, "retry": {"attempts": 2, "backoff": "10ms"}}
    server = start(
        configuration(kafka_servers, "app:handle", source, output, dead_letter=dead, admin={"bind": "127.0.0.1:0"}, **options), app=APP
    )
    ask = prometheus(server.says(r"admin at (\S+)")[1])
    until(lambda: ask("query", query="gworkers_assigned_partitions"), what="a first reading")
    produce(kafka_servers, source, ((b"k%d" % (n % 20), b"%d" % n) for n in range(3000)))
    until(lambda: _value(ask, "sum(gworkers_done_messages_total)") == 3000, 60, "all of it, as Prometheus sees it")
    queries = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    queries = [query.replace("$__rate_interval", "1m").replace('{job=~"$job"}', '{job=~".*"}') for query in queries]
    assert len(queries) > 30

    def empty() -> list[str]:
        answers = [ask("query", query=query) for query in queries]
        return [query for query, answer in zip(queries, answers, strict=True) if not answer or not answer["result"]]

    until(lambda: not empty(), 30, "something in each panel")  # rates want two readings
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"])
    until(lambda: all(rule["health"] == "ok" for group in ask("rules")["groups"] for rule in group["rules"]), what="all rules evaluated")
    assert _value(ask, "sum(gworkers_failed_attempts_total{reason='ValueError'})") == 600
    assert _value(ask, "sum(gworkers_dead_letters_total)") == 300
    names = ask("label/__name__/values")
    assert {name for name in names if name.startswith("gworkers_")} >= _named(DASHBOARD.read_text()) | _named(ALERTS.read_text())


def _value(ask: Any, query: str) -> float:
    found = ask("query", query=query)
    return float(found["result"][0]["value"][1]) if found and found["result"] else -1.0


def _named(text: str) -> set[str]:
    """The figures that a text names."""
    return set(re.findall(r"gworkers_\w+", text))
