"""Names of tensors."""

from pathlib import Path

import pytest

from percept.bundle.manifest import Preprocessing
from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import Graph
from percept_models.importer.naming import readable
from percept_models.importer.network import read, trunk
from tests.percept_models.importer.graphs import conv, node, pooled, written

NAMES = {
    "/layer1/layer1.0/Relu_1_output_0": "layer1.layer1.0.Relu_1",
    "activation_138/Relu:0": "activation_138.Relu",
    "377": "relu_377",
    "": "relu",
    "///": "relu",
    "._-a b": "a.b",
    "größe": "gr.e",
    "a" * 300: "a" * 120,
    "-" * 300: "relu",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_keep_what_can_be_read(name: str) -> None:
    assert readable(name, "Relu") == NAMES[name]


def test_names_are_unique_and_none_that_a_bundle_needs(tmp_path: Path) -> None:
    taken = ["logits", "seed", "pixels", "Seed", "a/b", "a:b", "activations", "pixels.mean", "image"]
    chain = [node("Relu", x, y) for x, y in zip(["c", *taken], taken, strict=False)]
    foreign = read(written(tmp_path, [conv("x", "c"), *chain, *pooled("image")]))
    names = [made.output[0] for made in foreign.model.graph.node]
    assert names[1:10] == [
        "logits_2",
        "seed_2",
        "pixels_2",
        "Seed_3",
        "a.b",
        "a.b_2",
        "activations_2",
        "pixels.mean_2",
        "image_2",
    ]
    tail(Graph(trunk(foreign, Preprocessing(height=8, width=6, mean=(1, 1, 1)))), "a.b")
