"""Tensors of the Open Inference Protocol: valid bodies are decoded, invalid ones rejected, responses encoded."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.errors import BadRequest
from percept.oip.codec import InferResponse, OutputTensor, decode_request, encode_response


def create_request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def create_tensor(
    name: str = "x", datatype: str = "UINT8", shape: tuple[int, ...] = (2,), **more: Any
) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def test_uint8_is_decoded_from_json_and_binary() -> None:
    expected = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for data in (expected.tolist(), expected.ravel().tolist()):
        _, tensors = decode_request(create_request(create_tensor(shape=(2, 3), data=data)))
        np.testing.assert_array_equal(tensors["x"], expected)
    head = create_request(create_tensor(shape=(2, 3), parameters={"binary_data_size": 6}))
    _, tensors = decode_request(head + expected.tobytes(), len(head))
    np.testing.assert_array_equal(tensors["x"], expected)


def test_bytes_are_decoded_from_json_and_binary() -> None:
    values = [b"\xff\xd8", b"", b"end"]
    data = [base64.b64encode(value).decode() for value in values]
    assert decode_request(create_request(create_tensor(datatype="BYTES", shape=(3,), data=data)))[1]["x"] == values
    binary = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    head = create_request(create_tensor(datatype="BYTES", shape=(3, 1), parameters={"binary_data_size": len(binary)}))
    assert decode_request(head + binary, len(head))[1]["x"] == values


def test_binary_data_follow_the_order_of_inputs() -> None:
    size: dict[str, Any] = {"parameters": {"binary_data_size": 2}}
    head = create_request(create_tensor("a", **size), create_tensor("b", data=[5, 6]), create_tensor("c", **size))
    _, tensors = decode_request(head + bytes([1, 2, 3, 4]), len(head))
    assert {name: list(value) for name, value in tensors.items()} == {"a": [1, 2], "b": [5, 6], "c": [3, 4]}


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (create_tensor(), "neither data nor binary_data_size"),
        (create_tensor(data=[1]), "holds 2 elements, and there are 1"),
        (create_tensor(data=[1, 256]), "from 0 to 255"),
        (create_tensor(data=[-1, 0]), "from 0 to 255"),
        (create_tensor(data=[0.5, 1]), "whole numbers"),
        (create_tensor(data=[[1], [1, 2]]), "is invalid"),
        (create_tensor(data=["a", "b"]), "whole numbers"),
        (create_tensor(data=[10**30, 1]), "whole numbers"),
        (create_tensor(datatype="FP32", data=[1, 2]), "is FP32; inputs are UINT8 or BYTES"),
        (create_tensor(datatype="BYTES", data=["?", "!"]), "base64"),
        (create_tensor(datatype="BYTES", data=["é", ""]), "base64"),
        (create_tensor(datatype="BYTES", data=[1, 2]), "strings in base64"),
        (create_tensor(parameters={"binary_data_size": 9}), "binary_data_size is 9, and 0 bytes follow"),
        (create_tensor(parameters={"binary_data_size": -1}), "binary_data_size is -1"),
        (create_tensor(parameters={"binary_data_size": "2"}), "binary_data_size is '2'"),
        (create_tensor(shape=(-2,), data=[]), "shape"),
    ],
)
def test_invalid_tensor_is_rejected(tensor: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        decode_request(create_request(tensor))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"inputs": []}', b'{"inputs": [{"name": "x"}]}'])
def test_invalid_request_is_rejected(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not an inference request"):
        decode_request(body)


def test_surplus_bytes_and_inputs_are_rejected() -> None:
    head = create_request(create_tensor(data=[1, 2]))
    with pytest.raises(BadRequest, match="3 bytes follow the last tensor"):
        decode_request(head + b"abc", len(head))
    with pytest.raises(BadRequest, match="is declared to have 999 bytes"):
        decode_request(head, 999)
    with pytest.raises(BadRequest, match="two inputs have the name 'x'"):
        decode_request(create_request(create_tensor(data=[1, 2]), create_tensor(data=[1, 2])))


@given(st.lists(st.binary(max_size=40), max_size=4), st.binary(max_size=60))
def test_binary_bytes_are_decoded_or_rejected(values: list[bytes], noise: bytes) -> None:
    binary = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    for data, shape in ((binary, len(values)), (noise, 1), (binary + noise, len(values))):
        head = create_request(
            create_tensor(datatype="BYTES", shape=(shape,), parameters={"binary_data_size": len(data)})
        )
        try:
            found = decode_request(head + data, len(head))[1]["x"]
        except BadRequest:
            continue
        assert b"".join(len(value).to_bytes(4, "little") + value for value in found) == data


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=12))
def test_any_json_data_are_decoded_or_rejected(data: Any) -> None:
    for datatype in ("UINT8", "BYTES"):
        try:
            decode_request(create_request(create_tensor(datatype=datatype, data=data)))
        except BadRequest:
            continue
        assert isinstance(data, list)


def test_response_holds_tensors_as_json_or_binary() -> None:
    outputs = [
        OutputTensor("a", np.array([[1, 2]], np.float32), binary=True),
        OutputTensor("b", np.array([3], np.int64), binary=False, parameters={"method": "gradcam"}),
        OutputTensor("c", np.array([[b"x", b"yz"]], dtype=object), binary=True),
    ]
    body, json_bytes = encode_response(InferResponse(model_name="m", model_version="1"), outputs)
    head = json.loads(body[:json_bytes])
    assert head["outputs"] == [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "b", "shape": [1], "datatype": "INT64", "parameters": {"method": "gradcam"}, "data": [3]},
        {"name": "c", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}},
    ]
    assert body[json_bytes:] == np.array([1, 2], "<f4").tobytes() + b"\x01\0\0\0x\x02\0\0\0yz"
    plain, json_bytes = encode_response(InferResponse(model_name="m", model_version="1"), outputs[1:2])
    assert json_bytes is None
    assert json.loads(plain)["outputs"][0]["data"] == [3]
