"""The contrast of a network between photos, and the warning about a guessed normalization with too little of it.

A network that gets pixels in another range than it was trained on has nearly the same logits for every photo, or its
logits overflow. Measured on seven pretrained files and four photos: with the normalization of the training the contrast
is 0.9 to 1.6. Pixels in 0..255 give 0.25 to 0.4 of that, or logits of 10^18; only a file that clips its logits to 0..1,
and one that was trained on 0..255 in another order of channels, keep 0.75 of it.
"""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from percept.bundle.preprocessing import Preprocessing
from percept.imaging.geometry import compute_geometry
from percept.imaging.preprocess import prepare
from percept_models.check.network import Network, open_bundle
from percept_models.check.normalizations import list_candidates, normalize
from percept_models.graph.reader import Array

PHOTOS = Path(__file__).with_name("photos.jpg")  # squares side by side, see photos.md
DOUBTFUL = 0.6  # the share of the contrast of another normalization below which the guess is doubted
OVERFLOWING = 1e4  # no trained network has such logits: the files measured stay below 40


def measure_contrast(logits: Array) -> float:
    """How much the logits [n,K,...] of n photos differ, relative to the differences between the classes themselves.

    The standard deviation over the photos, averaged over the rest, by that of the mean logits over the rest.
    """
    if not np.isfinite(logits).all():
        return 0.0
    values = logits.astype(np.float64).reshape(len(logits), -1)
    return float(values.std(0).mean() / (values.mean(0).std() + 1e-12))


def describe_doubt(bundle: Path, source: str) -> str | None:
    """Why the guessed mean and std of a bundle are probably wrong, and what to do; None where they may be right.

    `bundle` is the folder of a bundle, and `source` that which it was exported from, for the command in the text.
    """
    network = open_bundle(bundle)
    own = network.preprocessing
    candidates = list_candidates(own, {"resize": own.resize, "channels": own.channels})
    remedy = f"look at percept check {shlex.quote(source)} PHOTO..., then give --mean and --std"
    logits = _run(network, own)
    if not np.abs(logits).max() < OVERFLOWING:
        return f"mean and std are guesses, and with them the logits reach {np.abs(logits).max():.0e}: {remedy}"
    contrasts = {c.normalization: measure_contrast(_run(network, c.preprocessing)) for c in candidates if not c.is_own}
    best = max(contrasts, key=lambda name: contrasts[name], default=None)
    if best is None or measure_contrast(logits) >= DOUBTFUL * contrasts[best]:
        return None
    return (
        "mean and std are guesses, and with them the logits hardly depend on the photo; with the normalization "
        f"{best!r} they do: {remedy}"
    )


def _run(network: Network, preprocessing: Preprocessing) -> Array:
    """The logits of the four photos."""
    strip = Image.open(PHOTOS)
    side = strip.height
    images = []
    for left in range(0, strip.width, side):
        photo = strip.crop((left, 0, left + side, side))
        pixels = prepare(photo, compute_geometry(photo.size, preprocessing), preprocessing)
        images.append(normalize(pixels, preprocessing))
    return network.logits(images)
