"""The screens: what each asks for, and of whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from gevent.pool import Group

from gworkers.admin.answer import BadRequestError, Request
from gworkers.admin.hiding import HIDDEN, Hiding
from gworkers.admin.page import views
from gworkers.admin.page.actions import SEEK
from gworkers.admin.page.commands import CommandError, Commands
from gworkers.admin.page.facts import Asking, Facts
from gworkers.admin.page.history import History
from gworkers.admin.server import tell
from gworkers.config.load import Loaded
from gworkers.config.origins import rows as configuration_rows
from gworkers.errors import UsageError
from gworkers.handlers.routes import matches
from gworkers.pipeline.snapshot import PAUSED

#: What charts may be asked for.
HOURS = ("1", "12", "72")
#: Letters and messages that are shown at once, and how many are searched for a text.
LISTED = 200
SEARCHED = 5000
#: Characters of a value that can be edited.
EDITED_AT_MOST = 8_000
#: Decoders whose values are shown as they are.
PLAIN = ("json", "text", "bytes")
#: What dead letters are chosen by, as the command has it.
CHOICES = ("topic", "route", "reason", "exception", "key", "since", "until")


class Screens:
    """What fills them. All of it on the hub; commands run beside it."""

    def __init__(self, loaded: Loaded, asking: Asking, commands: Commands, history: History, hiding: Hiding) -> None:
        self._loaded = loaded
        self._asking = asking
        self._commands = commands
        self._history = history
        self._hiding = hiding
        self.group = loaded.config.kafka.group

    def _ask(self, path: str, request: Request) -> Facts:
        facts = self._asking.ask(path)
        if self._hiding.hides(request):
            return Facts({number: self._hiding.without(one) for number, one in facts.processes.items()}, facts.asked)
        return facts

    def now(self, request: Request) -> dict[str, Any]:
        facts = self._ask("/status", request)
        state, told = views.wellness(facts)
        totals = views.totals(facts) if facts.answering else None
        points = self._history.points(1.0)
        return {
            "state": state,
            "told_by": told,
            "totals": totals,
            "last": points[-1] if points else None,
            "recent": points[-6:],
            "gone_in": views.gone_in(points, totals["lag"]) if totals is not None else None,
            "steering": [(number, one["steering"]) for number, one in facts.answering.items() if one["steering"] is not None],
            "kept": self._history.kept,
            "hours": hours_of(request),
        }

    def messages(self, request: Request) -> dict[str, Any]:
        found = sorted(self._ask("/stacks", request).listed("running"), key=lambda one: -one["age"])
        text = request.query.get("search", "")
        shown = views.searched(found, text, ("route", "topic", "offset", "key", "stack"))
        interruptible = {name for name, route in self._loaded.config.routes.items() if route.timeout is not None}
        return {
            "rows": shown[: views.MOST_ROWS],
            "total": len(found),
            "matching": len(shown),
            "search": text,
            "interruptible": interruptible,
        }

    def partitions(self, request: Request) -> dict[str, Any]:
        facts = self._ask("/status", request)
        text = request.query.get("search", "")
        topics = [(name, rows) for name, rows in views.partitions(facts) if text.casefold() in name.casefold()]
        return {"topics": topics, "why": PAUSED, "search": text, "paused": views.paused(facts)}

    def partition(self, request: Request) -> dict[str, Any]:
        topic, number = request.query.get("topic", ""), request.number("partition")
        rows = [one for _, rows in views.partitions(self._ask("/status", request), topic) for one in rows if one["partition"] == number]
        spans = self._asking.ask_with("/offsets", {"topic": topic, "partition": str(number)})
        found = [one["spans"] for one in spans.processes.values() if one.get("ok")]
        running = [one for one in self._ask("/stacks", request).listed("running") if (one["topic"], one["partition"]) == (topic, number)]
        return {
            "topic": topic,
            "number": number,
            "row": rows[0] if rows else None,
            "spots": views.ribbon(found[0]) if found else [],
            "running": {one["offset"]: one for one in running},
            "why": PAUSED,
        }

    def seek(self, request: Request) -> dict[str, Any]:
        """What it would mean to have a partition go on elsewhere."""
        topic, number = request.query.get("topic", ""), request.number("partition")
        where = request.query.get("to", "").strip()
        if not where:
            raise BadRequestError(
                "say where it is to go on: beginning, end, an offset, a moment as 2026-11-26T03:00, or how long ago as 2h"
            )
        (move,) = self._commands.rows("seek", "--json", f"--topic={topic}", f"--partition={number}", f"--to={where}")
        return {"move": move, "back": f"/page/partition?{urlencode({'topic': topic, 'partition': number})}", "sentence": SEEK}

    def retries(self, request: Request) -> dict[str, Any]:
        facts = self._ask("/retries", request)
        found = sorted(facts.listed("retries"), key=lambda one: one["due"])
        total = sum(one["retrying"] for one in self._ask("/status", request).answering.values())
        text = request.query.get("search", "")
        shown = views.searched(found, text, ("route", "topic", "offset", "key", "text"))
        dead_letters = {name for name, route in self._loaded.config.routes.items() if route.dead_letter is not None}
        return {
            "rows": shown[: views.MOST_ROWS],
            "total": total,
            "matching": len(shown),
            "search": text,
            "with_dead_letters": dead_letters,
        }

    def routes(self, request: Request) -> dict[str, Any]:
        return {"rows": views.routes(self._ask("/status", request)), "configuration": lambda: configuration_rows(self._loaded)}

    def processes(self, request: Request) -> dict[str, Any]:
        logs = {number: one.get("log", []) for number, one in self._ask("/log", request).processes.items()}
        return {"rows": list(self._ask("/status", request).processes.items()), "logs": logs}

    def errors(self, request: Request) -> dict[str, Any]:
        facts = self._ask("/failures", request)
        text = request.query.get("search", "")
        names = ("route", "topic", "offset", "key", "error", "text", "where")
        recent = sorted(facts.listed("recent"), key=lambda one: -one["at"])
        kinds = [one for one in views.kinds(facts) if views.searched([one["last"]], text, names)]
        return {"kinds": kinds, "recent": views.searched(recent, text, names)[:LISTED], "search": text}

    # -- what is asked of Kafka

    def dead_letters(self, request: Request) -> dict[str, Any]:
        topics = sorted({route.dead_letter for route in self._loaded.config.routes.values() if route.dead_letter is not None})
        request = self._without_guesses(request)
        text = request.query.get("search", "")
        found: dict[str, Any] = {"counts": [], "letters": [], "more": False, "wrong": None}
        if topics:
            chosen = _choice(request.query)
            most = SEARCHED if text else LISTED + 1
            try:
                asked = (("count", "--json", *chosen), ("ls", "--json", "--limit", str(most), *chosen))
                found["counts"], letters = Group().map(lambda one: self._commands.rows("dead-letters", *one), asked)
            except CommandError as error:
                found["wrong"] = str(error)
                letters = []
            matching = views.searched(letters, text, ("id", "key", "error", "exception", "value", "origin"))
            found |= {"letters": [self._shown(letter, request) for letter in matching[:LISTED]], "more": len(matching) > LISTED}
        return {
            **found,
            "topics": topics,
            "one_topic": (topics[0] if len(topics) == 1 else request.query.get("topic", "")) if request.may_operate else "",
            "total": sum(one["count"] for one in found["counts"]),
            "choice": {name: request.query.get(name, "") for name in CHOICES},
            "search": text,
            "operations": list(reversed(self._commands.operations)),
        }

    def letter(self, request: Request) -> dict[str, Any]:
        topic, letter = request.query.get("topic", ""), request.query.get("id", "")
        rows = self._commands.rows("dead-letters", "show", "--json", f"--topic={topic}", "--", letter)
        if not rows:
            raise BadRequestError("there is no such letter")
        return {"letter": self._shown(rows[0], request), "hidden": self._hiding.hides(request)}

    def _shown(self, letter: dict[str, Any], request: Request) -> dict[str, Any]:
        return {**self._hiding.without(letter), "error": HIDDEN} if self._hiding.hides(request) else letter

    def _without_guesses(self, request: Request) -> Request:
        """Where values are hidden nothing is searched by them: what is found would tell them."""
        if not self._hiding.hides(request):
            return request
        return replace(request, query={name: value for name, value in request.query.items() if name not in ("key", "search")})

    def deal(self, request: Request) -> dict[str, Any]:
        """What a replay or a drop would do: the dry run."""
        chosen = _choice(request.query)
        ids = request.query.get("id", "")
        dropping = request.query.get("what") == "drop"
        if dropping:
            count = self._commands.rows("dead-letters", "count", "--json", *chosen)
            told = f"{sum(one['count'] for one in count):,} dead letters would be dropped: they are listed and replayed no more."
        else:
            told = self._commands.text("dead-letters", "replay", "--dry-run", *chosen)
        what = "drop" if dropping else "replay"
        return {"told_before": told, "what": what, "choice": _named(request.query), "id": ids, "value": self._value(request)}

    def _value(self, request: Request) -> str | None:
        """Of the letter that is to be sent with another value, as text; None where none is."""
        if request.query.get("edit") != "yes":
            return None
        letter = self.letter(request)["letter"]
        if letter["value"] is None or len(letter["value"]) > EDITED_AT_MOST:
            raise BadRequestError(
                f"a value of up to {EDITED_AT_MOST:,} characters can be edited here; gworkers dead-letters replay --value takes any"
            )
        return str(letter["value"])

    def deal_with_letters(self, what: str, request: Request) -> str:
        """Begin it; a sentence about it."""
        form = request.form
        chosen = _choice(form)
        more = ["--yes"] if what == "drop" else [f"--rate={form['rate']}"] if form.get("rate") else []
        value = form.get("value") if what == "replay" else None
        given = value.replace("\r\n", "\n").encode() if value is not None else None  # a browser sends lines with both
        tell(request, f"dead-letters {what}", {name: text for name, text in form.items() if name not in ("back", "value")})
        told = (" ".join(chosen) or "all dead letters") + (" with another value" if given is not None else "")
        arguments = ("dead-letters", what, *more, *(["--value", "-"] if given is not None else []), *chosen)
        operation = self._commands.start(f"{what} {told}", request.who, *arguments, then=self._asking.forget, given=given)
        return f"operation {operation.number}, {what} {told}, has begun"

    def stop_operation(self, request: Request) -> str:
        number = request.form.get("number", "")
        for one in self._commands.operations:
            if str(one.number) == number:
                tell(request, "stop operation", {"number": number})
                one.stop()
                return f"operation {number} is told to stop; what it has done stays done"
        raise BadRequestError("there is no such operation")

    def topics(self, request: Request) -> dict[str, Any]:
        config, request = self._loaded.config, self._without_guesses(request)
        known = {topic for route in config.routes.values() for topic in (*route.topics, route.output, route.dead_letter) if topic}
        topic, start = request.query.get("topic", ""), request.query.get("from", "") or "15m"
        key, text = request.query.get("key", ""), request.query.get("search", "")
        found: dict[str, Any] = {"rows": [], "wrong": None, "more": False}
        if topic:
            most = SEARCHED if key or text else LISTED + 1
            try:
                decoded = [f"--as={route}"] if (route := self._decoded_by(topic)) is not None else []
                rows = self._commands.rows("tail", "--json", "--no-follow", *decoded, f"--from={start}", "-n", str(most), "--", topic)
            except (CommandError, UsageError) as error:
                found["wrong"], rows = str(error), []
            rows = [row for row in rows if not key or row["key"] == key]
            rows = views.searched(rows, text, ("decoded", "value", "key", "headers"))
            found |= {"rows": [self._shown(row, request) for row in rows[:LISTED]], "more": len(rows) > LISTED}
        return {**found, "known": sorted(known), "topic": topic, "from": start, "key": key, "search": text}

    def _decoded_by(self, topic: str) -> str | None:
        """The route that reads a topic and decodes it in a way of its own; JSON and text show as they
        are."""
        for name, route in self._loaded.config.routes.items():
            if matches(route, topic) and route.decode not in PLAIN:
                return name
        return None


def hours_of(request: Request) -> str:
    """Of how many hours charts are asked for."""
    hours = request.query.get("hours", "")
    return hours if hours in HOURS else HOURS[0]


def _named(given: Any) -> dict[str, str]:
    return {name: given[name] for name in CHOICES if given.get(name)}


def _choice(given: Any) -> list[str]:
    """The options of the command for what a form has. Raises BadRequestError."""
    found = [f"--{name}={value}" for name, value in _named(given).items()]
    ids = [one for one in given.get("id", "").split(",") if one]
    if ids and not given.get("topic"):
        raise BadRequestError("a letter is one of a topic: name it as well")
    return [*found, *(f"--id={one}" for one in ids)]


@dataclass(frozen=True, slots=True)
class Screen:
    """title: in the navigation and above it; fill: what it shows; shown: whether the navigation has
    it."""

    title: str
    template: str
    fill: Callable[[Screens, Request], dict[str, Any]]
    shown: bool = True


SCREENS: dict[str, Screen] = {
    "": Screen("Now", "now.html", Screens.now),
    "messages": Screen("Messages", "messages.html", Screens.messages),
    "partitions": Screen("Partitions", "partitions.html", Screens.partitions),
    "retries": Screen("Retries", "retries.html", Screens.retries),
    "dead-letters": Screen("Dead letters", "dead_letters.html", Screens.dead_letters),
    "routes": Screen("Routes", "routes.html", Screens.routes),
    "processes": Screen("Processes", "processes.html", Screens.processes),
    "errors": Screen("Errors", "errors.html", Screens.errors),
    "topics": Screen("Topics", "topics.html", Screens.topics),
    "partition": Screen("Partition", "partition.html", Screens.partition, shown=False),
    "seek": Screen("Go on elsewhere", "seek.html", Screens.seek, shown=False),
    "letter": Screen("Dead letter", "letter.html", Screens.letter, shown=False),
    "deal": Screen("Dead letters", "deal.html", Screens.deal, shown=False),
}
#: Those that are kept up to date.
LIVE = frozenset({"", "messages", "partitions", "retries", "routes", "processes", "errors", "partition"})
