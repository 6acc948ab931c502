"""A cache of the last images, bounded in bytes and in time, so that clients need not send them again.

It holds each image as the client sent it and, once they were computed, the trunk's outputs for it. Everything runs on
the event loop, so there is no lock. It knows no HTTP.
"""

import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from percept.errors import UnknownImage
from percept.runtime.model import Model
from percept.runtime.session import Arrays


@dataclass(eq=False)
class CachedImage:
    """An encoded image, the model that it was sent to, and the trunk's outputs where they are known."""

    data: bytes
    model: Model
    expires_at: float
    outputs: Arrays = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self.data) + sum(array.nbytes for array in self.outputs.values())


class ImageCache:
    """Images by an unguessable id. The least recently used are evicted first: all trunk outputs before any image.

    A `capacity` of 0 caches nothing.
    """

    def __init__(self, capacity: int, ttl_s: float) -> None:
        """`capacity` in bytes; an image expires `ttl_s` seconds after its last use."""
        self.capacity, self.ttl_s = capacity, ttl_s
        # Least recently used first. `_with_outputs` holds those of `_images` that have outputs.
        self._images: OrderedDict[str, CachedImage] = OrderedDict()
        self._with_outputs: OrderedDict[str, CachedImage] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._images)

    @property
    def size(self) -> int:
        """The size of all images and outputs in bytes."""
        return self._size

    def put(self, id: str, data: bytes, model: Model) -> None:
        """Cache an encoded image, unless it is larger than the capacity."""
        if id in self._images:
            self._remove(id)
        if len(data) <= self.capacity:
            self._images[id] = CachedImage(data, model, time.monotonic() + self.ttl_s)
            self._size += len(data)
        self._evict()

    def get(self, id: str) -> CachedImage:
        """The image with this id, whose time to live starts again; raises `UnknownImage` with the remedy."""
        self._evict()
        image = self._images.get(id)
        if image is None:
            raise UnknownImage(f"no image is cached with the id {id!r}: post it again. {self._describe_limits()}")
        image.expires_at = time.monotonic() + self.ttl_s
        self._images.move_to_end(id)
        if id in self._with_outputs:
            self._with_outputs.move_to_end(id)
        return image

    def add_outputs(self, id: str, outputs: Arrays) -> None:
        """Cache the trunk's outputs of an image; arrays that are views of a batch are copied out of it."""
        image = self._remove(id)
        if image is not None:
            image.outputs = {name: array if array.base is None else array.copy() for name, array in outputs.items()}
            self._images[id] = self._with_outputs[id] = image
            self._size += image.size
            self._evict()

    def retain(self, models: Collection[Model]) -> None:
        """Drop the images of all other models, so that those models can be freed."""
        for id in [id for id, image in self._images.items() if image.model not in models]:
            self._remove(id)

    def _describe_limits(self) -> str:
        if not self.capacity:
            return "This service caches no images"
        return f"Images are cached for {self.ttl_s:g} s after their last use, up to {self.capacity / 1e6:.0f} MB"

    def _remove(self, id: str) -> CachedImage | None:
        image = self._images.pop(id, None)
        self._with_outputs.pop(id, None)
        self._size -= image.size if image else 0
        return image

    def _evict(self) -> None:
        """Drop expired images, then the least recently used ones until the rest fits into the capacity.

        Every request calls this function: its time must not depend on the number of images.
        """
        now = time.monotonic()
        while self._images and (oldest := next(iter(self._images))) and self._images[oldest].expires_at <= now:
            self._remove(oldest)  # the least recently used image is the first to expire
        while self._size > self.capacity and self._with_outputs:
            _, image = self._with_outputs.popitem(last=False)
            self._size -= image.size - len(image.data)
            image.outputs = {}
        while self._size > self.capacity:
            self._remove(next(iter(self._images)))
