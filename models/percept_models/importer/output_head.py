"""The end of a network: its output is converted to logits [N,K] or [N,K,h,w].

In comes a model, of a file or traced from torch, with the values of its first output; out come an `OutputHead` that
says how the logits were made, the activation that gives the scores, and notes. `find_head` moves the output to before
its softmax, sigmoid or argmax; `append_logits` permutes and adds axes, and makes one class two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from percept.bundle.manifest import Activation, OutputHead
from percept.errors import BundleError
from percept_models.graph.bounds import bounds
from percept_models.graph.factors import RESHAPES
from percept_models.graph.output_form import Form, form_after_argmax, form_in_input, forms_of_output
from percept_models.graph.reader import Array, Graph, attributes
from percept_models.importer.model_file import opset_version
from percept_models.importer.scores import (
    TOLERANCE,
    inseparable_activation,
    lies_between_0_and_1,
    output_error,
    sums_to_one,
)
from percept_models.importer.signature import ImageInput

ACTIVATION_BY_OPERATOR: dict[str, Activation] = {"LogSoftmax": "softmax", "Sigmoid": "sigmoid", "Softmax": "softmax"}
# The operators at the end of a network after which no scores of classes are left.
# fmt: off
SCORELESS = frozenset({
    "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not",
    "OneHot", "Round", "Sign", "TopK",
})
# fmt: on
FLATTENED = "the output was flattened to [N,K]"
MOVED = "the classes of the output were moved from the last axis to the second"
PADDED = "a class whose logit is 0 was put before the only one: the softmax of both is its sigmoid"
COMPLEMENT = "the output is a probability p of one class: a class with 1 - p was put before it"
DOUBT = (
    "no activation was found at the end, though all outputs for noise are between 0 and 1: if they are scores already, "
    "export with --activation none"
)
KEPT = "the output is a score already, and not by a plain softmax or sigmoid, which could be removed: it was kept"


@dataclass(frozen=True)
class FoundHead:
    """The end of a network: the form of its output, and that of the tensor that became its output instead.

    `removed` are the operators after that tensor, the last one first. `own_activation` is the activation at the end of
    the network: None where it has none, and `none` where it is kept, because it is `inseparable` or on request. An
    output is `doubtful` where it looks like scores, and no operator shows that it is.
    """

    output: Form
    form: Form
    removed: tuple[Any, ...]
    own_activation: Activation | None
    inseparable: bool = False
    doubtful: bool = False

    def check(self, raw: Array, logits: Array) -> None:
        """Raise `BundleError` unless the removed operators make the network's own output of the logits."""
        if self.removed and output_error(self.removed, self.form.arrange(logits), self.output.arrange(raw)) > TOLERANCE:
            raise BundleError(f"the output is not what {' and '.join(self.removed)} make of the logits before it")


@dataclass(frozen=True)
class ConvertedOutput:
    """How the logits were made, their shape without the batch, the activation of the scores, and notes on changes."""

    head: OutputHead
    shape: tuple[int, ...]
    activation: Activation
    notes: tuple[str, ...]
    form: Form

    def undo(self, logits: Array) -> Array:
        """The tensor that the logits were made of."""
        return self.form.restore(logits[:, 1:] if self.head.added else logits)


def find_head(model: ModelProto, raw: Array, image: ImageInput, requested: Activation | None = None) -> FoundHead:
    """Move the first output, whose values are `raw`, to before its activation, its argmax and its last reshaping.

    The model is changed in place. An activation stays where the `requested` one is `none`: then the network's own
    output is the score. Raises `BundleError` where the output cannot be one of classes.
    """
    graph = Graph(model)
    name, cut = _before_argmax(graph, raw.shape)
    form = cut or _choose_form(graph, raw, image, opset_version(model))
    output = form if cut is None else Form(raw.shape, None, tuple(range(1, raw.ndim)))
    removed = [] if cut is None else ["ArgMax"]
    end, form_at_end = _before_reshaping(graph, name, form)
    node = graph.producer.get(end)
    inseparable = doubtful = False
    if node is not None and _acts_on_classes(node, form_at_end, opset_version(model)):
        own_activation: Activation | None = "none"
        if requested != "none":
            own_activation, name, form = ACTIVATION_BY_OPERATOR[node.op_type], node.input[0], form_at_end
            removed.append(node.op_type)
    else:
        values = output.arrange(raw) if cut is None else np.zeros((0, form.class_count))
        own_activation = inseparable_activation(bounds(graph, name), values)
        inseparable = own_activation == "none"
        doubtful = own_activation is None and lies_between_0_and_1(values)
    name, form = _before_squeezing(graph, name, form)
    _set_output(model, name)
    return FoundHead(output, form, tuple(removed), own_activation, inseparable, doubtful)


def _choose_form(graph: Graph, raw: Array, image: ImageInput, version: int) -> Form:
    """The form of the output: where classes may be its second axis or its last, that over which it has a softmax."""

    def has_softmax(form: Form) -> bool:
        end, form_at_end = _before_reshaping(graph, graph.outputs[0], form)
        node = graph.producer.get(end)
        softmax = node is not None and node.op_type != "Sigmoid" and _acts_on_classes(node, form_at_end, version)
        return softmax or sums_to_one(form.arrange(raw))

    forms = forms_of_output(raw.shape, (image.height, image.width), image.layout == "NHWC")
    return forms[0] if len(forms) == 1 else next(filter(has_softmax, forms), forms[0])


def choose_activation(head: FoundHead, requested: Activation | None) -> Activation:
    """The activation that gives the scores: the user's, else that of the network's end, else softmax.

    Two classes that were made of one have the softmax where the one had the sigmoid. Raises `BundleError` where the
    user's would come on top of another one.
    """
    one, own = head.form.class_count == 1, head.own_activation
    if own == "none" and requested in (None, "none"):
        return "none"
    if own is not None and requested not in (None, "none", own) and not (one and own != "none"):
        end = f"ends in a {head.removed[-1]}" if head.removed else "gives scores between 0 and 1 already"
        remedy = "none" if own == "none" else f"{own}, or none to keep the output as it is"
        raise BundleError(
            f"the network {end}, which contradicts --activation {requested}: leave it out, or use {remedy}"
        )
    chosen = requested or own or "softmax"
    return "softmax" if one and chosen == "sigmoid" else chosen


def append_logits(
    model: ModelProto, found: FoundHead, requested: Activation | None = None, name: str | None = None
) -> ConvertedOutput:
    """Convert the first output, as `find_head` left it, to [N,K] or [N,K,h,w], in place.

    `name` is that of the network's own output where it has several. Raises `BundleError` as `choose_activation` does.
    """
    form, activation = found.form, choose_activation(found, requested)
    k = form.class_count
    if form.permutation != list(range(len(form.shape))):
        _append(model, "Transpose", perm=form.permutation)
    target = (k, *form.cell_sizes)
    if form.permuted_shape[1:] != target:
        flat = len(target) == 1 and len(form.shape) > 1
        _append(model, "Flatten") if flat else _append(model, "Reshape", np.array([0, *target]))
    added = None if k > 1 else "complement" if found.own_activation == "none" else "zero"
    if added == "zero":
        _append(model, "Pad", np.array([0, 1, *[0] * len(form.cell_sizes)] + [0] * (len(target) + 1)))
    elif added == "complement":
        _append_complement(model)
    classes_last = found.output.classes == 3 and bool(found.output.cells)
    head = OutputHead(output=name, removed=found.removed, classes_last=classes_last, added=added)
    return ConvertedOutput(head, (max(k, 2), *form.cell_sizes), activation, tuple(_notes(found, head, requested)), form)


def _notes(found: FoundHead, head: OutputHead, requested: Activation | None) -> list[str]:
    """What was changed, in words, and what the user should look at."""
    flattened = found.output.classes is not None and not found.output.cells and len(found.output.shape) > 2
    notes = [f"the {operator} at the end was removed" for operator in found.removed]
    notes += [KEPT] * found.inseparable + [DOUBT] * (found.doubtful and requested is None)
    notes += [FLATTENED] * flattened + [MOVED] * head.classes_last
    return notes + ([PADDED] if head.added == "zero" else [COMPLEMENT] if head.added else [])


def _before_argmax(graph: Graph, shape: Sequence[int]) -> tuple[str, Form | None]:
    """The tensor whose greatest entries the output names, with its form; the output itself where it is no argmax."""
    name = graph.outputs[0]
    while (node := graph.producer.get(name)) is not None and node.op_type in RESHAPES | {"Cast", "Identity"}:
        name = node.input[0]
    if node is None or node.op_type != "ArgMax":
        if node is not None and node.op_type in SCORELESS:
            raise BundleError(
                f"the output is that of a {node.op_type}, which holds no scores of classes: let the network return "
                f"what comes before it (in a file, name that tensor with --output: {node.input[0]})"
            )
        return graph.outputs[0], None
    return node.input[0], form_after_argmax(node, graph, shape)


def _before_reshaping(graph: Graph, name: str, form: Form) -> tuple[str, Form]:
    """The tensor that becomes this one by permuted axes and axes of size 1, and its form."""
    while (node := graph.producer.get(name)) is not None:
        before = form_in_input(node, form, graph)
        if before is None:
            break
        name, form = node.input[0], before
    return name, form


def _before_squeezing(graph: Graph, name: str, form: Form) -> tuple[str, Form]:
    """The tensor before a Squeeze without axes at the end, which would remove the batch of a single image too.

    Also before a Transpose that only moves the classes away from where the logits have them.
    """
    found = name, form
    while (node := graph.producer.get(name)) is not None:
        before = form_in_input(node, form, graph)
        if before is None:
            break
        name, form = node.input[0], before
        squeezes_all = node.op_type == "Squeeze" and len(node.input) < 2 and not node.attribute
        if squeezes_all or (node.op_type == "Transpose" and form.permutation == sorted(form.permutation)):
            found = name, form
    return found


def _acts_on_classes(node: NodeProto, form: Form, version: int) -> bool:
    """Whether an activation is over the classes and no other axis; `BundleError` for a softmax over one class."""
    if node.op_type == "Sigmoid":
        return True
    if node.op_type not in ACTIVATION_BY_OPERATOR or form.classes is None:
        return False
    default = -1 if version >= 13 else 1
    axis = attributes(node).get("axis", default) % len(form.shape)
    if version >= 13:
        acts = bool(axis == form.classes)
    else:  # it was over all axes from this one on
        others = (n for i, n in enumerate(form.shape) if i >= axis and i != form.classes)
        acts = axis <= form.classes and all(n == 1 for n in others)
    if acts and form.class_count == 1:
        raise BundleError(f"the network ends in a {node.op_type} over one class, which gives the same for all images")
    return acts


def _append_complement(model: ModelProto) -> None:
    """Append (1 - p, p) to the output p."""
    p = model.graph.output[0].name
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), f"{p}.one"))
    model.graph.node.append(helper.make_node("Sub", [f"{p}.one", p], [f"{p}.complement"]))
    model.graph.node.append(helper.make_node("Concat", [f"{p}.complement", p], [f"{p}.both"], axis=1))
    _set_output(model, f"{p}.both")


def _append(model: ModelProto, operator: str, value: Array | None = None, **options: Any) -> None:
    """Append an operator to the first output."""
    x = model.graph.output[0].name
    y, inputs = f"{x}.{operator}", [x]
    if value is not None:
        inputs.append(f"{y}.by")
        model.graph.initializer.append(numpy_helper.from_array(value, inputs[1]))
    model.graph.node.append(helper.make_node(operator, inputs, [y], **options))
    _set_output(model, y)


def _set_output(model: ModelProto, name: str) -> None:
    """Make a tensor the first output; the others stay."""
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info(name))
