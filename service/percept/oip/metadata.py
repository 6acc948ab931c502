"""Metadata of the Open Inference Protocol: the server, its models and their tensors, also as Triton's configuration.

A manifest comes in; pydantic models leave. The input is either `pixels`, as the network takes them, or `image`, encoded
files that are decoded and resized as by the other endpoints. The outputs are scores, logits, every tapped layer, and
maps.
"""

from collections.abc import Sequence

from pydantic import BaseModel, Field

from percept.bundle.manifest import Manifest

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
SCORES, LOGITS, CAM, TARGET = "scores", "logits", "cam", "cam_target"


class ServerMetadata(BaseModel):
    """The server, and the extensions of the protocol that it supports."""

    name: str = Field(examples=["percept"])
    version: str
    extensions: list[str] = Field(examples=[EXTENSIONS])


class Live(BaseModel):
    """The process is running."""

    live: bool = True


class Ready(BaseModel):
    """Requests can be answered."""

    ready: bool = True


class ModelReady(Ready):
    """A model can answer."""

    name: str = Field(examples=["cifar10"])


class ModelNames(BaseModel):
    """The served models."""

    models: list[str] = Field(examples=[["cifar10", "clothing"]])


class TensorInfo(BaseModel):
    """A tensor that a model accepts or returns; -1 is any number."""

    name: str = Field(examples=["pixels"])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(examples=[[-1, 32, 32, 3]])


class ModelMetadata(BaseModel):
    """The inputs and outputs of a model. A request has exactly one of the inputs."""

    name: str = Field(examples=["cifar10"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str = Field(examples=[PLATFORM])
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class TensorConfig(BaseModel):
    """A tensor in Triton's model configuration: `dims` is its shape without the batch dimension."""

    name: str = Field(examples=["pixels"])
    data_type: str = Field(examples=["TYPE_UINT8"])
    dims: list[int] = Field(examples=[[32, 32, 3]])
    optional: bool = False


class ModelConfig(BaseModel):
    """The configuration of a model (Triton's model configuration extension)."""

    name: str = Field(examples=["cifar10"])
    platform: str = Field(examples=[PLATFORM])
    max_batch_size: int = Field(examples=[16])
    input: list[TensorConfig]
    output: list[TensorConfig]


def model_metadata(manifest: Manifest, versions: Sequence[int]) -> ModelMetadata:
    """The metadata of a model: its versions, inputs and outputs."""
    classes = list(manifest.logits)
    inputs = {"pixels": ("UINT8", list(manifest.preprocessing.shape)), "image": ("BYTES", [1])}
    outputs = {SCORES: ("FP32", classes), LOGITS: ("FP32", classes)}
    outputs |= {layer.name: ("FP32", list(layer.shape)) for layer in manifest.layers}
    outputs |= {CAM: ("FP32", [-1, -1]), TARGET: ("INT64", [])}
    return ModelMetadata(
        name=manifest.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[TensorInfo(name=name, datatype=kind, shape=[-1, *shape]) for name, (kind, shape) in inputs.items()],
        outputs=[TensorInfo(name=name, datatype=kind, shape=[-1, *shape]) for name, (kind, shape) in outputs.items()],
    )


def model_configuration(manifest: Manifest, max_images: int) -> ModelConfig:
    """The configuration of a model; every input is optional, because a request has only one of them."""
    metadata = model_metadata(manifest, [manifest.version])
    return ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        max_batch_size=max_images,
        input=[_tensor_config(tensor, optional=True) for tensor in metadata.inputs],
        output=[_tensor_config(tensor, optional=False) for tensor in metadata.outputs],
    )


def _tensor_config(tensor: TensorInfo, optional: bool) -> TensorConfig:
    kind = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return TensorConfig(name=tensor.name, data_type=kind, dims=tensor.shape[1:], optional=optional)
