"""The image cache: which images and outputs it holds, for how long, and within how many bytes."""

import time
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.errors import UnknownImage
from percept.runtime.image_cache import CachedImage, ImageCache
from percept.runtime.model import Model

# The cache only compares models.
MODEL, OTHER_MODEL = cast(Model, object()), cast(Model, object())


def outputs(size: int) -> dict[str, np.ndarray]:
    return {"a": np.zeros(size, np.uint8)}


def test_image_is_found_with_the_outputs_added() -> None:
    cache = ImageCache(1000, 60)
    cache.put("one", b"data", MODEL)
    cache.add_outputs("one", outputs(10))
    found = cache.get("one")
    assert (found.data, found.model, found.outputs["a"].size) == (b"data", MODEL, 10)
    assert cache.size == 14


def test_least_recently_used_image_leaves_first() -> None:
    cache = ImageCache(25, 60)
    for name in ("one", "two"):
        cache.put(name, bytes(10), MODEL)
    cache.get("one")
    cache.put("three", bytes(10), MODEL)
    assert cache.get("one")
    assert cache.get("three")
    with pytest.raises(UnknownImage, match="post it again"):
        cache.get("two")


def test_images_expire_unless_used() -> None:
    cache = ImageCache(1000, 0.2)
    for name in ("one", "two"):
        cache.put(name, b"data", MODEL)
    time.sleep(0.12)
    cache.get("one")
    time.sleep(0.12)
    cache.get("one")
    with pytest.raises(UnknownImage):
        cache.get("two")
    time.sleep(0.22)
    with pytest.raises(UnknownImage):
        cache.get("one")
    assert (len(cache), cache.size) == (0, 0)


def test_too_large_images_and_outputs_evict_nothing() -> None:
    cache = ImageCache(100, 60)
    cache.put("one", bytes(10), MODEL)
    cache.put("huge", bytes(101), MODEL)
    cache.add_outputs("one", outputs(91))
    assert cache.get("one").outputs == {}
    assert cache.size == 10


def test_cache_without_capacity_caches_nothing() -> None:
    cache = ImageCache(0, 60)
    cache.put("one", b"data", MODEL)
    with pytest.raises(UnknownImage, match="caches no images"):
        cache.get("one")


def test_cached_outputs_do_not_hold_the_batch() -> None:
    batch = np.zeros((16, 100), np.uint8)
    cache = ImageCache(1000, 60)
    cache.put("one", b"", MODEL)
    cache.add_outputs("one", {"a": batch[3]})
    assert cache.get("one").outputs["a"].base is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60), st.integers(0, 60)), max_size=40))
def test_size_never_exceeds_the_capacity(actions: list[tuple[str, int, int]]) -> None:
    cache = ImageCache(100, 60)
    for name, data, extra in actions:
        cache.put(name, bytes(data), MODEL)
        cache.add_outputs(name, outputs(extra))
        sizes = [image.size for image in cache._images.values()]
        assert cache.size == sum(sizes) <= 100


def test_full_cache_takes_an_image_without_visiting_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request caches an image: the images already cached must not slow it down."""
    cache = ImageCache(1000, 60)
    for k in range(100):
        cache.put(str(k), bytes(10), MODEL)
    visited: list[CachedImage] = []

    def record_size(image: CachedImage) -> int:
        visited.append(image)
        return len(image.data)

    monkeypatch.setattr(CachedImage, "size", property(record_size))
    cache.put("one more", bytes(10), MODEL)
    assert len(visited) < 5
    assert (len(cache), cache.size) == (100, 1000)


def test_images_of_other_models_are_dropped() -> None:
    cache = ImageCache(1000, 60)
    cache.put("one", bytes(10), MODEL)
    cache.put("two", bytes(10), OTHER_MODEL)
    cache.add_outputs("one", outputs(5))
    cache.retain([OTHER_MODEL])
    assert (len(cache), cache.size) == (1, 10)
    with pytest.raises(UnknownImage):
        cache.get("one")
