"""Answers are put together from any pieces, and nothing that comes is believed without bounds."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.client.wire import MAX_HEAD_BYTES, Answer, AnswerReader, write_request
from shipworthy.kernel.errors import UnavailableError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-A: 1\r\nx-a: 2\r\n\r\n[1,2,3]"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\n[1,\r\n4\r\n2,3]\r\n0\r\nx: y\r\n\r\n"
ANNOUNCED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + PLAIN
BARE = b"HTTP/1.1 200\ncontent-length: 7\n\n[1,2,3]"


def read(pieces: Sequence[bytes], **limits: int) -> Answer | None:
    reader = AnswerReader(**limits)
    for place, piece in enumerate(pieces):
        if (answer := reader.feed(piece)) is not None:
            assert place == len(pieces) - 1
            return answer
    return None


@given(data=st.sampled_from([PLAIN, CHUNKED, ANNOUNCED, BARE]), cuts=st.lists(st.integers(1, 120), max_size=8))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    answer = read([data[start:end] for start, end in pairwise(places)])
    assert answer is not None
    assert (answer.status, answer.content, answer.keeps_open) == (200, b"[1,2,3]", True)


def test_a_header_that_comes_twice_is_one_list() -> None:
    answer = read([PLAIN])
    assert answer is not None
    assert answer.headers == {"content-length": "7", "x-a": "1, 2"}


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 1\r\n\r\n1", b"1"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n1", b"1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1HTTP/1.1 200 OK", b"1"),  # more than was asked for
    ],
)
def test_a_connection_is_kept_only_when_it_is_clean(data: bytes, content: bytes) -> None:
    answer = read([data])
    assert answer is not None
    assert (answer.content, answer.keeps_open) == (content, False)


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    answer = read([b"HTTP/1.1 200 OK\r\n\r\n[1,", b"2]", b""])
    assert answer is not None
    assert (answer.content, answer.keeps_open) == (b"[1,2]", False)


def test_no_content_is_an_answer_too() -> None:
    answer = read([b"HTTP/1.1 204 No Content\r\n\r\n"])
    assert answer is not None
    assert (answer.content, answer.keeps_open) == (b"", True)


@pytest.mark.parametrize("data", [PLAIN, CHUNKED])
def test_an_answer_that_is_cut_off_anywhere_is_lost(data: bytes) -> None:
    with pytest.raises(ConnectionResetError, match="before an answer"):
        AnswerReader().feed(b"")
    for length in range(1, len(data)):
        with pytest.raises(ConnectionResetError, match="in the middle of the answer"):
            read([data[:length], b""])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not begin as one of HTTP/1.1"),
        (b"HTTP/2 200 OK\r\n", "does not begin"),
        (b"HTTP/1.1 20x OK\r\n", "does not begin"),
        (b"HTTP/1.1 2000 OK\r\n", "does not begin"),
        (b"HTTP/1.1 099 OK\r\n", "does not begin"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n", "a line of its header has no name"),
        (b"HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n", "a line of its header has no name"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "its length is '-1'"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n", "its length is '1, 2'"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: \xb2\r\n\r\n", "its length is"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999\r\n\r\n", "its length is"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "sent as 'gzip'"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", "with a length of 5"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n", "its length is 'z'"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", "more than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\n" + b"a" * 100 + b"\r\n1\r\n", "more than 100"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 101, "more than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * (MAX_HEAD_BYTES + 1), "its header has more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "its header has more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 2 * MAX_HEAD_BYTES + b": b\r\n", "its header has more than"),
    ],
)
def test_what_is_no_answer_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(UnavailableError, match=words) as caught:
        read([data], max_content_bytes=100)
    assert caught.value.may_have_answered


@given(data=st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
def test_any_bytes_are_an_answer_or_an_error_of_ours(data: bytes) -> None:
    reader = AnswerReader(max_content_bytes=100)
    try:
        if reader.feed(data or b" ") is None:
            reader.feed(b"")
    except ConnectionError as error:
        assert str(error)  # noqa: PT017


def test_a_request_is_one_run_of_bytes() -> None:
    assert (
        write_request("POST", "/v1", {"host": "a:1"}, b"{}")
        == b"POST /v1 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 2\r\n\r\n{}"
    )
