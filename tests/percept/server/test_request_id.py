"""A request is who it says it is, where it says so as it should."""

import re

import pytest

from percept.server.request_id import identify

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def identified(**headers: str) -> tuple[str, str]:
    return identify([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()])


@pytest.mark.parametrize("id", ["a", "order-17_b.3", "0" * 128])
def test_a_client_names_its_request(id: str) -> None:
    assert identified(x_request_id=id)[0] == id


@pytest.mark.parametrize("id", ["", "0" * 129, "a b", "a\nb", "a\r\nSet-Cookie: b", "ä", "a/b", "<b>", "{}", "a:b"])
def test_a_name_that_could_do_harm_is_replaced(id: str) -> None:
    assert re.fullmatch("[0-9a-f]{16}", identified(x_request_id=id)[0])


def test_who_sends_two_names_has_neither() -> None:
    found, _ = identify([(b"x-request-id", b"one"), (b"x-request-id", b"two")])
    assert found not in ("one", "two")


def test_requests_without_a_name_get_one_each() -> None:
    assert len({identified()[0] for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "parent",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-00",
        f"00-{TRACE}-{PARENT}-ff",
        f"01-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like",
    ],
)
def test_a_trace_is_joined(parent: str) -> None:
    assert identified(traceparent=parent)[1] == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT[:-1]}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
    ],
)
def test_a_trace_that_is_not_written_as_the_standard_says_is_none(parent: str) -> None:
    assert identified(traceparent=parent)[1] == ""


def test_two_traces_are_none() -> None:
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert identify([header])[1] == TRACE
    assert identify([header, header])[1] == ""
