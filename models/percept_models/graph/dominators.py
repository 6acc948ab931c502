"""Dominators of a directed acyclic graph.

A vertex dominates another if every path from the root to the other leads through it (Cooper, Harvey and Kennedy 2001,
"A simple, fast dominance algorithm"). Post-dominators are the dominators of the reversed graph. The vertices are names;
this module does not know what they stand for.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce


def immediate_dominators(order: Sequence[str], predecessors: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the immediate dominator of every vertex but the root; `order` is topological and begins with the root."""
    depth, idom = {order[0]: 0}, dict[str, str]()

    def common_dominator(a: str, b: str) -> str:
        while a != b:
            if depth[a] < depth[b]:
                a, b = b, a
            a = idom[a]
        return a

    for vertex in order[1:]:
        idom[vertex] = reduce(common_dominator, predecessors[vertex])
        depth[vertex] = depth[idom[vertex]] + 1
    return idom


def dominator_path(idom: Mapping[str, str], vertex: str) -> list[str]:
    """Return the dominators of a vertex, from the root to the vertex itself."""
    path = [vertex]
    while path[-1] in idom:
        path.append(idom[path[-1]])
    return path[::-1]


def ancestors(predecessors: Mapping[str, Sequence[str]], vertex: str) -> list[str]:
    """Return a vertex and all from which it can be reached, in the order of `predecessors`, which is topological."""
    wanted = {vertex}
    found = []
    for name in reversed(list(predecessors)):
        if name in wanted:
            wanted.update(predecessors[name])
            found.append(name)
    return found[::-1]


def reverse_edges(predecessors: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the successors of every vertex that has any."""
    successors: dict[str, list[str]] = {}
    for name, sources in predecessors.items():
        for source in sources:
            successors.setdefault(source, []).append(name)
    return successors
