"""Gauges that are read at the moment of a scrape: the models, their queues, the image cache, the GPU.

No value is stored here. Each row of `GAUGES` reads its value from the object that owns it, so the series of a model
disappear when the model is unloaded. A gauge without samples is left out of the response.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from percept import __version__
from percept.api.state import AppState
from percept.errors import NotReady
from percept.runtime.model import Model
from percept.runtime.session import ORT_VERSION
from percept.telemetry.gpu_memory import GpuMemoryReader

Samples = Iterable[tuple[tuple[str, ...], float]]  # label values, and the value of the gauge


class Gauge(NamedTuple):
    """One gauge: its help text, the names of its labels, and the function that reads its samples."""

    help: str
    labels: tuple[str, ...]
    read: Callable[[AppState], Samples]


def _read_ready(state: AppState) -> Samples:
    try:
        state.check_ready()
    except NotReady:
        return [((), 0)]
    return [((), 1)]


def _per_model(read: Callable[[Model], float]) -> Callable[[AppState], Samples]:
    """Read one value of every loaded model, labelled by name and version."""
    return lambda state: [
        ((model.manifest.name, str(model.manifest.version)), read(model)) for model in state.repository.all_versions
    ]


def _read_model_info(state: AppState) -> Samples:
    manifests = [model.manifest for model in state.repository.all_versions]
    return [((m.name, str(m.version), m.task, m.precision), 1) for m in manifests]


MODEL_LABELS = ("model", "version")
GAUGES = {
    "percept_build_info": Gauge(
        "The versions of Percept and ONNX Runtime, and the device.",
        ("version", "onnxruntime", "device"),
        lambda state: [((__version__, ORT_VERSION, state.repository.plan.device), 1)],
    ),
    "percept_ready": Gauge("1 if /health/ready answers 200, else 0.", (), _read_ready),
    "percept_queue_depth": Gauge(
        "Images that are waiting for a worker thread.", MODEL_LABELS, _per_model(lambda model: model.queue.depth)
    ),
    "percept_queue_capacity": Gauge(
        "Requests that may wait for the model; more are refused.",
        MODEL_LABELS,
        _per_model(lambda model: model.queue.capacity),
    ),
    "percept_model_info": Gauge("The loaded models.", (*MODEL_LABELS, "task", "precision"), _read_model_info),
    "percept_model_load_duration_seconds": Gauge(
        "Time that loading the model took.", MODEL_LABELS, _per_model(lambda model: model.loaded_s)
    ),
    "percept_model_loaded_timestamp_seconds": Gauge(
        "Unix time at which the model was loaded.", MODEL_LABELS, _per_model(lambda model: model.loaded_at)
    ),
    "percept_bundles_refused": Gauge(
        "Bundles that could not be loaded; GET /models gives the reasons.",
        (),
        lambda state: [((), len(state.repository.refused))],
    ),
    "percept_store_bytes": Gauge(
        "Bytes in the cache of recent images.", (), lambda state: [((), state.pipeline.cache.size)]
    ),
    "percept_store_images": Gauge(
        "Images in the cache of recent images.", (), lambda state: [((), len(state.pipeline.cache))]
    ),
}
GPU_USED_HELP = "GPU memory in use, by all processes."
GPU_TOTAL_HELP = "Total GPU memory."


class ServiceCollector(Collector):
    """Reads the gauges of one application at each scrape."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._gpu_memory = None if state.repository.plan.device == "cpu" else GpuMemoryReader()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every gauge that has samples."""
        for name, gauge in GAUGES.items():
            yield from _family(name, gauge.help, gauge.labels, gauge.read(self._state))
        gpus = self._gpu_memory.read() if self._gpu_memory else []
        used, total = ([((gpu.gpu,), gpu.used) for gpu in gpus], [((gpu.gpu,), gpu.total) for gpu in gpus])
        yield from _family("percept_gpu_memory_used_bytes", GPU_USED_HELP, ("gpu",), used)
        yield from _family("percept_gpu_memory_total_bytes", GPU_TOTAL_HELP, ("gpu",), total)


def _family(name: str, help: str, labels: tuple[str, ...], samples: Samples) -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    if family.samples:
        yield family
