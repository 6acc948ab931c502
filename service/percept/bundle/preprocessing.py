"""The preprocessing that a manifest states: from a photo to the pixels of the trunk, and inside the trunk.

`percept.imaging` executes the part before the trunk; the part inside it is in the graph. Letters as in `manifest.py`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Channels = Literal["GRAY", "RGB", "BGR", "RGBA"]
CHANNEL_COUNTS: Mapping[Channels, int] = {"GRAY": 1, "RGB": 3, "BGR": 3, "RGBA": 4}

Colour = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


def _one_per_channel(value: float) -> Callable[[dict[str, Any]], tuple[float, ...]]:
    """The default of a field that has one number for each of the channels, which are validated before it."""
    return lambda data: (value,) * CHANNEL_COUNTS.get(data.get("channels", "RGB"), 3)


class Preprocessing(BaseModel):
    """How a photo becomes the trunk's input `pixels` uint8 [N,H,W,C], and how the trunk normalises it.

    `resize`: `squeeze` scales the whole photo to H x W and ignores its aspect ratio; `crop` scales the short side to
    `short_side` and crops H x W from the centre; `pad` scales the whole photo to fit and fills the rest with `fill`.
    Each is one resampling from the photo's own pixels.
    With `resize_size` (height, width) the pixels are those of torchvision's and timm's transforms, bit for bit: the
    photo is first resized as a whole, `squeeze` to this size, `crop` to the smallest that covers it and `pad` to the
    largest that fits into it, in whole pixels; then H x W are cut from the centre, and filled with `fill` outside.
    `channels` are what the network takes. The pixels of `GRAY` have one channel, the luma of ITU-R 601-2, and those of
    `RGBA` the photo's own alpha; all others are RGB over white, which the graph of a `BGR` network reverses itself.
    `mean` and `std` (in units of 0..255, in the order of `channels`) describe the normalisation inside the graph: they
    are documentation, and the server does not apply them. `fill` is RGB: `GRAY` gets its luma, `RGBA` makes it opaque.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: PositiveInt
    width: PositiveInt
    resize: Literal["squeeze", "crop", "pad"] = "squeeze"
    short_side: PositiveInt | None = None
    resize_size: tuple[PositiveInt, PositiveInt] | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    fill: Colour = (0, 0, 0)
    channels: Channels = "RGB"
    mean: tuple[float, ...] = Field(default_factory=_one_per_channel(0.0))
    std: tuple[PositiveFloat, ...] = Field(default_factory=_one_per_channel(1.0))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of one image in `pixels`."""
        return self.height, self.width, CHANNEL_COUNTS[self.channels]

    @property
    def blank(self) -> tuple[float, ...]:
        """The values of a pixel, 0 to 255, that the graph normalises to 0: the neutral input."""
        return self.mean[::-1] if self.channels == "BGR" else self.mean

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        if self.resize_size and self.short_side:
            raise ValueError("resize_size replaces short_side: give one of them")
        if self.resize == "crop" and not self.resize_size and (self.short_side or 0) < max(self.height, self.width):
            raise ValueError("resize 'crop' needs a short_side that is at least height and width")
        return self

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        count = CHANNEL_COUNTS[self.channels]
        if len(self.mean) != count or len(self.std) != count:
            raise ValueError(
                f"{self.channels} has {count} channel{'s' * (count > 1)}: mean and std need one number for each, not "
                f"{len(self.mean)} and {len(self.std)}"
            )
        return self
