"""The last images, kept for some minutes within so many bytes, so that they need not be sent again.

An image is kept as it was posted, and with it, once somebody looks closer, what the trunk gave for it. Everything
runs on the event loop, so there is no lock. It knows no HTTP.
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
    """An encoded image, the model that answered about it, and the trunk's outputs where they are known."""

    data: bytes
    model: Model
    until: float
    outputs: Arrays = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.data) + sum(array.nbytes for array in self.outputs.values())


class ImageCache:
    """Images by unguessable id. What the trunk gave leaves before any image does, the least recently used first.

    `capacity` 0 keeps nothing.
    """

    def __init__(self, capacity: int, keep_s: float) -> None:
        """`capacity` in bytes, `keep_s` in seconds since an image was last asked for."""
        self.capacity, self.keep_s = capacity, keep_s
        self._kept: OrderedDict[str, CachedImage] = OrderedDict()
        self._looked_at: OrderedDict[str, CachedImage] = OrderedDict()  # those with rows
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes that all images take."""
        return self._size

    def put(self, id: str, data: bytes, model: Model) -> None:
        """Keep an encoded image, if there is room for it at all."""
        self._put(id, CachedImage(data, model, self._soon()))

    def get(self, id: str) -> CachedImage:
        """What is kept under an id, for another while; raises `UnknownImage` with what to do."""
        self._tidy()
        found = self._kept.get(id)
        if found is None:
            rule = f"for {self.keep_s:g} s, as far as {self.capacity / 1e6:.0f} MB reach" if self.capacity else "never"
            raise UnknownImage(f"no image is kept as {id!r}: post it again. Images are kept {rule}")
        found.until = self._soon()
        self._kept.move_to_end(id)
        if id in self._looked_at:
            self._looked_at.move_to_end(id)
        return found

    def add_outputs(self, id: str, row: Arrays) -> None:
        """Keep what the trunk gave for an image too; each array by itself, not the batch that it is part of."""
        found = self._take(id)
        if found is not None:
            found.outputs = {name: array if array.base is None else array.copy() for name, array in row.items()}
            self._put(id, found)

    def retain(self, models: Collection[Model]) -> None:
        """Let go of the images of all other models, and so of these models."""
        for id in [id for id, kept in self._kept.items() if kept.model not in models]:
            self._take(id)

    def _put(self, id: str, kept: CachedImage) -> None:
        self._take(id)
        if len(kept.data) > self.capacity:
            return
        self._kept[id] = kept
        if kept.outputs:
            self._looked_at[id] = kept
        self._size += kept.size
        self._tidy()

    def _take(self, id: str) -> CachedImage | None:
        found = self._kept.pop(id, None)
        self._looked_at.pop(id, None)
        self._size -= found.size if found else 0
        return found

    def _tidy(self) -> None:
        """Let go of what is too old, then of what is too much. Every request does this: it must not look at all."""
        now = time.monotonic()
        while self._kept and (first := next(iter(self._kept))) and self._kept[first].until <= now:
            self._take(first)  # who was used least recently is the first to be too old
        while self._size > self.capacity and self._looked_at:
            _, kept = self._looked_at.popitem(last=False)
            self._size -= kept.size - len(kept.data)
            kept.outputs = {}
        while self._size > self.capacity:
            self._take(next(iter(self._kept)))

    def _soon(self) -> float:
        return time.monotonic() + self.keep_s
