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

BLOCKS = ["blocks.2", "blocks.5", "blocks.8"]
STAGES = ["stages.0", "stages.1", "stages.2"]
# Classifiers whose stages lie in containers, have parallel branches, or compute tokens or maps in [N,h,w,C].
FAMILIES: list[tuple[str, int, list[str]]] = [
    ("timm:convnext_atto", 64, [*STAGES, "stages"]),
    ("timm:edgenext_xx_small", 64, [*STAGES, "stages"]),
    ("timm:poolformer_s12", 64, [*STAGES, "stages"]),
    ("timm:ese_vovnet19b_slim", 64, ["stem.1", *STAGES, "stages"]),
    ("timm:efficientnet_lite0", 64, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]),
    ("timm:hrnet_w18_small", 64, ["act1", "layer1", *(f"incre_modules.{i}" for i in range(3)), "final_layer"]),
    (
        "torchvision:densenet121",
        64,
        ["features.relu0", *(f"features.denseblock{i}" for i in (1, 2, 3)), "features"],
    ),
    ("torchvision:squeezenet1_1", 65, ["features.1", "features.4", "features.7", "features"]),
    ("timm:mobilevit_xxs", 64, [*STAGES, "stages.3", "final_conv"]),
    ("timm:mobilevitv2_050", 64, [*STAGES, "stages.3", "stages"]),
    ("timm:pvt_v2_b0", 64, [*STAGES, "stages"]),
    ("timm:coatnet_nano_rw_224", 224, ["stem", *STAGES, "norm"]),
    ("timm:maxvit_tiny_tf_224", 224, ["stem", *STAGES, "stages"]),
    ("torchvision:swin_t", 64, ["features.1", "features.3", "features.5", "permute"]),
    ("timm:swin_tiny_patch4_window7_224", 224, ["layers.0", "layers.1", "layers.2", "norm"]),
    (
        "torchvision:vit_b_16",
        224,
        [*(f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8)), "encoder.layers.encoder_layer_11.ln_1"],
    ),
    ("timm:vit_tiny_patch16_224", 224, [*BLOCKS, "blocks.11.norm1"]),
    ("timm:deit_tiny_distilled_patch16_224", 224, [*BLOCKS, "blocks.11.norm1"]),
    ("timm:mixer_b16_224", 224, [*BLOCKS, "norm"]),
    ("timm:resmlp_12_224", 224, [*BLOCKS, "norm"]),
    ("timm:cait_xxs24_224", 224, ["blocks.5", "blocks.11", "blocks.17", "blocks"]),
    (
        "timm:pit_ti_224",
        224,
        ["transformers.0.blocks", "transformers.1.blocks", "transformers.2.blocks.3.norm1"],
    ),
    ("timm:levit_128s", 224, [*(f"stem.act{i}" for i in (1, 2, 3)), "stages.0", "stages.1", "stages"]),
]


def suggestions(network: nn.Module, preprocessing: Preprocessing, task: TaskName, nested: bool = True) -> list[str]:
    """The layers suggested for a network; unless `nested`, all tensors of its graph count as equally deep."""
    nesting = find_feature_maps(network, preprocessing)
    graph = Graph(trace(network, preprocessing, list(nesting)))
    return suggest_layers(graph, task, nesting if nested else dict.fromkeys(graph.producer, Nesting()))


@pytest.mark.parametrize(("source", "task", "layers"), KNOWN, ids=[row[0] for row in KNOWN])
def test_stages_of_known_networks_are_found(source: str, task: TaskName, layers: list[str]) -> None:
    assert suggestions(load_source(source, "none").network, SMALL, task) == layers


@pytest.mark.prove
@pytest.mark.parametrize(("source", "size", "layers"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_layers_of_families_are_stages_of_maps(source: str, size: int, layers: list[str]) -> None:
    """Never the stem in place of the first stage, and never a tensor that is no map."""
    network = load_source(source, "none").network
    assert suggestions(network, Preprocessing(height=size, width=size), "classification") == layers


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
