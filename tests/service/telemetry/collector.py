"""Fake OpenTelemetry collector that receives spans and keeps them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Receiver of OTLP over HTTP, on a free port of this machine."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.resources: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        """Headers of each request, with their names in lower case."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def of(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace, whose id is 32 hexadecimal digits."""
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]

    def wait_for(self, trace_id: str, number: int, timeout_s: float = 20) -> list[Span]:
        """Wait until a trace has `number` spans, and return them."""
        deadline = time.monotonic() + timeout_s
        while len(spans := self.of(trace_id)) < number:
            assert time.monotonic() < deadline, f"{len(spans)} of {number} spans came"
            time.sleep(0.02)
        return spans

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                named = {name.lower(): value for name, value in self.headers.items()}
                collector.headers.append(named)
                collector._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                """Log nothing."""

        return Handler

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            attributes = {
                entry.key: entry.value.string_value for entry in resource.resource.attributes
            }
            self.resources.append(attributes)
            self.services.add(attributes["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector until the block ends."""
    collector = Collector()
    thread = threading.Thread(target=collector._server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector
    finally:
        collector._server.shutdown()
        thread.join()
        collector._server.server_close()
