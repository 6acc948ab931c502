"""The mask of a segmenter as a picture: indexed colours, or laid over the photo."""

from dataclasses import dataclass
from typing import Literal

from percept.imaging.encode import encode
from percept.imaging.geometry import Map
from percept.imaging.overlay import overlay_mask, render_mask
from percept.tasks.input_image import InputImage
from percept.tasks.segmentation import full_mask
from percept.telemetry.context import stage


@dataclass(frozen=True)
class MaskPicture:
    """How a mask is shown: in which format, as a `mask` or an `overlay` of opacity `alpha`."""

    format: str
    view: Literal["mask", "overlay"] = "mask"
    alpha: float = 0.6


@stage("render")
def encode_mask(image: InputImage, logits: Map, picture: MaskPicture) -> bytes:
    """The mask of logits [K,h,w] as a picture of the photo's size, in the colours of the bundle."""
    manifest = image.model.manifest
    labels = full_mask(logits, image.geometry)
    if picture.view == "overlay":
        drawn = overlay_mask(image.photo, labels, manifest.palette, manifest.background, picture.alpha)
    else:
        drawn = render_mask(labels, manifest.palette)
    return encode(drawn, picture.format)
