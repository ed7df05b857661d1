"""What an error of kafka-python means to us: told apart here, by its class, and nowhere else."""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from gworkers.kafka import green

#: Of a process whose place in the group another has taken.
FENCED = (
    "another process has joined the group under this one's kafka.group_instance_id, and this one is out; "
    "give each process a name of its own, with %(host)s or a variable"
)


class Kind(Enum):
    """What can be done about an error."""

    NOT_LET_IN = auto()  # authentication failed
    NO_MECHANISM = auto()  # the broker does not know this way of logging in
    NO_LOGIN_HERE = auto()  # nobody logs in at this port
    GROUP_NOT_ALLOWED = auto()  # no right on the group
    CLUSTER_NOT_ALLOWED = auto()  # no right on the cluster
    ID_NOT_ALLOWED = auto()  # no right on the transactional id
    TOPIC_NOT_ALLOWED = auto()  # no right on a topic
    TOPIC_REFUSED = auto()  # no topic of this name can be
    INSTANCE_FENCED = auto()  # another member has this group_instance_id
    GROUP_REFUSES = auto()  # the group does not take this member as it is
    OTHER_ASSIGNOR = auto()  # the other members of the group share partitions out in another way
    NO_OFFSET = auto()  # no offset to begin at, and auto_offset_reset is none
    DAMAGED = auto()  # a batch that cannot be read
    NO_CODEC = auto()  # a batch whose compression this process cannot undo
    RECORD_REFUSED = auto()  # a record that the broker will never take
    RECORD_TOO_LARGE = auto()  # likewise, because of its size
    SEND_AGAIN = auto()  # nothing is wrong with this record: another one of its batch was refused, or its partition is gone
    METADATA_TOO_LARGE = auto()  # of a commit
    PRODUCER_FENCED = auto()  # another producer has this transactional id
    GENERATION_OVER = auto()  # a commit for a generation of the group that has ended
    NO_MEMBER = auto()  # the group does not know who asks, for instance because it has active members
    TIMED_OUT = auto()  # no answer in time
    PASSING = auto()  # may get better by itself
    OTHER = auto()


class PartitionGoneError(Exception):
    """A record was on its way to a partition that its topic has no more."""


class OversizedBatchError(Exception):
    """A batch unpacks to more than there is room for. offset, last: of its first and last message."""

    def __init__(self, topic: str, partition: int, offset: int, last: int, packed: int, most: int) -> None:
        super().__init__(
            f"{topic}[{partition}]: the batch of the offsets {offset} to {last} has {packed:,} bytes and unpacks to more than {most:,}"
        )
        self.topic, self.partition, self.offset, self.last = topic, partition, offset, last


_NAMES: dict[Kind, tuple[str, ...]] = {
    Kind.NOT_LET_IN: ("SaslAuthenticationFailedError", "AuthenticationFailedError"),
    Kind.NO_MECHANISM: ("UnsupportedSaslMechanismError",),
    Kind.NO_LOGIN_HERE: ("IllegalSaslStateError",),
    Kind.GROUP_NOT_ALLOWED: ("GroupAuthorizationFailedError",),
    Kind.CLUSTER_NOT_ALLOWED: ("ClusterAuthorizationFailedError",),
    Kind.ID_NOT_ALLOWED: ("TransactionalIdAuthorizationFailedError",),
    Kind.TOPIC_NOT_ALLOWED: ("TopicAuthorizationFailedError",),
    Kind.TOPIC_REFUSED: ("InvalidTopicError", "PolicyViolationError"),
    Kind.INSTANCE_FENCED: ("FencedInstanceIdError",),
    Kind.GROUP_REFUSES: ("InvalidGroupIdError", "InvalidSessionTimeoutError"),
    Kind.OTHER_ASSIGNOR: ("InconsistentGroupProtocolError",),
    Kind.NO_OFFSET: ("NoOffsetForPartitionError", "OffsetOutOfRangeError", "LogTruncationError"),
    Kind.DAMAGED: ("CorruptRecordError",),
    Kind.NO_CODEC: ("UnsupportedCodecError",),
    Kind.RECORD_REFUSED: ("InvalidRecordError", "InvalidTimestampError"),
    Kind.RECORD_TOO_LARGE: ("MessageSizeTooLargeError", "RecordListTooLargeError"),
    Kind.METADATA_TOO_LARGE: ("OffsetMetadataTooLargeError",),
    Kind.PRODUCER_FENCED: ("ProducerFencedError",),
    Kind.GENERATION_OVER: ("CommitFailedError",),
    Kind.NO_MEMBER: ("UnknownMemberIdError",),
    Kind.TIMED_OUT: ("KafkaTimeoutError",),
}


#: kafka-python has no class for this.
_OF_A_NEIGHBOUR = "Failed to append record because it was part of a batch which had one more more invalid records"


@lru_cache(maxsize=1)
def _classes() -> dict[type, Kind]:
    errors = green.module("kafka.errors")
    return {getattr(errors, name): kind for kind, names in _NAMES.items() for name in names if hasattr(errors, name)}


def classify(error: Any) -> Kind:
    """The kind of an error, or of a class of errors."""
    text = str(error)
    if isinstance(error, PartitionGoneError) or _OF_A_NEIGHBOUR in text:
        return Kind.SEND_AGAIN
    if "OffsetMetadataTooLargeError" in text:  # of a transaction, where kafka-python wraps it
        return Kind.METADATA_TOO_LARGE
    known = _classes()
    for cls in (error if isinstance(error, type) else type(error)).__mro__:
        if cls in known:
            return known[cls]
    return Kind.PASSING if getattr(error, "retriable", False) else Kind.OTHER


def is_kafkas(error: BaseException) -> bool:
    """Whether it is one of kafka-python's own errors, which says something about Kafka and not
    about a mistake in a program."""
    return isinstance(error, green.module("kafka.errors").KafkaError)


def missing_codec(error: BaseException) -> str | None:
    """The compression whose library is not installed, of an error of the kind NO_CODEC; None when
    it is one that nobody knows."""
    found = re.search(r"Libraries for (\w+) compression", str(error))
    return found[1] if found is not None else None
