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
    """Images by an unguessable id. The least recently used leave first: all trunk outputs before any image.

    A `capacity` of 0 caches nothing.
    """

    def __init__(self, capacity: int, ttl_s: float) -> None:
        """`capacity` in bytes; an image expires `ttl_s` seconds after its last use."""
        self.capacity, self.ttl_s = capacity, ttl_s
        # Least recently used first. The second holds the images of the first that have outputs.
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
        """The image with this id, whose time starts again; raises `UnknownImage` with the remedy."""
        self._evict()
        image = self._images.get(id)
        if image is None:
            limits = f"for {self.ttl_s:g} s, at most {self.capacity / 1e6:.0f} MB of them" if self.capacity else "never"
            raise UnknownImage(f"no image is cached as {id!r}: post it again. Images are cached {limits}")
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

    def _remove(self, id: str) -> CachedImage | None:
        image = self._images.pop(id, None)
        self._with_outputs.pop(id, None)
        self._size -= image.size if image else 0
        return image

    def _evict(self) -> None:
        """Drop what has expired, then what exceeds the capacity.

        Every request calls this: its time must not depend on the number of images.
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
