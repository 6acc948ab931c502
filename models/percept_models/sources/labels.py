"""The labels of a network's classes: from the user's file, from the network's makers, or numbered."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from percept.errors import BundleError
from percept_models.sources.label_file import read_labels


def choose_labels(file: Path | None, known: Sequence[str], classes: int, one_output: bool = False) -> tuple[str, ...]:
    """The labels in the file, else the known ones if there is one for each class, else `class 0`, `class 1`, ….

    If the two classes were made of `one_output`, a single label is that of class 1, and class 0 is its complement.
    Raises `BundleError` where the file does not hold one label for each class.
    """
    labels = list(known) if file is None else read_labels(file)
    if one_output and len(labels) == 1:
        labels = [f"not {labels[0]}", labels[0]]
    if file is None and len(labels) != classes:
        return tuple(f"class {k}" for k in range(classes))
    if len(labels) != classes:
        raise BundleError(f"{file} holds {len(labels)} labels, and the network has {classes} classes")
    return make_distinct(labels)


def make_distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Append the index to labels that occur more than once: ImageNet has two classes called crane."""
    count = Counter(labels)
    return tuple(label if count[label] == 1 else f"{label} ({k})" for k, label in enumerate(labels))
