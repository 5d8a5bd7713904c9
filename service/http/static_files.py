"""Static files: the web page and the example images, read once into memory, with their headers."""

import hashlib
from pathlib import Path

from limelight.imaging.formats import media_types
from service.http.messages import Request, Response

_ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = {"/page/": _ROOT / "page", "/examples/": _ROOT.parent / "examples"}
_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
}
INDEX = "/page/index.html"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # The page shows drawings, dropped files and photographs from blob URLs.
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_COMMON_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"referrer-policy", b"no-referrer"),
)
_PAGE_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)


class Files:
    """Static files by path. A browser whose copy is current gets status 304."""

    def __init__(self) -> None:
        self._files = {
            prefix + file.name: _file(file)
            for prefix, folder in _FOLDERS.items()
            for file in sorted(folder.glob("*"))
            if file.suffix in _TYPES
        }

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def answer(self, path: str, request: Request) -> Response:
        """Return the file at `path`, or status 304 if `If-None-Match` has its current tag.

        Raises:
            KeyError: there is no such file.
        """
        tag, whole = self._files[path]
        known = request.header(b"if-none-match")
        if tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(b"", 304, whole.media_type, whole.headers)
        return whole


def _file(file: Path) -> tuple[str, Response]:
    content = file.read_bytes()
    headers = [*_COMMON_HEADERS]
    if file.suffix == ".html":
        content = content.replace(b"IMAGE_TYPES", ",".join(media_types()).encode())
        headers += _PAGE_HEADERS
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers.append((b"etag", tag.encode()))
    return tag, Response(content, 200, _TYPES[file.suffix], headers)
