"""All that is known of where a network looks, in files: prediction, numbers, maps and pictures of one image.

Explanations come in, one file after the other leaves, so that whoever draws them can pause in between.
"""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from percept.api.archive import File
from percept.api.schemas.images import cams_answer, predict_answer
from percept.explain.presentation import Style, arrays, bounded, contact, picture, stacked
from percept.explain.question import Explanation
from percept.explain.regions import Rule
from percept.imaging.decode import Map
from percept.imaging.overlay import encode, mask_picture, npy
from percept.pipeline import TOP_K, Explained, predicted
from percept.tasks.table import mask

# What each view is drawn as, one by one: the name and the format.
DRAWN = {"overlay": ("overlay", "jpeg"), "sheet": ("overlay", "jpeg"), "heatmap": ("heatmap", "png")}
SUFFIXES = {"json": "json", "npy": "npy", "jpeg": "jpg", "png": "png"}


def parts(found: Explained, style: Style, boxes: Rule | None) -> Iterator[File]:
    """The files of an answer, each made when it is asked for; raises `BadParameter` where they would be too large.

    `prediction.json` is what `/predict` gives, `cam.json` what `/cam` does; `map.npy` is one map, or several of one
    size stacked. Of several, pictures, and maps of different sizes, are numbered in the order of `cam.json`, from 0.
    """
    bounded(found.maps)
    view = found.view
    yield _json("prediction", predict_answer(predicted(view, found.logits, TOP_K)), exclude_none=True)
    yield _json("cam", cams_answer(found.maps, boxes), exclude_none=False)
    if view.model.manifest.task == "segmentation":
        drawn = mask_picture(mask(found.logits, view.geometry), view.model.manifest.palette)
        yield _file("mask", "png", encode(drawn, "png"))
    yield from _maps(arrays(found.maps, style))
    yield from _pictures(found.maps, style)
    if style.view == "sheet":
        yield _file("sheet", "jpeg", encode(contact(found.maps, style), "jpeg"))


def _maps(maps: Sequence[Map]) -> Iterator[File]:
    if len({one.shape for one in maps}) == 1:
        yield _file("map", "npy", npy(stacked(maps)))
        return
    for number, one in enumerate(maps):
        yield _file(f"map.{number}", "npy", npy(one))


def _pictures(maps: Sequence[Explanation], style: Style) -> Iterator[File]:
    name, format = DRAWN[style.view]
    for number, one in enumerate(maps):
        yield _file(name if len(maps) == 1 else f"{name}.{number}", format, encode(picture(one, style), format))


def _json(name: str, answer: BaseModel, exclude_none: bool) -> File:
    return _file(name, "json", answer.model_dump_json(exclude_none=exclude_none).encode())


def _file(stem: str, format: str, data: bytes) -> File:
    return File(f"{stem}.{SUFFIXES[format]}", format, data)
