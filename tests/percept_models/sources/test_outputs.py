"""The outputs of a torch network have names, and one is selected only if it alone can be logits."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from percept.errors import BundleError
from percept_models.sources.outputs import select_output

IMAGES = torch.zeros(2, 3, 8, 6)
CLASSES, OTHERS, MAPS = torch.zeros(2, 5), torch.zeros(2, 3), torch.zeros(2, 4, 4, 3)
Scores = namedtuple("Scores", ["boxes", "scores"])


@dataclass
class Returned:
    """An output as a network of transformers returns it."""

    logits: Tensor
    features: Tensor | None = None


SELECTED: dict[str, tuple[Any, str | None]] = {
    "tensor": (CLASSES, None),
    "list of one": ([CLASSES], "0"),
    "with None": ((CLASSES, None), "0"),
    "with a loss": ((torch.tensor(0.5), CLASSES), "1"),
    "with tokens": ((torch.zeros(2, 7, 4), CLASSES), "1"),
    "with classes that were chosen": ((torch.zeros(2, dtype=torch.int64), CLASSES), "1"),
    "with maps that have not the aspect ratio of the image": ((CLASSES, torch.zeros(2, 4, 9, 3)), "0"),
    "mapping of one": ({"heads": {"age": CLASSES}, "count": 3}, "heads.age"),
    "segmenter of torchvision": (OrderedDict(out=MAPS, aux=MAPS + 1), "out"),
    "dataclass": (Returned(CLASSES, MAPS), "logits"),
}


@pytest.mark.parametrize("case", SELECTED)
def test_only_output_that_can_be_logits_is_selected(case: str) -> None:
    returned, name = SELECTED[case]
    found = select_output(returned, None, IMAGES)
    assert found.name == name
    assert found.tensor is (MAPS if name == "out" else CLASSES)


AMBIGUOUS: dict[str, tuple[Any, str]] = {
    "two classifiers": ((CLASSES, OTHERS), r"2 outputs .*--output NAME; 0 \[N,5\], 1 \[N,3\]"),
    "mapping": ({"age": CLASSES, "sex": OTHERS}, r"age \[N,5\], sex \[N,3\]"),
    "named tuple": (Scores(MAPS, CLASSES), r"boxes \[N,4,4,3\], scores \[N,5\]"),
    "nested": ({"heads": [CLASSES, OTHERS]}, r"heads\.0 \[N,5\], heads\.1 \[N,3\]"),
    "levels": ([MAPS, MAPS], r"0 \[N,4,4,3\], 1 \[N,4,4,3\]"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_several_possible_outputs_are_listed(case: str) -> None:
    returned, listed = AMBIGUOUS[case]
    with pytest.raises(BundleError, match=listed):
        select_output(returned, None, IMAGES)


IMPOSSIBLE: dict[str, tuple[Any, str]] = {
    "boxes of each image": ([{"boxes": torch.zeros(7, 4)}] * 2, r"0\.boxes \[7,4\], 1\.boxes \[7,4\]"),
    "the greatest entries": (torch.zeros(2, 5).max(1), r"0 \[N\], 1 \[N\] int64"),
    "number": (3, "it returns int"),
    "nothing": (None, "it returns NoneType"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_outputs_that_cannot_be_logits_are_listed(case: str) -> None:
    returned, listed = IMPOSSIBLE[case]
    with pytest.raises(BundleError, match=f"no output of the network looks like .*{listed}"):
        select_output(returned, None, IMAGES)


def test_named_output_is_selected() -> None:
    returned = {"heads": [CLASSES, OTHERS], "count": torch.zeros(2)}
    found = select_output(returned, "heads.1", IMAGES)
    assert found.tensor is OTHERS
    assert found.describe_others() == "heads.0 [N,5], count [N]"
    assert select_output(returned, "count", IMAGES).tensor.shape == (2,)
    with pytest.raises(BundleError, match=r"no output 'heads'; the outputs are heads\.0 \[N,5\]"):
        select_output(returned, "heads", IMAGES)
    with pytest.raises(BundleError, match="--output 0 names nothing: the network returns one tensor"):
        select_output(CLASSES, "0", IMAGES)
