"""Parser of forms: any bytes give parts or one kind of error, and a form comes back whole."""

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidMultipart
from service.http.multipart import Part, parse_form

TYPE = "multipart/form-data; boundary=x"
FRAGMENTS = [
    *(b"--x", b"--x--", b"\r\n", b"\n", b"\r", b"-", b"--", b" ", b":", b"", b"\0", b"\xff"),
    *(b"Content-Disposition: form-data; name=", b'"image"', b'; filename="a"', b"A: b", b";="),
]
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\\r\n'), min_size=1
)


def outcome(body: bytes, content_type: str) -> list[Part] | str:
    """Return the parts, or the words of the error."""
    try:
        return parse_form(body, content_type)
    except InvalidMultipart as error:
        return error.detail


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join), st.booleans())
def test_any_bytes_give_parts_or_one_kind_of_error(body: bytes, begun: bool) -> None:
    whole = b"--x\r\n" + body + b"\r\n--x--" if begun else body
    found = outcome(whole, TYPE)
    if isinstance(found, str):
        assert 0 < len(found) < 300
        return
    assert sum(len(part.content) for part in found) <= len(whole)
    assert all(isinstance(part.text, str) for part in found)


@given(st.text(max_size=80))
def test_any_content_type_gives_parts_or_one_kind_of_error(parameters: str) -> None:
    named = f"multipart/form-data;{parameters}".encode().decode("latin-1")
    found = outcome(b"--x--", named)
    assert found == [] or (isinstance(found, str) and found)


@given(st.dictionaries(texts, st.binary(max_size=60), max_size=4), st.dictionaries(texts, texts))
def test_form_of_a_client_comes_back_whole(files: dict[str, bytes], data: dict[str, str]) -> None:
    fields = {name: text for name, text in data.items() if name not in files}
    request = httpx.Request(
        "POST",
        "http://limelight",
        files=[(name, ("a.png", content)) for name, content in files.items()],
        data=fields,
    )
    if not files:  # httpx sends a form of this kind only with a file
        return
    parts = parse_form(request.read(), request.headers["content-type"])
    found = {part.name: part.content for part in parts if part.has_filename}
    assert found == files
    assert {part.name: part.text for part in parts if not part.has_filename} == fields


@pytest.mark.parametrize("size", [0, 1, 70, 100_000])
def test_content_that_resembles_boundaries_is_kept(size: int) -> None:
    content = (b"\r\n--y\r\n--" * (size // 9 + 1))[:size]
    body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + content + b"\r\n--x--"
    (part,) = parse_form(b"before\r\n" + body + b"\r\nafter", TYPE)
    assert part.content == content


def test_form_of_forged_heads_takes_little_time() -> None:
    head = (
        b'--x\r\nContent-Disposition: form-data; name="image"; a="' + b";" * 3900 + b'"\r\n\r\n\r\n'
    )
    started = time.process_time()
    assert "more than 100 parts" in outcome(head * 2000 + b"--x--", TYPE)
    assert time.process_time() - started < 1
