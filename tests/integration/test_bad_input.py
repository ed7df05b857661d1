"""Bad input, through the command: a sentence and a status, and never a stack trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import gworkers

GOOD = "kafka: {group: g}\nroutes:\n  r:\n    topics: [t]\n    handler: app:handle\n"


@pytest.mark.parametrize(
    ("text", "app", "sentence"),
    [
        (None, "", "app.yaml: there is no such file; name it with -c FILE"),
        ("FOLDER", "", "app.yaml: this is a folder; name the file in it with -c FILE"),
        ("kafka: [", "", "app.yaml:1: this is not YAML"),
        ("", "", "app.yaml: the file is empty; it needs at least kafka: and routes:"),
        (GOOD + "rutes: 1\n", "", 'app.yaml:6: rutes: unknown key; did you mean "routes"?'),
        (GOOD + "concurrency: -1\n", "", "app.yaml:6: concurrency: expected 1 or more (for example 64), got -1"),
        (GOOD + "concurrency: 1\nconcurrency: 2\n", "", "app.yaml:7: concurrency: the key stands here a second time, first at app.yaml:6"),
        (GOOD + "  s: {topics: [t], handler: 'app:handle'}\n", "", "the topic t is consumed by the route r already; a topic has one route"),
        (GOOD + "x: !!python/object/apply:os.system ['touch pwned']\n", "", "is not read; write plain values"),
        (GOOD.replace("g}", '"${NOBODY_SET_THIS}"}'), "", "the environment variable NOBODY_SET_THIS is not set; set it, or write"),
        (GOOD.replace("app:handle", "shop:handle"), "", "app.yaml:5: routes.r.handler: there is no module shop"),
        (GOOD, "x = 1\ny = x / 0\n", "app.py:2: ZeroDivisionError: division by zero"),
        (GOOD, "handle = 3\n", "app.yaml:5: routes.r.handler: app:handle is int, which cannot be called"),
        (
            GOOD + "executor: greenlet\n",
            "async def handle(value): pass\n",
            "is a coroutine function, and with executor: greenlet there is no thread for asyncio's loop",
        ),
        (GOOD + "executor: greenlet\n", "handle = 3\n", "app:handle is int, which cannot be called"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_wrong_configuration(tmp_path: Path, command: str, text: str | None, app: str, sentence: str) -> None:
    file = tmp_path / "app.yaml"
    if text == "FOLDER":
        file.mkdir()
    elif text is not None:
        file.write_text(text)
    (tmp_path / "app.py").write_text(app)
    done = gworkers(command, "-c", "app.yaml", folder=tmp_path)
    assert done.returncode == 78, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "pwned").exists()
