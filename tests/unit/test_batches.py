"""What becomes of each message of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from gworkers import BatchError, Message, Record
from gworkers.config.route import Batch
from gworkers.errors import BatchResultError, DecodeError, EncodeError
from gworkers.handlers import batches
from gworkers.handlers.job import Job
from gworkers.offsets.suspects import Suspect
from tests.support.jobs import job_of, partition_of, route_of


def jobs_of(*values: bytes | None, key: bytes | None = None, **config: Any) -> list[Job]:
    partition = partition_of(**{"output": "out", "batch": {}, "decode": "json", **config})
    headers = [("h", b"1")]
    return [
        job_of(partition, offset, value, key=key or b"k%d" % offset, headers=headers, timestamp=1000 + offset, size=10)
        for offset, value in enumerate(values)
    ]


def run(handler: Any, jobs: list[Job]) -> list[Job]:
    route = route_of(
        handler,
        **{
            name: value
            for name, value in jobs[0].partition.route.config.model_dump(by_alias=True, exclude_unset=True).items()
            if name != "handler"
        },
    )
    assert route.handle_batch is not None
    return route.handle_batch(jobs)


def raises(error: BaseException) -> Any:
    def handler(values: Any) -> Any:
        raise error

    return handler


def test_a_list_has_an_entry_for_each_message() -> None:
    jobs = jobs_of(b"1", b"2", b"3", b"4", encode="json")
    assert run(lambda values: [values[0] * 10, None, Record({"n": 3}, topic="other"), [Record(4), Record(5)]], jobs) == []
    assert jobs[0].rows == [("out", None, b"k0", b"10", [("h", b"1")], 1000)]
    assert jobs[1].rows == []
    assert jobs[2].rows == [("other", None, b"k2", b'{"n":3}', [("h", b"1")], 1002)]
    assert [row[3] for row in jobs[3].rows or ()] == [b"4", b"5"]


def test_the_handler_gets_messages_when_it_asks_for_them() -> None:
    got: list[Message] = []
    run(got.extend, jobs_of(b"1", b"2", pass_="message"))
    assert [(message.offset, message.value) for message in got] == [(0, 1), (1, 2)]


def test_one_result_for_all_is_sent_once_with_what_all_have_in_common() -> None:
    jobs = jobs_of(b"1", b"2", b"3", encode="json")
    run(sum, jobs)
    assert [job.rows for job in jobs[:2]] == [[], []]
    assert jobs[2].followers == jobs[:2]
    assert jobs[2].rows == [("out", None, None, b"6", [("h", b"1")], 1002)]
    jobs = jobs_of(b"1", b"2", key=b"same", encode="json")
    run(sum, jobs)
    assert jobs[1].rows is not None
    assert jobs[1].rows[0][2] == b"same"


def test_what_cannot_be_decoded_fails_alone_and_is_not_handed_over() -> None:
    jobs = jobs_of(b"1", b"{", b"3", encode="json")
    assert run(lambda values: [value + 1 for value in values], jobs) == []
    assert [bool(job.rows) for job in jobs] == [True, False, True]
    assert isinstance(jobs[1].error, DecodeError)


def test_what_cannot_be_encoded_fails_alone() -> None:
    jobs = jobs_of(b"1", b"2", encode="json")
    run(lambda values: [1, object()], jobs)
    assert jobs[0].error is None
    assert isinstance(jobs[1].error, EncodeError)


def test_a_batch_that_fails_fails_for_all_of_it() -> None:
    jobs = jobs_of(b"1", b"2")
    assert run(raises(SystemExit("no")), jobs) == jobs
    assert [str(job.error) for job in jobs] == ["no", "no"]


def test_only_those_that_a_batch_error_names_have_failed() -> None:
    jobs = jobs_of(b"1", b"2", b"3", encode="json")
    assert run(raises(BatchError({1: ValueError("no")}, [10, 20, 30])), jobs) == []
    assert [[row[3] for row in job.rows or ()] for job in jobs] == [[b"10"], [], [b"30"]]
    assert [str(job.error) for job in jobs] == ["None", "no", "None"]


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (lambda values: [1], "a list of 1 for a batch of 2"),
        (lambda values: [Record(1), Record(2), Record(3)], "a list of Records for all of them is one entry"),
        (raises(BatchError({2: ValueError()})), "for index 2, and the batch had 2"),
        (raises(BatchError({}, [1])), "with 1 results, and the batch had 2"),
    ],
)
def test_what_does_not_fit_the_batch_is_told(handler: Any, told: str) -> None:
    jobs = jobs_of(b"1", b"2", encode="json")
    run(handler, jobs)
    for job in jobs:
        assert isinstance(job.error, BatchResultError)
        assert told in str(job.error)
        assert job.rows is None


def test_a_batch_error_wants_exceptions() -> None:
    with pytest.raises(TypeError, match="got a str"):
        BatchError({0: "no"})  # type: ignore[dict-item]


def test_what_has_been_handled_is_not_handled_again() -> None:
    jobs = jobs_of(b"1", b"2", b"3", encode="json")
    jobs[0].rows = []
    jobs[1].error = ValueError("for good")
    got: list[Any] = []
    run(got.extend, jobs)
    assert got == [3]
    assert str(jobs[1].error) == "for good"


def size(jobs: list[Job], most: int = 100, **batch: Any) -> tuple[int, bool]:
    return batches.length(jobs, most, Batch.model_validate(batch), 5)


def test_how_many_make_a_batch() -> None:
    jobs = jobs_of(*[b"1"] * 20)
    assert size(jobs) == (20, False)
    assert size(jobs, max_messages=5) == (5, True)
    assert size(jobs, 3) == (3, True)
    assert size(jobs, max_bytes="35B") == (3, True)
    assert size(jobs, max_bytes="5B") == (1, True)
    jobs[2].attempt = 5
    assert size(jobs) == (2, True)
    assert size(jobs[2:]) == (1, True)
    jobs[0].partition.suspects = {1: Suspect(1, False)}
    assert size(jobs) == (1, True)
    assert size(jobs[1:]) == (1, True)
    jobs[19].offset = 20_000
    assert size(jobs[3:]) == (16, True)
