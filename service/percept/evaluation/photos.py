"""A folder of photos on disk, and the masks that say where the object of each is.

Paths come in; the paths of photos and masks as arrays leave. It decodes no photo and knows no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.errors import PerceptError
from percept.imaging.decode import FORMATS, UNSEEN

MASKS = "masks"


@dataclass(frozen=True)
class Truth:
    """Where the object is in a photo, and of which pixels that is known: both bool [height,width]."""

    inside: NDArray[np.bool_]
    known: NDArray[np.bool_]


class Gallery:
    """The photos below a folder, by their names, subfolders and all.

    `masks` is the folder of their masks, by default `masks` in the folder or beside it; None where there is none.
    """

    def __init__(self, folder: Path, masks: Path | None = None, besides: Sequence[Path] = ()) -> None:
        """`besides` are folders whose pictures are no photos; raises `PerceptError` where nothing can be looked at."""
        if not folder.is_dir():
            raise PerceptError(f"there is no folder {folder}")
        if masks is not None and (not masks.is_dir() or masks.samefile(folder)):
            raise PerceptError(f"{masks} is no folder of masks alone")
        self.folder = folder
        self.masks = masks or next(filter(Path.is_dir, _places(folder)), None)
        others = [other.resolve() for other in (*besides, self.masks) if other is not None]
        self.photos = sorted(_pictures(folder, [other for other in others if folder.resolve() in other.parents]))
        if not self.photos:
            raise PerceptError(f"there is no photo in {folder}: no {', '.join(sorted(_suffixes()))}")

    def some(self, limit: int | None) -> list[Path]:
        """So many of the photos, evenly spread over all, or all."""
        count = min(limit or len(self.photos), len(self.photos))
        return [self.photos[i * len(self.photos) // count] for i in range(count)]

    def name(self, photo: Path) -> str:
        """A photo's path below the folder."""
        return photo.relative_to(self.folder).as_posix()

    def truth(self, photo: Path, size: tuple[int, int], target: int | None) -> Truth | None:
        """What the mask of a photo of `size` (width, height) says; None where it has none.

        With a `target` the object is where the mask has its index, and 255 is not known; else where it is not 0.
        Raises `PerceptError` where the mask cannot be used.
        """
        file = self._mask(photo)
        if file is None:
            return None
        values = _read(file)
        if values.shape != size[::-1]:
            raise PerceptError(f"{file} is {values.shape[1]} x {values.shape[0]}, the photo {size[0]} x {size[1]}")
        if target is None:
            return Truth(values != 0, np.ones(values.shape, bool))
        return Truth(values == target, values != UNSEEN)

    def _mask(self, photo: Path) -> Path | None:
        """The mask under the photo's own subfolder, or without it."""
        if self.masks is None:
            return None
        places = (self.masks / photo.relative_to(self.folder), self.masks / photo.name)
        return next(filter(Path.is_file, (place.with_suffix(".png") for place in places)), None)


def _suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}


def _places(folder: Path) -> list[Path]:
    """Where the masks of the photos in a folder lie if nobody says it."""
    return [folder / MASKS] + [place for place in folder.resolve().parent.glob(MASKS) if place != folder.resolve()]


def _pictures(folder: Path, others: Sequence[Path]) -> Iterator[Path]:
    """Every file below the folder that is named like a photo, but for hidden ones and those of other folders."""
    suffixes = _suffixes()
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        elsewhere = any(other in file.resolve().parents for other in others)
        if file.suffix.lower() in suffixes and file.is_file() and not hidden and not elsewhere:
            yield file


def _read(file: Path) -> NDArray[np.generic]:
    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except Exception as error:  # as in `decode`: whatever a parser raises
        raise PerceptError(f"{file} is no mask: {error}") from error
    if values.ndim != 2:
        raise PerceptError(f"{file} has {values.shape[2]} channels; a mask has one")
    return values
