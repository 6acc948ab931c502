"""Photos in files, prepared as the server prepares them: for calibration, verification and feature inversion."""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BrokenImage, BundleError, ImageTooLarge, NotAnImage
from percept.imaging.decode import decode_reduced
from percept.imaging.preprocess import prepare
from percept_models.graph.reader import Array

MAX_BYTES = 2**28  # of one photo
MAX_PIXELS = 2**28


def read_photo(file: Path, preprocessing: Preprocessing) -> Array:
    """The trunk's pixels uint8 [H,W,C] of a photo; raises what `decode` raises, and `OSError`."""
    photo, geometry = decode_reduced(preprocessing, file.read_bytes(), MAX_BYTES, MAX_PIXELS)
    return prepare(photo, geometry, preprocessing)


def read_photos(folder: Path, preprocessing: Preprocessing, limit: int = 200) -> Iterator[Array]:
    """The trunk's pixels uint8 [H,W,C] of the images in a folder and its sub-folders, in the order of their paths.

    If there are more than `limit` files, they are divided into `limit` runs of neighbours, and the first image of each
    run is taken. Files that are not images, or broken ones, are skipped. Raises `BundleError` where no image is found.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size <= MAX_BYTES)
    bounds = [i * len(files) // limit for i in range(limit + 1)]
    empty = True
    for begin, end in pairwise(bounds):
        for photo in islice(_readable(files[begin:end], preprocessing), 1):
            empty = False
            yield photo
    if empty:
        raise BundleError(f"{folder} holds no image")


def _readable(files: Iterable[Path], preprocessing: Preprocessing) -> Iterator[Array]:
    """The pixels of the files that are images."""
    for file in files:
        try:
            yield read_photo(file, preprocessing)
        except (NotAnImage, BrokenImage, ImageTooLarge):
            continue
