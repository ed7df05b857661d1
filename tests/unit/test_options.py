"""kafka-python's own options."""

from __future__ import annotations

from typing import Any

import pytest

from gworkers.config import schema
from gworkers.config.load import Loaded
from gworkers.kafka import options


def check(section: str, **given: Any) -> list[str]:
    config = schema.Config.model_validate({"kafka": {"group": "g", section: given}, "routes": {"r": {"topics": ["t"], "handler": "a:b"}}})
    return [f"{problem.key}: {problem.text}" for problem in options.problems(Loaded.of(config))]


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("consumer", "enable_auto_commit"),
        ("consumer", "group_id"),
        ("client", "bootstrap_servers"),
        ("producer", "acks"),
        ("producer", "retries"),
    ],
)
def test_what_gworkers_must_own_is_refused_with_the_reason(section: str, name: str) -> None:
    (sentence,) = check(section, **{name: 1})
    assert sentence == f"kafka.{section}.{name}: this is not yours to set: {options.OWNED[name]}"


def test_every_owned_option_is_one_of_the_installed_versions() -> None:
    there = set(options.known("KafkaConsumer")) | set(options.known("KafkaProducer"))
    assert set(options.OWNED) <= there


def test_an_unknown_option_names_the_nearest() -> None:
    (sentence,) = check("producer", compresion_type="lz4")
    assert sentence.startswith("kafka.producer.compresion_type: unknown option: the producer of kafka-python 3.")
    assert sentence.endswith('did you mean "compression_type"?')


def test_an_option_of_one_client_is_none_of_both() -> None:
    (sentence,) = check("client", compression_type="lz4")
    assert "unknown option: the consumer and the producer of kafka-python" in sentence


@pytest.mark.parametrize(
    ("section", "given", "wanted"),
    [
        ("consumer", {"session_timeout_ms": "long"}, "kafka.consumer.session_timeout_ms: expected a whole number, got 'long'"),
        ("consumer", {"session_timeout_ms": 1.5}, "kafka.consumer.session_timeout_ms: expected a whole number, got 1.5"),
        ("consumer", {"check_crcs": "maybe"}, "kafka.consumer.check_crcs: expected true or false, got 'maybe'"),
        ("client", {"client_id": 5}, "kafka.client.client_id: expected text, got 5"),
        ("producer", {"compression_type": "rar"}, "kafka.producer.compression_type: expected gzip, snappy, lz4 or zstd, got 'rar'"),
        (
            "consumer",
            {"partition_assignment_strategy": "best"},
            "kafka.consumer.partition_assignment_strategy: expected cooperative-sticky, sticky, range, roundrobin, got 'best'",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_said(section: str, given: dict[str, Any], wanted: str) -> None:
    assert check(section, **given) == [wanted]


def test_values_come_as_kafka_python_wants_them() -> None:
    config = schema.Config.model_validate(
        {
            "kafka": {
                "group": "g",
                "client": {"api_version": [2, 3], "request_timeout_ms": "5000"},
                "consumer": {"check_crcs": "no", "partition_assignment_strategy": ["range"]},
            },
            "routes": {"r": {"topics": ["t"], "handler": "a:b"}},
        }
    )
    given = options.given(Loaded.of(config), "consumer")
    assert given["api_version"] == (2, 3)
    assert (given["request_timeout_ms"], given["check_crcs"]) == (5000, False)
    assert [strategy.__name__ for strategy in given["partition_assignment_strategy"]] == ["RangePartitionAssignor"]
