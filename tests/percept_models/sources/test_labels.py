"""Labels come from the user's file, from the network's makers, or are numbered."""

from pathlib import Path

import pytest

from percept.errors import BundleError
from percept_models.sources.labels import choose_labels


@pytest.mark.parametrize(
    ("text", "expected"), [("a dog", ("not a dog", "a dog")), ("a cat\na dog", ("a cat", "a dog"))]
)
def test_labels_of_one_output_are_those_of_two_classes(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    """A single label is that of class 1, and class 0 is its complement."""
    file = tmp_path / "labels.txt"
    file.write_text(text)
    assert choose_labels(file, (), 2, one_output=True) == expected
    assert choose_labels(None, text.splitlines(), 2, one_output=True) == expected


def test_single_label_of_two_outputs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("a dog")
    with pytest.raises(BundleError, match="holds 1 labels, and the network has 2 classes"):
        choose_labels(file, (), 2)
    assert choose_labels(None, ["a dog"], 2) == ("class 0", "class 1")
