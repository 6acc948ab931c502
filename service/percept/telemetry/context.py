"""The request context: identity, model, refusals and stage timings of the request that is being handled.

The `RequestContext` is in a context variable, and every module may add to it, on the event loop or on a worker
thread. Code that passes work to a thread runs it in a copy of its context (`contextvars.copy_context`). Outside a
request nothing is recorded. This module knows no HTTP.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter

# The stages of a request in their usual order, with the descriptions that appear in the metrics.
STAGES = {
    "receive": "reading the request body",
    "queue": "waiting for a worker thread or for the device",
    "decode": "decoding the image",
    "prepare": "resizing the image to the input of the network",
    "infer": "running the whole network",
    "tail": "running the part of the network behind a layer, with gradients",
    "render": "drawing and encoding the response",
}
MAX_STAGE_SPANS = 256  # per request: perturbation methods run the network hundreds of times

StageSpan = tuple[str, float, float]  # stage, start and end by `perf_counter`


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request.

    `model` and `version` are empty while no model is known. `refusals` are problem codes such as `queue_full`.
    `stage_seconds` is the time spent by stage; `stage_spans` says when, and is None unless the request is traced.
    """

    id: str = ""
    trace_id: str = ""
    span_id: str = ""
    model: str = ""
    version: str = ""
    refusals: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    stage_spans: list[StageSpan] | None = None


_request: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def begin_request(id: str = "", trace_id: str = "") -> RequestContext:
    """Create a request context and make it the current one, here and in contexts copied from here."""
    request = RequestContext(id, trace_id)
    _request.set(request)
    return request


def current_request() -> RequestContext | None:
    """Return the context of the request that this code runs for; None outside a request."""
    return _request.get()


def set_model(model: str, version: int) -> None:
    """Record which model the request uses."""
    if request := _request.get():
        request.model, request.version = model, str(version)


def record_refusal(reason: str) -> None:
    """Record that the service refused a part of the request, by the code of the problem."""
    if request := _request.get():
        request.refusals.append(reason)


def record_stage(stage: str, start: float, end: float) -> None:
    """Add the time between two readings of `perf_counter` to a stage."""
    request = _request.get()
    if request is None:
        return
    request.stage_seconds[stage] = request.stage_seconds.get(stage, 0.0) + end - start
    if request.stage_spans is not None and len(request.stage_spans) < MAX_STAGE_SPANS:
        request.stage_spans.append((stage, start, end))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Record the duration of the `with` body, or of the decorated function, as a stage."""
    start = perf_counter()
    try:
        yield
    finally:
        record_stage(name, start, perf_counter())
