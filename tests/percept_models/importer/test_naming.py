"""Tensors get readable, unique names that a manifest allows."""

from pathlib import Path

import pytest

from percept.bundle.preprocessing import Preprocessing
from percept_models.autodiff.tail import build_tail
from percept_models.graph.reader import Graph
from percept_models.importer.naming import readable_name
from percept_models.importer.network import import_network
from percept_models.importer.trunk import build_trunk
from tests.percept_models.importer.graphs import node, pool_and_flatten, write_classifier

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
def test_names_stay_readable(name: str) -> None:
    assert readable_name(name, "Relu") == NAMES[name]


def test_names_are_unique_and_not_reserved(tmp_path: Path) -> None:
    taken = ["logits", "seed", "pixels", "Seed", "a/b", "a:b", "activations", "pixels.mean", "image"]
    chain = [node("Relu", x, y) for x, y in zip(["c", *taken], taken, strict=False)]
    network = import_network(write_classifier(tmp_path, *chain, *pool_and_flatten("image")))
    names = [node.output[0] for node in network.model.graph.node]
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
    build_tail(Graph(build_trunk(network, Preprocessing(height=8, width=6, mean=(1, 1, 1)))), "a.b")
