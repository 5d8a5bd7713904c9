"""Static files: web pages and example images, read once into memory, with their headers."""

import hashlib
from importlib.util import find_spec
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
# Swagger UI, which BentoML brings along.
_SWAGGER_FOLDER = "_internal/server/static_content"
_SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")
INDEX, DOCS = "/page/index.html", "/page/docs.html"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # The page shows drawings, dropped files and photographs from blob URLs, and Swagger UI its
        # icons from data URLs.
        "img-src 'self' blob: data:",
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
        } | {f"/page/{file.name}": _file(file) for file in _swagger_files()}

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


def _swagger_files() -> list[Path]:
    """Return the files of Swagger UI; none if BentoML has moved them. The page then says so."""
    package = find_spec("bentoml")  # does not import BentoML
    folders = () if package is None else package.submodule_search_locations or ()
    files = (Path(folder, _SWAGGER_FOLDER, name) for folder in folders for name in _SWAGGER)
    return [file for file in files if file.is_file()]


def _file(file: Path) -> tuple[str, Response]:
    content = file.read_bytes()
    headers = [*_COMMON_HEADERS]
    if file.suffix == ".html":
        content = content.replace(b"IMAGE_TYPES", ",".join(media_types()).encode())
        headers += _PAGE_HEADERS
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers.append((b"etag", tag.encode()))
    return tag, Response(content, 200, _TYPES[file.suffix], headers)
