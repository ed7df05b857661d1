"""Signals of a running server, under load: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import configuration, consume, produce, unique, until

APP = """
import time
def handle(value):
    time.sleep(0.01)
    return value + b"-old"
"""


def load(kafka: str, source: str, start: int = 0, count: int = 300) -> set[bytes]:
    values = [b"%d" % n for n in range(start, start + count)]
    produce(kafka, source, ((b"k%d" % (n % 20), value) for n, value in enumerate(values)))
    return set(values)


def results(kafka: str, output: str) -> Counter[bytes]:
    return Counter(message.value().rpartition(b"-")[0] for message in consume(kafka, output))


def test_hup_takes_up_a_new_configuration_and_new_code_as_the_same_process(
    real_kafka: str, source: str, output: str, start: Any, tmp_path: Path, executor: str
) -> None:
    config = configuration(real_kafka, "app:handle", source, output, order="key", executor=executor)
    wanted = load(real_kafka, source)
    server = start(config, app=APP)
    server.says("assigned: ")
    until(lambda: len(consume(real_kafka, output)) > 50, what="half of the results")
    (tmp_path / "app.py").write_text(APP.replace("old", "new"))
    (tmp_path / "app.yaml").write_text(yaml.safe_dump({**config, "concurrency": 5}))
    server.signal(signal.SIGHUP)
    server.says("SIGHUP: draining")
    wanted |= load(real_kafka, source, 300)
    server.says(f"gworkers .*, pid {server.process.pid}, .*\n.*\n.*concurrency 5")
    until(lambda: len(results(real_kafka, output)) == 600, what="all results")
    assert results(real_kafka, output) == Counter(wanted)
    kinds = Counter(message.value().rpartition(b"-")[2] for message in consume(real_kafka, output))
    assert min(kinds[b"old"], kinds[b"new"]) > 50
    assert server.stop() == 0


@pytest.mark.parametrize("wrong", ["a key", "the code"])
def test_hup_with_what_is_wrong_changes_nothing_and_says_why(
    real_kafka: str, source: str, output: str, start: Any, tmp_path: Path, wrong: str
) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    server = start(config, app=APP)
    server.says("assigned: ")
    if wrong == "a key":
        (tmp_path / "app.yaml").write_text(yaml.safe_dump({**config, "concurency": 5}))
    else:
        (tmp_path / "app.py").write_text("def handle(value)\n")
    server.signal(signal.SIGHUP)
    server.says(r'app\.yaml:\d+: concurency: unknown key; did you mean "concurrency"' if wrong == "a key" else r"app\.py:1: expected ':'")
    assert "SIGHUP: the configuration is as it was" in server.log
    wanted = load(real_kafka, source, count=50)
    until(lambda: len(results(real_kafka, output)) == 50, what="all results")
    assert results(real_kafka, output) == Counter(wanted)
    assert server.stop() == 0


def test_quit_ends_at_once_and_what_is_finished_is_not_done_again(real_kafka: str, source: str, output: str, start: Any) -> None:
    app = "import time\ndef handle(value):\n    time.sleep(20 if value == b'7' else 0.001)\n    return value + b'-x'\n"
    wanted = load(real_kafka, source, count=100)
    config = configuration(real_kafka, "app:handle", source, output, commit={"interval": "1h"})
    server = start(config, app=app)
    until(lambda: len(results(real_kafka, output)) == 99, what="all results but one")
    begun = time.monotonic()
    server.signal(signal.SIGQUIT)
    assert server.wait(15) == 1, server.log
    assert time.monotonic() - begun < 5
    assert "SIGQUIT: stopping at once" in server.log
    server = start(config, "--until-idle", "500ms", app=app.replace("20 if", "0 if"))
    assert server.wait(30) == 0
    assert results(real_kafka, output) == Counter(wanted)


def test_usr1_says_where_each_handler_stands(real_kafka: str, source: str, start: Any, executor: str) -> None:
    app = "import time\ndef wait():\n    time.sleep(3)\ndef handle(value):\n    wait()\n"
    produce(real_kafka, source, [(b"c-7", b"1")])
    server = start(configuration(real_kafka, "app:handle", source, executor=executor), app=app)
    server.says("assigned: ")
    time.sleep(0.5)
    server.signal(signal.SIGUSR1)
    stack = r'at\n +File \S+app\.py", line 5, in handle\n(.*\n)+? +File \S+app\.py", line 3, in wait'
    server.says(rf"\[{source} \d@0 key=c-7\]: runs for \d\.\d s, {stack}")
    assert "SIGUSR1: 1 handlers run" in server.log
    assert server.stop() == 0


def test_usr2_opens_log_files_anew(real_kafka: str, source: str, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    logging = {
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(path)}},
        "root": {"handlers": ["file"], "level": "INFO"},
    }
    server = start(configuration(real_kafka, "app:handle", source, logging=logging), app=APP)
    until(lambda: path.exists() and "assigned: " in path.read_text(), what="the assignment")
    os.rename(path, tmp_path / "server.log.1")
    server.signal(signal.SIGUSR2)
    until(lambda: path.exists() and "1 log file was opened anew" in path.read_text(), what="the new file")
    assert server.stop() == 0
    assert "everything settled" in path.read_text()
    assert "everything settled" not in (tmp_path / "server.log.1").read_text()


def test_tstp_takes_nothing_new_and_cont_goes_on(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    server = start(config, app=APP)
    server.says("assigned: ")
    server.signal(signal.SIGTSTP)
    server.says("SIGTSTP: nothing new is begun until SIGCONT")
    wanted = load(real_kafka, source, count=100)
    time.sleep(2)
    assert not results(real_kafka, output)
    server.signal(signal.SIGCONT)
    until(lambda: len(results(real_kafka, output)) == 100, what="all results")
    assert results(real_kafka, output) == Counter(wanted)
    assert not re.search("revoked|lost", server.log)
    server.signal(signal.SIGTSTP)
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGTSTP])
def test_no_signal_kills_a_server_that_starts(real_kafka: str, source: str, output: str, start: Any, number: signal.Signals) -> None:
    server = start(configuration(real_kafka, "app:handle", source, output), app="import time\ntime.sleep(1)\n" + APP)
    until(lambda: Path(f"/proc/{server.process.pid}/cmdline").read_bytes() and catches(server.process.pid, number), what="the first moment")
    server.signal(number)
    if number == signal.SIGQUIT:
        assert server.wait(20) == 0
        return
    server.says("assigned: ")
    assert server.stop() == 0


def catches(pid: int, number: int) -> bool:
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def test_the_applications_variables_come_from_a_file_anew_at_each_reload(
    kafka_servers: str, source: str, output: str, start: Any, tmp_path: Path
) -> None:
    app = "import os\nNAME = os.environ['SHOP_NAME']\ndef handle(value):\n    return NAME.encode()\n"
    config = configuration(kafka_servers, "app:handle", source, output, app={"env_file": "shop.env"})
    config["kafka"]["group"] = "${SHOP_GROUP}"
    (tmp_path / "shop.env").write_text(f"SHOP_NAME=first\nSHOP_GROUP={unique('group')}\n")
    server = start(config, app=app)
    produce(kafka_servers, source, [(None, b"")])
    assert [message.value() for message in consume(kafka_servers, output, 1)] == [b"first"]
    text = (tmp_path / "shop.env").read_text()
    (tmp_path / "shop.env").write_text(text.replace("first", "second"))
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("assigned: ") == 2, what="the second life")
    produce(kafka_servers, source, [(None, b"")])
    assert {message.value() for message in consume(kafka_servers, output, 2)} == {b"first", b"second"}
    assert server.stop() == 0


@pytest.mark.parametrize("when", ["draining", "everything settled"])
def test_a_stop_that_is_asked_for_while_it_begins_anew_is_heard(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, when: str
) -> None:
    server = start(configuration(kafka_servers, "app:handle", source, output, executor=executor), app=APP.replace("0.01", "0.5"))
    server.says("assigned: ")
    produce(kafka_servers, source, [(None, b"x")])
    assert consume(kafka_servers, output, 1)
    produce(kafka_servers, source, [(None, b"x")] * 8)
    server.signal(signal.SIGHUP)
    server.says(when)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.log.count("assigned: ") == 1, "it did not begin to work again"
