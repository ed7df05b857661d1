"""What the page's screens are made of: sums over processes, ribbons, when a lag is gone."""

from __future__ import annotations

from typing import Any

import pytest

from gworkers.admin.page import texts, views
from gworkers.admin.page.actions import ACTIONS
from gworkers.admin.page.facts import Facts
from gworkers.admin.page.history import Point


def test_it_is_well_when_every_process_is() -> None:
    good: dict[str, Any] = {"version": "1", "ok": True, "why": "nothing to do"}
    bad: dict[str, Any] = {"version": "1", "ok": False, "why": "Kafka is away"}
    silent: dict[str, Any] = {"ok": False, "why": "it does not answer"}
    assert views.wellness(Facts({"0": good, "1": good}, 0))[0] == "well"
    assert views.wellness(Facts({"0": good, "1": bad}, 0))[0] == "unwell"
    assert views.wellness(Facts({"0": good, "1": silent}, 0)) == (
        "unwell",
        [("0", True, "nothing to do"), ("1", False, "it does not answer")],
    )
    assert views.wellness(Facts({"0": silent}, 0))[0] == "gone"
    assert views.wellness(Facts({}, 0))[0] == "gone"


def points(*lags: float | None) -> list[Point]:
    return [Point(10 * n, 0.0, 0.0, lag, 0.0, 0.0, 0.0) for n, lag in enumerate(lags)]


@pytest.mark.parametrize(
    ("lags", "lag", "wanted"),
    [
        ((300, 200, 100), 100, 10.0),
        ((100, 200), 200, None),
        ((100, 100), 100, None),
        ((None, 100), 100, None),
        ((300, 200), 0, None),
        ((), 5, None),
    ],
)
def test_when_a_lag_is_gone(lags: tuple[float | None, ...], lag: int, wanted: float | None) -> None:
    assert views.gone_in(points(*lags), lag) == wanted


def test_a_ribbon_shows_the_most_urgent_of_each_spot() -> None:
    assert views.ribbon([]) == []
    spots = views.ribbon([(0, 1, "running"), (1, 150, "finished"), (150, 151, "waiting"), (151, 200, "finished")])
    assert len(spots) == views.SPOTS
    assert (spots[0]["state"], spots[0]["offset"], dict(spots[0]["counts"])) == ("running", 0, {"running": 1, "finished": 1})
    assert (spots[75]["state"], spots[75]["offset"]) == ("waiting", 150)
    assert {spot["state"] for spot in spots[1:75]} == {"finished"}
    assert sum(sum(spot["counts"].values()) for spot in spots) == 200
    assert views.ribbon([(7, 8, "retrying")])[0]["state"] == "retrying"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "?"),
        (0, "0"),
        (0.0031, "3.1 ms"),
        (0.25, "250 ms"),
        (2.5, "2.5 s"),
        (59, "59 s"),
        (240, "4 min"),
        (9000, "2.5 h"),
        (2.5e5, "2.9 d"),
    ],
)
def test_times_are_short(value: float | None, wanted: str) -> None:
    assert texts.seconds(value) == wanted


def test_values_are_shown_whole_and_harmless() -> None:
    assert texts.pretty('{"a": [1, 2]}') == '{\n  "a": [\n    1,\n    2\n  ]\n}'
    assert texts.pretty("17") == "17"
    assert texts.pretty("a\u202eb\x1b[31m") == "a\\u202eb\\x1b[31m"
    assert texts.pretty("[" * 100_000).startswith("[[[")
    assert texts.pretty(None) == "(no value)"
    assert texts.whole("one\n  two\nthree") == "one\n  two\nthree"
    assert texts.hexadecimal("aé\n").startswith("00000000  61 c3 a9 0a")
    assert texts.moment(1e30) == "–"


def test_every_action_says_what_it_will_do() -> None:
    given = {"topic": "orders", "partition": "3", "offset": "7"}
    for action in ACTIONS.values():
        assert action.told(given).endswith(".")
    assert "orders[3]@7" in ACTIONS["interrupt"].told(given)
    assert "everything" in ACTIONS["pause"].told({})
