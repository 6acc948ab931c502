"""Files of labels in every accepted form, and what is refused because it is not clear."""

from pathlib import Path

import pytest

from percept.errors import BundleError
from percept_models.sources.label_file import ACCEPTED, read_labels

NAMES = ["cat", "dog", "owl"]
FORMS = {
    "lines.txt": "cat\ndog\nowl\n",
    "windows.txt": "cat\r\ndog\r\nowl\r\n",
    "blank.txt": "cat\n\ndog\n  \nowl\n\n",
    "mark.txt": "\ufeffcat\ndog\nowl",
    "numbered.txt": "0 cat\n1 dog\n2 owl",
    "colons.txt": "1: dog\n0: cat\n2: owl",
    "list.json": '["cat", "dog", "owl"]',
    "mark.json": '\ufeff["cat", "dog", "owl"]',
    "index.json": '{"0": "cat", "2": "owl", "1": "dog"}',
    "keras.json": '{"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n03", "owl"]}',
    "class_to_idx.json": '{"owl": 2, "cat": 0, "dog": 1}',
    "config.json": '{"model_type": "resnet", "id2label": {"0": "cat", "1": "dog", "2": "owl"}}',
    "bare.csv": "0,cat\n1,dog\n2,owl\n",
    "heading.csv": "index,name\n2,owl\n0,cat\n1,dog\n",
    "reversed.csv": "label;id\ncat;0\ndog;1\nowl;2\n",
    "wide.csv": "id,name,colour\n0,cat,red\n1,dog,grey\n2,owl,brown\n",
    "column.csv": "name\ncat\ndog\nowl\n",
    "yolo.yaml": "path: data\nnc: 3\nnames:\n  0: cat\n  1: dog\n  2: owl\n",
    "list.yml": "names: [cat, dog, owl]",
}


@pytest.mark.parametrize("name", FORMS)
def test_labels_are_read_in_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name], "utf-8", newline="")
    assert read_labels(tmp_path / name) == NAMES


def test_labels_in_utf_16_are_read(tmp_path: Path) -> None:
    """As PowerShell and Excel write them."""
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl", "utf-16")
    assert read_labels(tmp_path / "labels.txt") == NAMES


KEPT = {
    "comma.txt": ("tench, Tinca tinca\ngoldfish", ["tench, Tinca tinca", "goldfish"]),
    "coins.txt": ("5 euro\n10 euro\n0 euro", ["5 euro", "10 euro", "0 euro"]),
    "quoted.csv": ('0,"tench, Tinca tinca"\n1,goldfish', ["tench, Tinca tinca", "goldfish"]),
    "digits.json": ('{"0": 0, "1": 1}', ["0", "1"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_names_with_numbers_and_commas_are_kept(tmp_path: Path, name: str) -> None:
    text, expected = KEPT[name]
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == expected


UNCLEAR = {
    "one.json": ('{"1": "cat", "2": "dog"}', "not each of 0 to 1"),
    "gap.csv": ("0,cat\n2,dog", "no column holds each index"),
    "twice.json": ('{"cat": 0, "dog": 0}', "not each of 0 to 1"),
    "numbers.json": ('{"0": 1, "1": 2, "2": 0}', "cannot be told apart"),
    "numbers.csv": ("0,1\n1,2\n2,0", "cannot be told apart"),
    "ragged.csv": ("0,cat\n1", "numbers of columns"),
    "broken.json": ('["cat"', "delimiter"),
    "nested.json": ('[{"name": "cat"}]', "is no name"),
    "scalar.yaml": ("cat", "neither a list nor an object"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_file_is_refused_with_what_is_accepted(tmp_path: Path, name: str) -> None:
    text, reason = UNCLEAR[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(BundleError, match=reason) as caught:
        read_labels(tmp_path / name)
    assert ACCEPTED in str(caught.value)


def test_other_encoding_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("Käfer", "latin-1")
    with pytest.raises(BundleError, match="save the file as UTF-8"):
        read_labels(tmp_path / "labels.txt")
