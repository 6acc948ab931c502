"""The wire of the Open Inference Protocol: what is read is what was written, and nothing else is."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.errors import BadRequest
from percept.oip.codec import InferResponse, Output, read, write


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def tensor(name: str = "x", datatype: str = "UINT8", shape: tuple[int, ...] = (2,), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def test_numbers_are_read_from_json_nested_or_flat_and_from_binary() -> None:
    expected = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for data in (expected.tolist(), expected.ravel().tolist()):
        _, tensors = read(request(tensor(shape=(2, 3), data=data)))
        np.testing.assert_array_equal(tensors["x"], expected)
    head = request(tensor(shape=(2, 3), parameters={"binary_data_size": 6}))
    _, tensors = read(head + expected.tobytes(), len(head))
    np.testing.assert_array_equal(tensors["x"], expected)


def test_strings_are_base64_in_json_and_themselves_in_binary() -> None:
    values = [b"\xff\xd8", b"", b"end"]
    data = [base64.b64encode(value).decode() for value in values]
    assert read(request(tensor(datatype="BYTES", shape=(3,), data=data)))[1]["x"] == values
    behind = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    head = request(tensor(datatype="BYTES", shape=(3, 1), parameters={"binary_data_size": len(behind)}))
    assert read(head + behind, len(head))[1]["x"] == values


def test_binary_data_stand_in_the_order_of_the_inputs() -> None:
    size = {"parameters": {"binary_data_size": 2}}
    head = request(tensor("a", **size), tensor("b", data=[5, 6]), tensor("c", **size))
    _, tensors = read(head + bytes([1, 2, 3, 4]), len(head))
    assert {name: list(value) for name, value in tensors.items()} == {"a": [1, 2], "b": [5, 6], "c": [3, 4]}


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (tensor(), "neither data nor binary_data_size"),
        (tensor(data=[1]), "holds 2 elements, and there are 1"),
        (tensor(data=[1, 256]), "from 0 to 255"),
        (tensor(data=[-1, 0]), "from 0 to 255"),
        (tensor(data=[0.5, 1]), "whole numbers"),
        (tensor(data=[[1], [1, 2]]), "cannot be read"),
        (tensor(data=["a", "b"]), "whole numbers"),
        (tensor(data=[10**30, 1]), "whole numbers"),
        (tensor(datatype="FP32", data=[1, 2]), "is FP32; inputs are UINT8 or BYTES"),
        (tensor(datatype="BYTES", data=["?", "!"]), "base64"),
        (tensor(datatype="BYTES", data=["é", ""]), "base64"),
        (tensor(datatype="BYTES", data=[1, 2]), "strings of base64"),
        (tensor(parameters={"binary_data_size": 9}), "binary_data_size is 9, and 0 bytes follow"),
        (tensor(parameters={"binary_data_size": -1}), "binary_data_size is -1"),
        (tensor(parameters={"binary_data_size": "2"}), "binary_data_size is '2'"),
        (tensor(shape=(-2,), data=[]), "shape"),
    ],
)
def test_what_cannot_be_read_says_why(one: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        read(request(one))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"inputs": []}', b'{"inputs": [{"name": "x"}]}'])
def test_what_is_no_request_says_so(body: bytes) -> None:
    with pytest.raises(BadRequest, match="no inference request"):
        read(body)


def test_bytes_that_nobody_asked_for_are_an_error() -> None:
    head = request(tensor(data=[1, 2]))
    with pytest.raises(BadRequest, match="3 bytes follow the last tensor"):
        read(head + b"abc", len(head))
    with pytest.raises(BadRequest, match="is said to have 999 bytes"):
        read(head, 999)
    with pytest.raises(BadRequest, match="there twice"):
        read(request(tensor(data=[1, 2]), tensor(data=[1, 2])))


@given(st.lists(st.binary(max_size=40), max_size=4), st.binary(max_size=60))
def test_strings_behind_the_json_are_read_or_refused(values: list[bytes], noise: bytes) -> None:
    behind = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    for data, shape in ((behind, len(values)), (noise, 1), (behind + noise, len(values))):
        head = request(tensor(datatype="BYTES", shape=(shape,), parameters={"binary_data_size": len(data)}))
        try:
            found = read(head + data, len(head))[1]["x"]
        except BadRequest:
            continue
        assert b"".join(len(value).to_bytes(4, "little") + value for value in found) == data


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=12))
def test_any_json_data_are_read_or_refused(data: Any) -> None:
    for datatype in ("UINT8", "BYTES"):
        try:
            read(request(tensor(datatype=datatype, data=data)))
        except BadRequest:
            continue
        assert isinstance(data, list)


def test_an_answer_holds_its_tensors_in_json_or_behind_it() -> None:
    outputs = [
        Output("a", np.array([[1, 2]], np.float32), binary=True),
        Output("b", np.array([3], np.int64), binary=False, parameters={"method": "gradcam"}),
        Output("c", np.array([[b"x", b"yz"]], dtype=object), binary=True),
    ]
    body, json_bytes = write(InferResponse(model_name="m", model_version="1"), outputs)
    said = json.loads(body[:json_bytes])
    assert said["outputs"] == [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "b", "shape": [1], "datatype": "INT64", "parameters": {"method": "gradcam"}, "data": [3]},
        {"name": "c", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}},
    ]
    assert body[json_bytes:] == np.array([1, 2], "<f4").tobytes() + b"\x01\0\0\0x\x02\0\0\0yz"
    plain, nothing = write(InferResponse(model_name="m", model_version="1"), outputs[1:2])
    assert nothing is None
    assert json.loads(plain)["outputs"][0]["data"] == [3]
