"""What is known of a request: who asked, about which model, and where its time goes by stage.

All of it is an `Account` in a context variable, written by whoever works for the request, on whatever thread: code that
hands work to a thread hands its context along. Outside a request nothing is noted. It knows no HTTP.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter

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
MAX_MOMENTS = 256  # of one request: slow methods run the network hundreds of times

Moment = tuple[str, float, float]  # a stage, and from when to when by `perf_counter`


@dataclass(slots=True, eq=False)
class Account:
    """One request: its `id`, the trace and span that it belongs to, the model that it is about, why what it asked for
    was refused, and the seconds that it spent by stage; with `moments` also when.
    """

    id: str = ""
    trace_id: str = ""
    span_id: str = ""
    model: str = ""
    version: str = ""
    refusals: list[str] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    moments: list[Moment] | None = None


_account: ContextVar[Account | None] = ContextVar("account", default=None)


def begin(id: str = "", trace_id: str = "") -> Account:
    """A new account, for this context and those copied from it."""
    account = Account(id, trace_id)
    _account.set(account)
    return account


def current() -> Account | None:
    """The account of the request that this context belongs to."""
    return _account.get()


def concerns(model: str, version: int) -> None:
    """Note which model the request is about."""
    if account := _account.get():
        account.model, account.version = model, str(version)


def refuse(reason: str) -> None:
    """Note that something the request asked for is not done."""
    if account := _account.get():
        account.refusals.append(reason)


def note(stage: str, start: float, end: float) -> None:
    """Add the time between two readings of `perf_counter` to a stage."""
    account = _account.get()
    if account is None:
        return
    account.spent[stage] = account.spent.get(stage, 0.0) + end - start
    if account.moments is not None and len(account.moments) < MAX_MOMENTS:
        account.moments.append((stage, start, end))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Note how long the body takes."""
    start = perf_counter()
    try:
        yield
    finally:
        note(name, start, perf_counter())
