"""The trunk of an imported network; whole files are in `test_network.py`."""

from pathlib import Path

import pytest

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept_models.importer.network import import_network
from percept_models.importer.trunk import build_trunk
from tests.percept_models.importer.graphs import write_classifier


def test_preprocessing_of_another_size_is_rejected(tmp_path: Path) -> None:
    network = import_network(write_classifier(tmp_path))
    with pytest.raises(BundleError, match="takes images of 8x6, and the preprocessing gives 8x8"):
        build_trunk(network, Preprocessing(height=8, width=8))
