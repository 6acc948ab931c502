"""A network takes one image and has one output, which the user may select."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from percept.errors import BundleError
from percept_models.importer.network import import_network
from tests.percept_models.importer.graphs import node, operators, pool_and_flatten, random_logits, write_classifier


def test_open_height_and_width_are_set(tmp_path: Path) -> None:
    file = write_classifier(tmp_path, image=("N", 3, None, "w"))
    assert import_network(file, (16, 10)).size == (16, 10)
    with pytest.raises(BundleError, match=r"x float \[\?,3,\?,\?\] leaves height and width open: set them with --size"):
        import_network(file)


def test_size_other_than_the_files_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="takes images of 8x6 only, not of 8x8"):
        import_network(write_classifier(tmp_path), (8, 8))


INPUTS: Mapping[str, dict[str, Any]] = {
    "two channels": {"image": ("N", 2, 8, 8)},
    "vector": {"image": ("N", 3)},
    "integers": {"kind": TensorProto.INT32},
    "signed bytes": {"kind": TensorProto.INT8, "image": ("N", 8, 8, 3)},
}


@pytest.mark.parametrize("case", INPUTS)
def test_input_other_than_an_image_is_rejected(tmp_path: Path, case: str) -> None:
    with pytest.raises(BundleError, match=r"the input x .* is not an image of 1, 3 or 4 channels"):
        import_network(write_classifier(tmp_path, **INPUTS[case]))


def test_two_inputs_are_rejected_and_listed(tmp_path: Path) -> None:
    second = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])
    with pytest.raises(BundleError, match=r"must have one input, .*: x float \[\?,3,8,6\], scale float \[1\]"):
        import_network(write_classifier(tmp_path, inputs=[second]))


def test_one_of_several_outputs_is_selected(tmp_path: Path) -> None:
    """Any tensor can be the output; the nodes that it does not need are removed."""
    nodes = [node("Relu", "c", "boxes"), *pool_and_flatten("c")]
    file = write_classifier(tmp_path, *nodes, outputs=("boxes", "y"))
    with pytest.raises(
        BundleError, match=r"2 outputs: select one with --output NAME; .*boxes float \[1,4,8,6\], y float \[1,4\]"
    ):
        import_network(file)
    assert random_logits(import_network(file, output="y")).shape == (3, 4)
    assert operators(import_network(file, output="y")) == ["Conv", "GlobalAveragePool", "Flatten"]
    assert random_logits(import_network(file, output="c")).shape == (3, 4, 8, 6)
    with pytest.raises(BundleError, match="no tensor 'scores'; the outputs are boxes"):
        import_network(file, output="scores")
