"""HTTP requests that no good client sends: heads, framing, encodings, forms, parameters."""

import gzip
import random
import zlib
from collections.abc import Iterator
from functools import partial

from service.http.parameters import NAMES
from tests.long.hostile.image_files import photo, zeros
from tests.long.hostile.inputs import HOST, HTTP_OK, REJECTED, HttpInput, post, upload

GET = b"GET /livez HTTP/1.1\r\n" + HOST


def requests() -> Iterator[HttpInput]:
    """Yield all inputs of this module."""
    yield from _heads()
    yield from _framing()
    yield from _slow()
    yield from _encodings()
    yield from _forms()
    yield from _parameters()


def _raw(kind: str, name: str, content: bytes, **options: object) -> HttpInput:
    return HttpInput(kind=kind, name=name, make=partial(bytes, content), **options)  # type: ignore[arg-type]


def _heads() -> Iterator[HttpInput]:
    for name, content in (
        ("field of 40 kB", GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n"),
        ("field of 9 MB", GET + b"X: " + b"a" * 9_000_000 + b"\r\n\r\n"),
        ("name of 40 kB", GET + b"a" * 40_000 + b": b\r\n\r\n"),
        ("101 fields", GET + b"X: a\r\n" * 101 + b"\r\n"),
        ("100,000 fields", GET + b"X: a\r\n" * 100_000 + b"\r\n"),
        ("target of 60 kB", b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("method of 60 kB", b"A" * 60_000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("unknown method", b"BREW /predict HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("version 9.9", b"GET /livez HTTP/9.9\r\n" + HOST + b"\r\n"),
        ("version 0.9", b"GET /livez\r\n\r\n"),
        ("no colon", GET + b"nonsense\r\n\r\n"),
        ("space before the colon", GET + b"X : a\r\n\r\n"),
        ("zero byte", GET + b"X: a\0b\r\n\r\n"),
        ("name with control characters", GET + b"X\x01: a\r\n\r\n"),
        ("lone line feeds", (GET + b"\r\n").replace(b"\r\n", b"\n")),
        ("lone carriage returns", (GET + b"\r\n").replace(b"\r\n", b"\r")),
        ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(300)),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n"),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
        ("noise", random.Random(2).randbytes(5_000)),
        ("CONNECT", b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    ):
        yield _raw("head", name, content, allowed=REJECTED | HTTP_OK, silent=True)
    for name, content in (
        ("folded field", GET + b"X: a\r\n b\r\n\r\n"),
        ("byte above 127", GET + b"X: \xff\xfe\r\n\r\n"),
        ("absolute target", b"GET http://example.org/livez HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("target is *", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("no host", b"GET /livez HTTP/1.1\r\n\r\n"),
        ("two hosts", GET + HOST + b"\r\n"),
        ("websocket", GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        ("dot segments", b"GET /../../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("encoded segments", b"GET /models/..%2f..%2fetc HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("zero in the target", b"GET /models/%00 HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("false escapes", b"GET /models/%zz%f HTTP/1.1\r\n" + HOST + b"\r\n"),
        ("request id of 30 kB", GET + b"X-Request-Id: " + b"a" * 30_000 + b"\r\n\r\n"),
        ("deadline is nan", GET + b"X-Timeout-Ms: nan\r\n\r\n"),
        ("deadline is huge", GET + b"X-Timeout-Ms: " + b"9" * 4_000 + b"\r\n\r\n"),
        ("trace parent", GET + b"traceparent: 00-" + b"f" * 4_000 + b"\r\n\r\n"),
        ("Accept of 30 kB", GET + b"Accept: " + b"a/b;q=0.1," * 3_000 + b"\r\n\r\n"),
    ):
        yield _raw("head", name, content)
    for offer in ("h2c", "h2c, HTTP/3", "TLS/1.3"):
        fields = (
            f"Upgrade: {offer}",
            "Connection: Upgrade, HTTP2-Settings",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        )
        yield upload("head", f"upgrade to {offer}", photo, HTTP_OK, fields=fields)


def _framing() -> Iterator[HttpInput]:
    image = photo()
    chunked = f"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{HOST.decode()}".encode()

    def chunks(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
        body = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
        return chunked + b"\r\n" + body + b"0\r\n" + trailers + b"\r\n"

    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    for name, content in (
        ("length and chunks", chunked + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + smuggled),
        ("two lengths", post("/predict", image, "Content-Length: 0")),
        ("negative length", post("/predict", image, length=-1)),
        ("length of 40 digits", post("/predict", image, length=10**40)),
        ("length with a plus", post("/predict", image).replace(b"Length: ", b"Length: +")),
        ("chunked twice", chunked + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("chunked, identity", chunked.replace(b"chunked", b"chunked, identity") + b"\r\n0\r\n\r\n"),
        ("size of a chunk overflows", chunked + b"\r\n" + b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n"),
        ("size of a chunk is negative", chunked + b"\r\n-5\r\nabcde\r\n0\r\n\r\n"),
        ("chunk without its end", chunked + b"\r\n3\r\nabcde\r\n0\r\n\r\n"),
    ):
        yield _raw("framing", name, content, allowed=REJECTED, silent=True, requests=2)
    trailers = b"X-Request-Id: forged\r\nContent-Type: text/html\r\n"
    for name, content in (
        ("trailers", chunks(image, trailers=trailers)),
        ("chunks of 50 bytes", chunks(*(image[at : at + 50] for at in range(0, len(image), 50)))),
        ("extension", chunks(image, extension=b";a=b")),
    ):
        yield _raw("framing", name, content, allowed=HTTP_OK)
    for name, content in (
        ("chunks of one byte", chunks(*(image[at : at + 1] for at in range(len(image))))),
        ("trailers of 1 MB", chunks(image, trailers=b"X: " + b"a" * 1_000_000 + b"\r\n")),
        ("length in a trailer", chunks(image, trailers=b"Content-Length: 5\r\n")),
        ("20,000 trailers", chunks(image, trailers=b"X: a\r\n" * 20_000)),
        ("extension of 1 MB", chunks(image, extension=b";a=" + b"b" * 1_000_000)),
        ("million empty lines", b"\r\n" * 1_000_000 + GET + b"\r\n"),
        ("body for GET", GET + b"Content-Length: 9\r\n\r\nGET / HTT"),
        ("100-continue", post("/predict", image, "Expect: 100-continue")),
        ("unknown expectation", post("/predict", image, "Expect: nonsense")),
        ("body of 11 MB", post("/predict", bytes(11_000_000))),
        ("12 MB in chunks", chunks(*[bytes(1_000_000)] * 12)),
        ("body shorter than its length", post("/predict", image, length=len(image) + 9)),
    ):
        yield _raw("framing", name, content, silent=True)
    for name, path in (("small", "/livez"), ("large", "/openapi.json"), ("missing", "/x")):
        many = GET.replace(b"/livez", path.encode()) + b"\r\n"
        for end in ("half", "deaf"):
            yield _raw(
                "framing", f"2,000 pipelined, {name}, {end}", many * 2_000,
                requests=2_000, end=end, silent=True,
            )  # fmt: skip


def _slow() -> Iterator[HttpInput]:
    """Yield requests that never end, on connections that stay open."""
    for name, content in (
        ("nothing", b""),
        ("half a line", b"GET /li"),
        ("half a head", GET),
        ("half a body", post("/predict", photo()[:100], length=5_000)),
        (
            "half a chunk",
            b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\nff\r\nab",
        ),
    ):
        yield _raw("slow", name, content, allowed=REJECTED, end="stay", silent=True)
    yield _raw(
        "slow", "large answer unread", post("/explain?format=png", photo(size=900)), end="deaf"
    )


def _encodings() -> Iterator[HttpInput]:
    bomb = gzip.compress(bytes(1_000_000), 9)
    image = photo()
    for name, encoding, body in (
        ("gzip, 1 GB", "gzip", bomb * 1_000),
        ("deflate, 1 GB", "deflate", zeros(1_000_000_000)),
        ("raw deflate, 1 GB", "deflate", zeros(1_000_000_000)[2:-4]),
        ("brotli, which is not accepted", "br", b"\xbf" + bytes(1_000)),
        ("gzip twice", "gzip, gzip", gzip.compress(bomb * 100)),
        ("gzip in gzip, said once", "gzip", gzip.compress(gzip.compress(image))),
        ("200,000 members", "gzip", gzip.compress(b"") * 200_000),
        ("name of 9 MB", "gzip", b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * 9_000_000),
        ("truncated gzip", "gzip", gzip.compress(image)[:-9]),
        ("false checksum", "gzip", gzip.compress(image)[:-8] + bytes(8)),
        ("not gzip", "gzip", image),
        ("not deflate", "deflate", image),
        ("bytes after the end", "gzip", gzip.compress(image) + b"more"),
        ("unknown", "x-nonsense", image),
        ("100 encodings", ", ".join(["gzip"] * 100), zlib.compress(image)),
    ):
        fields = (f"Content-Encoding: {encoding}",)
        yield upload("encoding", name, partial(bytes, body), REJECTED, fields=fields)
    fields = ("Content-Encoding: gzip",)
    yield upload("encoding", "good", partial(gzip.compress, image), HTTP_OK, fields=fields)


def _forms() -> Iterator[HttpInput]:
    image, end = photo(), b"\r\n--x--\r\n"

    def part(content: bytes, disposition: str = 'name="image"', *fields: bytes) -> bytes:
        head = f"--x\r\nContent-Disposition: form-data; {disposition}\r\n".encode()
        return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + content

    for name, body in (
        ("field of 1 MB", part(image, 'name="image"', b"X: " + b"a" * 1_000_000) + end),
        ("10,000 fields in a part", part(image, 'name="image"', *[b"X: a"] * 10_000) + end),
        ("10,000 parts", b"\r\n".join([part(b"1", f'name="a{at}"') for at in range(10_000)]) + end),
        ("10,000 images", b"\r\n".join([part(image[:500])] * 10_000) + end),
        ("10,000 times top_k", b"\r\n".join([part(b"1", 'name="top_k"')] * 10_000) + end),
        (
            "nested",
            part(part(image) + end, 'name="image"', b"Content-Type: multipart/mixed; boundary=x")
            + end,
        ),
        ("without parts", end),
        ("empty", b""),
        ("preamble of 9 MB", b"a" * 9_000_000 + b"\r\n" + part(image) + end),
        ("preamble of lines", b"\r\n" * 2_000_000 + part(image) + end),
        ("almost boundaries", part(b"\r\n--" * 2_000_000) + end),
        ("no end", part(image)),
        ("no disposition", b"--x\r\nX: a\r\n\r\n" + image + end),
        ("no name", part(image, "filename=a") + end),
        ("name of 1 MB", part(image, f'name="{"a" * 1_000_000}"') + end),
        ("quoted for ever", part(image, 'name="image') + end),
        ("traversal", part(image, 'name="image"; filename="../../../../etc/cron.d/a"') + end),
        ("lone line feeds", (part(b"") + end).replace(b"\r\n", b"\n")),
        ("value of 2 MB", part(b"a" * 2_000_000, 'name="model"') + b"\r\n" + part(image) + end),
        (
            "no model of that name",
            part(b"\xff\xfe\0", 'name="model"') + b"\r\n" + part(image) + end,
        ),
        ("base64", part(image, 'name="image"', b"Content-Transfer-Encoding: base64") + end),
    ):
        fields = ("Content-Type: multipart/form-data; boundary=x",)
        yield upload("form", name, partial(bytes, body), fields=fields)
    for name, boundary in (
        ("none", ""),
        ("empty", "; boundary="),
        ("of 20 kB", f"; boundary={'x' * 20_000}"),
        ("with a line end", '; boundary="x\\r\\n"'),
        ("twice", "; boundary=y; boundary=x"),
        ("beyond ASCII", "; boundary=\xe9"),
    ):
        fields = (f"Content-Type: multipart/form-data{boundary}",)
        body = part(image) + end
        yield upload("form", f"boundary {name}", partial(bytes, body), fields=fields)


def _parameters() -> Iterator[HttpInput]:
    values = {
        "empty": "",
        "negative": "-1",
        "huge": "9" * 400,
        "infinite": "1e999",
        "nan": "nan",
        "zero byte": "%00",
        "not UTF-8": "%ff%fe",
        "right to left": "%E2%80%AE%F0%9F%90%88",
        "traversal": "..%2F..%2Fetc%2Fpasswd",
        "of 25 kB": "a" * 25_000,
    }
    for at, parameter in enumerate(NAMES["/explain"]):
        for name, value in values.items():
            target = f"/explain?{parameter}={value}"
            yield upload("parameter", f"{parameter} {name}", photo, target=target)
        other = list(values.values())[at % 4]
        target = f"/explain?{parameter}=1&{parameter}={other}&" * 50
        yield upload("parameter", f"{parameter} repeated", photo, target=target)
    for name, query in (
        ("unknown", "nonsense=1"),
        ("5,000 of them", "&".join(f"a{at}=1" for at in range(3_000))),
        ("only separators", "&=&;&" * 4_000),
        ("expensive method", "method=occlusion&evaluations=4096"),
        ("all maps", "target=all&method=layercam"),
    ):
        yield upload("parameter", name, photo, target=f"/explain?{query}")
