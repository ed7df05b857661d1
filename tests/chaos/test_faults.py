"""One short round of each fault. ``bin/test chaos --minutes N`` draws many more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults import FAULTS, NotHere
from tests.chaos.harness import World

#: The faults that a short run tries with exactly-once as well.
EXACTLY_ONCE = {"sigstop", *(name for name, fault in FAULTS.items() if fault.transactions)}


@pytest.fixture(scope="module", params=[False, True], ids=["at-least-once", "exactly-once"])
def world(request: pytest.FixtureRequest, real_kafka_wanted: None) -> Iterator[World]:
    found = World(exactly_once=request.param)
    try:
        yield found
        assert not request.param or not found.hanging()
    finally:
        found.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_nothing_comes_out_of_order(fault: str, world: World) -> None:
    if world.exactly_once and fault not in EXACTLY_ONCE:
        pytest.skip("its turn is in bin/test chaos --exactly-once")
    if not FAULTS[fault].short:
        pytest.skip("its turn is in bin/test chaos")
    if not world.exactly_once and FAULTS[fault].transactions:
        pytest.skip("it is a fault of transactions")
    try:
        verdict = FAULTS[fault](world, 7)
    except NotHere as error:
        pytest.skip(str(error))
    assert verdict.faults
    assert verdict.messages > 100
    assert verdict.good, verdict
