"""A short round for each target; ``bin/test fuzz`` runs a long one."""

from __future__ import annotations

import logging

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_what_is_documented_comes_of_inputs_that_are_nearly_right(target: str) -> None:
    logging.disable(logging.WARNING)
    try:
        outcome = fuzz(target, 3_000, 7)
    finally:
        logging.disable(logging.NOTSET)
    assert outcome.inputs == 3_000, outcome.findings
    assert not outcome.findings, "\n".join(outcome.findings)
