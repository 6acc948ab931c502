"""The inputs of every benchmark over HTTP: photos, bundles, a temporary folder, and the common options.

This module starts no server and measures nothing.
"""

import io
import json
import os
import platform
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.harness.peer_servers import ROOT
from percept.runtime.cpu_count import count_cpus
from percept.settings import BUILT_IN_BUNDLES
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions

NETWORKS = {
    "squeezenet": "torchvision:squeezenet1_1",
    "mobilenet": "torchvision:mobilenet_v2",
    "resnet50": "torchvision:resnet50",
    "clothing": str(BUILT_IN_BUNDLES / "clothing" / "1"),
}
PHOTOS = ROOT.parent / "shared" / "images" / "imagenet"


@dataclass(frozen=True)
class Workspace:
    """The folder of photos, and a temporary folder."""

    photos: Path
    scratch: Path

    @property
    def log(self) -> Path:
        """The output of the running server."""
        return self.scratch / "log"


@contextmanager
def open_workspace(photos: Path | None) -> Iterator[Workspace]:
    """Create a workspace for a `with` block, with one generated photo if there is no folder of photos."""
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        if photos is None or not photos.is_dir():
            photos = scratch / "photos"
            photos.mkdir()
            (photos / "photo.jpg").write_bytes(generate_photo())
        yield Workspace(photos.resolve(), scratch)


def generate_photo() -> bytes:
    """A JPEG of 640 x 480 pixels and 56 KB: a smooth image of random colours."""
    colours = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def photo_files(workspace: Workspace) -> list[Path]:
    """The photos, sorted by name."""
    return sorted(path for path in workspace.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))


def create_bundle(network: str, precision: str, workspace: Workspace) -> Path:
    """Create the bundle of a network unless it exists; raises `BundleError` if that fails."""
    out = workspace.scratch / precision
    folder = out / network / "1"
    if folder.exists():
        return folder
    if precision != "float32":
        source = str(create_bundle(network, "float32", workspace))
        options = ExportOptions(source, network, out=out, precision="int8", calibration=workspace.photos)
        return convert(options, lambda _: None)
    source = NETWORKS[network]
    if Path(source).is_dir():
        return Path(shutil.copytree(source, folder))
    return convert(ExportOptions(source, network, out=out, weights="none"), lambda _: None)


def create_repository(network: str, precision: str, workspace: Workspace) -> Path:
    """Create a repository with the bundle of one network."""
    folder = create_bundle(network, precision, workspace)
    repository = workspace.scratch / f"{network}-{precision}"
    repository.mkdir(exist_ok=True)
    if not (repository / network).exists():
        (repository / network).symlink_to(folder.parent)
    return repository


def describe_machine() -> dict[str, object]:
    """The number of cores, the CPU and the load of this machine."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {"cores": count_cpus(), "cpu": names[0] if names else platform.machine(), "load": os.getloadavg()[0]}


def create_parser(
    doc: str | None, networks: Sequence[str], rounds: int, seconds: float | None = None, choices: Sequence[str] = ()
) -> ArgumentParser:
    """A parser of the options that the benchmarks share; `--seconds` is left out unless it has a default."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=choices or list(NETWORKS), default=list(networks))
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help="under each load")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--photos",
        type=Path,
        default=PHOTOS,
        help="folder of JPEGs (default: a generated photo if the shared ones are missing)",
    )
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    return parser


def write_json(file: Path | None, machine_info: Mapping[str, object], **results: object) -> None:
    """Write results and machine as JSON, if a file is given."""
    if file:
        file.write_text(json.dumps({"machine": machine_info, **results}, indent=1, default=asdict))
