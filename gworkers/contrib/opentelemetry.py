"""OpenTelemetry: a span for each handler, in the trace that the message's headers carry.

    middleware: ["gworkers.contrib.opentelemetry:span"]

The tracer provider is the application's own (``opentelemetry.trace.set_tracer_provider``, or
opentelemetry-instrument). A span is named and described by the semantic conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/kafka/); results carry its context on in their
headers. A batch has one span, with a link to the context of each of its messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context

from gworkers.handlers.around import carry

_tracer = trace.get_tracer("gworkers")


def span(message: Any, proceed: Callable[[], Any]) -> Any:
    """For ``middleware``."""
    messages = message if isinstance(message, list) else [message]
    contexts = [_context_of(one) for one in messages]
    first = messages[0]
    attributes: dict[str, Any] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": first.topic,
        "messaging.destination.partition.id": str(first.partition),
    }
    links, parent = [], contexts[0]
    if message is messages:
        attributes["messaging.batch.message_count"] = len(messages)
        parent = Context()
        found = (trace.get_current_span(context).get_span_context() for context in contexts)
        links = [trace.Link(one) for one in found if one.is_valid]
    else:
        attributes["messaging.kafka.offset"] = first.offset
        attributes["gworkers.attempt"] = first.attempt
        if first.key is not None:
            attributes["messaging.kafka.message.key"] = first.key.decode("utf-8", "backslashreplace")
        if first.value is None:
            attributes["messaging.kafka.message.tombstone"] = True
    name = f"process {first.topic}"
    with _tracer.start_as_current_span(name, parent, trace.SpanKind.CONSUMER, attributes, links):
        result = proceed()
        headers: dict[str, str] = {}
        propagate.inject(headers)
        carry({name: value.encode() for name, value in headers.items()})
        return result


def _context_of(message: Any) -> Context:
    carrier = {name: content.decode("utf-8", "replace") for name, content in message.headers if content is not None}
    return propagate.extract(carrier, Context())
