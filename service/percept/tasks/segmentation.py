"""Segmentation: from logits [K,h,w] to a mask and the share of each class, and from a class or region to its seed."""

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from percept.bundle.manifest import Manifest
from percept.errors import TargetAbsent
from percept.imaging.geometry import UNSEEN, Geometry, Map, Pixels, project_to_photo
from percept.tasks.task import Region, Task, mean_score

MAX_MASK_PIXELS = 2**20  # finer than the logits of any network, whatever the photo's size


class Share(BaseModel):
    """One class of a segmenter's prediction."""

    label: str = Field(examples=["upper"])
    index: int = Field(examples=[3])
    fraction: float = Field(description="share of the seen pixels, 0 to 1", examples=[0.21])


class Segmentation(BaseModel):
    """The classes present in the image, the largest first."""

    classes: list[Share]


def full_mask(logits: Map, geometry: Geometry) -> Pixels:
    """The class of every photo pixel, uint8 [height,width]; `UNSEEN` where the network saw nothing."""
    small = Image.fromarray(mask(logits, geometry))
    return np.asarray(small.resize(geometry.size, Image.Resampling.NEAREST))


def mask(logits: Map, geometry: Geometry) -> Pixels:
    """The class of every pixel of the photo, scaled down to `MAX_MASK_PIXELS` if it is larger: uint8 [h,w].

    The logits are interpolated before the classes are compared, so that the borders do not follow the cells.
    """
    factor = (MAX_MASK_PIXELS / (geometry.width * geometry.height)) ** 0.5
    return _argmax(logits, geometry if factor >= 1 else geometry.scaled(factor))


def predict_shares(manifest: Manifest, logits: Map, geometry: Geometry, top_k: int) -> Segmentation:
    """The share of each class in the seen pixels; classes without a pixel are left out."""
    labels = mask(logits, geometry)
    counts = np.bincount(labels[labels != UNSEEN], minlength=len(manifest.labels))
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    return Segmentation(
        classes=[Share(label=manifest.labels[k], index=k, fraction=float(counts[k] / counts.sum())) for k in order]
    )


def rank_present_classes(manifest: Manifest, logits: Map, region: Region | None) -> list[int]:
    """The classes present, by their number of cells; the background last."""
    winners = logits.argmax(0)
    counts = np.bincount(winners.ravel() if region is None else winners[region], minlength=len(logits))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return sorted(order, key=lambda k: k == manifest.background)


def seed_region(manifest: Manifest, logits: Map, index: int, region: Region | None) -> Map:
    """1 in the plane of the class, at the cells of the region; raises `TargetAbsent` if there are none.

    For an added class 0, whose logit is always 0, also -1 in the plane of class 1.
    """
    winners = logits.argmax(0)
    cells = winners == index if region is None else region
    if not cells.any():
        present = ", ".join(manifest.labels[k] for k in np.unique(winners))
        raise TargetAbsent(f"no pixel of this image is predicted as {manifest.labels[index]!r}; present are {present}")
    seed = np.zeros_like(logits)
    seed[index] = cells
    if index == 0 and manifest.head.added == "zero":
        seed[1] = -seed[0]
    return seed


def _argmax(logits: Map, geometry: Geometry) -> Pixels:
    """One class after the other: memory for two maps, however many classes there are."""
    best = project_to_photo(logits[0], geometry)
    winner = np.where(np.isnan(best), np.uint8(UNSEEN), np.uint8(0))
    for k in range(1, len(logits)):
        rival = project_to_photo(logits[k], geometry)
        better = rival > best
        winner[better] = k
        best = np.where(better, rival, best)
    return winner


SEGMENTATION = Task(predict_shares, rank_present_classes, seed_region, mean_score, spatial=True)
