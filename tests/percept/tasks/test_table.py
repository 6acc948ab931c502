"""What logits mean."""

import numpy as np
import pytest

from percept.bundle.manifest import Manifest, Preprocessing
from percept.errors import TargetAbsent, UnknownClass
from percept.imaging.geometry import UNSEEN, compute_geometry
from percept.tasks.table import MAX_MASK_PIXELS, TASKS, activate, class_index, label, mask
from tests.bundles import LABELS


def manifest(task: str, **more: object) -> Manifest:
    fields = {
        "name": "m",
        "version": 1,
        "task": task,
        "activation": "softmax",
        "labels": LABELS[task],
        "background": 0 if task == "segmentation" else None,
        "logits": [3] if task == "classification" else [4, 2, 2],
        "preprocessing": {"height": 8, "width": 8},
        "layers": [{"name": "a", "shape": [1, 2, 2], "stride": [4, 4], "unavailable": "none"}],
        "cam_layer": "a",
        "files": {"trunk.onnx": "0" * 64, "golden.npz": "0" * 64},
        "provenance": {"source": "", "weights": "", "license": ""},
        **more,
    }
    return Manifest.model_validate(fields)


VIEW = compute_geometry((8, 8), Preprocessing(height=8, width=8))
# Two by two cells: ground, red / red, green.
CELLS = np.zeros((4, 2, 2), np.float32)
CELLS[0, 0, 0] = CELLS[1, 0, 1] = CELLS[1, 1, 0] = CELLS[2, 1, 1] = 9


def test_a_classifier_answers_its_best_classes_in_order() -> None:
    logits = np.log(np.array([0.2, 0.7, 0.1], np.float32))
    answer = TASKS["classification"].answer(manifest("classification"), logits, VIEW, 2)
    found = [(p.label, p.index, round(p.score, 3)) for p in answer.predictions]
    assert found == [("green", 1, 0.7), ("red", 0, 0.2)]


def test_softmax_survives_huge_logits_and_sums_to_one() -> None:
    scores = activate(np.array([1e4, 1e4 - 1, -1e4], np.float32), "softmax")
    assert scores.sum() == pytest.approx(1)
    assert activate(np.array([-1e4, 0, 1e4], np.float32), "sigmoid").tolist() == pytest.approx([0, 0.5, 1])
    assert activate(np.array([3.0, -2.0], np.float32), "none").tolist() == [3, -2]


def test_a_segmenter_answers_the_share_of_each_class_present() -> None:
    answer = TASKS["segmentation"].answer(manifest("segmentation"), CELLS, VIEW, 5)
    assert [c.label for c in answer.classes] == ["red", "ground", "green"]
    assert sum(c.fraction for c in answer.classes) == pytest.approx(1)


def test_a_mask_lies_where_the_cells_are() -> None:
    found = mask(CELLS, VIEW)
    assert [found[0, 0], found[0, 7], found[7, 0], found[7, 7]] == [0, 1, 1, 2]


def test_what_was_not_seen_has_no_class() -> None:
    rule = Preprocessing(height=8, width=8, resize="crop", short_side=16)
    found = mask(CELLS, compute_geometry((16, 16), rule))
    assert (found[:4] == UNSEEN).all()
    assert (found[4:12, 4:12] != UNSEEN).all()


def test_a_huge_photo_is_labelled_at_a_bounded_size() -> None:
    view = compute_geometry((4000, 3000), VIEW_RULE := Preprocessing(height=8, width=8))
    assert VIEW_RULE.resize == "squeeze"
    assert label(CELLS, view).size <= MAX_MASK_PIXELS * 1.01
    full = mask(CELLS, view)
    assert full.shape == (3000, 4000)
    assert [full[0, 0], full[-1, -1]] == [0, 2]


def test_the_target_is_the_largest_class_that_is_not_background() -> None:
    task = TASKS["segmentation"]
    assert task.targets(manifest("segmentation"), CELLS, None) == [1, 2, 0]
    ground = np.zeros((4, 2, 2), np.float32)
    ground[0] = 1
    assert task.targets(manifest("segmentation"), ground, None) == [0]
    mostly_ground = CELLS.copy()
    mostly_ground[0, :, 0] = 20
    mostly_ground[0, 0, 1] = 20
    assert task.targets(manifest("segmentation"), mostly_ground, None)[0] == 2


def test_the_seed_of_a_region_is_the_class_where_it_is_predicted() -> None:
    task = TASKS["segmentation"]
    seed = task.seed(manifest("segmentation"), CELLS, 1, None)
    assert seed[1].tolist() == [[0, 1], [1, 0]]
    assert seed.sum() == 2
    with pytest.raises(TargetAbsent, match="'blue'; present are ground, red, green"):
        task.seed(manifest("segmentation"), CELLS, 3, None)


def test_the_cells_that_are_meant_are_the_seed_whatever_is_predicted_there() -> None:
    task, cells = TASKS["segmentation"], np.array([[True, False], [False, False]])
    assert task.seed(manifest("segmentation"), CELLS, 3, cells)[3].tolist() == [[1, 0], [0, 0]]
    assert task.targets(manifest("segmentation"), CELLS, cells) == [int(CELLS[:, 0, 0].argmax())]


def test_a_score_is_the_mean_where_the_seed_is() -> None:
    task = TASKS["segmentation"]
    seed = task.seed(manifest("segmentation"), CELLS, 1, None)
    shares = np.exp(CELLS) / np.exp(CELLS).sum(0)
    assert task.score(manifest("segmentation"), CELLS, 1, seed) == pytest.approx(shares[1][seed[1] > 0].mean())


def test_a_class_goes_by_label_then_by_index() -> None:
    digits = manifest("classification", labels=["2", "1", "0"])
    assert class_index(digits, "2") == 0
    assert class_index(manifest("classification"), "2") == 2
    for wrong in ("3", "purple", "-1", "", "²"):
        with pytest.raises(UnknownClass, match="red, green, blue"):
            class_index(manifest("classification"), wrong)
