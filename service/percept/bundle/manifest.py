"""The bundle contract: the content of `manifest.json` as pydantic models.

A bundle is a folder `<root>/<name>/<version>/` with `manifest.json`, `trunk.onnx`, one `tail.<layer>.onnx` for each
layer with gradients, the `weights.bin` that all graphs share, and `golden.npz`. The export toolchain writes it and the
server reads it, both through this module. It opens no file: `integrity.py` reads and hashes the files of a bundle, and
`percept.runtime.signature` compares its graphs with the manifest.

Letters: N batch, K classes, H and W input pixels, C channels, h and w cells of a feature map.
"""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StrictBool,
    model_validator,
)

from percept.bundle.preprocessing import Colour, Preprocessing

MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"  # the weights that the trunk and the tails share
IMAGE = "image"  # the name of the layer that is the network's normalised input itself, [N,C,H,W]

TaskName = Literal["classification", "segmentation"]
Activation = Literal["softmax", "sigmoid", "none"]
Precision = Literal["float32", "float16", "int8"]
FilterKind = Literal["kernels", "maxima", "inversion"]
MapLayout = Literal["NCHW", "NHWC", "NTC", "NCT"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_printable(name: str) -> str:
    """Reject control characters, which could change what a terminal or a log shows."""
    if not name.isprintable():
        raise ValueError(f"{name!r} contains control characters")
    return name


def _check_file_name(name: str) -> str:
    """Reject paths: every file of a bundle lies directly in its folder."""
    if PurePosixPath(name).name != name or "\\" in name or name in (".", "..", MANIFEST):
        raise ValueError(f"{name!r} is not the name of a file inside the bundle")
    return name


Side = Annotated[int, Field(gt=0, le=1024)]
LayerName = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_check_printable)]
FileName = Annotated[str, Field(min_length=1), AfterValidator(_check_file_name)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tail(_Model):
    """The graph that runs the network after a layer, and its reverse-mode derivative.

    Inputs: `activations` A [N,C,h,w], every name in `crossing` (trunk outputs that bypass the layer) and `seed`
    (the shape of the logits). Outputs: `logits`, and `gradients` [N,C,h,w] = d(sum of seed * logits)/dA.

    Every later layer L named in `seeds` adds an input `seed.L` of the layer's shape, or of a shape that broadcasts to
    it; `gradients` are then those of sum(seed * logits) + sum(seed.L * L).
    """

    file: FileName
    crossing: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()


def seed_name(layer: str) -> str:
    """The name of a tail's input that is the seed of a later layer."""
    return f"seed.{layer}"


class ReceptiveField(_Model):
    """The receptive field of the cells of a layer, in input pixels, along (y, x).

    `size` is its extent, `start` its centre for the first cell; the field of cell i is centred at start + i * stride.
    """

    size: tuple[PositiveInt, PositiveInt]
    start: tuple[float, float]


class Layer(_Model):
    """A tapped feature map: the trunk's output of the same name, float32 [N,C,h,w].

    A client may use any of its `aliases` instead of the name. `layout` is how the map lies in the source network: T are
    its cells row by row, after other tokens such as a class token. `receptive_field` is None where it has no bound,
    such as after global pooling. A layer has either a `tail`, or `unavailable`: the reason why it has no gradients.
    """

    name: LayerName
    aliases: tuple[LayerName, ...] = ()
    layout: MapLayout = "NCHW"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    stride: tuple[PositiveFloat, PositiveFloat]
    dilation: tuple[PositiveInt, PositiveInt] = (1, 1)
    receptive_field: ReceptiveField | None = None
    tail: Tail | None = None
    unavailable: str | None = None

    @model_validator(mode="after")
    def _check_tail(self) -> Self:
        if (self.tail is None) == (self.unavailable is None):
            raise ValueError(f"layer {self.name!r} needs either 'tail' or 'unavailable', the reason why it has none")
        return self


class FilterPicture(_Model):
    """A picture of filters: an RGB PNG of tiles of size `tile` (height, width), row by row, without gaps.

    - `kernels`: the weights of the first convolution, each kernel scaled by its largest magnitude; 128 is zero.
    - `maxima`: activation maximisation, one image per channel of `layer`. `scores` are the means of the channel's
      activations in these images, `noise` the largest means in noise images with the spectrum and colours of photos.
    - `inversion`: one tile, the image x whose activations A(x) at `layer` match those of a photo, A; its score is the
      relative error ‖A(x) - A‖² / ‖A‖². The inversion of the layer `image` is the photo itself.

    `channels` lists the channel that each tile shows; it is empty for an inversion.
    """

    kind: FilterKind
    layer: LayerName | None = None
    file: FileName
    tile: tuple[Side, Side]
    channels: Annotated[tuple[NonNegativeInt, ...], Field(max_length=1024)] = ()
    scores: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        n = len(self.channels)
        expected = {"kernels": (n, 0, 0), "maxima": (n, n, n), "inversion": (0, 1, 0)}[self.kind]
        lengths = (n, len(self.scores), len(self.noise))
        if lengths != expected or (n == 0) != (self.kind == "inversion"):
            raise ValueError(
                "{} in {!r} has {} channels, {} scores and {} noise values".format(self.kind, self.file, *lengths)
            )
        if len(set(self.channels)) != n:
            raise ValueError(f"{self.kind} in {self.file!r} shows a channel twice")
        if (self.layer is None) != (self.kind == "kernels"):
            raise ValueError("maxima and inversions need a layer, and kernels must have none")
        return self


class OutputHead(_Model):
    """How the logits were made from the network's own output.

    `output` is its name where the network has several; `removed` are the ONNX operators that followed the logits, the
    last one first: the network's output is what they make of the logits. With `classes_last` it is [N,h,w,K].
    `added` says how a class 0 was added to the only one: `zero` makes y the logits (0, y), whose softmax is
    (1 - sigmoid(y), sigmoid(y)), and `complement` makes a probability p the scores (1 - p, p).
    """

    output: str | None = None
    removed: tuple[Literal["ArgMax", "LogSoftmax", "Sigmoid", "Softmax"], ...] = ()
    classes_last: StrictBool = False
    added: Literal["zero", "complement"] | None = None


class Golden(_Model):
    """One input with its expected output: the arrays `pixels` uint8 [1,H,W,C] and `logits` float32 in `file`.

    A loaded trunk must reproduce the logits within `tolerance` times their largest magnitude.
    """

    file: FileName = "golden.npz"
    tolerance: PositiveFloat = 1e-3


class Provenance(_Model):
    """Where the network comes from, and its measured accuracy."""

    source: str
    weights: str
    license: str
    data: str = ""
    metrics: dict[str, float] = {}
    versions: dict[str, str] = {}


class Manifest(_Model):
    """The content of `manifest.json`: everything about a bundle that can be known without opening a graph.

    `precision` is that of the trunk's weights; pixels, logits, layers and tails keep their types in every precision.
    `tf32` lets a GPU round the factors of float32 products to ten bits of mantissa, gradients too; a CPU ignores it.
    """

    format: Literal[1] = 1
    name: Name
    version: PositiveInt
    task: TaskName
    activation: Activation
    precision: Precision = "float32"
    tf32: StrictBool = False
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    palette: tuple[Colour, ...] = ()
    background: int | None = None
    logits: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)]
    head: OutputHead = OutputHead()
    preprocessing: Preprocessing
    trunk: FileName = "trunk.onnx"
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    cam_layer: str
    golden: Golden = Golden()
    filters: tuple[FilterPicture, ...] = ()
    files: dict[FileName, Sha256]
    provenance: Provenance

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        checks = self._check_classes() | self._check_layers() | self._check_filters()
        if failed := [message for message, passed in checks.items() if not passed]:
            raise ValueError("; ".join(failed))
        return self

    def _check_classes(self) -> dict[str, bool]:
        """The message for each rule about classes, and whether the manifest complies with the rule."""
        classes, rank = len(self.labels), {"classification": 1, "segmentation": 3}[self.task]
        return {
            f"the task {self.task} needs logits of {rank} dimensions, not {self.logits}": len(self.logits) == rank,
            f"there are {classes} labels for {self.logits[0]} classes": classes == self.logits[0],
            "a mask has room for at most 255 classes": self.task != "segmentation" or classes <= 255,
            "two labels are the same": len(set(self.labels)) == classes,
            f"there are {len(self.palette)} colours for {classes} classes": len(self.palette) in (0, classes),
            f"the background {self.background} is not a class": self.background in (None, *range(classes)),
        }

    def _check_layers(self) -> dict[str, bool]:
        names = [name for layer in self.layers for name in (layer.name, *layer.aliases)]
        return {
            "two layers have the same name": len(set(names)) == len(names),
            f"the CAM layer {self.cam_layer!r} is not among the layers": self.cam_layer in names,
        }

    def _check_filters(self) -> dict[str, bool]:
        keys = [(picture.kind, picture.layer) for picture in self.filters]
        files = {self.trunk, self.golden.file, *(picture.file for picture in self.filters)}
        files |= {layer.tail.file for layer in self.layers if layer.tail}
        return {
            "a layer has two filter pictures of one kind": len(set(keys)) == len(keys),
            "a filter picture shows a layer or channel that does not exist": all(map(self._has_channels, self.filters)),
            f"files without a hash: {sorted(files - set(self.files))}": files <= set(self.files),
        }

    def layer(self, name: str) -> Layer | None:
        """The layer with this name or alias, or None."""
        return next((layer for layer in self.layers if name == layer.name or name in layer.aliases), None)

    def _has_channels(self, picture: FilterPicture) -> bool:
        layer = self.layer(picture.layer) if picture.layer else None
        return not picture.layer or (layer is not None and max(picture.channels, default=0) < layer.shape[0])
