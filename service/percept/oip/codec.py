"""Tensors of the Open Inference Protocol (version 2, REST): request bodies to arrays, and arrays to response bodies.

A body is a JSON object. With the binary tensor data extension the values of tensors follow it, in the order of the
tensors: numbers little-endian in C order; an element of `BYTES` as its length in 4 bytes and its content. In JSON the
elements of `BYTES` are base64. This module knows no model.

Specification: kserve.github.io, "Open Inference Protocol" and "Binary Tensor Data Extension".
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError
from pydantic_core import to_json

from percept.errors import BadRequest, format_validation_errors

Parameters = dict[str, bool | int | float | str]
Tensor = NDArray[np.uint8] | list[bytes]

# The parameters of the binary tensor data extension.
SIZE = "binary_data_size"  # of a tensor: the number of its bytes behind the JSON
BINARY = "binary_data"  # of an output: whether its values are binary
ALL_BINARY = "binary_data_output"  # of a request: the default of `BINARY` for all outputs
LENGTH = 4  # bytes of the length of an element of BYTES
DATATYPES = {np.dtype("<f4"): "FP32", np.dtype("<i8"): "INT64", np.dtype(object): "BYTES"}  # of outputs


class RequestInput(BaseModel):
    """An input tensor: its values in `data`, nested or flat, or behind the JSON."""

    name: str = Field(examples=["image"])
    shape: list[NonNegativeInt] = Field(examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: Parameters = {}
    data: list[Any] | None = None


class RequestOutput(BaseModel):
    """A requested output tensor."""

    name: str = Field(examples=["scores"])
    parameters: Parameters = {}


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    id: str | None = None
    parameters: Parameters = {}
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] = []


class ResponseOutput(BaseModel):
    """An output tensor."""

    name: str = Field(examples=["scores"])
    shape: list[int] = Field(examples=[[1, 3]])
    datatype: str = Field(examples=["FP32"])
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, examples=[[0.1, 0.7, 0.2]])


class InferResponse(BaseModel):
    """The JSON of an inference response."""

    model_name: str = Field(examples=["cifar10"])
    model_version: str = Field(examples=["1"])
    id: str | None = None
    outputs: list[ResponseOutput] = []


@dataclass(frozen=True, eq=False)
class OutputTensor:
    """An output before encoding: an array of float32, int64 or `bytes` objects, and whether it is sent as binary."""

    name: str
    array: NDArray[Any]
    binary: bool
    parameters: Parameters = field(default_factory=dict)


def decode_request(body: bytes, json_bytes: int | None = None) -> tuple[InferRequest, dict[str, Tensor]]:
    """Decode a request and its tensors by name; the first `json_bytes` of the body are JSON, by default all.

    A tensor is uint8 of its shape, a view of the body if it is binary, or a list of bytes. Raises `BadRequest`.
    """
    if json_bytes is not None and json_bytes > len(body):
        raise BadRequest(f"the JSON is declared to have {json_bytes} bytes; the body has {len(body)}")
    rest = memoryview(body)[len(body) if json_bytes is None else json_bytes :]
    try:
        request = InferRequest.model_validate_json(body[:json_bytes])
    except ValidationError as error:
        raise BadRequest(f"the body is not an inference request: {format_validation_errors(error)}") from error
    tensors: dict[str, Tensor] = {}
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise BadRequest(f"two inputs have the name {tensor.name!r}")
        tensors[tensor.name], rest = _decode_tensor(tensor, rest)
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes follow the last tensor")
    return request, tensors


def encode_response(response: InferResponse, outputs: Sequence[OutputTensor]) -> tuple[bytes, int | None]:
    """Encode a response with these outputs: the body, and how many bytes of it are JSON if binary data follow."""
    binary = [_encode_binary(output.array) for output in outputs if output.binary]
    sizes = iter(map(len, binary))
    response.outputs = [_describe_output(output, next(sizes) if output.binary else None) for output in outputs]
    head = to_json(response, exclude_none=True)
    return (b"".join([head, *binary]), len(head)) if binary else (head, None)


def _describe_output(output: OutputTensor, size: int | None) -> ResponseOutput:
    """An output as JSON: with its values, or with the `size` of its binary data."""
    parameters = output.parameters if size is None else {**output.parameters, SIZE: size}
    return ResponseOutput(
        name=output.name,
        shape=list(output.array.shape),
        datatype=DATATYPES[output.array.dtype],
        parameters=parameters or None,
        data=_flat_list(output.array) if size is None else None,
    )


def _decode_tensor(tensor: RequestInput, binary: memoryview) -> tuple[Tensor, memoryview]:
    """The values of an input, and the rest of the binary data."""
    if tensor.datatype not in DECODERS:
        raise BadRequest(f"the input {tensor.name!r} is {tensor.datatype}; inputs are {' or '.join(DECODERS)}")
    from_json, from_binary = DECODERS[tensor.datatype]
    size = tensor.parameters.get(SIZE)
    try:
        if size is None:
            return from_json(tensor), binary
        if not isinstance(size, int) or not 0 <= size <= len(binary):
            raise ValueError(f"{SIZE} is {size!r}, and {len(binary)} bytes follow")
        return from_binary(tensor, binary[:size]), binary[size:]
    except ValueError as error:
        raise BadRequest(f"the input {tensor.name!r} is invalid: {error}") from error


def _uint8_from_json(tensor: RequestInput) -> Tensor:
    values = np.array(_data(tensor))  # raises ValueError if the lists are ragged
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() <= 255):
        raise ValueError("UINT8 values are whole numbers from 0 to 255")
    _check_count(tensor, values.size)
    return values.astype(np.uint8).reshape(tensor.shape)


def _uint8_from_binary(tensor: RequestInput, data: memoryview) -> Tensor:
    _check_count(tensor, len(data))
    return np.frombuffer(data, np.uint8).reshape(tensor.shape)


def _bytes_from_json(tensor: RequestInput) -> Tensor:
    values = np.array(_data(tensor), dtype=object).ravel().tolist()
    _check_count(tensor, len(values))
    if not all(isinstance(value, str) for value in values):
        raise ValueError("BYTES in JSON are strings in base64")
    try:
        return [base64.b64decode(value, validate=True) for value in values]
    except ValueError as error:
        raise ValueError(f"BYTES in JSON are base64: {error}") from error


def _bytes_from_binary(tensor: RequestInput, data: memoryview) -> Tensor:
    elements: list[bytes] = []
    while len(data):
        if len(data) < LENGTH:
            raise ValueError(f"element {len(elements)} has {len(data)} bytes instead of a length of {LENGTH}")
        length, data = int.from_bytes(data[:LENGTH], "little"), data[LENGTH:]
        if length > len(data):
            raise ValueError(f"element {len(elements)} is declared to have {length} bytes, and {len(data)} follow")
        elements.append(bytes(data[:length]))
        data = data[length:]
    _check_count(tensor, len(elements))
    return elements


DECODERS: dict[str, tuple[Callable[[RequestInput], Tensor], Callable[[RequestInput, memoryview], Tensor]]] = {
    "UINT8": (_uint8_from_json, _uint8_from_binary),
    "BYTES": (_bytes_from_json, _bytes_from_binary),
}


def _data(tensor: RequestInput) -> list[Any]:
    if tensor.data is None:
        raise ValueError(f"it has neither data nor {SIZE}")
    return tensor.data


def _check_count(tensor: RequestInput, count: int) -> None:
    if count != prod(tensor.shape):
        raise ValueError(f"the shape {tensor.shape} holds {prod(tensor.shape)} elements, and there are {count}")


def _flat_list(array: NDArray[Any]) -> list[Any]:
    """The elements in C order, as JSON values."""
    if array.dtype == object:
        return [value.decode() for value in array.ravel()]
    values: list[Any] = array.ravel().tolist()
    return values


def _encode_binary(array: NDArray[Any]) -> bytes:
    if array.dtype == object:
        return b"".join(len(value).to_bytes(LENGTH, "little") + value for value in array.ravel())
    return array.tobytes()
