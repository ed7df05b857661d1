"""The short round of the matrix: all libraries in one server, 500 messages each, and their services
started anew in the middle. ``bin/test matrix`` runs each alone, with 20,000."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.matrix.run import LIBRARIES, Round, services_of
from tests.support.debian import or_skipped

pytestmark = pytest.mark.xdist_group("matrix")


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, Any]]:
    with or_skipped(), services_of(LIBRARIES) as found:
        yield found


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_ordinary_libraries_do_as_they_do_when_called_one_after_the_other(real_kafka: str, services: dict[str, Any], executor: str) -> None:
    libraries = [library for library in LIBRARIES if executor in library.executors]
    rows = Round(real_kafka, libraries, executor, 500, services).run(restart=True)
    assert {library.name: row.told() for library, row in rows.items() if not row.good} == {}
