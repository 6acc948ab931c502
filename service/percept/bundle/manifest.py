"""The contract between the offline and the online house: what a bundle is.

A bundle is a folder `<root>/<name>/<version>/` with `manifest.json`, `trunk.onnx`, one `tail.<layer>.onnx` for
each layer with gradients, their shared `weights.bin`, and `golden.npz`. `models/` writes it, `service/` reads it,
and both through this module. It opens no ONNX file: what the graphs say is compared in `ports.py`.

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

MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"  # the weights that the trunk and the tails share
IMAGE = "image"  # the layer that is no layer: what the network takes, normalised, [N,3,H,W]

Task = Literal["classification", "segmentation"]
Activation = Literal["softmax", "sigmoid", "none"]
Precision = Literal["float32", "float16", "int8"]
FilterKind = Literal["kernels", "maxima", "inversion"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


def _plain(name: str) -> str:
    """A file directly inside the bundle: no folders, no way out of it."""
    if PurePosixPath(name).name != name or "\\" in name or name in (".", "..", MANIFEST):
        raise ValueError(f"{name!r} is not the name of a file inside the bundle")
    return name


Side = Annotated[int, Field(gt=0, le=1024)]
FileName = Annotated[str, Field(min_length=1), AfterValidator(_plain)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Part):
    """How a photo becomes the trunk's `pixels` [N,H,W,3], and what the trunk does with them first.

    `resize` is the rule: `squeeze` scales the whole photo to H x W whatever its shape; `crop` scales its short
    side to `short_side` and cuts H x W out of the middle; `pad` scales the whole photo to fit and fills the rest
    with `fill`. `channels`, `mean` and `std` (in units of 0..255, in the order of `channels`) are inside the
    graph: they are stated here for people, never applied again.
    """

    height: PositiveInt
    width: PositiveInt
    resize: Literal["squeeze", "crop", "pad"] = "squeeze"
    short_side: PositiveInt | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    fill: Colour = (0, 0, 0)
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)

    @property
    def blank(self) -> tuple[float, float, float]:
        """The RGB colour, 0 to 255, that becomes 0 inside the graph: best what stands for nothing."""
        return self.mean if self.channels == "RGB" else (self.mean[2], self.mean[1], self.mean[0])

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize == "crop" and (self.short_side or 0) < max(self.height, self.width):
            raise ValueError("a crop needs a short_side at least as long as height and width")
        return self


class Tail(_Part):
    """The rest of the network after a layer, with its reverse-mode derivative, as a graph of its own.

    Inputs: `activations` [N,C,h,w], every name in `crossing` (trunk outputs that bypass the layer) and `seed`
    (the shape of the logits). Outputs: `logits`, and `gradients` [N,C,h,w] = d(sum of seed * logits)/dA.

    Every layer in `seeds` has a seed of its own, the input `seed.<layer>` of the layer's shape or of one that
    broadcasts to it; sum(seed.<layer> * layer) is added to what the gradients are of.
    """

    file: FileName
    crossing: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()


def seed_name(layer: str) -> str:
    """The input of a tail that is the seed of a layer on the way."""
    return f"seed.{layer}"


class ReceptiveField(_Part):
    """What one cell of a layer can see, in input pixels, along (y, x).

    `size` is the extent, `start` the centre of the first cell's field; cell i is centred at start + i * stride.
    """

    size: tuple[PositiveInt, PositiveInt]
    start: tuple[float, float]


class Layer(_Part):
    """A tapped feature map: the trunk's output of the same name, [N,C,h,w] float32.

    `receptive_field` is None where the graph has no finite one (after a global pooling, say). A layer without a
    `tail` says in `unavailable` why it has no gradients.
    """

    name: Name
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    stride: tuple[PositiveFloat, PositiveFloat]
    dilation: tuple[PositiveInt, PositiveInt] = (1, 1)
    receptive_field: ReceptiveField | None = None
    tail: Tail | None = None
    unavailable: str | None = None

    @model_validator(mode="after")
    def _tail_or_reason(self) -> Self:
        if (self.tail is None) == (self.unavailable is None):
            raise ValueError(f"layer {self.name!r} needs either a tail or the reason why it has none")
        return self


class FilterPicture(_Part):
    """What filters look like, or look for: a PNG, RGB, of tiles of (height, width) `tile`, row by row without gaps.

    - `kernels`: the weights of the first convolution, 128 being zero; each kernel is scaled by its own greatest weight.
    - `maxima`: the images found to excite single channels of `layer` most. `scores` are the means of the channels'
      activations there, `noise` the greatest means in pictures of noise with the spectrum and colours of photos.
    - `inversion`: one tile, the image found to give the activations A of a photo at `layer`; its score is the relative
      error ‖A(x) - A‖² / ‖A‖². That of the layer `image` is the photo itself.

    `channels` says which channel each tile shows; it is empty for an inversion.
    """

    kind: FilterKind
    layer: Name | None = None
    file: FileName
    tile: tuple[Side, Side]
    channels: Annotated[tuple[NonNegativeInt, ...], Field(max_length=1024)] = ()
    scores: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        n = len(self.channels)
        expected = {"kernels": (n, 0, 0), "maxima": (n, n, n), "inversion": (0, 1, 0)}[self.kind]
        if (n, len(self.scores), len(self.noise)) != expected or (n == 0) != (self.kind == "inversion"):
            raise ValueError(f"{self.kind} in {self.file!r} have {n} channels, {len(self.scores)} scores")
        if len(set(self.channels)) != n:
            raise ValueError(f"{self.kind} in {self.file!r} show a channel twice")
        if (self.layer is None) != (self.kind == "kernels"):
            raise ValueError("maxima and inversions are those of a layer, kernels of none")
        return self


class Golden(_Part):
    """One input with its expected output: the arrays `pixels` uint8 [1,H,W,3] and `logits` float32 in `file`.

    A loaded trunk must reproduce the logits within `tolerance` times their greatest magnitude.
    """

    file: FileName = "golden.npz"
    tolerance: PositiveFloat = 1e-3


class Provenance(_Part):
    """Where the network comes from and how good it was measured to be."""

    source: str
    weights: str
    license: str
    data: str = ""
    metrics: dict[str, float] = {}
    versions: dict[str, str] = {}


class Manifest(_Part):
    """All that is known of a bundle without opening a graph.

    `precision` is that of the trunk's weights; whatever it is, pixels, logits, layers and all tails keep their types.
    `tf32` lets a GPU round what float32 graphs multiply to ten bits of mantissa, the gradients' too; a CPU does not.
    """

    format: Literal[1] = 1
    name: Name
    version: PositiveInt
    task: Task
    activation: Activation
    precision: Precision = "float32"
    tf32: StrictBool = False
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    palette: tuple[Colour, ...] = ()
    background: int | None = None
    logits: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)]
    preprocessing: Preprocessing
    trunk: FileName = "trunk.onnx"
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    cam_layer: str
    golden: Golden = Golden()
    filters: tuple[FilterPicture, ...] = ()
    files: dict[FileName, Sha256]
    provenance: Provenance

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        classes, names = len(self.labels), [layer.name for layer in self.layers]
        named = {self.trunk, self.golden.file} | {layer.tail.file for layer in self.layers if layer.tail}
        drawn = [(drawing.kind, drawing.layer) for drawing in self.filters]
        named |= {drawing.file for drawing in self.filters}
        rank = {"classification": 1, "segmentation": 3}[self.task]
        rules = {
            f"the task {self.task} needs logits of {rank} dimensions, not {self.logits}": len(self.logits) == rank,
            f"there are {classes} labels for {self.logits[0]} classes": classes == self.logits[0],
            "a mask holds at most 255 classes": self.task != "segmentation" or classes <= 255,
            "two labels are the same": len(set(self.labels)) == classes,
            f"there are {len(self.palette)} colours for {classes} classes": len(self.palette) in (0, classes),
            f"the background {self.background} is not a class": self.background in (None, *range(classes)),
            "two layers have the same name": len(set(names)) == len(names),
            f"the CAM layer {self.cam_layer!r} is not among the layers": self.cam_layer in names,
            "filters of one kind are drawn twice for a layer": len(set(drawn)) == len(drawn),
            "filters are drawn that no layer has": all(map(self._has, self.filters)),
            f"files without a hash: {sorted(named - set(self.files))}": named <= set(self.files),
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, or None."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def _has(self, drawing: FilterPicture) -> bool:
        """Whether there are the layer and the channels of a drawing."""
        layer = self.layer(drawing.layer) if drawing.layer else None
        return not drawing.layer or (layer is not None and max(drawing.channels, default=0) < layer.shape[0])
