"""What is kept of the last images, for how long, and within how many bytes."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.errors import UnknownImage
from percept.runtime.image_cache import Store

MODEL = object()


def row(count: int) -> dict[str, np.ndarray]:
    return {"a": np.zeros(count, np.uint8)}


def test_what_is_kept_is_found_with_what_was_added() -> None:
    store = Store(1000, 60)
    store.keep("one", b"data", MODEL)
    store.enrich("one", row(10))
    found = store.find("one")
    assert (found.data, found.model, found.row["a"].size) == (b"data", MODEL, 10)
    assert store.size == 14


def test_the_least_recently_used_leave_first() -> None:
    store = Store(25, 60)
    for name in ("one", "two"):
        store.keep(name, bytes(10), MODEL)
    store.find("one")
    store.keep("three", bytes(10), MODEL)
    assert store.find("one")
    assert store.find("three")
    with pytest.raises(UnknownImage, match="post it again"):
        store.find("two")


def test_images_are_forgotten_after_a_while_unless_they_are_asked_for() -> None:
    store = Store(1000, 0.2)
    for name in ("one", "two"):
        store.keep(name, b"data", MODEL)
    time.sleep(0.12)
    store.find("one")
    time.sleep(0.12)
    store.find("one")
    with pytest.raises(UnknownImage):
        store.find("two")
    time.sleep(0.22)
    with pytest.raises(UnknownImage):
        store.find("one")
    assert (len(store), store.size) == (0, 0)


def test_what_is_larger_than_all_is_not_kept_and_drives_nothing_out() -> None:
    store = Store(100, 60)
    store.keep("one", bytes(10), MODEL)
    store.keep("huge", bytes(101), MODEL)
    store.enrich("one", row(91))
    assert store.find("one").row == {}
    assert store.size == 10


def test_a_store_of_no_bytes_keeps_nothing_and_says_so() -> None:
    store = Store(0, 60)
    store.keep("one", b"data", MODEL)
    with pytest.raises(UnknownImage, match="never"):
        store.find("one")


def test_a_row_of_a_batch_is_kept_without_the_batch() -> None:
    batch = np.zeros((16, 100), np.uint8)
    store = Store(1000, 60)
    store.keep("one", b"", MODEL)
    store.enrich("one", {"a": batch[3]})
    assert store.find("one").row["a"].base is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60), st.integers(0, 60)), max_size=40))
def test_its_bytes_never_exceed_what_is_allowed(acts: list[tuple[str, int, int]]) -> None:
    store = Store(100, 60)
    for name, data, extra in acts:
        store.keep(name, bytes(data), MODEL)
        store.enrich(name, row(extra))
        held = [kept.size for kept in store._kept.values()]
        assert store.size == sum(held) <= 100


def test_a_full_store_takes_another_image_without_looking_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request keeps an image: a thousand that are kept already must not make it slower."""
    store = Store(1000, 60)
    for k in range(100):
        store.keep(str(k), bytes(10), MODEL)
    asked: list[object] = []
    monkeypatch.setattr(
        "percept.runtime.image_cache.Kept.size", property(lambda kept: asked.append(kept) or len(kept.data))
    )
    store.keep("one more", bytes(10), MODEL)
    assert len(asked) < 5
    assert (len(store), store.size) == (100, 1000)


def test_images_of_models_that_are_gone_are_let_go() -> None:
    store = Store(1000, 60)
    other = object()
    store.keep("one", bytes(10), MODEL)
    store.keep("two", bytes(10), other)
    store.enrich("one", row(5))
    store.retain([other])
    assert (len(store), store.size) == (1, 10)
    with pytest.raises(UnknownImage):
        store.find("one")
