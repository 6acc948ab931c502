"""What every comparison over HTTP stands on: photos, bundles, a place for them, and the words on the command line.

It starts no server and measures nothing.
"""

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

from benchmarks.harness.peer_servers import ROOT
from benchmarks.heatmap_latency import photo
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
class Place:
    """Where the photos lie, and where things may be put."""

    photos: Path
    scratch: Path

    @property
    def log(self) -> Path:
        """What the server that runs has said."""
        return self.scratch / "log"


@contextmanager
def place(photos: Path) -> Iterator[Place]:
    """A place for as long as it is needed, with a photo that is made where there is no folder of them."""
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        if not photos.is_dir():
            photos = scratch / "photos"
            photos.mkdir()
            (photos / "photo.jpg").write_bytes(photo())
        yield Place(photos.resolve(), scratch)


def pictures(where: Place) -> list[Path]:
    """The photos, in order."""
    return sorted(path for path in where.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))


def bundle(network: str, precision: str, where: Place) -> Path:
    """The bundle of a network, made where it is not yet there; raises `BundleError` with the reason if it cannot be."""
    out = where.scratch / precision
    folder = out / network / "1"
    if folder.exists():
        return folder
    source = NETWORKS[network]
    if precision != "float32":
        whole = str(bundle(network, "float32", where))
        return convert(
            ExportOptions(whole, network, out=out, precision="int8", calibration=where.photos), lambda _: None
        )
    if Path(source).is_dir():
        return Path(shutil.copytree(source, folder))
    return convert(ExportOptions(source, network, out=out, weights="none"), lambda _: None)


def repository(network: str, precision: str, where: Place) -> Path:
    """A folder of bundles with that of one network alone."""
    folder = bundle(network, precision, where)
    alone = where.scratch / f"{network}-{precision}"
    alone.mkdir(exist_ok=True)
    if not (alone / network).exists():
        (alone / network).symlink_to(folder.parent)
    return alone


def machine() -> dict[str, object]:
    """What it was measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {"cores": count_cpus(), "cpu": names[0] if names else platform.machine(), "load": os.getloadavg()[0]}


def parser(
    doc: str | None, networks: Sequence[str], rounds: int, seconds: float | None = None, choices: Sequence[str] = ()
) -> ArgumentParser:
    """The words that every comparison understands, with its own defaults; without `seconds` it has no windows."""
    words = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    words.add_argument("--networks", nargs="+", choices=choices or list(NETWORKS), default=list(networks))
    if seconds is not None:
        words.add_argument("--seconds", type=float, default=seconds, help="under each load")
    words.add_argument("--rounds", type=int, default=rounds)
    words.add_argument("--photos", type=Path, default=PHOTOS, help="folder of JPEGs; without it one is made")
    words.add_argument("--json", type=Path, help="file for every sample")
    return words


def keep(file: Path | None, begun: Mapping[str, object], **found: object) -> None:
    """Write what was found, and on what machine, if a file was asked for."""
    if file:
        file.write_text(json.dumps({"machine": begun, **found}, indent=1, default=asdict))
