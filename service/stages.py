"""Where the time of a request goes: seconds by stage, summed up by whoever works for it, on whatever thread.

What a request spends is a dictionary in a context variable: code that hands work to a thread hands its context along.
Outside a request nothing is noted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

Spent = dict[str, float]  # stage → seconds

# In the order in which they come.
STAGES = {
    "receive": "reading the request's body",
    "queue": "waiting for a thread or for the device",
    "decode": "bytes to an upright photo",
    "prepare": "resizing to the network's input",
    "infer": "passes of the whole network",
    "tail": "passes of the network behind a layer, with gradients",
    "render": "making the answer: drawing and encoding",
}

_spent: ContextVar[Spent | None] = ContextVar("spent", default=None)


def begin() -> Spent:
    """Note from now on, in this context and those copied from it, what is spent."""
    spent: Spent = {}
    _spent.set(spent)
    return spent


def note(stage: str, seconds: float) -> None:
    """Add seconds to a stage of the request that this context belongs to."""
    spent = _spent.get()
    if spent is not None:
        spent[stage] = spent.get(stage, 0.0) + seconds


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Note how long the body takes."""
    start = perf_counter()
    try:
        yield
    finally:
        note(name, perf_counter() - start)
