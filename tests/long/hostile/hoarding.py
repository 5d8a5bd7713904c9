"""gRPC messages that never end: HTTP/2 by hand, within the service's flow control."""

import socket
import struct
import time
from contextlib import suppress

from service.oip.grpc.messages import SERVICE

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_FRAME_BYTES = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def _head(method: str) -> bytes:
    """Return HPACK literals that no table keeps."""
    fields = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}"}
    fields |= {":authority": "localhost", "te": "trailers", "content-type": "application/grpc"}
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair)
        for pair in fields.items()
    )


class Hoarder:
    """One connection with many streams, each some bytes short of its message."""

    def __init__(self, port: int, *, streams: int, size: int, method: str = "ModelInfer") -> None:
        self._link = socket.create_connection(("127.0.0.1", port))
        self._link.settimeout(0.05)
        self._size = size
        self._left = {1 + 2 * at: size + 5 - 1 for at in range(streams)}
        self._windows = dict.fromkeys([0, *self._left], 65_535)
        self._initial, self._received = 65_535, b""
        self.sent_bytes, self.refused, self.closed = 0, 0, False
        start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0, 0, b"")
        heads = [frame(_HEADERS, 4, stream, _head(method)) for stream in self._left]
        self._send(start + b"".join(heads))

    def fill(self, seconds: float) -> None:
        """Send until each message lacks one byte, or is refused."""
        end_s = time.monotonic() + seconds
        while self._left and not self.closed and time.monotonic() < end_s:
            for stream in list(self._left):
                self._advance(stream)
            self.listen()

    def listen(self) -> None:
        """Read what the service says now."""
        try:
            received = self._link.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            received = b""
        self.closed = self.closed or not received
        self._received += received
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                return
            head, payload = self._received[:9], self._received[9 : 9 + size]
            self._received = self._received[9 + size :]
            self._obey(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    def close(self) -> None:
        with suppress(OSError):
            self._link.close()

    def _advance(self, stream: int) -> None:
        room = min(self._left[stream], self._windows[0], self._windows[stream], _FRAME_BYTES)
        if room <= 0:
            return
        first = self._left[stream] == self._size + 4
        content = struct.pack(">BI", 0, self._size) if first else b""
        content += bytes(max(0, room - len(content)))
        self._send(frame(_DATA, 0, stream, content))
        self._left[stream] -= len(content)
        for each in (0, stream):
            self._windows[each] -= len(content)
        self.sent_bytes += len(content)
        if not self._left[stream]:
            del self._left[stream]

    def _obey(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & 1:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 4:
                    for each in self._windows:
                        self._windows[each] += (value - self._initial) if each else 0
                    self._initial = value
            self._send(frame(_SETTINGS, 1, 0, b""))
        elif kind == _PING and not flags & 1:
            self._send(frame(_PING, 1, 0, payload))
        elif kind == _RST_STREAM or (kind == _HEADERS and flags & 1):
            self.refused += 1
            self._left.pop(stream, None)
        elif kind == _GOAWAY:
            self.closed = True

    def _send(self, content: bytes) -> None:
        try:
            self._link.settimeout(5)
            self._link.sendall(content)
        except OSError:
            self.closed = True
        finally:
            self._link.settimeout(0.05)
