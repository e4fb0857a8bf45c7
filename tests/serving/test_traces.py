"""Callers' traces are continued: contexts made by OpenTelemetry itself, spans read as its protocol defines them."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shipworthy.kernel.errors import UsageError
from shipworthy.records.read import find_record
from shipworthy.serving.inference_messages import SERVICE
from shipworthy.serving.settings import check_settings
from tests.serving.conftest import SYSTEM, Place, Running, good_request
from tests.serving.test_grpc import ask, typed
from tests.serving.test_server import wait_for


class Collector:
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    content = gzip.decompress(content)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                    collector.services |= {
                        each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
                    }
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


@pytest.fixture
def traced(
    place: Place, start: Callable[..., Running], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> Running:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=word")
    place.deploy(place.publish(1))
    return start(traces=collector.url, grpc_port=0)


def context() -> tuple[dict[str, str], Any]:
    """What a caller that records its trace sends, and its span's context."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("caller").start_span("caller")
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, set_span_in_context(span))
    return headers, span.get_span_context()


def attributes(span: Span) -> dict[str, Any]:
    found = {each.key: each.value for each in span.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in found.items()}


def test_a_callers_trace_is_continued_to_the_record(traced: Running, collector: Collector, place: Place) -> None:
    headers, caller = context()
    answer = traced.predict(good_request(), headers)[1]
    wait_for(lambda: len(collector.spans) == 1)
    (span,) = collector.spans
    assert span.trace_id == caller.trace_id.to_bytes(16, "big")
    assert span.parent_span_id == caller.span_id.to_bytes(8, "big")
    assert (span.name, span.kind) == (f"POST /v1/systems/{SYSTEM}/predict", Span.SPAN_KIND_SERVER)
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 20e9
    told = attributes(span)
    assert told == {
        "http.request.method": "POST",
        "url.path": f"/v1/systems/{SYSTEM}/predict",
        "http.response.status_code": 200,
        "shipworthy.system": SYSTEM,
        "shipworthy.prediction_id": answer["prediction_id"],
        "shipworthy.release": f"{SYSTEM}:1",
        "shipworthy.source": "model",
        "shipworthy.handling": "automatic",
    }
    assert find_record(place.records, told["shipworthy.prediction_id"]).release == f"{SYSTEM}:1"
    assert collector.services == {"shipworthy"}
    assert collector.headers[0]["x-secret"] == "word"


def test_what_is_refused_is_a_span_too_and_names_nothing_that_a_caller_made_up(
    traced: Running, collector: Collector
) -> None:
    headers, _ = context()
    traced.predict(good_request(income=-1.0), headers)
    traced.call("GET", "/nothing/at/all", headers=headers)
    wait_for(lambda: len(collector.spans) == 2)
    found = {span.name: attributes(span)["http.response.status_code"] for span in collector.spans}
    assert found == {f"POST /v1/systems/{SYSTEM}/predict": 422, "GET": 404}
    assert {span.status.code for span in collector.spans} == {Status.STATUS_CODE_UNSET}


def test_grpc_continues_it_as_well(traced: Running, collector: Collector) -> None:
    headers, caller = context()
    assert not isinstance(ask(traced, "ModelInfer", typed(), metadata=tuple(headers.items()))[0], grpc.RpcError)
    ask(traced, "ModelInfer", typed(income=-1.0), metadata=tuple(headers.items()))
    wait_for(lambda: len(collector.spans) == 2)
    assert {span.trace_id for span in collector.spans} == {caller.trace_id.to_bytes(16, "big")}
    assert {span.name for span in collector.spans} == {f"{SERVICE}/ModelInfer"}
    assert [attributes(span)["rpc.grpc.status_code"] for span in collector.spans] == [0, 3]


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"},  # its caller does not record it
        {"traceparent": "garbage"},
        {"traceparent": "00-00000000000000000000000000000000-00f067aa0ba902b7-01"},
        {"traceparent": "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    ],
)
def test_what_nobody_records_is_answered_and_no_span(
    traced: Running, collector: Collector, sent: dict[str, str]
) -> None:
    assert traced.predict(good_request(), sent)[0] == 200
    traced.predict(good_request(), context()[0])
    wait_for(lambda: bool(collector.spans))
    assert len(collector.spans) == 1


def test_a_state_in_parts_is_one_and_two_parents_are_none(traced: Running, collector: Collector) -> None:
    headers, caller = context()
    lines = [f"{name}: {value}" for name, value in headers.items()]
    ask_raw(traced, [*lines, "tracestate: a=1", "tracestate: b=2"])
    wait_for(lambda: len(collector.spans) == 1)
    assert collector.spans[0].trace_state == "a=1,b=2"
    ask_raw(traced, [*lines, f"traceparent: {context()[0]['traceparent']}"])
    ask_raw(traced, lines)
    wait_for(lambda: len(collector.spans) == 2)
    assert {span.trace_id for span in collector.spans} == {caller.trace_id.to_bytes(16, "big")}


def ask_raw(server: Running, lines: list[str]) -> None:
    connection = server.connect()
    connection.putrequest("GET", "/v2/health/live")
    for line in lines:
        name, _, value = line.partition(": ")
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 200
    connection.close()


def test_a_collector_that_is_gone_costs_no_answer_and_no_time_at_the_end(traced: Running, collector: Collector) -> None:
    collector.stop()
    headers, _ = context()
    for _ in range(20):
        assert traced.predict(good_request(), headers)[0] == 200
    assert traced.stop() == 0


def test_sampling_may_be_asked_for_and_spans_are_sent_at_the_end(
    place: Place, start: Callable[..., Running], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    place.deploy(place.publish(1))
    running = start(traces=collector.url)
    running.predict(good_request())
    assert running.stop() == 0
    assert [span.parent_span_id for span in collector.spans] == [b""]


def test_an_address_that_is_none_is_named(place: Place) -> None:
    for wrong in ("127.0.0.1:4318", "ftp://host/x", "http://user:secret@host"):
        with pytest.raises(UsageError, match=r"is no collector's address; use one like http://127\.0\.0\.1:4318"):
            check_settings(place.settings(traces=wrong))


@pytest.mark.parametrize("absent", ["opentelemetry.exporter", "opentelemetry.sdk", "opentelemetry"])
def test_what_is_missing_for_them_is_said(place: Place, absent: str) -> None:
    """The API alone comes with other packages, and is not enough."""
    place.deploy(place.publish(1))
    settings = msgspec.json.encode(place.settings(traces="http://127.0.0.1:4318")).decode()
    code = f"import sys; sys.modules[{absent!r}] = None; from shipworthy.serving.server import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "--settings", settings]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "--traces needs opentelemetry-sdk and its exporter, not installed; run: pip install 'shipworthy[traces]'",
    )


def test_nothing_of_traces_is_loaded_unless_they_are_asked_for(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start()
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in running.workers]
    assert not any("google/_upb" in text or "google/protobuf" in text for text in maps)
    assert running.predict(good_request(), context()[0])[0] == 200
