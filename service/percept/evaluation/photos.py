"""A folder of photos on disk, and the masks that mark the object of each photo.

Paths come in; the paths of photos, and masks as arrays, leave. It decodes no photo and knows no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.errors import PerceptError
from percept.imaging.formats import FORMATS
from percept.imaging.geometry import UNSEEN

MASKS = "masks"  # the default name of the folder of masks


@dataclass(frozen=True)
class ObjectMask:
    """The pixels of the object in a photo, and the pixels whose class is known: both bool [height,width]."""

    inside: NDArray[np.bool_]
    known: NDArray[np.bool_]


class PhotoFolder:
    """The photos below a folder, with its subfolders, sorted by name.

    `masks` is the folder of their masks: by default a folder `masks` inside the folder or beside it, or None.
    """

    def __init__(self, folder: Path, masks: Path | None = None, excluded: Sequence[Path] = ()) -> None:
        """Pictures below the `excluded` folders are not photos. Raises `PerceptError` if there is no photo."""
        if not folder.is_dir():
            raise PerceptError(f"there is no folder {folder}")
        if masks is not None and (not masks.is_dir() or masks.samefile(folder)):
            raise PerceptError(f"{masks} is not a folder of masks: it must exist, and differ from the folder of photos")
        self.folder = folder
        self.masks = masks or next(filter(Path.is_dir, _default_mask_folders(folder)), None)
        others = [other.resolve() for other in (*excluded, self.masks) if other is not None]
        self.photos = sorted(_find_pictures(folder, [other for other in others if folder.resolve() in other.parents]))
        if not self.photos:
            raise PerceptError(f"there is no photo in {folder}: no file ends in {', '.join(sorted(_suffixes()))}")

    def sample(self, limit: int | None) -> list[Path]:
        """At most `limit` photos, spread evenly over the folder; all if it is None."""
        count = min(limit or len(self.photos), len(self.photos))
        return [self.photos[i * len(self.photos) // count] for i in range(count)]

    def name(self, photo: Path) -> str:
        """A photo's path below the folder."""
        return photo.relative_to(self.folder).as_posix()

    def read_mask(self, photo: Path, size: tuple[int, int], target: int | None) -> ObjectMask | None:
        """Read the mask of a photo of `size` (width, height); None if it has none.

        With a class index `target` the object is where the mask has that value, and 255 means unknown; without one the
        object is where the mask is not 0. Raises `PerceptError` if the mask cannot be used.
        """
        file = self._mask_file(photo)
        if file is None:
            return None
        values = _read_values(file)
        if values.shape != size[::-1]:
            raise PerceptError(
                f"{file} is {values.shape[1]} x {values.shape[0]}, the photo {size[0]} x {size[1]}: "
                "a mask must have the size of its photo"
            )
        if target is None:
            return ObjectMask(values != 0, np.ones(values.shape, bool))
        return ObjectMask(values == target, values != UNSEEN)

    def _mask_file(self, photo: Path) -> Path | None:
        """The mask in the subfolder of masks that mirrors the photo's, or in the folder of masks itself."""
        if self.masks is None:
            return None
        candidates = (self.masks / photo.relative_to(self.folder), self.masks / photo.name)
        return next(filter(Path.is_file, (candidate.with_suffix(".png") for candidate in candidates)), None)


def _suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}


def _default_mask_folders(folder: Path) -> list[Path]:
    beside = folder.resolve().parent.glob(MASKS)
    return [folder / MASKS] + [masks for masks in beside if masks != folder.resolve()]


def _find_pictures(folder: Path, excluded: Sequence[Path]) -> Iterator[Path]:
    """Every file below the folder that is named like a photo, except hidden files and those below excluded folders."""
    suffixes = _suffixes()
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        elsewhere = any(other in file.resolve().parents for other in excluded)
        if file.suffix.lower() in suffixes and file.is_file() and not hidden and not elsewhere:
            yield file


def _read_values(file: Path) -> NDArray[np.generic]:
    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except Exception as error:  # a parser may raise anything, as in `decode`
        raise PerceptError(f"{file} is not a mask: {error}") from error
    if values.ndim != 2:
        raise PerceptError(f"{file} has {values.shape[2]} channels; a mask has one")
    return values
