"""Checks that the inputs and outputs of a graph have the names, types and shapes that the manifest states.

A loaded session and the manifest come in; nothing leaves, or a `BundleError` that names the first difference.
"""

from percept.bundle.manifest import Layer, Manifest, seed_name
from percept.errors import BundleError
from percept.runtime.session import Session, TensorSpec

FLOAT = "tensor(float)"


def check_trunk(trunk: Session, manifest: Manifest) -> None:
    """Raise `BundleError` if the trunk differs from the manifest."""
    pixels = TensorSpec("tensor(uint8)", (None, *manifest.preprocessing.shape))
    logits = TensorSpec(FLOAT, (None, *manifest.logits))
    layers = {layer.name: TensorSpec(FLOAT, (None, *layer.shape)) for layer in manifest.layers}
    crossing = {name for layer in manifest.layers if layer.tail for name in layer.tail.crossing}
    _check_tensors("trunk input", {"pixels": pixels}, trunk.inputs)
    _check_tensors("trunk output", {"logits": logits, **layers}, trunk.outputs)
    if missing := crossing - set(trunk.outputs):
        raise BundleError(f"the trunk has no outputs {sorted(missing)}, which a tail needs")


def check_tail(tail: Session, layer: Layer) -> None:
    """Raise `BundleError` if the tail of a layer differs from the manifest."""
    gradients = {"gradients": TensorSpec(FLOAT, (None, *layer.shape))}
    _check_tensors(f"output of tail {layer.name!r}", gradients, tail.outputs)
    assert layer.tail is not None
    inputs = {"activations", "seed", *layer.tail.crossing, *map(seed_name, layer.tail.seeds)}
    if set(tail.inputs) != inputs:
        raise BundleError(f"the tail of {layer.name!r} has the inputs {sorted(tail.inputs)}, not {sorted(inputs)}")


def _check_tensors(kind: str, expected: dict[str, TensorSpec], found: dict[str, TensorSpec]) -> None:
    for name, spec in expected.items():
        if name not in found:
            raise BundleError(f"{kind} {name!r} is missing; there are {sorted(found)}")
        if not _matches(spec, found[name]):
            raise BundleError(f"{kind} {name!r} is {found[name]}, the manifest states {spec}")


def _matches(expected: TensorSpec, found: TensorSpec) -> bool:
    """Symbolic dimensions of a graph match any size; the batch dimension must be symbolic."""
    return (
        expected.type == found.type
        and len(expected.shape) == len(found.shape)
        and not isinstance(found.shape[0], int)
        and all(not isinstance(b, int) or a == b for a, b in zip(expected.shape[1:], found.shape[1:], strict=True))
    )
