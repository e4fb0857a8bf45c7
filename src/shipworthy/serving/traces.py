"""Traces: a caller's W3C trace context is continued, and what a request became is told to a collector (OTLP over HTTP).

Needs `opentelemetry-sdk` and its OTLP exporter; loaded only where traces are asked for.
"""

import os
import threading
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shipworthy import __version__
from shipworthy.serving.answer import Answer

EXPORT_TIMEOUT_S = 2.0
_CONTEXT = (b"traceparent", b"tracestate")


class Tracing:
    """Begins spans and sends them, from a thread of its own.

    Who sent no context begins no trace, and who sent one decides whether it is recorded; `OTEL_TRACES_SAMPLER` and the
    other variables of OpenTelemetry's SDK say otherwise.

    Args:
        url: of the collector; without a path, `/v1/traces` is meant.
        system: named in every span.
        worker: name of this process.
    """

    def __init__(self, url: str, system: str, worker: str) -> None:
        resource = Resource.create(
            {SERVICE_NAME: "shipworthy", SERVICE_VERSION: __version__, "service.instance.id": worker}
        )
        sampler = None if os.environ.get(OTEL_TRACES_SAMPLER) else ParentBased(ALWAYS_OFF)
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("shipworthy.serving", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._system = system

    def begin(self, name: str, headers: Mapping[bytes, bytes], attributes: Mapping[str, str]) -> "RequestSpan | None":
        """A span that continues the context in `headers`; None if it is not to be recorded.

        Args:
            name: of the route or method.
            headers: by their names in small letters.
            attributes: of OpenTelemetry's semantic conventions.
        """
        carrier = {key.decode(): headers[key].decode("latin-1") for key in _CONTEXT if key in headers}
        context = self._propagator.extract(carrier)
        attributes = {**attributes, "shipworthy.system": self._system}
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        return RequestSpan(span) if span.is_recording() else None

    def stop(self) -> None:
        """Send what waits, for as long as one export may take."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(EXPORT_TIMEOUT_S)


class RequestSpan:
    """What becomes of one request."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def note(self, answer: object) -> None:
        """What a single row was answered, to be found again in the records."""
        if isinstance(answer, Answer):
            self._span.set_attributes(
                {
                    "shipworthy.prediction_id": answer.prediction_id,
                    "shipworthy.release": answer.release,
                    "shipworthy.source": answer.source,
                    "shipworthy.handling": answer.handling,
                }
            )

    def end(self, attribute: str, code: int, *, is_error: bool) -> None:
        """It was answered.

        Args:
            attribute: where the code belongs.
            code: HTTP status, or number of a gRPC code.
            is_error: whether the fault is the server's.
        """
        self._span.set_attribute(attribute, code)
        if is_error:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
