"""Hot regions against a flood fill, the pixels of the picture, and Otsu's definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from percept.bundle.preprocessing import Preprocessing
from percept.explain.regions import MAX_RASTER_PIXELS, HotRegion, connected_components, hot_regions, otsu
from percept.imaging.geometry import RESIZE_RULES, Geometry, compute_geometry, project_to_photo

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
MAPS = arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.floats(0, 1, width=32))
RULES = st.one_of(st.just("otsu"), st.floats(0.01, 0.99))


@st.composite
def geometries(draw: st.DrawFn, longest: int) -> Geometry:
    """Photos of any proportions under each resize rule."""
    rule = Preprocessing(
        width=draw(st.integers(8, 64)),
        height=draw(st.integers(8, 64)),
        resize=draw(st.sampled_from(sorted(RESIZE_RULES))),
        short_side=draw(st.integers(64, 80)),
    )
    return compute_geometry((draw(st.integers(1, longest)), draw(st.integers(1, longest))), rule)


def flood_fill(hot: np.ndarray) -> list[set[tuple[int, int]]]:
    """Connected sets of pixels, in reading order of their first pixels."""
    left, components = {(int(r), int(c)) for r, c in zip(*np.nonzero(hot), strict=True)}, []
    for start in sorted(left):
        if start not in left:
            continue
        left.discard(start)
        piece, edge = {start}, [start]
        while edge:
            r, c = edge.pop()
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            piece |= near
            edge += near
        components.append(piece)
    return components


def gaussian(x: float, y: float, radius: float, shape: tuple[int, int] = (14, 14)) -> np.ndarray:
    """A Gaussian at (x, y), in shares of the map."""
    rows, columns = ((np.arange(n) + 0.5) / n for n in shape)
    square = (rows[:, None] - y) ** 2 + (columns[None] - x) ** 2
    return np.exp(-square / (2 * radius**2)).astype(np.float32)


@given(MASKS)
def test_components_equal_a_flood_fill(hot: np.ndarray) -> None:
    labels = connected_components(hot)
    assert labels.shape == hot.shape
    assert ((labels > 0) == hot).all()
    found = [set(zip(*(p.tolist() for p in np.nonzero(labels == k + 1)), strict=True)) for k in range(labels.max())]
    assert found == flood_fill(hot)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.sampled_from([(60, 80), (1, 300), (300, 1)]))
def test_large_components_equal_a_flood_fill(seed: int, share: float, shape: tuple[int, int]) -> None:
    hot = np.random.default_rng(seed).random(shape) < share
    assert [int((connected_components(hot) == k + 1).sum()) for k in range(len(flood_fill(hot)))] == [
        len(p) for p in flood_fill(hot)
    ]


def test_spirals_and_touching_corners_are_connected() -> None:
    spiral = np.zeros((65, 65), bool)
    r, c, step = 0, -1, 65
    for turn, (i, j) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)] * 17):
        for _ in range(step):
            r, c = r + i, c + j
            spiral[r, c] = True
        step -= 2 if turn % 2 == 0 and turn else turn == 0
        if step <= 0:
            break
    assert spiral.mean() < 0.6
    assert connected_components(spiral).max() == 1
    assert connected_components(np.indices((40, 30)).sum(0) % 2 == 0).max() == 1
    assert connected_components(np.eye(9, dtype=bool)[::2]).max() == 5


@given(arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_otsu_maximizes_the_variance_between_classes(levels: np.ndarray) -> None:
    def between(t: float) -> float:
        low, high = levels[levels <= t], levels[levels > t]
        return float(low.size * high.size * (low.mean() - high.mean()) ** 2) if low.size and high.size else -1.0

    t = otsu(levels)
    if np.ptp(levels) == 0:
        assert t == -1
    else:
        assert between(t) == pytest.approx(max(between(k) for k in range(256)))


def test_otsu_equals_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for seed in range(20):
        random = np.random.default_rng(seed)
        levels = np.clip(random.normal(random.choice([60, 170], (64, 64)), 25), 0, 255).astype(np.uint8)
        assert otsu(levels) == cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)[0]


@settings(max_examples=60)
@given(MAPS, geometries(40), RULES)
def test_regions_are_connected_hot_pixels_of_the_picture(heat: np.ndarray, geometry: Geometry, rule) -> None:
    H = project_to_photo(heat, geometry).astype(np.float64)
    seen = ~np.isnan(H)
    if not H[seen].max() > 0:
        assert hot_regions(heat, geometry, rule) == ()
        return
    levels = np.rint(np.nan_to_num(H) / H[seen].max() * 255).astype(np.uint8)
    hot = seen & (levels > otsu(levels[seen]) if rule == "otsu" else rule * H[seen].max() <= H)
    expected = []
    for piece in flood_fill(hot):
        rows, columns = (np.array(places) for places in zip(*piece, strict=True))
        inside = H[rows, columns]
        expected.append(
            (
                (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, len(piece)),
                (len(piece) / seen.sum(), inside.max(), inside.sum() / H[seen].sum()),
            )
        )
    found = hot_regions(heat, geometry, rule)
    assert [region.mass for region in found] == sorted((region.mass for region in found), reverse=True)
    assert len(found) == len(expected)
    numbers = [((r.left, r.top, r.right, r.bottom, r.area), (r.share, r.peak, r.mass)) for r in found]
    for mine, theirs in zip(sorted(numbers), sorted(expected), strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1])


@settings(max_examples=150)
@given(MAPS, geometries(50_000), RULES)
def test_boxes_lie_in_the_seen_part_of_any_photo(heat: np.ndarray, geometry: Geometry, rule) -> None:
    left, top, right, bottom = geometry.seen
    found = hot_regions(heat, geometry, rule)
    for region in found:
        assert left <= region.left < region.right <= right
        assert top <= region.top < region.bottom <= bottom
        assert 0 < region.share <= 1
        assert 0 < region.mass <= 1 + 1e-9
        assert 0 < region.peak <= 1
        # A box is rounded outwards, an area is not: they may differ by less than one pixel of the raster.
        assert region.area <= (region.right - region.left) * (region.bottom - region.top) + 1
    assert sum(region.share for region in found) <= 1 + 1e-9
    assert sum(region.mass for region in found) <= 1 + 1e-9


def test_two_peaks_on_a_huge_photo_give_two_boxes() -> None:
    heat = np.maximum(gaussian(0.25, 0.25, 0.1), 0.9 * gaussian(0.7, 0.8, 0.07))
    geometry = Geometry(8000, 6000, (0, 0, 8000, 6000))
    found = hot_regions(heat, geometry, 0.5)
    assert len(found) == 2
    for region, (x, y) in zip(found, [(2000, 1500), (5600, 4800)], strict=True):
        assert (region.left + region.right) / 2 == pytest.approx(x, abs=300)
        assert (region.top + region.bottom) / 2 == pytest.approx(y, abs=300)
    truth = project_to_photo(heat, geometry) >= 0.5 * project_to_photo(heat, geometry).max()
    assert sum(region.area for region in found) == pytest.approx(truth.sum(), rel=0.02)
    pixel = 8000 / (4 / 3 * MAX_RASTER_PIXELS) ** 0.5
    for region in found:
        assert truth[region.top : region.bottom, region.left : region.right].mean() > 0.5
        rows, columns = np.nonzero(
            truth[region.top - 500 : region.bottom + 500, region.left - 500 : region.right + 500]
        )
        edges = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        box = [500, 500, region.bottom - region.top + 500, region.right - region.left + 500]
        assert edges == pytest.approx(box, abs=2 * pixel)


def test_boxes_move_with_the_crop() -> None:
    heat = gaussian(0.5, 0.5, 0.1)
    whole = hot_regions(heat, Geometry(200, 200, (0, 0, 200, 200)), 0.5)
    cropped = hot_regions(heat, Geometry(500, 300, (150, 50, 350, 250)), 0.5)
    assert len(whole) == len(cropped) == 1
    a, b = whole[0], cropped[0]
    assert (b.left, b.top, b.right, b.bottom) == (a.left + 150, a.top + 50, a.right + 150, a.bottom + 50)
    assert (b.area, b.share, b.peak, b.mass) == (a.area, a.share, a.peak, a.mass)


def test_empty_map_has_no_region_and_constant_map_one() -> None:
    geometry = Geometry(6400, 480, (-10, -200, 6410, 680))
    assert hot_regions(np.zeros((7, 7), np.float32), geometry, 0.5) == ()
    assert hot_regions(np.full((7, 7), np.nan, np.float32), geometry, "otsu") == ()
    for level in (1.0, 0.3, 1e-45):
        for rule in (0.5, 0.99, "otsu"):
            (region,) = hot_regions(np.full((7, 7), level, np.float32), geometry, rule)
            box = (region.left, region.top, region.right, region.bottom)
            assert (box, region.area) == ((0, 0, 6400, 480), 6400 * 480)
            assert region.share == 1
            assert region.mass == pytest.approx(1)


@pytest.mark.parametrize("size", [(48_000_000, 1), (1, 48_000_000), (12_000_000, 4), (1, 1)])
@pytest.mark.parametrize("resize", RESIZE_RULES)
def test_extreme_photo_proportions_have_regions(size: tuple[int, int], resize) -> None:
    geometry = compute_geometry(size, Preprocessing(width=32, height=32, short_side=36, resize=resize))
    (region,) = hot_regions(gaussian(0.5, 0.5, 0.2), geometry, 0.2)
    assert 0 <= region.left < region.right <= size[0]
    assert 0 <= region.top < region.bottom <= size[1]
    assert MAX_RASTER_PIXELS == 2**16


def test_hot_regions_are_compared_by_value() -> None:
    assert HotRegion(0, 0, 1, 1, 1, 1.0, 1.0, 1.0) == HotRegion(0, 0, 1, 1, 1, 1.0, 1.0, 1.0)
