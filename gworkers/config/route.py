"""The configuration of one route."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gworkers.codecs import CODECS
from gworkers.config.section import CodecName, DottedPath, Section, TopicName
from gworkers.config.units import Duration, RateText, Size
from gworkers.expressions import Expression


class Retry(Section):
    """What is done when a handler fails: tried again, later and later, without holding a worker."""

    attempts: int = Field(5, ge=1, description="How often a message is handed to the handler, the first time included.")
    backoff: Duration = Field(0.2, description="The wait before the second attempt; it doubles with each further one.")
    max_backoff: Duration = Field(30.0, description="The longest wait between two attempts.")
    jitter: float = Field(0.2, ge=0, le=1, description="The part of each wait that is drawn by chance.")
    only: list[DottedPath] = Field(
        [], description="Exceptions that are worth another attempt; all of them when the list is empty.", examples=[["shop.errors:Busy"]]
    )
    never: list[DottedPath] = Field(
        [], description="Exceptions that no further attempt can help.", examples=[["shop.errors:UnknownProduct"]]
    )
    topics: list[Duration] = Field(
        [],
        description="Durable retries: after `attempts` in the process the message waits in the topic `<topic>.retry.<wait>`, for each of "
        "these in turn, with one attempt after each. Later messages overtake it, so `order` has to be none.",
        examples=[["1m", "10m"]],
    )


class Batch(Section):
    """The handler gets several messages at once."""

    max_messages: int = Field(100, ge=1, description="The largest batch.")
    max_bytes: Size = Field(2**20, description="The largest batch, in bytes of keys, values and headers; one larger message goes alone.")
    max_wait: Duration = Field(0.1, description="How long a batch waits to fill.")
    by: Literal["partition", "key"] = Field(
        "partition",
        description="What a batch is of: messages of one partition, with `order: key` each of another key; or, with `order: key` only, "
        "messages of one key in their order.",
    )


class MaxAge(Section):
    """Messages that are too old. A duration alone may stand here for `after`."""

    after: Duration = Field(description="The age, by the message's timestamp, when its turn has come.", examples=["1h"])
    then: Literal["drop", "dead-letter", "handle"] = Field("drop", description="What becomes of an older message.")

    @model_validator(mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return {"after": value} if isinstance(value, str) else value


#: What ``when`` can ask for.
WHEN_NAMES = frozenset({"headers", "key", "value", "topic", "partition", "offset", "timestamp"})

Pass = Literal["value", "message"]
Order = Literal["none", "key", "partition"]


class Route(Section):
    """From topics to a handler, and on to a topic."""

    topics: list[TopicName] = Field([], description="The topics it consumes.", examples=[["orders"]])
    pattern: str | None = Field(None, description="In place of `topics`: a regular expression of topic names.", examples=["^orders\\..*"])
    handler: DottedPath = Field(description="The function, as module:callable.", examples=["shop.pricing:price"])
    arguments: dict[str, Any] = Field(
        {}, description="What it is called with beside, by keyword: values of the file as they are.", examples=[{"currency": "EUR"}]
    )
    pass_: Pass = Field("value", alias="pass", description="What it is called with: the decoded value, or a Message.")
    decode: CodecName = Field(
        "bytes",
        description="How values become what the handler gets: bytes, text, json, msgpack, or module:callable of bytes. A callable with a "
        "parameter `topic` or `headers` gets these too.",
        examples=["json"],
    )
    encode: CodecName = Field(
        "bytes",
        description="How what it returns becomes a value: bytes, text, json, msgpack, or module:callable to bytes.",
        examples=["json"],
    )
    output: TopicName | None = Field(
        None, description="Where results are sent; without it they are dropped, unless the handler returns Records.", examples=["priced"]
    )
    order: Order = Field(
        "none",
        description="What is handled one after the other: nothing, each key, or each partition. Results without a key go to one partition "
        "then: that of the message's key, or the one with the number of the message's partition.",
    )
    timeout: Duration | None = Field(
        None,
        gt=0,
        description="How long a handler may take. Then `gworkers.HandlerTimeout` is raised in it; if it has not ended 5 s later, its "
        "thread is given up and replaced. Either way the message has failed.",
        examples=["30s"],
    )
    retry: Retry = Field(Retry(), description="What is done when the handler fails.")
    dead_letter: TopicName | None = Field(
        None, description="Where messages go that failed for good; without it the process stops at the first.", examples=["orders.dead"]
    )
    batch: Batch | None = Field(
        None,
        description="The handler gets a list of what it would get one at a time, and returns nothing, one result for all, or a list with "
        "an entry for each. When it raises, all of them have failed, unless it raises `gworkers.BatchError`.",
        examples=[{"max_messages": 100}],
    )
    rate: RateText | None = Field(
        None,
        description="How many messages a process may hand to the handler in a time; `burst` is how many may go at once after a quiet time, "
        "a second's worth without it.",
        examples=["100/s", "100/s burst 20"],
    )
    uses: list[str] = Field([], description="The named limits it takes part in, of `limits`.", examples=[["database"]])
    max_age: MaxAge | None = Field(None, description="What is done with messages that are too old.", examples=["1h"])
    delay: Duration | None = Field(None, description="A message is not handled before its timestamp + delay.", examples=["30s"])
    when: str | None = Field(
        None,
        description="Only messages for which this is true are handled; the others are finished. Comparisons of `headers`, `key`, `value`, "
        "`topic`, `partition`, `offset` and `timestamp`, with and, or, not, in; without `value` the message is not decoded for it.",
        examples=["headers.kind == 'order'"],
    )

    @field_validator("topics", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, (list, dict)) else [value]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return value

    @field_validator("when")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        if value is not None:
            Expression(value, WHEN_NAMES)
        return value

    @field_validator("decode", "encode")
    @classmethod
    def _codec(cls, value: str) -> str:
        if value not in CODECS and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", value):
            raise ValueError(f"expected {', '.join(CODECS)} or module:callable")
        return value

    @model_validator(mode="after")
    def _some_topics(self) -> Route:
        if bool(self.topics) == (self.pattern is not None):
            raise ValueError("a route has either topics or a pattern: " + ("both are given" if self.topics else "none is given"))
        return self
