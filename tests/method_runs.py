"""Run an explanation method on activations and gradients, or on passes, that the test computes."""

from collections.abc import Callable

from percept.explain.maps import Array
from percept.explain.methods.protocol import MethodRun, NetworkRequest, PassResult, TailRequest
from percept.explain.methods.table import METHODS

# The functions of A and g by method, of those that have a closed form.
GRADIENT_METHODS: dict[str, Callable[[Array, Array], Array]] = {
    name: method.run.__wrapped__
    for name, method in METHODS.items()
    if method.needs == "gradients" and hasattr(method.run, "__wrapped__")
}


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
