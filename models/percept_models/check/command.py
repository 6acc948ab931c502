"""`percept check`: open the network, and print the classes of each photo under every candidate."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from percept.errors import BundleError, PerceptError
from percept_models.check.contrast import measure_contrast
from percept_models.check.network import Network, open_network
from percept_models.check.normalizations import Candidate, list_candidates, normalize
from percept_models.check.options import CheckOptions
from percept_models.check.table import format_options, format_photo
from percept_models.export.photos import read_photo
from percept_models.export.report import Report
from percept_models.graph.reader import Array

MIN_PHOTOS = 4  # for which a contrast is measured


def check(options: CheckOptions, report: Report, show: Callable[[str], None]) -> None:
    """Show a table for each photo, then the options of its rows.

    Raises `BundleError` where the network cannot be opened or a photo cannot be read.
    """
    network = open_network(options.network, report)
    candidates = list_candidates(network.preprocessing, options.network.preprocessing, network.normalizes)
    found = []
    for file in options.photos:
        found.append(_run(network, file, candidates))
        show(format_photo(str(file), network, candidates, found[-1], options.top) + "\n")
    contrasts = [measure_contrast(logits) for logits in np.stack(found, 1)] if len(found) >= MIN_PHOTOS else []
    show(format_options(candidates, contrasts))


def _run(network: Network, file: Path, candidates: list[Candidate]) -> Array:
    """The logits [n,K] or [n,K,h,w] of a photo under each candidate."""
    try:
        return network.logits(normalize(read_photo(file, c.preprocessing), c.preprocessing) for c in candidates)
    except PerceptError as error:
        raise BundleError(f"{file}: {error}") from error
