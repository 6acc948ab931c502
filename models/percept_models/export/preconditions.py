"""What must hold before a command of the toolchain starts: names, files and folders.

All of it is checked without torch, which takes seconds to import: a wrong argument is answered at once.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from percept.bundle.manifest import MANIFEST, Name
from percept.errors import BundleError
from percept_models.export.options import ExportOptions

# library of networks → the package that it is imported from
LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "smp": "segmentation_models_pytorch"}
OWN_WEIGHTS = ("default", "none")


def check_request(options: ExportOptions) -> None:
    """Raise `BundleError` where an export cannot succeed, whatever the network is."""
    try:
        TypeAdapter(Name).validate_python(options.name)
    except ValidationError as error:
        raise BundleError(
            f"{options.name!r} is no name of a model: use at most 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        ) from error
    if options.version < 1:
        raise BundleError(f"the version {options.version} is not at least 1")
    new_bundle_folder(options.out, options.name, options.version)
    if (options.precision == "int8") != (options.calibration is not None):
        raise BundleError(
            "--precision int8 and --calibrate FOLDER, with photos like those that will be served, need each other"
        )
    if options.calibration:
        require_folder(options.calibration)
    if options.labels:
        require_file(options.labels)
    check_source(options.source, options.weights)


def check_source(source: str, weights: str = "default") -> None:
    """Raise `BundleError` where a source is malformed, or its file, module or weights file is missing."""
    if weights not in OWN_WEIGHTS:
        require_file(Path(weights))
    if is_onnx_file(source):
        return require_file(Path(source))
    if Path(source).is_dir():
        return require_bundle(Path(source))
    library, _, name = source.partition(":")
    if not name.partition("?")[0]:
        libraries = ", ".join(f"{name}:NAME" for name in LIBRARIES)
        missing = "" if Path(source).exists() or "/" not in source else f"there is no file {source}, and "
        raise BundleError(f"{missing}{source!r} is not a source: write {libraries}, module.path:factory or FILE.onnx")
    _require_module(library, source)
    return None


def is_onnx_file(source: str) -> bool:
    """Whether a source is an ONNX file, not a torch network."""
    return source.endswith(".onnx") or Path(source).is_file()


def require_bundle(folder: Path) -> None:
    """Raise `BundleError` where there is no bundle in a folder."""
    if (folder / MANIFEST).is_file():
        return
    if not folder.is_dir():
        raise BundleError(f"there is no folder {folder}")
    versions = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}"))
    hint = f": did you mean {versions[-1]}?" if versions else ": a bundle is a folder <root>/<name>/<version>"
    raise BundleError(f"{folder} holds no {MANIFEST}{hint}")


def require_file(file: Path) -> None:
    """Raise `BundleError` where a file does not exist."""
    if not file.is_file():
        raise BundleError(f"{file} is a folder, not a file" if file.is_dir() else f"there is no file {file}")


def require_folder(folder: Path) -> None:
    """Raise `BundleError` where a folder does not exist."""
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file, not a folder" if folder.exists() else f"there is no folder {folder}")


def new_bundle_folder(out: Path, name: str, version: int) -> Path:
    """The folder of a bundle that is to be written; raises `BundleError` where it exists or `out` is not writable."""
    target = out / name / str(version)
    if target.exists():
        raise BundleError(f"{target} exists already: remove it, or choose another --out, name or version")
    existing = next((folder for folder in (out, *out.absolute().parents) if folder.exists()), out)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise unwritable(out)
    return target


def unwritable(out: Path) -> BundleError:
    """The error about a folder of bundles that cannot be written."""
    return BundleError(f"{out} cannot be written: choose another folder with --out or PERCEPT_MODELS")


def _require_module(library: str, source: str) -> None:
    """Raise `BundleError` where the package of a source is neither in the working directory nor installed."""
    package = LIBRARIES.get(library, library).partition(".")[0]
    if not package.isidentifier():
        raise BundleError(f"{library!r} in {source} is no name of a Python module: write module.path:factory")
    if Path(package).is_dir() or Path(f"{package}.py").is_file() or find_spec(package):
        return
    if library in LIBRARIES:
        raise BundleError(f"the package {package} is not installed: run pip install 'percept-serve[zoo]'")
    raise BundleError(f"there is no module {package!r}, neither in {Path.cwd()} nor among the installed packages")
