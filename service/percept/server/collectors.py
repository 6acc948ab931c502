"""What is true of the service at the moment of a scrape: its models, their queues, the store, the GPU.

Nothing is kept here: each row of the table reads it from where it is, so that a model that is no longer served leaves
the metrics with it. A number that there is nothing to say of does not appear.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from percept.api.params import VERSION, State
from percept.errors import NotReady
from percept.runtime.model import Model
from percept.runtime.session import RUNTIME
from percept.telemetry.gpu_memory import Gpus

Readings = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, and the number


class Row(NamedTuple):
    """A gauge: what it means, its labels, and who reads it."""

    what: str
    labels: tuple[str, ...]
    read: Callable[[State], Readings]


def _ready(state: State) -> Readings:
    try:
        state.check()
    except NotReady:
        return [((), 0)]
    return [((), 1)]


def _each(read: Callable[[Model], float]) -> Callable[[State], Readings]:
    """Of every model that is served, by name and version."""
    return lambda state: [
        ((model.manifest.name, str(model.manifest.version)), read(model)) for model in state.repository.all
    ]


def _models(state: State) -> Readings:
    manifests = [model.manifest for model in state.repository.all]
    return [((m.name, str(m.version), m.task, m.precision), 1) for m in manifests]


MODEL = ("model", "version")
GAUGES = {
    "percept_build_info": Row(
        "What runs: the versions of Percept and of ONNX Runtime, and the device.",
        ("version", "onnxruntime", "device"),
        lambda state: [((VERSION, RUNTIME, state.repository.plan.device), 1)],
    ),
    "percept_ready": Row("1 where /health/ready says so, else 0.", (), _ready),
    "percept_queue_depth": Row("Images that wait for a thread now.", MODEL, _each(lambda model: model.queue.depth)),
    "percept_queue_capacity": Row("Images that may wait.", MODEL, _each(lambda model: model.queue.capacity)),
    "percept_model_info": Row("The models that are served.", (*MODEL, "task", "precision"), _models),
    "percept_model_load_duration_seconds": Row(
        "How long loading a model took.", MODEL, _each(lambda model: model.loaded_s)
    ),
    "percept_model_loaded_timestamp_seconds": Row(
        "When a model was loaded, since 1970.", MODEL, _each(lambda model: model.loaded_at)
    ),
    "percept_bundles_refused": Row(
        "Bundles that are not served because something is wrong with them.",
        (),
        lambda state: [((), len(state.repository.refused))],
    ),
    "percept_store_bytes": Row(
        "Bytes kept to look at images again.", (), lambda state: [((), state.pipeline.store.size)]
    ),
    "percept_store_images": Row(
        "Images kept to be looked at again.", (), lambda state: [((), len(state.pipeline.store))]
    ),
}
USED = "GPU memory in use, by any process.", ("gpu",)
TOTAL = "GPU memory that there is.", ("gpu",)


class Gauges(Collector):
    """Reads the gauges of an application when Prometheus asks."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._gpus = None if state.repository.plan.device == "cpu" else Gpus()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every gauge that has something to say."""
        for name, row in GAUGES.items():
            yield from _family(name, row.what, row.labels, row.read(self._state))
        memory = self._gpus.memory() if self._gpus else []
        yield from _family("percept_gpu_memory_used_bytes", *USED, [((one.gpu,), one.used) for one in memory])
        yield from _family("percept_gpu_memory_total_bytes", *TOTAL, [((one.gpu,), one.total) for one in memory])


def _family(name: str, what: str, labels: tuple[str, ...], readings: Readings) -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(name, what, labels=labels)
    for values, number in readings:
        family.add_metric(values, number)
    if family.samples:
        yield family
