"""Whole families of networks become bundles: exported, proven against PyTorch's autograd, loaded by the service.

Weights are random and pictures small. Most run under `make prove` only: each takes seconds to trace.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.families import FAMILIES, exported, looked_at
from models.verify import verify
from service.cam import GRADIENT_METHODS
from service.network import Look

QUICK = {"SqueezeNet", "LR-ASPP"}
ROWS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.prove) for name in FAMILIES]


@pytest.mark.parametrize("family", ROWS)
def test_a_family_becomes_a_bundle(family: str, tmp_path: Path) -> None:
    """`exported` has proven logits within 1e-4 and gradients within 1e-5 of torch at every layer, or has raised."""
    folder = exported(family, FAMILIES[family].small, tmp_path)
    network, layers = looked_at(folder)
    assert layers[0] != layers[1]
    assert [layer.unavailable for layer in network.manifest.layers] == [None] * len(network.manifest.layers)
    pixels = np.random.default_rng(0).integers(0, 256, (FAMILIES[family].small, FAMILIES[family].small, 3), np.uint8)
    for layer in layers:
        (row,) = network.forward([Look(pixels, network.cut(layer))])
        g = network.gradients(layer, row, np.ones(network.manifest.logits, np.float32))
        assert g.any()
        assert GRADIENT_METHODS["gradcam"](row[layer.name], g).shape == layer.shape[1:]


def test_the_proof_of_a_family_can_fail(tmp_path: Path) -> None:
    """Against other random weights nothing agrees."""
    from benchmarks.families import settled

    folder = exported("SqueezeNet", 65, tmp_path)
    other = settled("SqueezeNet", 65)
    other.features[0].weight.data *= 1.01
    assert [check for check in verify(folder, other) if not check.passed]


def test_every_family_has_a_row_in_the_documentation() -> None:
    """With the source by which it is exported."""
    text = (Path(__file__).parents[2] / "models" / "README.md").read_text()
    for name, family in FAMILIES.items():
        assert f"| {name} | `{family.source}` | {family.size} |" in text
