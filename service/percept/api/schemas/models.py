"""The JSON responses about models: which are served, and the description of a model and its layers.

Manifests and models come in; pydantic models leave. This module does not know the request.
"""

from pydantic import BaseModel, Field

from percept.bundle.manifest import Layer, Manifest, Provenance, ReceptiveField
from percept.bundle.preprocessing import Preprocessing
from percept.explain.methods.table import METHODS
from percept.explain.question import unavailable_reason
from percept.runtime.model import Model


class ModelName(BaseModel):
    """The model that computed a response."""

    name: str = Field(examples=["cifar10"])
    version: int = Field(examples=[1])
    task: str = Field(examples=["classification"])


class LayerInfo(BaseModel):
    """A tapped layer: its shape [C,h,w], stride and receptive field in input pixels along (y, x)."""

    name: str = Field(examples=["stage2"])
    aliases: list[str] = Field(description="other names of the layer, which work as well")
    layout: str = Field(
        description="how the map lies in the source network: NCHW, NHWC, or as tokens, NTC or NCT", examples=["NCHW"]
    )
    shape: tuple[int, int, int] = Field(examples=[(224, 8, 8)])
    stride: tuple[float, float] = Field(examples=[(4.0, 4.0)])
    dilation: tuple[int, int] = Field(examples=[(1, 1)])
    receptive_field: ReceptiveField | None
    gradients: bool = Field(description="whether gradient methods work at this layer", examples=[True])
    unavailable: str | None = Field(None, description="why the layer has no gradients")


class LayersAnswer(BaseModel):
    """The tapped layers of a model."""

    model: ModelName
    layers: list[LayerInfo]


class ModelSummary(ModelName):
    """A served model in brief."""

    versions: list[int]
    classes: int
    input: tuple[int, int] = Field(description="height and width in pixels", examples=[(32, 32)])
    precision: str = Field(description="of the trunk's weights", examples=["float32"])
    cam_layer: str
    default: bool = Field(description="whether requests without a model use this one")


class ModelsAnswer(BaseModel):
    """The served models, and the refused bundles with the reason."""

    models: list[ModelSummary]
    refused: dict[str, str]


class ModelLayer(LayerInfo):
    """A tapped layer, with the methods of `/cam` that work there, and why others do not."""

    methods: list[str] = Field(examples=[["gradcam", "layercam"]])
    unavailable_methods: dict[str, str] = {}


class ModelAnswer(ModelSummary):
    """The full description of a model."""

    labels: list[str]
    activation: str
    palette: list[tuple[int, int, int]]
    background: int | None
    preprocessing: Preprocessing
    layers: list[ModelLayer]
    provenance: Provenance


class Health(BaseModel):
    """The state of the service."""

    status: str = Field(examples=["ready"])
    models: list[str] = Field(examples=[["cifar10/1", "clothing/1"]])
    refused: dict[str, str] = {}


def model_name(manifest: Manifest) -> ModelName:
    """The name, version and task of a model."""
    return ModelName(name=manifest.name, version=manifest.version, task=manifest.task)


def layer_info(layer: Layer) -> LayerInfo:
    """The public description of a layer of a manifest."""
    fields = layer.model_dump(exclude={"tail"})
    return LayerInfo(**fields, gradients=layer.tail is not None)


def model_layers(model: Model) -> list[ModelLayer]:
    """The layers of a model with the methods that work there; this may run the network."""
    layers = []
    for layer in model.manifest.layers:
        errors = {method: unavailable_reason(model, layer, method) for method in METHODS}
        reasons = {method: str(error) for method, error in errors.items() if error}
        usable = [method for method in METHODS if method not in reasons]
        layers.append(ModelLayer(**dict(layer_info(layer)), methods=usable, unavailable_methods=reasons))
    return layers
