"""The filter pictures of a bundle: first kernels, and for each layer channel maxima and an inversion of a photo.

Every picture is written into the bundle's folder as soon as it is made; the manifest is not touched here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from onnx import ModelProto
from PIL import Image

from percept.bundle.manifest import IMAGE, FilterPicture, Layer
from percept.bundle.preprocessing import Preprocessing
from percept.errors import PerceptError
from percept.imaging.colour import to_rgb
from percept.imaging.preprocess import to_picture
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.export.filter_pictures import first_kernels, write_filter_picture
from percept_models.export.report import Report, format_line
from percept_models.graph.reader import Array, Graph
from percept_models.visualize.layer_response import LayerResponse, noise_images
from percept_models.visualize.optimization import invert_features, maximize_channels
from percept_models.visualize.options import VisualizeOptions

MAX_SIDE, MIN_SIDE = 128, 64  # of a channel maximum: its longer side in pixels
GRID = 32  # the shorter side is a multiple of it
INVERSION_SIDE = 160  # the longer side of an inversion in the bundle, in pixels
ACTIVE = 1e-3  # a channel that varies less over noise than this share of the most variable one counts as dead


def draw_pictures(
    folder: Path,
    trunk: ModelProto,
    preprocessing: Preprocessing,
    layers: Sequence[Layer],
    photo: Array,
    options: VisualizeOptions,
    report: Report,
) -> Iterator[FilterPicture]:
    """Draw the kernels, the photo uint8 [H,W,C] itself, and the maxima and the inversion of each layer.

    A layer without gradients, or without a fixed shape, is left out and reported.
    """
    kernels = first_kernels(Graph(trunk), preprocessing)
    if kernels is not None:
        report(format_line("kernels", f"{len(kernels)} of {kernels.shape[1]} x {kernels.shape[2]}"))
        yield write_filter_picture(folder, "kernels", kernels, channels=range(len(kernels)))
    yield write_filter_picture(folder, "inversion", _shrink(photo[None], INVERSION_SIDE), IMAGE, scores=(0.0,))
    for layer in layers:
        try:
            response = LayerResponse(trunk, layer, preprocessing, (preprocessing.height, preprocessing.width))
        except (UnsupportedOperator, ValueError) as error:
            report(format_line("left out", f"{layer.name}: {error}"))
            continue
        yield from _draw_maxima(folder, _smaller_response(trunk, layer, response), options, report)
        yield _draw_inversion(folder, response, photo, options, report)


def choose_channels(response: LayerResponse, count: int) -> list[int]:
    """At most `count` of a layer's channels, evenly spread over those that vary on noise."""
    deviation = response.channel_means(noise_images(response.image_shape)).std(0)
    active = np.flatnonzero(deviation > ACTIVE * deviation.max())
    if len(active) == 0:
        return []
    places = np.linspace(0, len(active) - 1, min(count, len(active))).round().astype(int)
    return [int(k) for k in active[places]]


def picture_size(layer: Layer, input_size: tuple[int, int]) -> tuple[int, int]:
    """The size (H, W) of a layer's channel maxima: of the input's shape, as large as two receptive fields.

    The longer side is from `MIN_SIDE` to `MAX_SIDE` pixels, and no longer than the input's.
    """
    extent = 2 * max(layer.receptive_field.size) if layer.receptive_field else MAX_SIDE
    longest = min(max(extent, MIN_SIDE), MAX_SIDE)
    if max(input_size) <= longest:
        return input_size
    height, width = (min(-(-side * longest // (max(input_size) * GRID)) * GRID, side) for side in input_size)
    return height, width


def _draw_maxima(
    folder: Path, response: LayerResponse, options: VisualizeOptions, report: Report
) -> Iterator[FilterPicture]:
    """One picture of a layer's channel maxima; none where no channel varies."""
    start, channels = perf_counter(), choose_channels(response, options.channels)
    if not channels:
        report(format_line("left out", f"{response.layer}: no channel varies"))
        return
    images = maximize_channels(response, channels, options.steps)
    means = response.activations(images).mean((2, 3))
    scores = [_round(means[i, k]) for i, k in enumerate(channels)]
    on_noise = response.activations(noise_images(response.image_shape)).mean((2, 3)).max(0)
    noise = [_round(on_noise[k]) for k in channels]
    tiles = _shrink(images, MAX_SIDE)
    yield write_filter_picture(folder, "maxima", tiles, response.layer, channels, scores=scores, noise=noise)
    height, width = response.size
    summary = (
        f"{response.layer}: {len(channels)} channels at {height} x {width}, mean activation {np.median(scores):.2g}, "
        f"of noise {np.median(on_noise[channels]):.2g}  ({perf_counter() - start:.0f} s)"
    )
    report(format_line("maxima", summary))


def _draw_inversion(
    folder: Path, response: LayerResponse, photo: Array, options: VisualizeOptions, report: Report
) -> FilterPicture:
    start = perf_counter()
    image, error = invert_features(response, photo, options.steps)
    tiles = _shrink(image[None], INVERSION_SIDE)
    picture = write_filter_picture(folder, "inversion", tiles, response.layer, scores=(_round(error),))
    seconds = perf_counter() - start
    report(format_line("inversion", f"{response.layer}: relative error {error:.2g}  ({seconds:.0f} s)"))
    return picture


def _smaller_response(trunk: ModelProto, layer: Layer, response: LayerResponse) -> LayerResponse:
    """The layer for smaller images, where the network accepts them and the stride stays the same."""
    size = picture_size(layer, response.size)
    if size == response.size:
        return response
    try:
        smaller = LayerResponse(trunk, layer, response.preprocessing, size)
        shape = smaller.activations(np.zeros((1, *smaller.image_shape), np.uint8)).shape[2:]
    except (PerceptError, ValueError):
        return response
    expected = [round(side / stride) for side, stride in zip(size, layer.stride, strict=True)]
    return smaller if all(abs(a - b) <= 1 for a, b in zip(shape, expected, strict=True)) else response


def _shrink(images: Array, side: int) -> Array:
    """Scale images uint8 [n,H,W,C] down so that the longer side has at most `side` pixels; RGB, over white."""
    height, width = images.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    pictures = (to_rgb(to_picture(image)).resize(size, Image.Resampling.LANCZOS) for image in images)
    return np.stack([np.asarray(picture) for picture in pictures])


def _round(value: float) -> float:
    """Four significant digits: an image of 8 bits justifies no more."""
    return float(f"{value:.4g}")
