"""The layers that `suggest_layers` finds: the ends of the stages, and the layer before the head."""

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from percept.bundle.manifest import TaskName
from percept.bundle.preprocessing import Preprocessing
from percept_models.graph.reader import Graph
from percept_models.graph.stages import Nesting, suggest_layers
from percept_models.sources.libraries import load_source
from percept_models.sources.trunk import find_feature_maps, trace
from tests.percept_models.networks import PREPROCESSING, Classifier, Pyramid

SMALL = Preprocessing(height=64, width=64)
KNOWN: list[tuple[str, TaskName, list[str]]] = [
    ("torchvision:resnet18", "classification", ["relu", "layer1", "layer2", "layer3", "layer4"]),
    (
        "torchvision:mobilenet_v2",
        "classification",
        ["features.1", "features.3", "features.6", "features.13", "features"],
    ),
    (
        "smp:Unet?encoder_name=resnet18",
        "segmentation",
        [
            *("encoder.relu", "encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4"),
            *("decoder.blocks.0", "decoder.blocks.1", "decoder.blocks.2", "decoder.blocks.3", "decoder"),
        ],
    ),
    (
        "smp:FPN?encoder_name=resnet18",
        "segmentation",
        [
            *("encoder.relu", "encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4"),
            *("decoder.p5", "decoder.p4", "decoder.p3", "decoder.p2"),
            *("decoder.seg_blocks.0.block.1.block", "decoder.seg_blocks.0.block.2.block", "decoder"),
        ],
    ),
    (
        "smp:DeepLabV3Plus?encoder_name=resnet18",
        "segmentation",
        [
            *("encoder.relu", "encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4"),
            *("decoder.aspp", "decoder"),
        ],
    ),
]


def suggestions(network: nn.Module, preprocessing: Preprocessing, task: TaskName, nested: bool = True) -> list[str]:
    """The layers suggested for a network; unless `nested`, all tensors of its graph count as equally deep."""
    nesting = find_feature_maps(network, preprocessing)
    graph = Graph(trace(network, preprocessing, list(nesting)))
    return suggest_layers(graph, task, nesting if nested else dict.fromkeys(graph.producer, Nesting()))


@pytest.mark.parametrize(("source", "task", "layers"), KNOWN, ids=[row[0] for row in KNOWN])
def test_stages_of_known_networks_are_found(source: str, task: TaskName, layers: list[str]) -> None:
    assert suggestions(load_source(source, "none").network, SMALL, task) == layers


def test_pooling_before_flatten_ends_no_stage() -> None:
    """As in VGG, the last layer is the activation of the last convolution, not the pooling that is flattened."""
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(8 * 3 * 2, 5),
    )
    assert suggestions(network, PREPROCESSING, "classification") == ["0.1", "0.3"]


def test_head_of_segmenter_is_no_layer() -> None:
    """Its maps are class scores, also after they are resized. Only one level of the pyramid is a module."""

    class Upsampled(Pyramid):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(super().forward(x), scale_factor=2.0, mode="bilinear")

    expected = ["stage1", "stage2", "stage3", "laterals.2", "merge"]
    assert suggestions(Upsampled().eval(), PREPROCESSING, "segmentation") == expected


def test_without_nesting_merges_end_stages() -> None:
    """A graph from an ONNX file has no modules."""
    found = suggestions(Classifier().eval(), PREPROCESSING, "classification", nested=False)
    assert found[-1] == "stage2"
    assert "stage1" in found


@pytest.mark.parametrize(
    ("network", "task"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * PREPROCESSING.height * PREPROCESSING.width, 4)), "classification"),
        (nn.MaxPool2d(2), "segmentation"),
    ],
    ids=["linear", "pooling"],
)
def test_network_without_feature_maps_has_no_layers(network: nn.Module, task: TaskName) -> None:
    graph = Graph(trace(network, PREPROCESSING, ()))
    assert suggest_layers(graph, task, dict.fromkeys(graph.producer, Nesting())) == []
