"""Tensors on the wire of the Open Inference Protocol (version 2, REST): a request to arrays, and arrays to an answer.

A request is a JSON object, an answer too; with the binary tensor data extension the values of tensors stand behind it,
in the tensors' order. Numbers are little-endian and row by row, an element of `BYTES` is its length in four bytes and
then itself. In JSON `BYTES` are base64, for there is no other way to write an image there. It knows no model.
(kserve.github.io, "Open Inference Protocol" and "Binary Tensor Data Extension".)
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

from percept.errors import BadRequest, faults

Parameters = dict[str, bool | int | float | str]
Tensor = NDArray[np.uint8] | list[bytes]

SIZE = "binary_data_size"  # of an input or output whose values stand behind the JSON
BINARY = "binary_data"  # of an output: whether they shall
ALL_BINARY = "binary_data_output"  # of a request: the same for all outputs that do not say
LENGTH = 4  # bytes of the length of an element of BYTES
DATATYPES = {np.dtype("<f4"): "FP32", np.dtype("<i8"): "INT64", np.dtype(object): "BYTES"}  # of outputs


class RequestInput(BaseModel):
    """A tensor that comes in: its values in `data`, nested or flat, or behind the JSON."""

    name: str = Field(examples=["image"])
    shape: list[NonNegativeInt] = Field(examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: Parameters = {}
    data: list[Any] | None = None


class RequestOutput(BaseModel):
    """A tensor that is asked for."""

    name: str = Field(examples=["scores"])
    parameters: Parameters = {}


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str | None = None
    parameters: Parameters = {}
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] = []


class ResponseOutput(BaseModel):
    """A tensor that goes out."""

    name: str = Field(examples=["scores"])
    shape: list[int] = Field(examples=[[1, 3]])
    datatype: str = Field(examples=["FP32"])
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, examples=[[0.1, 0.7, 0.2]])


class InferResponse(BaseModel):
    """The JSON of an answer."""

    model_name: str = Field(examples=["cifar10"])
    model_version: str = Field(examples=["1"])
    id: str | None = None
    outputs: list[ResponseOutput] = []


@dataclass(frozen=True, eq=False)
class Output:
    """An array on its way out: float32, int64, or objects that are bytes."""

    name: str
    array: NDArray[Any]
    binary: bool
    parameters: Parameters = field(default_factory=dict)


def read(body: bytes, json_bytes: int | None = None) -> tuple[InferRequest, dict[str, Tensor]]:
    """A request and its tensors by name; `json_bytes` of the body are JSON where binary data follow.

    A tensor is uint8 of its shape, a view of the body where it can be, or a list of bytes. Raises `BadRequest`.
    """
    if json_bytes is not None and json_bytes > len(body):
        raise BadRequest(f"the JSON is said to have {json_bytes} bytes, and the body has {len(body)}")
    rest = memoryview(body)[len(body) if json_bytes is None else json_bytes :]
    try:
        request = InferRequest.model_validate_json(body[:json_bytes])
    except ValidationError as error:
        raise BadRequest(f"the body is no inference request: {faults(error)}") from error
    tensors: dict[str, Tensor] = {}
    for one in request.inputs:
        if one.name in tensors:
            raise BadRequest(f"the input {one.name!r} is there twice")
        tensors[one.name], rest = _tensor(one, rest)
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes follow the last tensor")
    return request, tensors


def write(response: InferResponse, outputs: Sequence[Output]) -> tuple[bytes, int | None]:
    """The body of an answer with these outputs, and how many bytes of it are JSON if not all are."""
    behind = [_binary(one.array) for one in outputs if one.binary]
    sizes = iter(map(len, behind))
    response.outputs = [_described(one, next(sizes) if one.binary else None) for one in outputs]
    head = to_json(response, exclude_none=True)
    return (b"".join([head, *behind]), len(head)) if behind else (head, None)


def _described(one: Output, size: int | None) -> ResponseOutput:
    """An output as JSON: with its values, or with how many bytes of them follow."""
    parameters = one.parameters if size is None else {**one.parameters, SIZE: size}
    return ResponseOutput(
        name=one.name,
        shape=list(one.array.shape),
        datatype=DATATYPES[one.array.dtype],
        parameters=parameters or None,
        data=_plain(one.array) if size is None else None,
    )


def _tensor(one: RequestInput, rest: memoryview) -> tuple[Tensor, memoryview]:
    """An input's values, and what is left of the binary data."""
    if one.datatype not in READERS:
        raise BadRequest(f"the input {one.name!r} is {one.datatype}; inputs are {' or '.join(READERS)}")
    from_json, from_binary = READERS[one.datatype]
    size = one.parameters.get(SIZE)
    try:
        if size is None:
            return from_json(one), rest
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise ValueError(f"{SIZE} is {size!r}, and {len(rest)} bytes follow")
        return from_binary(one, rest[:size]), rest[size:]
    except ValueError as error:
        raise BadRequest(f"the input {one.name!r} cannot be read: {error}") from error


def _numbers(one: RequestInput) -> Tensor:
    values = np.array(_given(one))  # raises ValueError where it is ragged
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() <= 255):
        raise ValueError("UINT8 are whole numbers from 0 to 255")
    _check(one, values.size)
    return values.astype(np.uint8).reshape(one.shape)


def _numbers_behind(one: RequestInput, data: memoryview) -> Tensor:
    _check(one, len(data))
    return np.frombuffer(data, np.uint8).reshape(one.shape)


def _strings(one: RequestInput) -> Tensor:
    values = np.array(_given(one), dtype=object).ravel().tolist()
    _check(one, len(values))
    if not all(isinstance(value, str) for value in values):
        raise ValueError("BYTES in JSON are strings of base64")
    try:
        return [base64.b64decode(value, validate=True) for value in values]
    except ValueError as error:
        raise ValueError(f"BYTES in JSON are base64: {error}") from error


def _strings_behind(one: RequestInput, data: memoryview) -> Tensor:
    found: list[bytes] = []
    while len(data):
        if len(data) < LENGTH:
            raise ValueError(f"{len(data)} bytes are no length of element {len(found)}")
        length, data = int.from_bytes(data[:LENGTH], "little"), data[LENGTH:]
        if length > len(data):
            raise ValueError(f"element {len(found)} is said to have {length} bytes, and {len(data)} follow")
        found.append(bytes(data[:length]))
        data = data[length:]
    _check(one, len(found))
    return found


READERS: dict[str, tuple[Callable[[RequestInput], Tensor], Callable[[RequestInput, memoryview], Tensor]]] = {
    "UINT8": (_numbers, _numbers_behind),
    "BYTES": (_strings, _strings_behind),
}


def _given(one: RequestInput) -> list[Any]:
    if one.data is None:
        raise ValueError(f"it has neither data nor {SIZE}")
    return one.data


def _check(one: RequestInput, count: int) -> None:
    if count != prod(one.shape):
        raise ValueError(f"the shape {one.shape} holds {prod(one.shape)} elements, and there are {count}")


def _plain(array: NDArray[Any]) -> list[Any]:
    """The elements in one row, as JSON has them."""
    if array.dtype == object:
        return [value.decode() for value in array.ravel()]
    values: list[Any] = array.ravel().tolist()
    return values


def _binary(array: NDArray[Any]) -> bytes:
    if array.dtype == object:
        return b"".join(len(value).to_bytes(LENGTH, "little") + value for value in array.ravel())
    return array.tobytes()
