"""Minimal HTTP/2 client: gRPC calls whose messages are sent byte by byte, or never completed."""

import select
import socket
import struct
import time
from collections import defaultdict

from service.oip.grpc.messages import SERVICE

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW = 4
_MAX_CONCURRENT_STREAMS = 3
_FRAME_BYTES = 16_384


def message(content: bytes) -> bytes:
    """Return a gRPC message: its prefix and `content`."""
    return struct.pack(">BI", 0, len(content)) + content


class Http2:
    """One connection.

    Attributes:
        settings: settings that the server has announced.
        bodies: messages that the server has sent, by stream.
        ended: streams that the server has ended or reset.
        went_away: True after the server has announced that it closes the connection.
        pings: pings of the server.
    """

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), 10)
        self._link.setblocking(False)
        self._received, self._pending = b"", bytearray(_PREFACE)
        self._window, self._initial = 65_535, 65_535
        self._windows: dict[int, int] = {}
        self._unsent: dict[int, memoryview] = {}
        self._next = 1
        self.settings: dict[int, int] = {}
        self.ended: set[int] = set()
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.went_away = self.closed = False
        self.answers_pings, self.pings = True, 0
        self._frame(_SETTINGS, 0, 0)

    def call(self, method: str, content: bytes = b"", *, service: str = SERVICE) -> int:
        """Begin a call; `run` sends `content` as far as the windows allow. Return the stream."""
        stream, self._next = self._next, self._next + 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{service}/{method}",
            ":authority": "a",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(
            b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())
            for name, value in fields.items()
        )
        self._frame(_HEADERS, _END_HEADERS, stream, block)
        self._windows[stream], self._unsent[stream] = self._initial, memoryview(content)
        return stream

    def send(self, stream: int, content: bytes) -> None:
        """Send more of a call's messages."""
        self._unsent[stream] = memoryview(bytes(self._unsent[stream]) + content)

    def run(self, seconds: float) -> int:
        """Send and receive for some time; return the bytes of messages that were sent."""
        end, sent = time.monotonic() + seconds, 0
        while time.monotonic() < end and not self.closed:
            sent += self._send_data()
            links, writers = [self._link], [self._link] if self._pending else []
            readable, writable, _ = select.select(links, writers, (), 0.01)
            try:
                if writable:
                    del self._pending[: self._link.send(self._pending)]
                if readable:
                    self._receive()
            except OSError:
                self.closed = True
        return sent

    def close(self) -> None:
        self._link.close()

    def _send_data(self) -> int:
        sent = 0
        for stream, content in list(self._unsent.items()):
            room = min(self._window, self._windows[stream], _FRAME_BYTES, len(content))
            if room > 0 and len(self._pending) < 1_000_000 and stream not in self.ended:
                self._frame(_DATA, 0, stream, bytes(content[:room]))
                self._unsent[stream] = content[room:]
                self._window -= room
                self._windows[stream] -= room
                sent += room
        return sent

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._pending += head + payload

    def _receive(self) -> None:
        data = self._link.recv(65_536)
        self.closed |= not data
        self._received += data
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            self._handle(kind, flags, stream, payload)

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.settings |= dict(struct.iter_unpack(">HI", payload))
            before, self._initial = self._initial, self.settings.get(_INITIAL_WINDOW, self._initial)
            for one in self._windows:
                self._windows[one] += self._initial - before
            self._frame(_SETTINGS, _ACK, 0)
        elif kind == _WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if stream:
                self._windows[stream] += more
            else:
                self._window += more
        elif kind == _PING and not flags & _ACK:
            self.pings += 1
            if self.answers_pings:
                self._frame(_PING, _ACK, 0, payload)
        elif kind == _DATA:
            self.bodies[stream] += payload
        elif kind == _GOAWAY:
            self.went_away = True
        if kind == _RST_STREAM or (kind in (_HEADERS, _DATA) and flags & _END_STREAM):
            self.ended.add(stream)

    @property
    def max_streams(self) -> int | None:
        return self.settings.get(_MAX_CONCURRENT_STREAMS)
