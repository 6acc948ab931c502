"""`python benchmarks/gradients.py`: measure the cost of a gradient, and a complete Grad-CAM against pytorch-grad-cam's.

The networks are torchvision's at full size with random weights, the batch is one image, the device the CPU. Both sides
of a ratio alternate in every round on the same number of threads: on a noisy machine only the ratios mean anything.
The exit status is 1 if a bar is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the reference in the tests

from percept.bundle.preprocessing import Preprocessing
from percept.explain.maps import gradcam, normalize
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept.runtime.session import Arrays, Session
from percept_models.autodiff.tail import ACTIVATIONS, GRADIENTS, LOGITS, SEED, build_tail
from percept_models.export.bundle_writer import golden_input
from percept_models.graph.reader import Array, Graph
from percept_models.sources.trunk import PIXELS, trace
from tests.percept_models.grad_cam_reference import grad_cam_package, rescale

SIDE, ROUNDS = 224, 24
# The memory pages of a session's weights make it up to 8 % faster or slower than an equal session for as long as it
# lives. So sessions are created several times, in alternating order.
SESSION_SETS = 4
RULE = Preprocessing(height=SIDE, width=SIDE, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
MAX_SHARE, MAX_FORWARDS, MIN_SPEEDUP, MAX_DIFFERENCE = 0.15, 2.0, 3.0, 1e-3  # the bars
HEAD = """| network | a / b | threads | a, ms | b, ms | a / b: median (quartiles) | bar | met |
|---|---|---|---|---|---|---|---|"""

Action = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A network's CAM layer and its bars; a ratio without a bar is only printed.

    `max_share`: the tail's time divided by the trunk's. `max_forwards`: the tail's time divided by that of its own
    forward pass. `min_speedup`: the time of pytorch-grad-cam divided by Percept's.
    """

    layer: str
    max_share: float | None = None
    max_forwards: float | None = None
    min_speedup: float | None = None


CASES = {
    "resnet18": Case("layer4", min_speedup=MIN_SPEEDUP),
    "resnet50": Case("layer4", max_share=MAX_SHARE, min_speedup=MIN_SPEEDUP),
    "densenet121": Case("features", max_share=MAX_SHARE, min_speedup=MIN_SPEEDUP),
    "mobilenet_v2": Case("features", max_share=MAX_SHARE, min_speedup=MIN_SPEEDUP),
    "vgg16": Case("features.29", max_forwards=MAX_FORWARDS),
    "alexnet": Case("features.11", max_forwards=MAX_FORWARDS),
}


@dataclass(frozen=True)
class Row:
    """A comparison of a and b: milliseconds of each round, the bar for the median of a / b, and how far maps differ."""

    network: str
    what: str
    threads: int
    a: Array
    b: Array
    least: float | None = None
    most: float | None = None
    difference: float | None = None

    @property
    def met(self) -> bool:
        """Whether the median is within its bar and the maps agree; a row without bar and maps meets them."""
        median = np.median(self.a / self.b)
        within = (self.least is None or median >= self.least) and (self.most is None or median <= self.most)
        return bool(within and (self.difference is None or self.difference <= MAX_DIFFERENCE))

    def __str__(self) -> str:
        low, median, high = np.quantile(self.a / self.b, (0.25, 0.5, 0.75))
        ratio = f"{median:.3g} ({low:.3g} to {high:.3g})"
        limits = (("at least", self.least), ("at most", self.most))
        bars = [f"{which} {limit:g}" for which, limit in limits if limit is not None]
        if self.difference is not None:
            bars.append(f"maps {self.difference:.0e} apart, at most {MAX_DIFFERENCE:.0e}")
        met = "-" if not bars else "yes" if self.met else "NO"
        times = f"{np.median(self.a):.2f} | {np.median(self.b):.2f}"
        return f"| {self.network} | {self.what} | {self.threads} | {times} | {ratio} | {'; '.join(bars)} | {met} |"


class BenchmarkNetwork:
    """A torch network with random weights, the graphs that Percept exports of it, and one image with a target class.

    `graphs` holds the serialized trunk, the tail, and the tail without gradients.
    """

    def __init__(self, name: str) -> None:
        import torchvision  # `tests.percept_models.grad_cam_reference` must be imported before it

        torch.manual_seed(0)
        self.name, self.case = name, CASES[name]
        self.network: nn.Module = torchvision.models.get_model(name, weights=None).eval()
        trunk = trace(self.network, RULE, [self.case.layer])
        tail, crossing = build_tail(Graph(trunk), self.case.layer)
        assert not crossing
        models = {"trunk": trunk, "tail": tail, "forward": remove_gradients(tail)}
        self.graphs = {part: model.SerializeToString() for part, model in models.items()}
        self.pixels = golden_input(RULE)
        self.target = int(Session(self.graphs["trunk"]).run({PIXELS: self.pixels}, [LOGITS])[LOGITS].argmax())


class PerceptSessions:
    """The sessions of a network, called as the service calls them."""

    def __init__(self, network: BenchmarkNetwork, threads: int, reverse: bool = False) -> None:
        self.network, graphs = network, list(network.graphs.items())
        self.sessions = {name: Session(graph, threads=threads) for name, graph in graphs[:: -1 if reverse else 1]}

    def run_trunk(self) -> Arrays:
        """Compute the logits and the activations of the image."""
        return self.sessions["trunk"].run({PIXELS: self.network.pixels}, [LOGITS, self.network.case.layer])

    def tail_inputs(self, found: Arrays) -> Arrays:
        """The inputs of the tail for the gradient of the target's logit."""
        seed = np.zeros_like(found[LOGITS])
        seed[:, self.network.target] = 1
        return {ACTIVATIONS: found[self.network.case.layer], SEED: seed}

    def compute_heatmap(self) -> Array:
        """Compute Grad-CAM [SIDE,SIDE] in [0,1] as the service does."""
        tail_inputs = self.tail_inputs(self.run_trunk())
        g = self.sessions["tail"].run(tail_inputs, [GRADIENTS])[GRADIENTS]
        heat = normalize(gradcam(tail_inputs[ACTIVATIONS][0], g[0]))
        return project_to_photo(heat, compute_geometry((SIDE, SIDE), RULE))


def create_reference(network: BenchmarkNetwork) -> Callable[[], Array]:
    """Grad-CAM by pytorch-grad-cam, constructed once and called as in its documentation."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer = network.network.get_submodule(network.case.layer)
    cam = grad_cam_package().GradCAM(model=network.network, target_layers=[layer])
    # DenseNet overwrites this output in place, and with it the copy that pytorch-grad-cam holds.
    layer.register_forward_hook(lambda _module, _inputs, output: output.clone())
    x = (torch.from_numpy(network.pixels.copy()).float() - torch.tensor(RULE.mean)) / torch.tensor(RULE.std)
    x = x.permute(0, 3, 1, 2).contiguous()
    targets = [ClassifierOutputTarget(network.target)]
    return lambda: cam(input_tensor=x, targets=targets)[0]


def remove_gradients(tail: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a tail without its gradients and the operators that only they need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(tail)
    graph, wanted = copy.graph, {LOGITS}
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
            continue
        wanted.update(node.input)
        while node.output[-1] not in wanted:  # the indices of a MaxPool
            node.output.pop()
    for values in (graph.input, graph.output, graph.initializer):
        for value in [value for value in values if value.name not in wanted]:
            values.remove(value)
    return copy


def measure(rounds: int, *actions: Action, prepare: Action | None = None) -> Array:
    """Milliseconds [action, round] of alternating actions, each after an untimed call of `prepare` or itself."""
    times = np.empty((len(actions), rounds))
    for turn in range(rounds):
        for i, action in enumerate(actions):
            (prepare or action)()
            start = time.perf_counter()
            action()
            times[i, turn] = 1e3 * (time.perf_counter() - start)
    return times


def compare_tail(network: BenchmarkNetwork, rounds: int) -> Iterator[Row]:
    """Compare a tail with the trunk and with its own forward pass, each right after a trunk pass, on one thread."""
    session_sets = [
        measure_session_set(network, -(-rounds // SESSION_SETS), reverse=bool(i % 2)) for i in range(SESSION_SETS)
    ]
    trunk, tail, forward = np.hstack(session_sets)
    yield Row(network.name, "tail / trunk", 1, tail, trunk, most=network.case.max_share)
    yield Row(network.name, "tail / its forward pass", 1, tail, forward, most=network.case.max_forwards)


def measure_session_set(network: BenchmarkNetwork, rounds: int, reverse: bool) -> Array:
    """Milliseconds [3, round] of the trunk, the tail and the tail's forward pass, in newly created sessions."""
    percept = PerceptSessions(network, 1, reverse)
    tail_inputs = percept.tail_inputs(percept.run_trunk())
    start = {ACTIVATIONS: tail_inputs[ACTIVATIONS]}
    return measure(
        rounds,
        percept.run_trunk,
        lambda: percept.sessions["tail"].run(tail_inputs, [LOGITS, GRADIENTS]),
        lambda: percept.sessions["forward"].run(start, [LOGITS]),
        prepare=percept.run_trunk,
    )


def compare_maps(network: BenchmarkNetwork, rounds: int, threads: int) -> Row:
    """Compare a complete Grad-CAM with pytorch-grad-cam's."""
    torch.set_num_threads(threads)
    percept, reference = PerceptSessions(network, threads), create_reference(network)
    difference = float(np.abs(rescale(percept.compute_heatmap()) - reference()).max())
    ours, theirs = measure(rounds, percept.compute_heatmap, reference)
    what = "pytorch-grad-cam / Percept"
    return Row(network.name, what, threads, theirs, ours, least=network.case.min_speedup, difference=difference)


def measure_network(name: str, rounds: int, threads: list[int]) -> Iterator[Row]:
    """Measure all rows of one network."""
    network = BenchmarkNetwork(name)
    yield from compare_tail(network, rounds)
    for count in threads:
        yield compare_maps(network, rounds, count)


def main() -> None:
    """Measure and print; exit with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(CASES), help=f"by default {' '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of every ratio")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of a complete Grad-CAM")
    options = parser.parse_args()
    print(f"{SIDE} px, one image, {options.rounds} interleaved rounds\n\n{HEAD}", flush=True)
    missed = False
    for name in options.networks:
        for row in measure_network(name, options.rounds, options.threads):
            print(row, flush=True)
            missed |= not row.met
    sys.exit(missed)


if __name__ == "__main__":
    main()
