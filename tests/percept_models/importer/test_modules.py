"""The paths of torch's modules in ONNX files: from the metadata of new exporters, and from the names of old ones."""

import onnx
from onnx import helper

from percept_models.importer.modules import SCOPES, module_outputs


def model_of(*nodes: tuple[str, str, str]) -> onnx.ModelProto:
    """A chain of Relu nodes (output, name of the node, scopes in the metadata)."""
    model = onnx.ModelProto()
    for output, name, scopes in nodes:
        node = helper.make_node("Relu", ["x"], [output], name=name)
        if scopes:
            node.metadata_props.add(key=SCOPES, value=scopes)
        model.graph.node.append(node)
    return model


def test_scopes_in_the_metadata_name_outermost_modules() -> None:
    """A tensor is the output of the outermost module of which it is the last tensor."""
    model = model_of(
        ("a", "", "['', 'layer1', 'layer1.0', 'layer1.0.conv', 'conv2d']"),
        ("b", "", "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu']"),
        ("c", "", "['', 'layer1', 'layer1.1', 'relu']"),
        ("d", "", "['', 'mean']"),
    )
    assert module_outputs(model) == {"a": "layer1.0.conv", "b": "layer1.0", "c": "layer1"}


def test_names_of_old_exporters_are_joined() -> None:
    """A module in a list repeats the name of the list; other modules do not."""
    model = model_of(
        ("a", "/features/features.0/features.0.1/Relu", ""),
        ("b", "/encoder/layer1/layer1.1/Relu", ""),
        ("c", "/Relu", ""),
        ("d", "Relu_4", ""),
    )
    assert module_outputs(model) == {"a": "features", "b": "encoder"}
    longer = model_of(
        ("a", "/features/features.0/features.0.1/Relu", ""),
        ("b", "/features/features.1/Relu", ""),
        ("c", "/encoder/layer1/layer1.1/Relu", ""),
        ("d", "/encoder/layer2/Relu", ""),
    )
    assert module_outputs(longer) == {"a": "features.0", "b": "features", "c": "encoder.layer1", "d": "encoder"}


def test_broken_scopes_name_no_module() -> None:
    for scopes in ("", "[", "{}", "['']", "__import__('os')", "[1, 2, 3]"):
        assert module_outputs(model_of(("a", "", scopes))) == {}
