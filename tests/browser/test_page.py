"""The page in a real browser: each screen, each action to its effect, who may do what, and what others
write into messages."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.broker import free_port
from tests.support.browser import findings
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

pytestmark = pytest.mark.xdist_group("browser")

SCREENS = ("", "messages", "partitions", "retries", "dead-letters", "routes", "processes", "errors", "topics")
#: Where pictures of the screens are put, for the documentation.
PICTURES = os.environ.get("GWORKERS_PICTURES")

APP = """
import json, os, time

class GatewayTimeout(Exception):
    pass

def handle(value):
    order = json.loads(value)
    what = order.get("what")
    if what == "waits":
        while not os.path.exists("go"):
            time.sleep(0.01)
    if what == "fails":
        raise GatewayTimeout(f"no answer for {order['note']}")
    if what == "later" and not os.path.exists("well"):
        raise GatewayTimeout("not yet")
    time.sleep(0.01)
    return value
"""


def line(n: int, what: str = "good", note: str = "x") -> tuple[bytes, bytes]:
    return b"customer-%d" % (n % 50), b'{"n": %d, "what": "%s", "note": "%s"}' % (n, what.encode(), note.encode())


def status(address: str, **headers: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"http://{address}/status", headers=headers, timeout=10).json()
    return found


@pytest.fixture
def dead(kafka_servers: str) -> str:
    return create_topic(kafka_servers, unique("dead"), 2)


@pytest.fixture
def shop(kafka_servers: str, source: str, output: str, dead: str, start: Any) -> Any:
    """Starts a server with a route that has everything; returns it and its address."""

    def begin(**more: Any) -> tuple[Any, str]:
        settings: dict[str, Any] = {
            "order": "none",
            "timeout": "30s",
            "retry": {"attempts": 2, "backoff": "5m", "max_backoff": "5m", "jitter": 0},
            "dead_letter": dead,
            "admin": {"bind": "127.0.0.1:0"},
            "state_dir": "state",
            **more,
        }
        server = start(configuration(kafka_servers, "app:handle", source, output, **settings), app=APP)
        return server, server.says(r"admin at (\S+)")[1]

    return begin


def busy(kafka: str, source: str, address: str) -> None:
    """Something on every screen: done, running, waiting for another attempt, dead-lettered."""
    produce(kafka, source, (line(n) for n in range(300)))
    produce(kafka, source, (line(n, "waits") for n in range(4)))
    produce(kafka, source, (line(n, "later") for n in range(10)))
    until(lambda: status(address)["retrying"] == 10 and status(address)["running"] == 4, what="four that run and ten that wait")


def letters(kafka: str, source: str, address: str, count: int, note: str = "42") -> None:
    """Dead letters, whose messages had no second attempt to wait for."""
    produce(kafka, source, (line(n, "fails", note) for n in range(count)))
    until(lambda: status(address)["retrying"] >= count, what="failures that wait")
    requests.post(f"http://{address}/retry-now", timeout=10)
    until(lambda: status(address)["dead_lettered"] == count, what="dead letters")


def test_every_screen_shows_what_there_is_and_keeps_nobody_out(
    kafka_servers: str, source: str, shop: Any, view: Any, axe: str, folder: Path
) -> None:
    server, address = shop(timeout="5m")
    letters(kafka_servers, source, address, 12, "<b>42</b>")
    busy(kafka_servers, source, address)
    wanted = {
        "": r"\bWell\b",
        "messages": r"app\.py:\d+ handle: (while not|time\.sleep)",
        "partitions": source,
        "retries": "GatewayTimeout: not yet",
        "dead-letters": "12 dead letters, by what looks the same",
        "routes": r"handler: app:handle",
        "processes": str(server.process.pid),
        "errors": r"no answer for <b>42</b>",
        f"topics?topic={source}&from=beginning": r"customer-\d",
        f"partition?topic={source}&partition=0": "What has been read",
        f"confirm?do=pause&topic={source}": "Nothing more of",
        f"seek?topic={source}&partition=0&to=beginning": "would go on at",
    }
    first = requests.get(f"http://{address}/page/dead-letters", timeout=30).text
    letter = re.search(r'href="(/page/letter\?[^"]+)"', first)
    assert letter
    wanted[letter[1].removeprefix("/page/").replace("&amp;", "&")] = "no answer for <b>42</b>"
    for scheme in ("light", "dark"):
        window = view(address, color_scheme=scheme)
        for path, pattern in wanted.items():
            answer = window.open(f"/page/{path}")
            assert answer.status == 200, path
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            assert re.search(pattern, window.text), (path, window.text)
            assert findings(window.page, axe) == [], path
            if PICTURES and scheme == "light":
                name = re.match(r"[\w-]*", path)
                time.sleep(2.5)
                window.page.screenshot(path=f"{PICTURES}/{(name[0] if name else '') or 'now'}.png")
        assert window.wrong == []
    for width in (360, 3840):
        window = view(address, viewport={"width": width, "height": 700})
        for path in wanted:
            window.open(f"/page/{path}")
            wide = window.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (path, wide)
    (server.folder / "go").touch()


def test_it_is_read_without_its_script(kafka_servers: str, source: str, shop: Any, view: Any) -> None:
    server, address = shop()
    busy(kafka_servers, source, address)
    window = view(address, java_script_enabled=False)
    for path in SCREENS:
        assert window.open(f"/page/{path}").status == 200
    window.open("/page/messages")
    window.page.locator("summary").first.click()
    assert window.page.locator("pre").first.is_visible()
    (server.folder / "go").touch()


def test_it_keeps_itself_up_to_date_and_says_when_the_server_has_gone(kafka_servers: str, source: str, shop: Any, view: Any) -> None:
    server, address = shop()
    busy(kafka_servers, source, address)
    window = view(address)
    window.open("/page/messages")
    window.page.locator("summary").first.click()
    window.page.locator("#connection", has_text="up to date").wait_for()
    age = window.page.locator("tbody td").first.inner_text()
    window.page.wait_for_function("old => document.querySelector('tbody td').innerText !== old", arg=age)
    assert window.page.locator("pre").first.is_visible(), "what was opened stays open"
    (server.folder / "go").touch()
    window.page.get_by_text("Nothing runs now.").wait_for()
    window.open("/page/")
    window.page.locator("canvas").first.wait_for()
    assert window.wrong == []
    server.stop()
    window.page.locator("#connection", has_text="the server does not answer").wait_for()


def do(window: Any, path: str, button: str, *, more: dict[str, str] | None = None, nth: int = 0) -> str:
    """Click an action, read what it will do, do it; what the page says then."""
    window.open(path)
    window.page.locator(f"a.button:text-is('{button}')").nth(nth).click()
    window.page.wait_for_url("**/page/confirm?**")
    for name, value in (more or {}).items():
        window.page.locator(f"input[name={name}]:not([type=hidden])").fill(value)
    window.page.locator("form.confirm button").click()
    return str(window.page.locator(".told").first.inner_text())


def test_each_action_asks_and_does_what_it_says(kafka_servers: str, source: str, output: str, dead: str, shop: Any, view: Any) -> None:
    server, address = shop()
    busy(kafka_servers, source, address)
    window = view(address)
    assert do(window, "/page/partitions", "Pause topic").startswith(f"Pause: {source}[0]")
    assert status(address)["paused"] == [f"topic {source}"]
    assert do(window, "/page/partitions", "Resume topic").startswith("Resume: ")
    assert status(address)["paused"] == []
    do(window, "/page/", "Quiet")
    assert status(address)["quiet"]
    do(window, "/page/", "Go on")
    assert not status(address)["quiet"]
    do(window, "/page/", "Concurrency…", more={"concurrency": "5"})
    assert status(address)["concurrency"] == 5
    told = do(window, "/page/", "Concurrency…", more={"concurrency": "lots"})
    assert told.startswith("Set concurrency: a process is scaled by concurrency, a number or auto")
    assert "its handler is told to end" in do(window, "/page/messages", "Interrupt")
    until(lambda: status(address)["retrying"] == 11, what="its attempt to have failed")
    assert do(window, "/page/retries", "Give up").endswith("1 messages")
    until(lambda: status(address)["dead_lettered"] == 1, what="a dead letter")
    (server.folder / "well").touch()
    (server.folder / "go").touch()
    assert do(window, "/page/retries", "Run now").endswith("1 messages")
    assert do(window, "/page/retries", "Run all now").endswith("9 messages")
    until(lambda: status(address)["retrying"] == 0 and status(address)["done"] == 314, what="all of them")
    assert len(consume(kafka_servers, dead)) == 1
    assert len(consume(kafka_servers, output)) == 313
    window.open(f"/page/partition?topic={source}&partition=0")
    window.page.locator("input[name=to]").fill("no place")
    window.page.locator("button:text-is('What would it mean?')").click()
    assert "write beginning, end, an offset" in window.text
    (partition,) = [one for one in status(address)["partitions"] if one["partition"] == 0]
    window.open(f"/page/partition?topic={source}&partition=0")
    window.page.locator("input[name=to]").fill(str(partition["end"] - 5))
    window.page.locator("button:text-is('What would it mean?')").click()
    assert "up to 5 messages run again" in window.text
    window.page.locator("form.confirm button").click()
    assert f"it goes on at {partition['end'] - 5} when" in window.page.locator(".told").first.inner_text()
    until(lambda: status(address)["done"] == 319, what="five of them once more")
    for path in ("/pause", "/resume", "/quiet", "/go-on", "/scale", "/interrupt", "/give-up", "/retry-now", "/seek"):
        assert re.search(rf"gworkers\.audit.*: anybody from 127\.0\.0\.1: {path}", server.log), path


def test_a_topic_is_shown_as_its_route_decodes_it(kafka_servers: str, source: str, output: str, start: Any, view: Any) -> None:
    app = "def parse(value):\n    return dict(zip(('number', 'name'), value.decode().split('|')))\ndef handle(value):\n    return value\n"
    config = configuration(kafka_servers, "app:handle", source, output, decode="app:parse", encode="json", admin={"bind": "127.0.0.1:0"})
    server = start(config, app=app)
    produce(kafka_servers, source, [(b"k", b"%d|<b>apple</b>" % n) for n in range(20)])
    window = view(server.says(r"admin at (\S+)")[1])
    window.open(f"/page/topics?topic={source}&from=beginning&search=%22number%22%3A+%2217%22")
    assert window.page.locator("summary").count() == 1
    assert window.page.locator("summary").inner_text() == '{"number": "17", "name": "<b>apple</b>"}'
    assert window.wrong == []


def test_dead_letters_are_searched_replayed_and_dropped(
    kafka_servers: str, source: str, output: str, dead: str, shop: Any, view: Any
) -> None:
    server, address = shop()
    letters(kafka_servers, source, address, 30)
    window = view(address)
    window.open("/page/dead-letters?search=customer-7")
    assert window.page.locator("a[href*='/page/letter']").count() == 1
    window.page.locator("a[href*='/page/letter']").click()
    assert re.search(r'"what": "fails"', window.text)
    assert "GatewayTimeout: no answer for 42" in window.text
    assert "app.py" in window.text, "its stack trace"
    window.page.get_by_text("Replay…", exact=True).click()
    assert "1 dead letters would be sent" in window.text
    window.page.locator("form.confirm button").click()
    window.page.wait_for_url("**told=**")
    until(lambda: len(consume(kafka_servers, source)) == 31, what="the letter in its topic again")
    window.open("/page/dead-letters")
    assert "29 dead letters" in window.text
    window.page.get_by_text("Replay these 29…").click()
    window.page.locator("input[name=rate]").fill("5/s")
    window.page.locator("form.confirm button").click()
    window.page.wait_for_url("**told=**")
    window.page.locator("button:text-is('Stop')").click()
    window.page.wait_for_url("**told=**")
    until(lambda: (window.open("/page/dead-letters"), window.page.locator("button:text-is('Stop')").count() == 0)[1], what="its end")
    window.page.get_by_text(re.compile("Drop these")).click()
    window.page.locator("form.confirm button").click()
    until(lambda: (window.open("/page/dead-letters"), "No dead letters wait" in window.text)[1], what="all dealt with")
    until(lambda: status(address)["retrying"] + status(address)["dead_lettered"] >= 31, what="what was sent again")
    assert re.search(r"gworkers\.audit.*anybody from 127\.0\.0\.1: dead-letters drop", server.log)


def test_letters_are_chosen_and_one_is_mended_before_its_replay(
    kafka_servers: str, source: str, output: str, dead: str, shop: Any, view: Any
) -> None:
    _, address = shop()
    letters(kafka_servers, source, address, 5)
    window = view(address)
    window.open("/page/dead-letters")
    window.page.locator("a[href*='/page/letter']").first.click()
    window.page.get_by_text("Edit and replay…").click()
    mended = b'{"n": 1,\n "what": "good", "note": "<mended>"}'
    window.page.locator("textarea").fill(mended.decode())
    window.page.locator("form.confirm button").click()
    window.page.wait_for_url("**told=**")
    until(lambda: [m for m in consume(kafka_servers, output) if m.value() == mended], what="the mended one's result")
    (sent,) = [m for m in consume(kafka_servers, source) if m.value() == mended]
    assert dict(sent.headers())["gworkers-edited"] == b"true"
    window.open("/page/dead-letters")
    boxes = window.page.locator("input[type=checkbox]")
    assert boxes.count() == 4
    boxes.nth(0).check()
    boxes.nth(2).check()
    window.page.get_by_text("Drop the chosen…").click()
    assert "2 dead letters would be dropped" in window.text
    window.page.locator("form.confirm button").click()
    window.page.wait_for_url("**told=**")
    until(lambda: (window.open("/page/dead-letters"), "2 dead letters, by what" in window.text)[1], what="the other two alone")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_is_replaced_and_the_configuration_is_read_anew(
    kafka_servers: str, source: str, shop: Any, view: Any, processes: int
) -> None:
    server, address = shop(processes=processes, admin={"bind": f"127.0.0.1:{free_port()}"})

    def pids() -> dict[str, int]:
        with suppress(requests.RequestException):
            told = requests.get(f"http://{address}/status", timeout=10).json()
            found = told.get("processes", {"0": told})
            if all("uptime" in one and one["joined"] for one in found.values()) and len(found) == processes:
                return {number: one["pid"] for number, one in found.items()}
        return {}

    before = until(pids, what="its processes")
    window = view(address)
    window.open("/page/processes")
    assert "assigned: " in window.page.locator("pre.log").first.text_content()
    assert do(window, "/page/processes", "Replace").startswith("Replace: it drains and begins anew")
    server.says("an operator: replace")
    window.page.wait_for_url("**/page/processes")  # by itself, when the server answers again
    if processes > 1:
        until(lambda: (after := pids()) and after["0"] != before["0"] and after["1"] == before["1"], what="process 0 alone replaced")
    else:
        until(lambda: server.log.count("executor thread") == 2 and pids(), what="a second beginning")
    begun = server.log.count("executor thread")
    server.file.write_text(server.file.read_text().replace("handler: app:handle", "handler: app:nothing"))
    do(window, "/page/processes", "Reload")
    until(lambda: "app has no" in server.log or "nothing" in server.log, what="what is wrong with it")
    assert server.log.count("executor thread") == begun
    server.file.write_text(server.file.read_text().replace("handler: app:nothing", "handler: app:handle"))
    do(window, "/page/processes", "Reload")
    until(lambda: server.log.count("executor thread") == begun + processes and pids(), what="all of them anew")
    assert server.stop() == 0, server.log


OPERATE, READ = "operate-operate-operate", "read-read-read-read"


def test_who_may_look_may_not_operate_and_sees_no_values_where_they_are_hidden(
    kafka_servers: str, source: str, shop: Any, view: Any, axe: str
) -> None:
    server, address = shop(admin={"bind": "127.0.0.1:0", "token": OPERATE, "read_token": READ, "values": "hidden"})
    bearer = {"Authorization": f"Bearer {OPERATE}"}
    produce(kafka_servers, source, (line(n, "fails", "secret-note") for n in range(3)))
    until(lambda: status(address, **bearer)["retrying"] == 3, what="three that wait")
    one = requests.get(f"http://{address}/retries", headers=bearer, timeout=10).json()["retries"][0]
    chosen = {name: one[name] for name in ("topic", "partition", "offset")}
    assert requests.post(f"http://{address}/give-up", params=chosen, headers=bearer, timeout=10).json()["messages"] == 1
    until(lambda: status(address, **bearer)["dead_lettered"] == 1, what="a dead letter")
    window = view(address)
    assert window.open("/page/retries").status == 401
    assert findings(window.page, axe) == []
    window.page.locator("input[name=token]").fill("wrong")
    window.page.locator("button").click()
    window.page.get_by_text("That is none of the tokens.").wait_for()
    window.page.locator("input[name=token]").fill(READ)
    window.page.locator("button").click()
    window.page.get_by_role("heading", name="Now").wait_for()
    for path in (*SCREENS, f"topics?topic={source}&from=beginning"):
        assert window.open(f"/page/{path}").status == 200
        assert not re.search(r"customer-\d|secret-note", window.page.content()), path
        assert window.page.locator("a.button").count() == 0, path
    for path in ("dead-letters?search=secret-note", "dead-letters?key=customer-0", f"topics?topic={source}&from=beginning&search=nothing"):
        window.open(f"/page/{path}")
        assert window.page.locator("tbody tr").count() > 0, "what is found by a value would tell it"
    assert window.open("/page/confirm?do=quiet").status == 403
    reader = {"Authorization": f"Bearer {READ}"}
    for path in ("/stacks", "/failures", "/retries"):
        assert not re.search(r"customer-\d|secret-note", requests.get(f"http://{address}{path}", headers=reader, timeout=10).text)
    posted = window.context.request.post(f"http://{address}/page/do", form={"do": "quiet"})
    assert posted.status == 403
    window.page.goto(f"http://{address}/page/")
    window.page.get_by_text("Sign out").click()
    window.page.get_by_role("heading", name="Sign in").wait_for()
    window.page.locator("input[name=token]").fill(OPERATE)
    window.page.locator("button").click()
    window.page.get_by_role("heading", name="Now").wait_for()
    window.open("/page/retries")
    assert "customer-" in window.text
    assert "secret-note" in window.text
    do(window, "/page/", "Quiet")
    assert status(address, **bearer)["quiet"]
    other = requests.post(
        f"http://{address}/page/do",
        data={"do": "go-on"},
        headers={"Cookie": f"gworkers={OPERATE}", "Sec-Fetch-Site": "cross-site"},
        timeout=10,
    )
    assert other.status_code == 403
    assert status(address, **bearer)["quiet"]
    assert re.search(r"gworkers\.audit.*admin\.token from 127\.0\.0\.1: /quiet", server.log)
    assert OPERATE not in server.log


@pytest.mark.parametrize(
    "path",
    [
        "letter?topic=x&id=--set=kafka.bootstrap_servers=127.0.0.1:1",
        "letter?topic=--help&id=0@0",
        "topics?topic=--set=kafka.bootstrap_servers=127.0.0.1:1",
        "topics?topic=orders&from=--raw",
        "dead-letters?route=--help",
        "deal?topic=x&id=--help",
    ],
)
def test_what_is_asked_for_is_never_an_option_of_a_command(kafka_servers: str, source: str, shop: Any, path: str) -> None:
    _, address = shop()
    answer = requests.get(f"http://{address}/page/{path}", timeout=40)
    assert not re.search("127.0.0.1:1 |127.0.0.1:1:|Usage|Options", answer.text), answer.text


def test_what_a_message_says_is_text_and_nothing_else(kafka_servers: str, source: str, shop: Any, view: Any) -> None:
    evil = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>\u202e\x1b[31m{{7*7}}"
    _, address = shop()
    produce(
        kafka_servers,
        source,
        [
            (evil.encode(), b'{"what": "fails", "note": "%s"}' % evil.replace("\x1b", "").encode()),
            (b"\xff\xfe\x00", b'{"what": "fails", "note": "%s"}' % (b"<i>" * 100_000)),
            (b"plain", b"\xff\xff not json"),
        ],
        headers=[("<b>name</b>", b"<script>alert(3)</script>")],
    )
    until(lambda: status(address)["retrying"] == 3, what="three that wait")
    window = view(address)
    for path in ("retries", "errors", f"topics?topic={source}&from=beginning"):
        assert window.open(f"/page/{path}").status == 200
        assert "onerror=alert(1)" in window.text, path
        assert "\u202e" not in window.page.content()
    requests.post(f"http://{address}/give-up", timeout=10)
    until(lambda: status(address)["dead_lettered"] == 3, what="three dead letters")
    page = requests.get(f"http://{address}/page/dead-letters", timeout=30).text
    paths = re.findall(r'href="(/page/letter\?[^"]+)"', page)
    assert len(paths) == 3
    for path in paths:
        assert window.open(path.replace("&amp;", "&")).status == 200
    assert window.page.locator("img, i, script:not([src])").count() == 0
    assert window.wrong == []


def test_a_master_shows_all_its_processes(kafka_servers: str, source: str, shop: Any, view: Any) -> None:
    server, address = shop(processes=2)
    until(lambda: len(requests.get(f"http://{address}/status", timeout=10).json().get("processes", {})) == 2, what="two processes")
    window = view(address)
    produce(kafka_servers, source, (line(n, "waits") for n in range(200)))
    window.open("/page/processes")
    assert window.page.locator("tbody tr").count() == 2
    until(lambda: (window.open("/page/messages"), window.page.locator("tbody tr").count() == 16)[1], what="all that run")
    do(window, "/page/", "Quiet")
    found = requests.get(f"http://{address}/status", timeout=10).json()["processes"]
    assert all(one["quiet"] for one in found.values())
    do(window, "/page/", "Go on")
    (server.folder / "go").touch()
    do(window, "/page/processes", "Processes…", more={"processes": "3"})
    until(lambda: len(requests.get(f"http://{address}/status", timeout=10).json()["processes"]) == 3, what="three processes")
    assert server.stop() == 0, server.log


def test_thousands_of_letters_and_partitions_are_shown_in_part(kafka_servers: str, dead: str, start: Any, view: Any) -> None:
    many = create_topic(kafka_servers, unique("wide"), 1000)
    config = configuration(
        kafka_servers, "app:handle", many, order="none", dead_letter=dead, admin={"bind": "127.0.0.1:0"}, retry={"attempts": 1}
    )
    config["dead_letters"] = {"never_succeeded": 0}
    server = start(config, app=APP)
    address = server.says(r"admin at (\S+)")[1]
    produce(kafka_servers, many, (line(n, "fails") for n in range(10_000)))
    until(lambda: status(address)["dead_lettered"] == 10_000, 60, what="ten thousand dead letters")
    window = view(address)
    window.open("/page/dead-letters")
    assert "10,000 dead letters" in window.text
    assert window.page.locator("a[href*='/page/letter']").count() == 200
    window.open("/page/partitions")
    assert window.page.locator("tbody tr").count() == 1000
    assert window.wrong == []


def test_while_it_drains_it_still_shows_what_runs(kafka_servers: str, source: str, shop: Any, view: Any) -> None:
    server, address = shop()
    busy(kafka_servers, source, address)
    server.signal(signal.SIGTERM)
    window = view(address)
    window.open("/page/messages")
    assert window.page.locator("tbody tr").count() == 4
    (server.folder / "go").touch()
    assert server.wait() == 0, server.log
