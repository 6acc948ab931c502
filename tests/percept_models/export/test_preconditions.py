"""What is checked before torch is imported: each wrong argument is one line that says what would be right."""

import sys
from pathlib import Path

import pytest

from percept.errors import BundleError
from percept_models.export.options import ExportOptions, parse_options
from percept_models.export.preconditions import LIBRARIES, check_request, check_source, require_bundle
from percept_models.sources.libraries import SOURCES
from percept_models.training.names import NAMES
from percept_models.training.recipes import RECIPES


def parse(*arguments: str, source: str = "json:loads", name: str = "mine", out: Path) -> ExportOptions:
    return parse_options([source, "--name", name, "--out", str(out), *arguments], out)


def test_possible_request_is_accepted(tmp_path: Path) -> None:
    check_request(parse(out=tmp_path))
    file = tmp_path / "net.onnx"
    file.touch()
    check_request(parse("--weights", "none", "--labels", str(file), source=str(file), out=tmp_path))


@pytest.mark.parametrize("name", ["my net", "", "-net", "a/b", "n" * 129])
def test_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no name of a model: use at most 128 letters, digits"):
        check_request(ExportOptions("json:loads", name, tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--version", "0"), "the version 0 is not at least 1"),
        (("--labels", "absent.txt"), "there is no file absent.txt"),
        (("--labels", "."), ". is a folder, not a file"),
        (("--weights", "absent.pth"), "there is no file absent.pth"),
        (("--calibrate", "absent", "--precision", "int8"), "there is no folder absent"),
        (("--precision", "int8"), "need each other"),
    ],
)
def test_missing_files_are_named(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        check_request(parse(*arguments, out=tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("net.onnx", "there is no file net.onnx"),
        ("models/net.pth", "there is no file models/net.pth, and .* is not a source: write torchvision:NAME"),
        ("resnet50", "'resnet50' is not a source: write torchvision:NAME, timm:NAME, smp:NAME, module.path:factory or"),
        ("torchvision:", "is not a source"),
        ("nowhere.net:small", "there is no module 'nowhere', neither in .* nor among the installed packages"),
        ("./net.py:small", "is no name of a Python module"),
    ],
)
def test_missing_source_is_refused(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=message):
        check_source(source)


@pytest.mark.parametrize("file", ["nets/small.py", "nets.py"])
def test_module_in_the_working_directory_is_found(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).touch()
    check_source("nets.small:factory?x=1")


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_library_is_named_with_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_source(f"{library}:any")
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == LIBRARIES[library]]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BundleError, match=rf"{LIBRARIES[library]} is not installed: .*percept-serve\[zoo\]"):
        check_source(f"{library}:any")


def test_existing_bundle_and_unwritable_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    with pytest.raises(BundleError, match="exists already"):
        check_request(parse(out=tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written: choose another folder with --out or PERCEPT_MODELS"):
        check_request(parse(out=tmp_path / "file"))


def test_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"there is no folder {tmp_path / 'absent'}"):
        require_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"holds no manifest.json: a bundle is a folder <root>/<name>/<version>"):
        require_bundle(tmp_path)
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / "manifest.json").touch()
    for check in (require_bundle, lambda folder: check_source(str(folder))):
        with pytest.raises(BundleError, match=r"did you mean .*/mine/1"):
            check(tmp_path / "mine")


def test_tables_without_torch_agree_with_those_of_torch() -> None:
    assert LIBRARIES.keys() == SOURCES.keys()
    assert sorted(NAMES) == sorted(RECIPES)
