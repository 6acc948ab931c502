"""`percept export` into a new folder, and photos to calibrate on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept.server.cli import main
from tests.percept_models.export.factories import MODULE


class Export:
    """Runs `percept export` into the folder `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, source: str, *options: str, name: str = "mine") -> int:
        """The exit status; the size is 32 x 24 for the factories of the tests."""
        if source.startswith(MODULE):
            options = ("--size", "32x24", *options)
        return main(["export", source, "--name", name, "--out", str(self.out), *options])

    def folder(self, name: str = "mine", version: int = 1) -> Path:
        """The folder of an exported bundle."""
        return self.out / name / str(version)

    def files(self) -> list[str]:
        """The names of all files and folders in `out`, hidden or not."""
        return sorted(file.name for file in self.out.rglob("*"))


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path / "out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with eight photos and a text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(8):
        colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(colours).resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder
