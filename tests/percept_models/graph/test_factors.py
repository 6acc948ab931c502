"""Reshapes in terms of the axes of an image: windows, tokens and batches of windows, and the way back."""

import pytest

from percept_models.graph.factors import BATCH, UNKNOWN, CompositeAxis, Factor, kept_position, reshape, side

Y, X = side("y", 8), side("x", 12)
IMAGE = (BATCH, UNKNOWN, Y, X)


def test_tokens_are_the_cells_row_by_row() -> None:
    axes = reshape((None, 5, 8, 12), (None, 5, 96), IMAGE)
    assert axes[:2] == (BATCH, UNKNOWN)
    assert axes[2].grid == (8, 12)
    assert reshape((None, 5, 96), (None, 5, 8, 12), axes) == IMAGE


def test_columns_in_one_axis_are_no_tokens() -> None:
    """[N,C,w,h] flattened has the cells in another order."""
    axes = reshape((None, 5, 12, 8), (None, 5, 96), (BATCH, UNKNOWN, X, Y))
    assert axes[2].grid is None
    assert axes[2].holds_cells


def test_reshape_to_another_grid_is_no_map() -> None:
    """96 cells as 12 x 8 are rows of another width."""
    tokens = reshape((None, 5, 8, 12), (None, 5, 96), IMAGE)
    assert [axis.side for axis in reshape((None, 5, 96), (None, 5, 12, 8), tokens)[2:]] == [None, None]


def test_windows_in_the_batch_come_back() -> None:
    """As in Swin: rows and columns are split into windows of 4 x 4, which move into the batch."""
    last = (BATCH, Y, X, UNKNOWN)
    split = reshape((None, 8, 12, 5), (None, 2, 4, 3, 4, 5), last)
    assert [axis.side for axis in split] == [None, "y", None, "x", None, None]
    moved = tuple(split[i] for i in (0, 1, 3, 2, 4, 5))
    windows = reshape((None, 2, 3, 4, 4, 5), (None, 16, 5), moved)
    assert windows[0] != BATCH
    assert windows[1].grid is None, "cells of a window are no map of the image"
    back = reshape((None, 16, 5), (None, 2, 3, 4, 4, 5), windows)
    assert back == moved
    joined = reshape((None, 2, 4, 3, 4, 5), (None, 8, 12, 5), tuple(back[i] for i in (0, 1, 3, 2, 4, 5)))
    assert joined == last


def test_heads_in_the_batch_come_back() -> None:
    """As in torch's attention, whose tokens come before the batch."""
    tokens = CompositeAxis((*Y.factors, *X.factors))
    heads = reshape((96, None, 10), (96, None, 5), (tokens, BATCH, UNKNOWN))
    assert heads[0] == tokens
    assert heads[1] == CompositeAxis((*BATCH.factors, Factor("", 2)))
    assert reshape((96, None, 5), (96, None, 10), heads) == (tokens, BATCH, UNKNOWN)


def test_rows_of_the_batch_in_one_axis_come_back() -> None:
    """A linear layer over [N * T, C]."""
    tokens = CompositeAxis((*Y.factors, *X.factors))
    flat = reshape((None, 96, 5), (None, 5), (BATCH, tokens, UNKNOWN))
    assert flat[0].holds_batch
    assert reshape((None, 5), (None, 96, 5), flat) == (BATCH, tokens, UNKNOWN)


def test_groups_of_channels_keep_the_map() -> None:
    """As group normalization is exported."""
    groups = reshape((None, 6, 8, 12), (None, 3, 192), IMAGE)
    assert reshape((None, 3, 192), (None, 6, 8, 12), groups) == IMAGE


def test_tokens_after_a_class_token_stay_whole() -> None:
    tokens = CompositeAxis((*Y.factors, *X.factors), prefix=1)
    split = reshape((None, 97, 10), (None, 97, 2, 5), (BATCH, tokens, UNKNOWN))
    assert split == (BATCH, tokens, UNKNOWN, UNKNOWN)
    assert reshape((None, 97, 2, 5), (None, 97, 10), split) == (BATCH, tokens, UNKNOWN)
    batched = reshape((97, None, 10), (97, None, 5), (tokens, BATCH, UNKNOWN))
    assert batched[1] == CompositeAxis((*BATCH.factors, Factor("", 2)))
    assert kept_position((None, 97, 10), (None, 97, 2, 5), 1) == 1
    assert kept_position((2, None, 97), (None, 97), 2) == 1


@pytest.mark.parametrize(
    ("selected", "prefix"),
    [(range(1, 98), 1), (range(2, 98), 0), (range(98), 2), (range(2), None), (range(3, 98), None), (range(97), None)],
)
def test_selected_tokens_must_hold_every_cell(selected: range, prefix: int | None) -> None:
    tokens = CompositeAxis((*Y.factors, *X.factors), prefix=2)
    assert tokens.select(selected) == (UNKNOWN if prefix is None else tokens._replace(prefix=prefix))


def test_selected_rows_are_a_side_unless_reversed() -> None:
    assert Y.select(range(0, 8, 2)) == side("y", 4)
    assert Y.select(range(7, -1, -1)) == UNKNOWN
