"""Run an explanation method to its end, on passes that the test computes."""

from collections.abc import Callable

from percept.explain.maps import Array
from percept.explain.protocol import MethodRun, NetworkRequest, PassResult, TailRequest


def run_method(
    run: MethodRun,
    run_tail: Callable[[TailRequest], PassResult],
    run_network: Callable[[NetworkRequest], PassResult],
) -> Array:
    """Execute each request of a method by one of two functions; returns the map."""
    try:
        request = next(run)
        while True:
            request = run.send(run_tail(request) if isinstance(request, TailRequest) else run_network(request))
    except StopIteration as end:
        result: Array = end.value
        return result
