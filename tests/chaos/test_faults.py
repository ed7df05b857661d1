"""One short round of each fault. ``bin/test chaos --minutes N`` draws many more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.rounds import FAULTS, World


@pytest.fixture(scope="module")
def world(real_kafka_wanted: None) -> Iterator[World]:
    found = World()
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_nothing_comes_out_of_order(fault: str, world: World) -> None:
    verdict = FAULTS[fault](world, 7)
    assert verdict.faults
    assert verdict.messages > 100
    assert verdict.good, verdict
