"""Files of labels: JSON, YAML, CSV and plain lines, as training code and data sets store them.

In comes a file; out comes the list of names by class. A file that can be read in two ways, or leaves out a class, is
refused with what is accepted.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from percept.errors import BundleError, first_line

ACCEPTED = (
    "labels are one name on each line; lines or CSV of index and name; or JSON or YAML: a list of names, or an object "
    "from index to name or from name to index"
)
KEYS = ("id2label", "class_to_idx", "names", "labels", "classes")  # under which a file may hold other things too
NAME_HEADINGS = frozenset({"name", "label", "class", "class_name", "class name", "category", "names", "labels"})
NUMBERED_LINE = re.compile(r"(\d+)[,;:\t ]\s*(\S.*)")
SEPARATORS = ",;\t"


def read_labels(file: Path) -> list[str]:
    """The names in a file by the index of their class; raises `BundleError` where they are not clear."""
    text = _read_text(file)
    try:
        if file.suffix.lower() in (".yaml", ".yml"):
            return _from_object(_parse_yaml(text))
        if text.lstrip()[:1] in ("[", "{"):
            return _from_object(json.loads(text))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return _from_rows(lines) if file.suffix.lower() in (".csv", ".tsv") else _from_lines(lines)
    except ValueError as error:
        raise BundleError(f"the labels in {file} are not clear: {first_line(error)}; {ACCEPTED}") from error


def _read_text(file: Path) -> str:
    try:
        content = file.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return content.decode(encoding)
    except OSError as error:
        raise BundleError(f"the labels in {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"the labels in {file} are not text in UTF-8: save the file as UTF-8") from error


def _parse_yaml(text: str) -> Any:
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise ValueError("YAML needs the package pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from error


def _from_object(found: Any) -> list[str]:
    """The labels in parsed JSON or YAML."""
    if isinstance(found, Mapping) and (
        key := next((key for key in KEYS if isinstance(found.get(key), (dict, list))), None)
    ):
        found = found[key]
    if isinstance(found, list):
        return [_name(entry) for entry in found]
    if not isinstance(found, Mapping):
        raise ValueError("the file holds neither a list nor an object")
    readings = [reading for reading in (_by_index(found), _by_name(found)) if reading]
    if not readings:
        raise ValueError(f"its indices are not each of 0 to {len(found) - 1}")
    return _only(readings)


def _by_index(found: Mapping[Any, Any]) -> list[str] | None:
    """The names in an object from index to name, or to Keras' pair of WordNet identifier and name."""
    return _in_order([(_index(key), value) for key, value in found.items()])


def _by_name(found: Mapping[Any, Any]) -> list[str] | None:
    """The names in an object from name to index, such as torchvision's `class_to_idx`."""
    return _in_order([(_index(value), key) for key, value in found.items()])


def _from_lines(lines: Sequence[str]) -> list[str]:
    """One name on each line, with or without its index before it."""
    matches = [NUMBERED_LINE.fullmatch(line) for line in lines]
    numbered = _in_order([(int(match[1]), match[2]) if match else (None, "") for match in matches])
    return numbered or list(lines)


def _from_rows(lines: Sequence[str]) -> list[str]:
    """CSV of names, or of index and name in any order, with or without a heading."""
    separator = max(SEPARATORS, key=lambda mark: lines[0].count(mark)) if lines else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError("its rows have different numbers of columns")
    heading = [cell.lower() for cell in rows[0]]
    columns = range(len(heading))
    is_numbered = len(heading) == 1 or any(cell.isdigit() for cell in heading)
    has_heading = bool(NAME_HEADINGS & {*heading}) or not is_numbered
    rows = rows[1:] if has_heading else rows
    named = [k for k in columns if has_heading and heading[k] in NAME_HEADINGS]
    if len(columns) == 1:
        return [row[0] for row in rows]
    names = named if len(named) == 1 else columns
    readings = [
        reading
        for k in names
        for i in columns
        if i != k and (reading := _in_order([(_index(row[i]), row[k]) for row in rows]))
    ]
    return _only(readings)


def _only(readings: Sequence[list[str]]) -> list[str]:
    if not readings:
        raise ValueError("no column holds each index from 0 on once")
    if any(reading != readings[0] for reading in readings):
        raise ValueError("names and indices cannot be told apart")
    return readings[0]


def _in_order(pairs: Sequence[tuple[int | None, Any]]) -> list[str] | None:
    """The names sorted by index; None where the indices are not each of 0 to n - 1 once."""
    if {index for index, _ in pairs} != set(range(len(pairs))):
        return None
    return [_name(name) for _, name in sorted(pairs, key=lambda pair: pair[0] or 0)]


def _index(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _name(value: Any) -> str:
    """A name, or the last of a pair of identifier and name."""
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is no name")
    return str(value).strip()
