"""The configuration: every key with its type, its default and its meaning.

Validation, the messages of errors, the JSON schema and docs/configuration.md are all made from
these models; nothing reads a raw dictionary once they are loaded.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from gworkers.config.application import App, Hooks
from gworkers.config.route import Route
from gworkers.config.section import Address, DottedPath, FileMode, HostPort, InstanceName, RouteName, Section, TopicName
from gworkers.config.units import AmountText, Duration, Size, TypeName, cores

#: The most messages that are handled at once in a process, and the most processes.
MOST_CONCURRENCY = 10_000
MOST_PROCESSES = 1000


class Sample(Section):
    """A file of lines that is sent to a topic of the embedded broker when it starts."""

    file: str = Field(description="The file, relative to the configuration; one message a line.", examples=["orders.jsonl"])
    topic: TopicName = Field(description="The topic the lines are sent to.", examples=["orders"])
    key: str | None = Field(None, description="The field of each line's JSON object that becomes the key.", examples=["customer"])


class Embedded(Section):
    """The embedded broker, used with `bootstrap_servers: embedded`: for a first look and for tests,
    never for data you need."""

    samples: list[Sample] = Field([], description="Files that are sent to it when it starts.")


class Kafka(Section):
    """Where Kafka is, and who this is to it."""

    bootstrap_servers: str = Field(
        "embedded",
        min_length=1,
        description="`host:port,host:port`, or `embedded` for a broker in a child process, for a first look.",
        examples=["kafka-1:9092,kafka-2:9092"],
    )
    group: str = Field(description="The consumer group.", min_length=1, max_length=255, examples=["pricing"])
    group_instance_id: InstanceName | None = Field(
        None,
        description="Static membership: the name of this member, with `%(host)s` and `%(process)s` (the process's number, from 0). "
        "A member that comes back under its name within the session time-out gets its partitions back without a rebalance.",
        examples=["pricing-%(host)s-%(process)s"],
    )
    connect_timeout: Duration = Field(
        60.0, description="How long to keep trying to reach Kafka at the start before giving up with status 69."
    )
    client: dict[str, Any] = Field(
        {}, description="Options of kafka-python for every client.", examples=[{"security_protocol": "SASL_SSL"}]
    )
    consumer: dict[str, Any] = Field(
        {}, description="Options of kafka-python for the consumer alone.", examples=[{"auto_offset_reset": "latest"}]
    )
    producer: dict[str, Any] = Field(
        {}, description="Options of kafka-python for the producer alone.", examples=[{"compression_type": "lz4"}]
    )
    embedded: Embedded = Field(Embedded(), description="The embedded broker.")

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _join(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, list) else value

    @field_validator("bootstrap_servers")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value == "embedded":
            return value
        for part in value.split(","):
            if not re.fullmatch(r"\s*(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{1,5}\s*", part):
                raise ValueError(f"{part.strip()!r} is not host:port; write host:port,host:port or embedded")
        return value


class DeadLetters(Section):
    """When too many messages fail for good."""

    stop_above: AmountText | None = Field(
        None,
        description="More dead letters in this time end the process with status 65, and the message that was one too many stays where it "
        "is: a bad release does not empty the topic.",
        examples=["100 in 1m"],
    )
    never_succeeded: int = Field(
        100,
        ge=0,
        description="Without `stop_above`: the process ends with status 65, too, when so many messages of a route have failed for good and "
        "not one attempt has succeeded since its start; 0 is never.",
    )


class Admin(Section):
    """Health and metrics over HTTP."""

    bind: Address | None = Field(
        None,
        description="host:port, of which port 0 takes a free one, which is logged; or unix:PATH, relative to the configuration file, for "
        "a socket that whoever may write to the file may use. Nothing is served without it.",
        examples=["127.0.0.1:8080", "unix:/run/gworkers/admin.sock"],
    )
    mode: FileMode = Field("0600", description="The permissions of the file, with `unix:PATH`.", examples=["0660"])
    token: str | None = Field(
        None,
        min_length=16,
        description="Whoever sends it, as `Authorization: Bearer …`, may read, and operate the server. Without a token `bind` is loopback.",
        examples=["${file:operate.token}"],
    )
    read_token: str | None = Field(None, min_length=16, description="Whoever sends it may read.", examples=["${file:read.token}"])
    page: bool = Field(True, description="Whether a browser finds a page for people there.")
    values: Literal["shown", "hidden"] = Field(
        "shown",
        description="Whether keys, values, headers and the words of exceptions are shown to who may read; with `hidden` only whoever has "
        "`token` sees them, on the page and as JSON.",
    )

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach the address."""
        if self.bind is None or self.bind.startswith("unix:"):
            return False
        host = self.bind.rpartition(":")[0].strip("[]")
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"


class Metrics(Section):
    """Where figures are sent to, beside being there on the admin address as `/metrics`."""

    statsd: HostPort | None = Field(None, description="StatsD, host:port, over UDP; needs the extra `statsd`.", examples=["127.0.0.1:8125"])
    prefix: str = Field("gworkers", pattern=r"^[A-Za-z0-9_.-]+$", description="What the names begin with that StatsD gets.")
    otlp: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="A collector of OpenTelemetry, by OTLP over HTTP; needs the extra `otlp`. Its variables, as OTEL_SERVICE_NAME and "
        "OTEL_EXPORTER_OTLP_HEADERS, count.",
        examples=["http://127.0.0.1:4318"],
    )
    interval: Duration = Field(10.0, ge=0.1, description="The time between two sendings.")


class Shutdown(Section):
    """What happens between being asked to stop and stopping."""

    grace: Duration = Field(30.0, description="How long what runs may go on before the process ends with status 1.")


class Buffer(Section):
    """How much may be in the process at once, from being read to being acknowledged."""

    messages: int = Field(10_000, ge=1, description="Messages read and not yet settled.")
    bytes: Size = Field(64 * 2**20, description="Bytes of these messages and of their results.")
    oversized: Literal["hold", "skip"] = Field(
        "hold",
        description="What is done with a compressed batch that unpacks to more than `bytes`: its partition stands still, and the log and "
        "health say at which offset, until there is room for it or somebody moves the group past it; or it is passed over, with a line in "
        "the log.",
    )


class Commit(Section):
    """How progress is written back to Kafka."""

    interval: Duration = Field(1.0, description="The time between two commits.")
    map: bool = Field(
        True,
        description="Whether finished offsets beyond the committed one travel in its metadata, so that none runs again after a restart.",
    )


class Rebalance(Section):
    """What happens when partitions move to another process."""

    grace: Duration = Field(5.0, description="How long what runs of a revoked partition may go on to be committed.")


class Transaction(Section):
    """How results and offsets are committed together."""

    interval: Duration = Field(0.1, gt=0, description="How long a transaction is open: readers of committed messages wait for its end.")
    max_messages: int = Field(
        10_000, ge=1, description="The most messages in one transaction, beside those of `buffer`; it also ends with half of its bytes."
    )


class Poison(Section):
    """Messages that kill the process."""

    deaths: int = Field(
        3,
        ge=1,
        description="After how many deaths in a row, with nothing beside it at the last, a message is not run again but dead-lettered.",
    )


class Recycle(Section):
    """When a process is drained and replaced by a new one."""

    messages: int | None = Field(None, ge=0, description="After so many messages; 0 is never.", examples=[1000000])
    memory: Size | None = Field(None, description="When it has become so large.", examples=["1GiB"])
    age: Duration | None = Field(None, description="When it has become so old.", examples=["1d"])


class Logging(Section):
    """How the process talks on standard error. A dictionary of `logging.config` (with `version: 1`)
    may stand here instead."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field("INFO", description="The least level that is shown.")
    format: Literal["text", "json"] = Field("text", description="Lines for people or JSON for machines.")
    config: dict[str, Any] | None = Field(None, description="A dictionary for `logging.config.dictConfig`.")

    @model_validator(mode="before")
    @classmethod
    def _dictionary(cls, value: Any) -> Any:
        return {"config": value} if isinstance(value, dict) and "version" in value else value

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class Steered(Section):
    """How many messages are handled at once, found while it runs: a number in place of the section is
    fixed, and `auto` is all of its defaults."""

    min: int = Field(4, ge=1, le=MOST_CONCURRENCY, description="Never fewer.")
    max: int = Field(512, ge=1, le=MOST_CONCURRENCY, description="Never more.")
    start: int = Field(64, ge=1, le=MOST_CONCURRENCY, description="Where it begins, and stays with `observe`.")
    mode: Literal["steer", "observe"] = Field(
        "steer", description="Whether what is found is used, or only said in the log, the status and the metrics."
    )

    @property
    def first(self) -> int:
        """Where it begins, within the bounds."""
        return max(self.min, min(self.start, self.max))


def _kind_of_concurrency(value: Any) -> str:
    if value == "auto":
        return "=auto"
    return "=found" if isinstance(value, (dict, Steered)) else "=number"


Concurrency = Annotated[
    Annotated[int, Field(ge=1, le=MOST_CONCURRENCY), Tag("=number")]
    | Annotated[Literal["auto"], Tag("=auto")]
    | Annotated[Steered, Tag("=found")],
    Discriminator(_kind_of_concurrency),
    TypeName("whole number or `auto` or section", "a whole number, auto, or a section with min and max"),
]


class Config(Section):
    """The whole configuration."""

    kafka: Kafka = Field(description="Where Kafka is, and who this is to it.")
    app: App = Field(App(), description="The application.")
    hooks: Hooks = Field(Hooks(), description="What is called when processes and threads begin and end.")
    executor: Literal["thread", "greenlet"] = Field(
        "thread",
        description="Where handlers run: in native threads with the ordinary standard library, or in greenlets of a process "
        "that gevent has patched.",
    )
    concurrency: Concurrency = Field(
        64,
        description="Messages being handled at once in a process. With `auto`, or the section below, it finds by itself how many serve "
        "best.",
        examples=[64],
    )
    processes: int = Field(
        1,
        ge=1,
        le=MOST_PROCESSES,
        description="How many processes, each a member of the group; with more than one a small master starts and replaces them. "
        "`auto` is as many as there are processor cores for this process.",
        examples=[4],
    )
    delivery: Literal["at-least-once", "exactly-once"] = Field(
        "at-least-once",
        description="What holds after a crash: results of what ran may come again, or a reader of committed messages sees each once.",
        examples=["exactly-once"],
    )
    routes: dict[RouteName, Route] = Field(min_length=1, description="From topics to handlers, each with a name.")
    dead_letters: DeadLetters = Field(DeadLetters(), description="When too many messages fail for good.")
    admin: Admin = Field(Admin(), description="Health and metrics over HTTP.")
    metrics: Metrics = Field(Metrics(), description="Sending figures to StatsD or OpenTelemetry.")
    shutdown: Shutdown = Field(Shutdown(), description="Stopping.")
    logging: Logging = Field(Logging(), description="How the process talks.")
    buffer: Buffer = Field(Buffer(), description="What may be in the process at once.")
    commit: Commit = Field(Commit(), description="Writing progress back to Kafka.")
    rebalance: Rebalance = Field(Rebalance(), description="Partitions that move to another process.")
    instance: InstanceName = Field(
        "%(host)s-%(process)s",
        description="With `delivery: exactly-once` the name of this process, of which its `transactional.id` is made, the same after a "
        "restart: no two processes of a group may have the same. `%(host)s` and `%(process)s` (the process's number, from 0) may be in it.",
        examples=["%(host)s-%(process)s"],
    )
    transaction: Transaction = Field(Transaction(), description="Transactions, with `delivery: exactly-once`.")
    state_dir: str | None = Field(
        None,
        min_length=1,
        description="A folder for what outlives the process: the journal of running messages, which tells what ran when it died, and "
        "the notes of what has finished since the last commit, which does not run again (without it they are in a folder of the user's). "
        "Relative to the configuration file.",
        examples=["/var/lib/gworkers"],
    )
    poison: Poison = Field(Poison(), description="Messages that kill the process; with `state_dir`.")
    max_stuck_handlers: int = Field(
        8, ge=0, description="How many handlers may be stuck past their timeout; with one more the process drains and ends with status 75."
    )
    recycle: Recycle = Field(Recycle(), description="When a process is drained and replaced.")
    middleware: list[DottedPath] = Field(
        [],
        description="What is put around every handler, the first outside: functions of the message and of what goes on, `(message, "
        "proceed)`, or what makes a context manager, of the message or of nothing.",
        examples=[["shop.tracing:span", "shop.app:app.app_context"]],
    )
    limits: dict[RouteName, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="Named limits on how many handlers run at once in a process, shared by the routes that name them in `uses`.",
        examples=[{"database": 20}],
    )

    @field_validator("processes", mode="before")
    @classmethod
    def _cores(cls, value: Any) -> Any:
        return cores() if value == "auto" else value

    @property
    def steered(self) -> Steered | None:
        """How the concurrency is found; None when it is fixed."""
        if isinstance(self.concurrency, int):
            return None
        return Steered(max=min(512, self.buffer.messages)) if self.concurrency == "auto" else self.concurrency

    @property
    def first_concurrency(self) -> int:
        """Messages being handled at once when a process begins."""
        return self.concurrency if isinstance(self.concurrency, int) else (self.steered or Steered()).first

    @property
    def most_concurrency(self) -> int:
        """No more than these will be handled at once, unless an operator says so."""
        return self.concurrency if isinstance(self.concurrency, int) else (self.steered or Steered()).max
