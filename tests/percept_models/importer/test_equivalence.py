"""Outputs that cannot be logits, or that conversion would change, are rejected."""

from pathlib import Path

import pytest

from percept.errors import BundleError
from percept_models.importer.network import import_network
from tests.percept_models.importer.graphs import node, pool_and_flatten, write_classifier

REJECTED = {
    "no classes": ([node("ReduceMean", "c", "y", axes=[3], keepdims=0)], r"\[N,4,8\] is neither \[N,K\] nor"),
    "integers": ([*pool_and_flatten("c")[:1], node("Cast", "p", "y", to=7)], "is not floating-point"),
    "no batch axis": ([node("ReduceMean", "c", "y", axes=[0], keepdims=0)], "no row for each image"),
    "size depends on values": ([node("NonZero", "c", "z"), node("Cast", "z", "y", to=1)], "no row for each"),
    "random": ([node("RandomNormalLike", "c", "n"), *pool_and_flatten("n")], "a number differs"),
    "NaN": ([node("Sub", "c c", "z"), node("Div", "z z", "d"), *pool_and_flatten("d")], "not finite"),
    "kernel larger than the image": ([node("MaxPool", "c", "y", kernel_shape=[99, 99])], "."),
}


@pytest.mark.parametrize("case", REJECTED)
def test_output_that_is_no_logits_is_rejected(tmp_path: Path, case: str) -> None:
    nodes, reason = REJECTED[case]
    with pytest.raises(BundleError, match=reason):
        import_network(write_classifier(tmp_path, *nodes))
