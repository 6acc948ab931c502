"""The outputs of a torch network: each has a name, and one of them is selected as the one that holds the classes.

A network returns a tensor, or tuples, lists, mappings, named tuples and dataclasses of tensors, nested as it likes. The
name of a tensor is its path: `0`, `logits`, `heads.age`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor

from percept.errors import BundleError
from percept_models.graph.output_form import fits, form_of_output

CONVENTIONS = ("logits", "out")  # the name of the logits in networks of transformers, and in segmenters of torchvision


class Output(NamedTuple):
    """A selected output with its name, which is None where the network has only one tensor, and all outputs by name."""

    tensor: Tensor
    name: str | None
    outputs: Mapping[str, Tensor]

    def describe_others(self) -> str:
        """The names and shapes of the outputs that were not selected; empty where there are none."""
        return _describe({name: tensor for name, tensor in self.outputs.items() if name != self.name}, self.tensor)


def select_output(returned: Any, name: str | None, images: Tensor) -> Output:
    """The output of this name, or the only one that can hold the classes of the `images` [N,C,H,W].

    Of several that can, the one that is called by a convention is taken. Raises `BundleError`, with a list of the
    outputs, where none or several are left, or none has the name.
    """
    outputs = dict(_named(returned, ""))
    if isinstance(returned, Tensor) and name is None:
        return Output(returned, None, {})
    if name in outputs and name:
        return Output(outputs[name], name, outputs)  # nothing else is read from tensors: their sizes may be symbolic
    possible = [key for key in outputs if name is None and can_be_logits(outputs[key], images)]
    named = [key for key in possible if key.rpartition(".")[2] in CONVENTIONS]
    chosen = named if len(named) == 1 else possible
    if len(chosen) != 1:
        listed = _describe(outputs, images) or type(returned).__name__
        raise BundleError(_refusal(name, possible, isinstance(returned, Tensor), listed))
    return Output(outputs[chosen[0]], chosen[0], outputs)


def can_be_logits(tensor: Tensor, images: Tensor) -> bool:
    """Whether a tensor has a number for each class of each image, [N,K], or for those of its cells, [N,K,h,w]."""
    size = (images.shape[2], images.shape[3])
    if not tensor.is_floating_point() or tensor.dim() not in (2, 4) or len(tensor) != len(images):
        return False
    cells = form_of_output(tensor.shape, size).cell_sizes
    return not cells or fits(cells, size)


def _describe(outputs: Mapping[str, Tensor], of_batch: Tensor) -> str:
    """Names and shapes, such as `logits [N,5]`, and types where they are not floating-point ones."""
    texts = []
    for name, tensor in outputs.items():
        sizes = ["N" if axis == 0 and n == len(of_batch) else str(n) for axis, n in enumerate(tensor.shape)]
        kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
        texts.append(f"{name} [{','.join(sizes)}]{kind}")
    return ", ".join(texts)


def _named(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a returned value with its path."""
    if isinstance(value, Tensor):
        yield path, value
    for key, member in _members(value):
        yield from _named(member, f"{path}.{key}" if path else key)


def _members(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), member) for key, member in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))  # those of a named tuple
        return [(str(key), member) for key, member in zip(names, value, strict=True)]
    return []


def _refusal(name: str | None, possible: list[str], single: bool, listed: str) -> str:
    if name is not None and single:
        return f"--output {name} names nothing: the network returns one tensor without a name"
    if name is not None:
        return f"the network has no output {name!r}; the outputs are {listed}"
    if possible:
        return f"the network has {len(possible)} outputs that can be logits: select one with --output NAME; {listed}"
    return (
        "no output of the network looks like the logits of classes, [N,K] or [N,K,h,w]: name the right one, if there "
        f"is one, with --output; it returns {listed}"
    )
