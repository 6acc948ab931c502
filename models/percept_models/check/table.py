"""The classes of photos under each candidate, as a table of text."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from percept.bundle.manifest import Activation
from percept_models.check.network import Network
from percept_models.check.normalizations import Candidate
from percept_models.graph.reader import Array

LABEL_LENGTH = 24  # longer ones are cut
ORDINALS = ("1st", "2nd", "3rd")


def format_photo(title: str, network: Network, candidates: Sequence[Candidate], logits: Array, top: int) -> str:
    """The best classes of one photo, one candidate to a row; `logits` [n,K] or [n,K,h,w] belong to the candidates."""
    ordinals = [ORDINALS[k] if k < len(ORDINALS) else f"{k + 1}th" for k in range(min(top, len(network.labels)))]
    rows = [["", "normalization", "resize", *ordinals]]
    for candidate, values in zip(candidates, logits, strict=True):
        own = "*" if candidate.is_own else ""
        rows.append([own, candidate.normalization, candidate.resize, *best_classes(network, values, top)])
    return "\n".join([title, *_align(rows)])


def format_options(candidates: Sequence[Candidate], contrasts: Sequence[float]) -> str:
    """The options that give each candidate, and its contrast, where there are photos enough to measure it."""
    rows = [["", "normalization", "resize", *(["contrast"] if contrasts else []), "options of percept export"]]
    for k, candidate in enumerate(candidates):
        contrast = [f"{contrasts[k]:.2f}"] if contrasts else []
        own = "*" if candidate.is_own else ""
        rows.append([own, candidate.normalization, candidate.resize, *contrast, candidate.options or "none"])
    notes = ["* what percept export does with the options given here, if any"]
    if contrasts:
        notes.append("contrast: how much the logits differ from photo to photo; greatest with the right row as a rule")
    return "\n".join([*_align(rows), *notes])


def best_classes(network: Network, logits: Array, top: int) -> list[str]:
    """The best classes with their scores, or for a mask [K,h,w] the commonest ones with their shares of the pixels."""
    if not np.isfinite(logits).all():
        return ["not finite"]
    is_mask = logits.ndim > 1
    scores = _shares(logits) if is_mask else _scores(logits, network.activation)
    order = [k for k in np.argsort(-scores, kind="stable")[:top] if scores[k] > 0 or not is_mask]
    form = "{:.4g}" if network.activation == "none" and not is_mask else "{:.0%}"
    return [f"{_shorten(network.labels[k])} {form.format(scores[k])}" for k in order]


def _shorten(label: str) -> str:
    return label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"


def _scores(logits: Array, activation: Activation) -> Array:
    values = logits.astype(np.float64)
    if activation == "softmax":
        exponentials = np.exp(values - values.max())
        return np.asarray(exponentials / exponentials.sum())
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500)))) if activation == "sigmoid" else values


def _shares(logits: Array) -> Array:
    """The share of the pixels [h,w] that each class wins."""
    return np.asarray(np.bincount(logits.argmax(0).ravel(), minlength=len(logits)) / logits[0].size)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
