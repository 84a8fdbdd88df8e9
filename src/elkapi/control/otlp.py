"""Exports finished calls as OpenTelemetry GenAI spans and metrics, with the official SDK, over OTLP/HTTP.

Only the control process imports this, and only if telemetry is on. Names follow the GenAI semantic conventions; other
attributes start with `elkapi.`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

import elkapi
from elkapi.control.spoken import content_attributes, read_answer
from elkapi.ids import request_id_text
from elkapi.observe.calls import CallFacts
from elkapi.settings import Settings

SCOPE = "elkapi"
log = logging.getLogger("elkapi.control.telemetry")
Attributes = dict[str, str | int | float | bool | list[str]]

_OPERATIONS = {
    "gemini": "generate_content",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "gemini-embed": "embeddings",
    "gemini-batch-embed": "embeddings",
    "moderations": "moderation",
    "rerank": "rerank",
}
# The conventions' values where they differ from our names.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
# Bucket bounds that the conventions recommend.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKENS = tuple(4**power for power in range(14))


def headers_in(text: str) -> dict[str, str]:
    """`name=value,name=value` -> headers, as in OTEL_EXPORTER_OTLP_HEADERS; values may be percent-encoded."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip():
            found[name.strip().lower()] = unquote(value.strip())
    return found


class Exporter:
    """Owns the SDK's objects. `export` blocks until the collector answers, at most `otlp_timeout_s`."""

    def __init__(self, settings: Settings) -> None:
        base, headers, timeout_s = (
            settings.otlp_endpoint.rstrip("/"),
            headers_in(settings.otlp_headers),
            settings.otlp_timeout_s,
        )
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "elkapi"}
        resource = Resource.create({SERVICE_VERSION: elkapi.__version__, **named})
        self._ids = _GivenIds()
        self._ended = _Ended()
        self._traces = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._traces.add_span_processor(self._ended)
        self._tracer = self._traces.get_tracer(SCOPE, elkapi.__version__)
        self._spans = OTLPSpanExporter(
            f"{base}/v1/traces", headers=headers, timeout=timeout_s, compression=Compression.Gzip
        )
        readers = []
        if settings.otlp_metrics_s:
            exporter = OTLPMetricExporter(
                f"{base}/v1/metrics", headers=headers, timeout=timeout_s, compression=Compression.Gzip
            )
            readers.append(PeriodicExportingMetricReader(exporter, settings.otlp_metrics_s * 1000, timeout_s * 1000))
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        meter = self._meters.get_meter(SCOPE, elkapi.__version__)
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._firsts = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to the first content of a streamed answer.",
            explicit_bucket_boundaries_advisory=_FIRST_SECONDS,
        )

    def export(self, calls: Iterable[CallFacts]) -> int:
        """Count every call and send the spans of sampled ones; returns the number of spans lost."""
        lost = 0
        for call in calls:
            try:
                self._count(call)
                if call.sampled:
                    self._record(call)
            except Exception as error:
                # The content of one call must not prevent the export of the others.
                log.error("telemetry_call_untold", exc_info=error)
                lost += 1
        spans = self._ended.taken()
        if not spans or self._spans.export(spans) is SpanExportResult.SUCCESS:
            return lost
        return lost + len(spans)

    def close(self, wait_s: float) -> None:
        """Send the last metrics, within `wait_s`."""
        self._meters.shutdown(timeout_millis=wait_s * 1000)
        self._spans.shutdown()  # type: ignore[no-untyped-call]
        self._traces.shutdown()

    def _count(self, call: CallFacts) -> None:
        shared = _who(call)
        error = _error_type(call)
        seconds = (call.end_ns - call.start_ns) / 1e9
        self._durations.record(seconds, {**shared, "error.type": error} if error else shared)
        if call.first_s is not None:
            self._firsts.record(call.first_s, shared)
        if call.usage.input_total:
            self._tokens.record(call.usage.input_total, {**shared, "gen_ai.token.type": "input"})
        if call.usage.output_total:
            self._tokens.record(call.usage.output_total, {**shared, "gen_ai.token.type": "output"})

    def _record(self, call: CallFacts) -> None:
        trace_id = int.from_bytes(call.trace_id, "big")
        self._ids.trace_id, self._ids.span_id = trace_id, int.from_bytes(call.span_id, "big")
        parent = Context()
        if call.parent_id:
            caller = SpanContext(trace_id, int.from_bytes(call.parent_id, "big"), True, TraceFlags(TraceFlags.SAMPLED))
            parent = set_span_in_context(NonRecordingSpan(caller), parent)
        operation = _operation(call)
        span = self._tracer.start_span(
            f"{operation} {call.model}",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=_attributes(call),
            start_time=call.start_ns,
        )
        for event, at_ns in _attempts(call):
            span.add_event("elkapi.attempt", event, at_ns)
        if _is_failure(call):
            span.set_status(Status(StatusCode.ERROR, call.error or call.outcome))
        span.end(call.end_ns)


class _GivenIds(IdGenerator):
    """Uses the span ids from the worker, since they may have been sent upstream already."""

    trace_id = span_id = 0

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        return self.trace_id


class _Ended(SpanProcessor):
    """Collects ended spans until they are taken; at most one batch."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def taken(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _operation(call: CallFacts) -> str:
    return "generate_content" if call.is_task else _OPERATIONS.get(call.wire, "chat")


def _provider(call: CallFacts) -> str:
    return _PROVIDERS.get(call.family, call.family) if call.family else "elkapi"


def _is_failure(call: CallFacts) -> bool:
    """Whether the call failed; not if the caller left or cancelled a task."""
    return call.outcome not in ("ok", "client_gone", "cancelled")


def _error_type(call: CallFacts) -> str:
    return (call.error or call.outcome) if _is_failure(call) else ""


def _who(call: CallFacts) -> Attributes:
    """The attributes shared by spans and metrics; low cardinality, all from the operator's configuration."""
    host, port = _address(call.base_url)
    shared: Attributes = {
        "gen_ai.operation.name": _operation(call),
        "gen_ai.provider.name": _provider(call),
        "gen_ai.request.model": call.model,
    }
    if host:
        shared |= {"server.address": host, "server.port": port}
    return shared


@lru_cache(maxsize=1024)
def _address(base_url: str) -> tuple[str, int]:
    """(host, port) of a channel's upstream; ("", 0) for a local one."""
    try:
        parts = urlsplit(base_url)
        return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "", 0


def _attributes(call: CallFacts) -> Attributes:
    usage = call.usage
    found = _who(call)
    # For collectors that know the conventions from before `gen_ai.provider.name`.
    found["gen_ai.system"] = found["gen_ai.provider.name"]
    answer = read_answer(call)
    optional: dict[str, str | int | float | list[str] | None] = {
        "error.type": _error_type(call) or None,
        "gen_ai.request.max_tokens": call.output_limit,
        "gen_ai.request.stream": True if call.stream else None,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.model": answer.model or (call.upstream_model if call.outcome == "ok" else None),
        "gen_ai.response.finish_reasons": [answer.finish_reason] if answer.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": call.first_s,
        "user.id": call.key_name or None,
        "elkapi.asked_model": call.asked,
        "elkapi.flags": list(call.flags) or None,
        "elkapi.channel": call.attempts[-1].channel if call.attempts else None,
        "elkapi.upstream_request_id": call.upstream_request_id,
    }
    found |= {name: value for name, value in optional.items() if value is not None}
    if usage.input_total or usage.output_total:
        found |= {
            "gen_ai.usage.input_tokens": usage.input_total,
            "gen_ai.usage.output_tokens": usage.output_total,
        }
        classes = {
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
        found |= {name: tokens for name, tokens in classes.items() if tokens}
    found |= {
        # Not in the conventions, but Langfuse and others read it as the cost of a call.
        "gen_ai.usage.cost": call.charge_nano / 1e9,
        "elkapi.request_id": request_id_text(call.request_id),
        "elkapi.operation": call.operation,
        "elkapi.key_id": call.key_id,
        "elkapi.group": call.group,
        "elkapi.status": call.status,
        "elkapi.outcome": call.outcome,
        "elkapi.charge_nano_usd": call.charge_nano,
        "elkapi.loss_nano_usd": call.loss_nano,
    }
    return found | content_attributes(call, answer)


def _attempts(call: CallFacts) -> list[tuple[Attributes, int]]:
    """Each try and its end. Tries follow each other directly, so their ends are computed back from the call's end.

    A task's tries belong to its submit, so theirs are computed from the task's start.
    """
    found: list[tuple[Attributes, int]] = []
    tries_ms = sum(one.duration_ms for one in call.attempts)
    at_ns = call.start_ns + int(tries_ms * 1_000_000) if call.is_task else call.end_ns
    for one in reversed(call.attempts):
        event: Attributes = {"elkapi.channel": one.channel, "elkapi.outcome": one.outcome}
        optional = {
            "http.response.status_code": one.status,
            "error.message": one.error,
            "gen_ai.request.model": one.model,
            "elkapi.duration_ms": one.duration_ms,
        }
        event |= {name: value for name, value in optional.items() if value is not None}
        found.append((event, at_ns))
        at_ns -= int(one.duration_ms * 1_000_000)
    return found[::-1]
