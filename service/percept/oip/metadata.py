"""The tensors that a model takes and gives, in the words of the Open Inference Protocol and in Triton's.

It takes either `pixels`, as its network does, or `image`, encoded files, which are decoded and prepared as everywhere.
It gives scores, logits, every tapped layer, and maps of where it looks. N images, K classes; h and w cells, of the
logits or of a layer.
"""

from collections.abc import Sequence

from pydantic import BaseModel, Field

from percept.bundle.manifest import Manifest

PLATFORM = "onnxruntime_onnx"
SCORES, LOGITS, CAM, TARGET = "scores", "logits", "cam", "cam_target"


class TensorInfo(BaseModel):
    """A tensor that a model takes or gives; -1 is any number."""

    name: str = Field(examples=["pixels"])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(examples=[[-1, 32, 32, 3]])


class ModelMetadata(BaseModel):
    """What a model takes and gives. Of the inputs one is sent, never both."""

    name: str = Field(examples=["cifar10"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str = Field(examples=[PLATFORM])
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class TensorConfig(BaseModel):
    """A tensor in Triton's model configuration: `dims` are its shape without the batch dimension."""

    name: str = Field(examples=["pixels"])
    data_type: str = Field(examples=["TYPE_UINT8"])
    dims: list[int] = Field(examples=[[32, 32, 3]])
    optional: bool = False


class ModelConfig(BaseModel):
    """What Triton's clients want to know of a model besides (its model configuration extension)."""

    name: str = Field(examples=["cifar10"])
    platform: str = Field(examples=[PLATFORM])
    max_batch_size: int = Field(examples=[16])
    input: list[TensorConfig]
    output: list[TensorConfig]


def metadata(manifest: Manifest, versions: Sequence[int]) -> ModelMetadata:
    """What a model takes and gives, as its clients ask for it first."""
    rule, classes = manifest.preprocessing, list(manifest.logits)
    inputs = {"pixels": ("UINT8", [rule.height, rule.width, 3]), "image": ("BYTES", [1])}
    given = {SCORES: ("FP32", classes), LOGITS: ("FP32", classes)}
    given |= {layer.name: ("FP32", list(layer.shape)) for layer in manifest.layers}
    given |= {CAM: ("FP32", [-1, -1]), TARGET: ("INT64", [])}
    return ModelMetadata(
        name=manifest.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[TensorInfo(name=name, datatype=kind, shape=[-1, *shape]) for name, (kind, shape) in inputs.items()],
        outputs=[TensorInfo(name=name, datatype=kind, shape=[-1, *shape]) for name, (kind, shape) in given.items()],
    )


def configuration(manifest: Manifest, max_images: int) -> ModelConfig:
    """The same in Triton's words: each input is optional, for one of them is enough."""
    about = metadata(manifest, [manifest.version])

    def described(tensor: TensorInfo, optional: bool) -> TensorConfig:
        kind = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
        return TensorConfig(name=tensor.name, data_type=kind, dims=tensor.shape[1:], optional=optional)

    return ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        max_batch_size=max_images,
        input=[described(tensor, True) for tensor in about.inputs],
        output=[described(tensor, False) for tensor in about.outputs],
    )
