"""A segmenter's logits become a mask and shares; a class or a region becomes a seed."""

import numpy as np
import pytest

from percept.bundle.preprocessing import Preprocessing
from percept.errors import TargetAbsent
from percept.imaging.geometry import UNSEEN, compute_geometry
from percept.tasks.segmentation import (
    MAX_MASK_PIXELS,
    SEGMENTATION,
    full_mask,
    mask,
    predict_shares,
    rank_present_classes,
    seed_region,
)
from tests.percept.tasks.manifests import create_manifest

RULE = Preprocessing(height=8, width=8)
GEOMETRY = compute_geometry((8, 8), RULE)
MANIFEST = create_manifest("segmentation")
# Two by two cells: ground, red / red, green.
LOGITS = np.zeros((4, 2, 2), np.float32)
LOGITS[0, 0, 0] = LOGITS[1, 0, 1] = LOGITS[1, 1, 0] = LOGITS[2, 1, 1] = 9


def test_prediction_is_the_share_of_each_present_class() -> None:
    answer = predict_shares(MANIFEST, LOGITS, GEOMETRY, 5)
    assert [c.label for c in answer.classes] == ["red", "ground", "green"]
    assert sum(c.fraction for c in answer.classes) == pytest.approx(1)


def test_shares_count_only_seen_pixels() -> None:
    crop = compute_geometry((16, 16), Preprocessing(height=8, width=8, resize="crop", short_side=16))
    answer = predict_shares(MANIFEST, LOGITS, crop, 5)
    assert sum(c.fraction for c in answer.classes) == pytest.approx(1)


def test_mask_has_each_class_at_its_cells() -> None:
    found = full_mask(LOGITS, GEOMETRY)
    assert [found[0, 0], found[0, 7], found[7, 0], found[7, 7]] == [0, 1, 1, 2]


def test_unseen_pixels_have_no_class() -> None:
    rule = Preprocessing(height=8, width=8, resize="crop", short_side=16)
    found = full_mask(LOGITS, compute_geometry((16, 16), rule))
    assert (found[:4] == UNSEEN).all()
    assert (found[4:12, 4:12] != UNSEEN).all()


def test_mask_of_a_large_photo_is_computed_at_a_bounded_size() -> None:
    geometry = compute_geometry((4000, 3000), RULE)
    assert mask(LOGITS, geometry).size <= MAX_MASK_PIXELS * 1.01
    full = full_mask(LOGITS, geometry)
    assert full.shape == (3000, 4000)
    assert [full[0, 0], full[-1, -1]] == [0, 2]


def test_targets_are_present_classes_with_the_background_last() -> None:
    assert rank_present_classes(MANIFEST, LOGITS, None) == [1, 2, 0]
    mostly_ground = LOGITS.copy()
    mostly_ground[0, :, 0] = 20
    mostly_ground[0, 0, 1] = 20
    assert rank_present_classes(MANIFEST, mostly_ground, None)[0] == 2


def test_only_the_background_is_a_target_if_nothing_else_is_present() -> None:
    ground = np.zeros((4, 2, 2), np.float32)
    ground[0] = 1
    assert rank_present_classes(MANIFEST, ground, None) == [0]


def test_targets_of_a_region_are_the_classes_in_it() -> None:
    region = np.array([[True, False], [False, False]])
    assert rank_present_classes(MANIFEST, LOGITS, region) == [int(LOGITS[:, 0, 0].argmax())]


def test_seed_of_a_class_is_its_predicted_cells() -> None:
    seed = seed_region(MANIFEST, LOGITS, 1, None)
    assert seed[1].tolist() == [[0, 1], [1, 0]]
    assert seed.sum() == 2


def test_seed_of_an_absent_class_is_an_error() -> None:
    with pytest.raises(TargetAbsent, match="'blue'; present are ground, red, green"):
        seed_region(MANIFEST, LOGITS, 3, None)


def test_seed_of_a_region_holds_whatever_is_predicted_there() -> None:
    region = np.array([[True, False], [False, False]])
    assert seed_region(MANIFEST, LOGITS, 3, region)[3].tolist() == [[1, 0], [0, 0]]


def test_score_is_the_mean_over_the_cells_of_the_seed() -> None:
    seed = seed_region(MANIFEST, LOGITS, 1, None)
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(0)
    assert SEGMENTATION.score(MANIFEST, LOGITS, 1, seed) == pytest.approx(shares[1][seed[1] > 0].mean())


def test_seed_of_an_added_class_is_the_negative_of_the_other() -> None:
    """In the cells of the class, or in those that a region selects."""
    manifest = create_manifest(
        "segmentation", labels=["rest", "road"], logits=[2, 1, 2], palette=[], head={"added": "zero"}
    )
    logits = np.array([[[0, 0]], [[3, -1]]], np.float32)
    assert seed_region(manifest, logits, 0, None).tolist() == [[[0, 1]], [[0, -1]]]
    assert seed_region(manifest, logits, 1, None).tolist() == [[[0, 0]], [[1, 0]]]
    region = np.array([[True, False]])
    assert seed_region(manifest, logits, 0, region).tolist() == [[[1, 0]], [[-1, 0]]]
