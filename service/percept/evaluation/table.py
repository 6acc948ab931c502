"""What many verdicts on many maps say of the methods that made them: a table, best method first.

Verdicts come in, one for each map of each photo; rows, Markdown and plain data leave. It asks no network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from percept.evaluation.photos import Truth
from percept.explain.faithfulness import Faithfulness
from percept.imaging.decode import Geometry, Map, spread


@dataclass(frozen=True)
class Verdict:
    """What was measured of one map; None where there is nothing to measure by."""

    faithfulness: Faithfulness
    seconds: float | None = None
    pointing: bool | None = None
    energy: float | None = None


@dataclass(frozen=True)
class Column:
    """A measure of the table: its heading, its value in a verdict, and the digits behind the point."""

    heading: str
    value: Callable[[Verdict], float | None]
    digits: int
    median: bool = False


@dataclass(frozen=True)
class Figure:
    """A measure over `n` photos: the mean with its standard error, or the median, which has none."""

    value: float
    error: float | None
    n: int


def _share(value: float | None) -> float | None:
    """In percent."""
    return None if value is None else 100 * value


COLUMNS: Mapping[str, Column] = {
    "average_drop": Column("average drop % ↓", lambda v: _share(v.faithfulness.average_drop), 1),
    "increase": Column("increase % ↑", lambda v: _share(v.faithfulness.increase), 0),
    "deletion": Column("deletion ↓", lambda v: v.faithfulness.deletion, 3),
    "insertion": Column("insertion ↑", lambda v: v.faithfulness.insertion, 3),
    "difference": Column("insertion − deletion ↑", lambda v: v.faithfulness.insertion - v.faithfulness.deletion, 3),
    "pointing": Column("pointing % ↑", lambda v: _share(v.pointing), 0),
    "energy": Column("energy % ↑", lambda v: _share(v.energy), 1),
    "milliseconds": Column("ms", lambda v: v.seconds and 1000 * v.seconds, 1, median=True),
}

Row = Mapping[str, Figure | None]


def located(heat: Map, view: Geometry, truth: Truth | None) -> tuple[bool | None, float | None]:
    """Whether the peak of a map [h,w] in [0,1] lies in the object, and the share of its heat that does.

    The pointing game of Zhang et al. 2016, arXiv:1608.00507, without their margin of 15 pixels, at the centre of the
    hottest cell; and the energy of Wang et al. 2020, arXiv:1910.01279, over the object and not its box. What is not
    known, or was not seen, counts for neither; a map of zeros points nowhere. None where none of the object was seen.
    """
    H = spread(heat, view)
    if truth is None or not (truth.inside & truth.known & ~np.isnan(H)).any():
        return None, None
    H = np.where(truth.known, np.nan_to_num(H), 0)
    energy = float(H[truth.inside].sum() / max(H.sum(), 1e-30))
    if not heat.max() > 0:
        return False, energy
    shape = (heat.shape[0], heat.shape[1])
    row, column = divmod(int(heat.argmax()), shape[1])
    x, y = view.locate(row + 0.5, column + 0.5, shape)
    pixel = min(int(y), view.height - 1), min(int(x), view.width - 1)
    return (bool(truth.inside[pixel]) if truth.known[pixel] else None), energy


def rows(verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, Row]:
    """A row for each method, that of the greatest difference of insertion and deletion first.

    Those that differ by less than 1e-6, as methods do that are the same by theory, stay in the order they came in.
    """
    found = {name: {key: _figure(one, column) for key, column in COLUMNS.items()} for name, one in verdicts.items()}
    return dict(sorted(found.items(), key=lambda item: -round(_value(item[1]["difference"]), 6)))


def markdown(table: Mapping[str, Row], baselines: Sequence[str]) -> str:
    """The table in Markdown, its columns aligned, baselines in italics; columns without any value are left out."""
    used = [key for key in COLUMNS if any(row[key] for row in table.values())]
    lines = [["method", *(COLUMNS[key].heading for key in used)]]
    for name, row in table.items():
        lines.append([f"*{name}*" if name in baselines else name, *(_written(row[key], COLUMNS[key]) for key in used)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(_line(line, widths) for line in lines)


def plain(table: Mapping[str, Row], baselines: Sequence[str]) -> list[dict[str, object]]:
    """The table as JSON takes it: `value`, `error` and `n` of every measure, None where there is none."""
    return [
        {"method": name, "baseline": name in baselines, **{key: one and asdict(one) for key, one in row.items()}}
        for name, row in table.items()
    ]


def _figure(verdicts: Sequence[Verdict], column: Column) -> Figure | None:
    values = [float(value) for value in map(column.value, verdicts) if value is not None]
    if not values:
        return None
    if column.median:
        return Figure(float(np.median(values)), None, len(values))
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return Figure(float(np.mean(values)), error, len(values))


def _value(figure: Figure | None) -> float:
    assert figure is not None
    return figure.value


def _written(figure: Figure | None, column: Column) -> str:
    if figure is None:
        return "–"
    error = "" if figure.error is None else f" ± {figure.error:.{column.digits}f}"
    return f"{figure.value:.{column.digits}f}{error}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first column to the left, numbers to the right."""
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join([cells[0].ljust(widths[0]), *padded[1:]])} |"
