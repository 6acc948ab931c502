"""The labels of a network's classes, from a file as people write it."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from percept.errors import BundleError


def read(file: Path) -> list[str]:
    """Labels in a JSON list, in a JSON object by index, or one to a line, up to the first empty one.

    Raises `BundleError` for anything else.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"the labels in {file} cannot be read: {error}") from error
    if text.lstrip()[:1] not in ("[", "{"):
        return list(takewhile(str.strip, text.splitlines()))
    try:
        found = json.loads(text)
        return list(map(str, found)) if isinstance(found, list) else [str(found[str(k)]) for k in range(len(found))]
    except (ValueError, KeyError) as error:
        raise BundleError(f"the labels in {file} are no JSON list, nor an object by index: {error}") from error


def distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that stand more than once get their index: ImageNet has two kinds of crane."""
    count = Counter(labels)
    return tuple(label if count[label] == 1 else f"{label} ({k})" for k, label in enumerate(labels))


def chosen(file: Path | None, known: Sequence[str], classes: int) -> tuple[str, ...]:
    """The labels in the file, else the known ones if there are as many as classes, else numbers.

    Raises `BundleError` where the file does not hold one for each class.
    """
    if file is None:
        return distinct(known) if len(known) == classes else tuple(f"class {k}" for k in range(classes))
    labels = read(file)
    if len(labels) != classes:
        raise BundleError(f"{file} holds {len(labels)} labels, and the network has {classes} classes")
    return distinct(labels)
