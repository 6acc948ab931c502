"""The JSON answers about models: what is served, and what is known of a model and its layers without an image."""

from pydantic import BaseModel, Field

from percept.bundle.manifest import Layer, Manifest, Preprocessing, Provenance, ReceptiveField
from percept.explain.methods import METHODS
from percept.explain.question import fault
from percept.runtime.model import Model


class ModelName(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["cifar10"])
    version: int = Field(examples=[1])
    task: str = Field(examples=["classification"])


class LayerInfo(BaseModel):
    """A tapped layer: its shape [C,h,w], stride and receptive field in input pixels along (y, x)."""

    name: str = Field(examples=["stage2"])
    shape: tuple[int, int, int] = Field(examples=[(224, 8, 8)])
    stride: tuple[float, float] = Field(examples=[(4.0, 4.0)])
    dilation: tuple[int, int] = Field(examples=[(1, 1)])
    receptive_field: ReceptiveField | None
    gradients: bool = Field(description="whether gradient methods work here", examples=[True])
    unavailable: str | None = Field(None, description="why there are no gradients")


class LayersAnswer(BaseModel):
    """The layers that a model taps."""

    model: ModelName
    layers: list[LayerInfo]


class ModelSummary(ModelName):
    """A served model in one line."""

    versions: list[int]
    classes: int
    input: tuple[int, int] = Field(description="height and width in pixels", examples=[(32, 32)])
    precision: str = Field(description="of the trunk's weights", examples=["float32"])
    cam_layer: str
    default: bool = Field(description="whether it answers where no model is named")


class ModelsAnswer(BaseModel):
    """What is served, and what was refused with the reason."""

    models: list[ModelSummary]
    refused: dict[str, str]


class ModelLayer(LayerInfo):
    """A tapped layer, with the methods of `/cam` that work there and why others do not."""

    methods: list[str] = Field(examples=[["gradcam", "layercam"]])
    unavailable_methods: dict[str, str] = {}


class ModelAnswer(ModelSummary):
    """All that is known of a model."""

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
    """Which model answers."""
    return ModelName(name=manifest.name, version=manifest.version, task=manifest.task)


def layer_info(layer: Layer) -> LayerInfo:
    """A layer of a manifest as people see it."""
    known = layer.model_dump(exclude={"tail"})
    return LayerInfo(**known, gradients=layer.tail is not None)


def model_layers(model: Model) -> list[ModelLayer]:
    """The layers of a model with the methods that work there; a network may be asked for it."""
    found = []
    for layer in model.manifest.layers:
        faults = {method: fault(model, layer, method) for method in METHODS}
        reasons = {method: str(why) for method, why in faults.items() if why}
        usable = [method for method in METHODS if method not in reasons]
        found.append(ModelLayer(**dict(layer_info(layer)), methods=usable, unavailable_methods=reasons))
    return found
