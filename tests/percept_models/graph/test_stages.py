"""Where `suggest` looks: the ends of the stages, and the layer before the head."""

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from percept.bundle.manifest import Preprocessing, Task
from percept_models.graph.reader import Graph
from percept_models.graph.stages import dominators, path, suggest
from percept_models.sources.libraries import load
from percept_models.sources.trunk import candidates, trace
from tests.percept_models.networks import HOW, Classifier, Pyramid

SMALL = Preprocessing(height=64, width=64)
KNOWN: list[tuple[str, Task, list[str]]] = [
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


def suggested(network: nn.Module, how: Preprocessing, task: Task, named: bool = True) -> list[str]:
    nesting = candidates(network, how)
    graph = Graph(trace(network, how, list(nesting)))
    return suggest(graph, task, nesting if named else dict.fromkeys(graph.producer, 0))


@pytest.mark.parametrize(("source", "task", "layers"), KNOWN, ids=[row[0] for row in KNOWN])
def test_stages_of_known_networks(source: str, task: Task, layers: list[str]) -> None:
    """As anyone who knows these networks would name them."""
    assert suggested(load(source, "none").network, SMALL, task) == layers


def test_the_layer_before_a_flattened_pooling_is_no_pooling() -> None:
    """Of VGG's features the last convolution's activation, not the maximum of it that is flattened."""
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(8 * 3 * 2, 5),
    )
    assert suggested(network, HOW, "classification") == ["0.1", "0.3"]


def test_the_head_of_a_segmenter_is_no_layer() -> None:
    """Its maps are scores of classes already, also once they were resized. Of the pyramid one level is a module."""

    class Upsampled(Pyramid):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(super().forward(x), scale_factor=2.0, mode="bilinear")

    assert suggested(Upsampled().eval(), HOW, "segmentation") == ["stage1", "stage2", "stage3", "laterals.2", "merge"]


def test_without_names_the_merges_of_branches_end_a_stage() -> None:
    """In a bare graph nothing tells how deep a tensor lies."""
    found = suggested(Classifier().eval(), HOW, "classification", named=False)
    assert found[-1] == "stage2"
    assert "stage1" in found


def test_nothing_is_suggested_where_there_is_no_map() -> None:
    """A network of one linear layer has no cells."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * HOW.height * HOW.width, 4))
    graph = Graph(trace(network, HOW, ()))
    assert suggest(graph, "classification", dict.fromkeys(graph.producer, 0)) == []
    graph = Graph(trace(nn.MaxPool2d(2), HOW, ()))
    assert suggest(graph, "segmentation", dict.fromkeys(graph.producer, 0)) == []


@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=30))
def test_dominators_are_those_of_networkx(edges: list[set[int]]) -> None:
    """On any acyclic graph in which all is reachable."""
    before = {str(i + 1): sorted({str(j % (i + 1)) for j in sources}) for i, sources in enumerate(edges)}
    above = dominators(["0", *before], before)
    graph = networkx.DiGraph((source, name) for name, sources in before.items() for source in sources)
    expected = networkx.immediate_dominators(graph, "0")
    assert above == {name: expected[name] for name in before}
    for name in before:
        assert path(above, name)[0] == "0"
