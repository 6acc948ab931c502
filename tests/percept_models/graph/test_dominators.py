"""Dominators of directed acyclic graphs."""

import networkx
from hypothesis import given
from hypothesis import strategies as st

from percept_models.graph.dominators import dominator_path, immediate_dominators


@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=30))
def test_dominators_are_those_of_networkx(edges: list[set[int]]) -> None:
    """On any acyclic graph whose vertices are all reachable from the root."""
    predecessors = {str(i + 1): sorted({str(j % (i + 1)) for j in sources}) for i, sources in enumerate(edges)}
    idom = immediate_dominators(["0", *predecessors], predecessors)
    graph = networkx.DiGraph((source, name) for name, sources in predecessors.items() for source in sources)
    expected = networkx.immediate_dominators(graph, "0")
    assert idom == {name: expected[name] for name in predecessors}
    for name in predecessors:
        assert dominator_path(idom, name)[0] == "0"
