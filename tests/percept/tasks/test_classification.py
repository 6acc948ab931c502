"""A classifier's logits become its best classes; a class becomes a seed of one number."""

import numpy as np
import pytest

from percept.bundle.preprocessing import Preprocessing
from percept.imaging.geometry import compute_geometry
from percept.tasks.classification import predict_classes, rank_classes, seed_class
from tests.percept.tasks.manifests import create_manifest

GEOMETRY = compute_geometry((8, 8), Preprocessing(height=8, width=8))
LOGITS = np.log(np.array([0.2, 0.7, 0.1], np.float32))
MANIFEST = create_manifest("classification")


def test_prediction_is_the_best_classes_in_order() -> None:
    answer = predict_classes(MANIFEST, LOGITS, GEOMETRY, 2)
    found = [(p.label, p.index, round(p.score, 3)) for p in answer.predictions]
    assert found == [("green", 1, 0.7), ("red", 0, 0.2)]


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 100])
def test_best_classes_are_those_of_a_full_sort(top_k: int) -> None:
    """Equal logits are in the order of the classes."""
    labels = [str(k) for k in range(50)]
    manifest = create_manifest("classification", labels=labels, logits=[50])
    logits = np.random.default_rng(0).integers(0, 9, 50).astype(np.float32)
    expected = sorted(range(50), key=lambda k: (-logits[k], k))[:top_k]
    answer = predict_classes(manifest, logits, GEOMETRY, top_k)
    assert [one.index for one in answer.predictions] == expected


def test_targets_are_all_classes_by_logit() -> None:
    assert rank_classes(MANIFEST, LOGITS, None) == [1, 0, 2]


def test_seed_is_one_at_the_class() -> None:
    assert seed_class(MANIFEST, LOGITS, 2, None).tolist() == [0, 0, 1]


def test_seed_of_an_added_class_is_the_negative_of_the_other() -> None:
    """Class 0, whose logit is always 0, is explained by what lowers the logit of class 1."""
    manifest = create_manifest("classification", labels=["not a dog", "a dog"], logits=[2], head={"added": "zero"})
    logits = np.array([0, 3], np.float32)
    assert seed_class(manifest, logits, 0, None).tolist() == [1, -1]
    assert seed_class(manifest, logits, 1, None).tolist() == [0, 1]
