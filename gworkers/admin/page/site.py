"""The page's paths: screens, the stream that keeps one up to date, actions, and who may see and do
what.

Everything is rendered here; the one script replaces what has changed and draws the charts. A screen is
read without it. An action is a form: it is asked for on a page that says what it will do, and done by
POST, with the token that may operate.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

import gevent

import gworkers
from gworkers import native
from gworkers.admin.answer import Answer, BadRequestError, Request
from gworkers.admin.page.actions import ACTIONS, Action
from gworkers.admin.page.commands import CommandError, Commands
from gworkers.admin.page.facts import Asking
from gworkers.admin.page.history import NAMES, History
from gworkers.admin.page.screens import LIVE, SCREENS, Screens, hours_of
from gworkers.admin.page.texts import FILTERS
from gworkers.admin.server import COOKIE, PAGE, Pages, tell
from gworkers.config.schema import Admin

log = logging.getLogger(__name__)

#: Seconds between two looks of a screen that is kept up to date, and between two of its charts.
INTERVAL = 2.0
#: Streams at once; who comes later looks again by itself.
MOST_STREAMS = 24
#: Sentences about what has been done that wait for the page that shows them.
MOST_TOLD = 100

#: Nothing of another host, nothing inline, no frame around it.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = (("Content-Security-Policy", POLICY), ("Referrer-Policy", "same-origin"), ("X-Frame-Options", "DENY"))
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_BACK = re.compile(r"/page/[\w./?=&%@:+~,-]*", re.ASCII)


class Site:
    """asking: for what is shown; actions: of the admin address; several: whether it is a master's."""

    def __init__(
        self, config: Admin, asking: Asking, actions: Pages, commands: Commands, history: History, screens: Screens, *, several: bool
    ) -> None:
        self._config = config
        self._asking = asking
        self._actions = actions
        self._commands = commands
        self._history = history
        self._screens = screens
        self._several = several
        self._templates: Any = None
        self._streams = 0
        self._told: dict[str, str] = {}
        self._kept: dict[tuple[Any, ...], tuple[float, str]] = {}

    def start(self) -> None:
        self._history.start()

    def stop(self) -> None:
        self._history.stop()
        self._commands.stop()

    # -- what is asked

    def answer(self, request: Request, *, may_read: bool, posted: bool) -> Answer:
        name = request.path.removeprefix(PAGE).removeprefix("/")
        if request.path in ("/", PAGE):
            return _redirect(f"{PAGE}/")
        if name.startswith("static/"):
            return _static(name.removeprefix("static/"))
        if name == "login" and posted:
            return self._login(request)
        if not may_read:
            return self._page(request, "login.html", "401 Unauthorized", {"wrong": False, "title": "Sign in", "name": ""})
        if name == "logout" and posted:
            return _redirect(f"{PAGE}/", (_cookie("", 0),))
        if name in ("do", "confirm", "seek", "replay", "drop", "stop-operation") and not request.may_operate:
            return self._wrong(request, "403 Forbidden", "This token may look. Sign in with admin.token to operate the server.")
        try:
            return self._of(name, request, posted=posted)
        except BadRequestError as error:
            return self._wrong(request, "400 Bad Request", str(error))
        except CommandError as error:
            return self._wrong(request, "502 Bad Gateway", str(error))
        except Exception:
            log.exception("the page %s failed; please report it", request.path)
            return self._wrong(request, "500 Internal Server Error", "This page failed; the log says how.")

    def _of(self, name: str, request: Request, *, posted: bool) -> Answer:
        if posted:
            return self._do(name, request)
        if name == "confirm":
            return self._confirm(request)
        if name == "live":
            return self._live(request)
        if name == "points":
            return self._points(request)
        if name not in SCREENS:
            return self._wrong(request, "404 Not Found", "There is no such page.")
        if name not in LIVE:
            request.take_time()  # Kafka is asked
        return self._screen(name, request)

    def _screen(self, name: str, request: Request) -> Answer:
        told = self._told.pop(request.query.get("told", ""), None)
        context = {**self._context(name, request), "told": told}
        return self._page(request, SCREENS[name].template, "200 OK", context)

    def _context(self, name: str, request: Request) -> dict[str, Any]:
        screen = SCREENS[name]
        query = {key: value for key, value in request.query.items() if key not in ("told", "screen")}
        facts = screen.fill(self._screens, Request(query, request.authorization, request.path, may_operate=request.may_operate))
        live = f"{PAGE}/live?{urlencode({'screen': name, **query})}" if name in LIVE else None
        return {"name": name, "title": screen.title, "query": query, "live": live, **facts}

    def _live(self, request: Request) -> Answer:
        """A stream of server-sent events, each the part of the screen that changes."""
        name = request.query.get("screen", "")
        if name not in LIVE:
            raise BadRequestError("this page is not kept up to date")
        if self._streams >= MOST_STREAMS:
            return Answer("503 Service Unavailable", "text/plain", "", (("Retry-After", "5"),))
        return Answer("200 OK", "text/event-stream", "", (("X-Accel-Buffering", "no"),), stream=self._stream(name, request))

    def _stream(self, name: str, request: Request) -> Iterator[str]:
        self._streams += 1
        try:
            yield f"retry: {int(1000 * INTERVAL)}\n\n"
            while True:
                gevent.sleep(INTERVAL)
                html = self._fragment(name, request)
                yield "event: live\n" + "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
        except Exception:
            log.exception("the page %s is kept up to date no more; please report it", name)
        finally:
            self._streams -= 1

    def _fragment(self, name: str, request: Request) -> str:
        """The part of a screen that changes; the same one for all who look at the same."""
        key = (name, tuple(sorted(request.query.items())), request.may_operate)
        at, html = self._kept.get(key, (0.0, ""))
        if not 0 <= time.monotonic() - at < 0.9 * INTERVAL:
            try:
                html = self._render(SCREENS[name].template, request, self._context(name, request), block="live")
            except (BadRequestError, CommandError) as error:
                html = self._render("wrong.html", request, {"why": str(error), "name": name, "title": "", "live": None}, block="live")
            now = time.monotonic()
            self._kept = {known: kept for known, kept in self._kept.items() if now - kept[0] < INTERVAL}
            self._kept[key] = now, html
        return html

    def _points(self, request: Request) -> Answer:
        """The charts' figures: a list of moments, and one of each name."""
        points = self._history.points(float(hours_of(request)))
        columns: dict[str, Any] = {"at": [point.at for point in points]}
        for index, name in enumerate(NAMES):
            values = [point.values[index] for point in points]
            columns[name] = [value if value is None else round(value, 3) for value in values]
        return Answer("200 OK", "application/json", json.dumps(columns), _HEADERS)

    # -- what is done

    def _login(self, request: Request) -> Answer:
        given = request.form.get("token", "").encode()
        for token in (self._config.token, self._config.read_token):
            if token is not None and hmac.compare_digest(given, token.encode()):
                return _redirect(f"{PAGE}/", (_cookie(token, 12 * 3600),))
        gevent.sleep(0.5)  # who tries them all has to wait
        return self._page(request, "login.html", "401 Unauthorized", {"wrong": True, "title": "Sign in", "name": ""})

    def _confirm(self, request: Request) -> Answer:
        action = self._action(request.query)
        given = {key: value for key, value in request.query.items() if key not in ("do", "back", "told")}
        context = {
            "name": "",
            "title": action.label,
            "live": None,
            "action": action,
            "do": request.query["do"],
            "told": None,
            "sentence": action.told(given),
            "given": given,
            "back": _back(request.query.get("back")),
        }
        return self._page(request, "confirm.html", "200 OK", context)

    def _action(self, given: Mapping[str, str]) -> Action:
        action = ACTIONS.get(given.get("do", ""))
        if action is None or (given.get("do") == "processes" and not self._several):
            raise BadRequestError("there is no such action")
        return action

    def _do(self, name: str, request: Request) -> Answer:
        form = request.form
        back = _back(form.get("back"))
        if name == "do":
            action = self._action(form)
            given = {key: value for key, value in form.items() if key not in ("do", "back")}
            tell(request, action.path, given)
            try:
                found = json.loads(self._actions[action.path](Request(given, request.authorization, may_operate=True)).body)
            except BadRequestError as error:
                return self._back_with(back, f"{action.label}: {error}")
            self._asking.forget()
            self._kept.clear()
            outcome = _outcome(action, found)
            if action.begins_anew:  # to be told by the next page it would have to outlive this process
                return self._page(request, "anew.html", "200 OK", {"title": action.label, "name": "", "told": outcome, "back": back})
            return self._back_with(back, outcome)
        if name in ("replay", "drop"):
            return self._back_with(back, self._screens.deal_with_letters(name, request))
        if name == "stop-operation":
            return self._back_with(back, self._screens.stop_operation(request))
        return self._wrong(request, "404 Not Found", "There is no such action.")

    def _back_with(self, back: str, told: str) -> Answer:
        number = f"{time.time_ns():x}"
        self._told[number] = told
        while len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]
        return _redirect(f"{back}{'&' if '?' in back else '?'}told={number}")

    # -- how it is shown

    def _wrong(self, request: Request, status: str, why: str) -> Answer:
        return self._page(request, "wrong.html", status, {"why": why, "name": "", "title": status[4:], "live": None, "told": None})

    def _page(self, request: Request, template: str, status: str, context: dict[str, Any]) -> Answer:
        return Answer(status, "text/html", self._render(template, request, context), _HEADERS)

    def _render(self, template: str, request: Request, context: dict[str, Any], block: str | None = None) -> str:
        if self._templates is None:
            self._templates = native.call(gevent.get_hub().threadpool, _environment)
        whole = {
            "version": gworkers.__version__,
            "screens": [(each, screen.title) for each, screen in SCREENS.items() if screen.shown],
            "may_operate": request.may_operate,
            "signed_in": self._config.token is not None or self._config.read_token is not None,
            "several": self._several,
            "told": None,
            "live": None,
            "group": self._screens.group,
            **context,
        }
        found = self._templates.get_template(template)
        if block is None:
            return str(found.render(whole))
        return "".join(found.blocks[block](found.new_context(whole)))


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gworkers.admin.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.filters["query"] = urlencode
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def _outcome(action: Action, found: dict[str, Any]) -> str:
    """What an action has done, a sentence, of all processes."""
    several = found.get("processes")
    answers = list(several.values()) if isinstance(several, dict) else [found]
    if action.path in ("/reload", "/replace"):
        return f"{action.label}: {found.get('why', 'it does not answer')}"
    if action.path in ("/interrupt", "/seek"):
        done = [one["why"] for one in answers if one.get("ok")]
        return str((done or [one.get("why", "it does not answer") for one in answers] or ["no process answers"])[0])
    wrong = [str(one.get("why")) for one in answers if not one.get("ok")]
    if wrong:
        return f"{action.label}: {'; '.join(wrong)}"
    if action.path in ("/retry-now", "/give-up"):
        return f"{action.label}: {sum(one['messages'] for one in answers):,} messages"
    if action.path in ("/pause", "/resume"):
        names = sorted(name for one in answers for name in one["partitions"])
        return f"{action.label}: {', '.join(names[:20]) or 'no partition that is assigned now'}{' …' if len(names) > 20 else ''}"
    return f"{action.label}: done"


def _static(name: str) -> Answer:
    kind = _KINDS.get(name.rpartition(".")[2])
    known = resources.files("gworkers.admin.page") / "static"
    if kind is None or "/" in name or not (known / name).is_file():
        return Answer("404 Not Found", "text/plain", "there is no such file\n")
    return Answer("200 OK", kind, (known / name).read_text("utf-8"), (("Cache-Control", "max-age=3600"),))


def _redirect(where: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer("303 See Other", "text/plain", "", (("Location", where), *headers))


def _cookie(token: str, seconds: int) -> tuple[str, str]:
    return "Set-Cookie", f"{COOKIE}={quote(token, safe='')}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"


def _back(where: str | None) -> str:
    """A page of ours, whatever was asked for."""
    return where if where is not None and _BACK.fullmatch(where) else f"{PAGE}/"
