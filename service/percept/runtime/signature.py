"""Whether the inputs and outputs of a graph are those that a manifest promises: their names, types and shapes."""

from percept.bundle.manifest import Layer, Manifest, seed_name
from percept.errors import BundleError
from percept.runtime.session import Session, TensorSpec

FLOAT = "tensor(float)"


def check_trunk(trunk: Session, manifest: Manifest) -> None:
    """Raises `BundleError` where the trunk is not what the manifest says."""
    rule = manifest.preprocessing
    pixels = TensorSpec("tensor(uint8)", (None, rule.height, rule.width, 3))
    logits = TensorSpec(FLOAT, (None, *manifest.logits))
    layers = {layer.name: TensorSpec(FLOAT, (None, *layer.shape)) for layer in manifest.layers}
    crossing = {name for layer in manifest.layers if layer.tail for name in layer.tail.crossing}
    _check_ports("trunk input", {"pixels": pixels}, trunk.inputs)
    _check_ports("trunk output", {"logits": logits, **layers}, trunk.outputs)
    if missing := crossing - set(trunk.outputs):
        raise BundleError(f"the trunk does not give {sorted(missing)}, which a tail needs")


def check_tail(tail: Session, layer: Layer) -> None:
    """Raises `BundleError` where the tail of a layer does not take or give what the manifest says."""
    gradients = {"gradients": TensorSpec(FLOAT, (None, *layer.shape))}
    _check_ports(f"output of tail {layer.name!r}", gradients, tail.outputs)
    assert layer.tail is not None
    feeds = {"activations", "seed", *layer.tail.crossing, *map(seed_name, layer.tail.seeds)}
    if set(tail.inputs) != feeds:
        raise BundleError(f"the tail of {layer.name!r} takes {sorted(tail.inputs)}, not {sorted(feeds)}")


def _check_ports(kind: str, expected: dict[str, TensorSpec], found: dict[str, TensorSpec]) -> None:
    for name, port in expected.items():
        if name not in found:
            raise BundleError(f"{kind} {name!r} is missing; there are {sorted(found)}")
        if not _fits(port, found[name]):
            raise BundleError(f"{kind} {name!r} is {found[name]}, the manifest says {port}")


def _fits(expected: TensorSpec, found: TensorSpec) -> bool:
    """Symbolic dimensions of a graph fit anything, but the batch must be symbolic."""
    return (
        expected.type == found.type
        and len(expected.shape) == len(found.shape)
        and not isinstance(found.shape[0], int)
        and all(not isinstance(b, int) or a == b for a, b in zip(expected.shape[1:], found.shape[1:], strict=True))
    )
