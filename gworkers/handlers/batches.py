"""Batches: several messages handed to a handler at once, and what becomes of each.

``length`` says how many messages make a batch, ``compile_batch`` makes of a handler of lists a
function of Jobs. As with single messages, each job has afterwards its rows or its error. A job that
has one already (it waited behind another attempt of an earlier one of its key) keeps it and is not
handed to the handler again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context
from types import GeneratorType
from typing import Any

import gevent

from gworkers.config.route import Batch
from gworkers.errors import BatchResultError
from gworkers.handlers.around import Surrounding, carrying
from gworkers.handlers.job import Job, Row
from gworkers.message import BatchError, Record
from gworkers.offsets.journal import MOST_OF_A_BATCH

#: Hands a batch to the handler; returns the jobs that failed as a whole: the handler raised, and
#: did not say whose fault it was.
HandleBatch = Callable[[list[Job]], list[Job]]


def length(jobs: Iterable[Job], most: int, batch: Batch, attempts: int, due: float | None = None) -> tuple[int, bool]:
    """How many of the first of ``jobs`` make a batch, and whether it is as large as it may be.

    A message that is in its last of several attempts, or suspected of having killed a process, is a
    batch of its own. ``due``, in milliseconds since the epoch: no message with a later timestamp.
    """
    most = min(most, batch.max_messages)
    count = size = first = 0
    for job in jobs:
        size += job.size
        if count == 0:
            first = job.offset
            suspects = job.partition.suspects
            if alone(job, attempts) or (suspects and job.offset in suspects):
                return 1, True
        elif (
            size > batch.max_bytes
            or alone(job, attempts)
            or (suspects and job.offset in suspects)
            or abs(job.offset - first) >= MOST_OF_A_BATCH  # more than the journal suspects
            or (due is not None and job.timestamp > due)
        ):
            return count, True
        count += 1
        if count == most:
            return count, True
    return count, size >= batch.max_bytes


def alone(job: Job, attempts: int) -> bool:
    """Whether a job is in the last of several attempts, which shows who made the batches before it
    fail."""
    return 1 < job.attempt >= attempts


def compile_batch(
    handler: Callable[[list[Any]], Any],
    value_of: Callable[[Job], Any],
    rows_of: Callable[[Job, Any], list[Row] | None],
    presentable: Callable[[BaseException], BaseException],
    around: tuple[Surrounding, Callable[[Job, Any], Any]] | None = None,
) -> HandleBatch:
    """``value_of`` decodes a message, or raises; ``rows_of`` encodes a result; ``presentable``
    makes any error fit to be kept; ``around`` is what the application has put around, and what makes
    of a job and its value the message that this gets."""
    surrounding, shown = around or (Surrounding(), _nothing)
    surrounded = surrounding.around(handler)

    def handle(jobs: list[Job]) -> list[Job]:
        return Context().run(in_context if around is None else watched, jobs)

    def watched(jobs: list[Job]) -> list[Job]:
        before = {job for job in jobs if job.error is not None or job.rows is not None}
        whole = in_context(jobs)
        for job in jobs:
            if job in before:
                continue
            job.rows = carrying(job.rows)
            if job.error is not None:
                surrounding.failed(shown(job, job.value), job.error)
        return whole

    def in_context(jobs: list[Job]) -> list[Job]:
        handed, values = [], []
        for job in jobs:
            if job.rows is not None or job.error is not None:
                continue
            try:
                values.append(value_of(job))
                handed.append(job)
            except BaseException as error:
                job.error = presentable(error)
        if not handed:
            return []
        try:
            result = (
                handler(values) if around is None else surrounded([shown(job, v) for job, v in zip(handed, values, strict=True)], values)
            )
            if isinstance(result, GeneratorType):  # its body has not run yet
                result = list(result)
        except gevent.GreenletExit:
            raise
        except BatchError as error:
            return spread(handed, error)
        except BaseException as error:
            error = presentable(error)
            for job in handed:
                job.error = error
            return handed
        try:
            if isinstance(result, list):
                each(handed, entries(result, len(handed)))
            elif result is None:
                each(handed, [None] * len(handed))
            else:
                last = handed[-1]
                last.rows = rows_of(common(handed), result) or []
                last.followers = handed[:-1]
                for job in last.followers:
                    job.rows = []
        except BaseException as error:
            error = presentable(error)
            for job in handed:
                job.rows, job.error, job.followers = None, error, ()
        return []

    def spread(handed: list[Job], failed: BatchError) -> list[Job]:
        count = len(handed)
        outside = next((index for index in failed.errors if index not in range(count)), None)
        error: BaseException | None = None
        if outside is not None:
            error = BatchResultError(f"the handler raised a BatchError for index {outside}, and the batch had {count} messages")
        elif failed.results is not None and len(failed.results) != count:
            error = BatchResultError(
                f"the handler raised a BatchError with {len(failed.results)} results, and the batch had {count} messages"
            )
        if error is not None:
            for job in handed:
                job.error = error
            return handed
        for index, of_one in failed.errors.items():
            handed[index].error = presentable(of_one)
        each(handed, failed.results if failed.results is not None else [None] * count)
        return []

    def each(handed: list[Job], results: Any) -> None:
        for job, result in zip(handed, results, strict=True):
            if job.error is None:
                try:
                    job.rows = (rows_of(job, result) if result is not None else None) or []
                except BaseException as error:
                    job.error = presentable(error)

    return handle


def _nothing(job: Job, value: Any) -> None: ...


def entries(results: list[Any], count: int) -> list[Any]:
    if len(results) != count:
        hint = "" if not all(isinstance(result, Record) for result in results) else "; a list of Records for all of them is one entry"
        raise BatchResultError(
            f"the handler returned a list of {len(results)} for a batch of {count}; a list has an entry for each message, None where there "
            f"is nothing to send{hint}"
        )
    return results


def common(jobs: list[Job]) -> Job:
    """What a result for all of ``jobs`` inherits from: the key and the headers that all of them
    have, the latest timestamp."""
    last = jobs[-1]
    key = last.key if all(job.key == last.key for job in jobs) else None
    headers = last.headers if all(list(job.headers) == list(last.headers) for job in jobs) else []
    job = type(last)(last.offset, max(job.timestamp for job in jobs), key, last.value, headers, last.size)
    job.partition, job.attempt, job.origin = last.partition, last.attempt, last.origin
    return job
