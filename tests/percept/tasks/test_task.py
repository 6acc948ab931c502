"""What all tasks share: scores from logits, and classes by label or index."""

import numpy as np
import pytest

from percept.errors import UnknownClass
from percept.tasks.task import MAX_LABELS_LISTED, activate, class_index, mean_score
from tests.percept.tasks.manifests import create_manifest


def test_softmax_of_huge_logits_sums_to_one() -> None:
    scores = activate(np.array([1e4, 1e4 - 1, -1e4], np.float32), "softmax")
    assert scores.sum() == pytest.approx(1)


def test_sigmoid_of_huge_logits_is_finite() -> None:
    assert activate(np.array([-1e4, 0, 1e4], np.float32), "sigmoid").tolist() == pytest.approx([0, 0.5, 1])


def test_no_activation_keeps_the_logits() -> None:
    assert activate(np.array([3.0, -2.0], np.float32), "none").tolist() == [3, -2]


def test_class_is_found_by_label_before_index() -> None:
    digits = create_manifest("classification", labels=["2", "1", "0"])
    assert class_index(digits, "2") == 0
    assert class_index(create_manifest("classification"), "2") == 2


@pytest.mark.parametrize("target", ["golden_retriever", "Golden Retriever", "GOLDENRETRIEVER", " golden  retriever "])
def test_class_is_found_whatever_case_and_spaces(target: str) -> None:
    manifest = create_manifest("classification", labels=["tench", "goldfish", "golden retriever"])
    assert class_index(manifest, target) == 2


def test_similar_labels_are_not_confused() -> None:
    manifest = create_manifest("classification", labels=["a_b", "A B", "c"])
    assert [class_index(manifest, label) for label in ("a_b", "A B")] == [0, 1]
    with pytest.raises(UnknownClass, match="did you mean"):
        class_index(manifest, "ab")


def test_unknown_class_gets_a_suggestion() -> None:
    with pytest.raises(UnknownClass, match=r"red, green, blue; did you mean green\?"):
        class_index(create_manifest("classification"), "grean")


@pytest.mark.parametrize("target", ["3", "purple", "-1", "", "²"])
def test_unknown_class_is_an_error_with_the_labels(target: str) -> None:
    with pytest.raises(UnknownClass, match="red, green, blue"):
        class_index(create_manifest("classification"), target)


def test_unknown_class_lists_the_first_labels_only() -> None:
    labels = [f"label{k}" for k in range(MAX_LABELS_LISTED + 1)]
    manifest = create_manifest("classification", labels=labels, logits=[len(labels)])
    with pytest.raises(UnknownClass, match=f"{labels[-2]}, …") as raised:
        class_index(manifest, "purple")
    assert labels[-1] not in str(raised.value)


def test_score_is_the_mean_where_the_seed_is_positive() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32)
    seed = np.zeros_like(logits)
    seed[1] = [[0, 1], [1, 0]]
    shares = np.exp(logits) / np.exp(logits).sum(0)
    score = mean_score(create_manifest("segmentation"), logits, 1, seed)
    assert score == pytest.approx(shares[1][seed[1] > 0].mean())
