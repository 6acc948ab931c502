"""The table of an evaluation: statistics of each method over all photos, the best method first.

Measurements come in, one for each map of each photo; rows, Markdown and plain data leave. It knows no network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from percept.evaluation.measurement import Measurement


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, its value in a measurement, and the number of decimals."""

    heading: str
    value: Callable[[Measurement], float | None]
    digits: int
    median: bool = False


@dataclass(frozen=True)
class Statistic:
    """A measure over `n` photos: the mean with its standard error, or the median, which has no error."""

    value: float
    error: float | None
    n: int


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


COLUMNS: Mapping[str, Column] = {
    "average_drop": Column("average drop % ↓", lambda m: _percent(m.faithfulness.average_drop), 1),
    "increase": Column("increase % ↑", lambda m: _percent(m.faithfulness.increase), 0),
    "deletion": Column("deletion ↓", lambda m: m.faithfulness.deletion, 3),
    "insertion": Column("insertion ↑", lambda m: m.faithfulness.insertion, 3),
    "difference": Column("insertion − deletion ↑", lambda m: m.faithfulness.insertion - m.faithfulness.deletion, 3),
    "pointing": Column("pointing % ↑", lambda m: _percent(m.pointing), 0),
    "energy": Column("energy % ↑", lambda m: _percent(m.energy), 1),
    "milliseconds": Column("ms", lambda m: m.seconds and 1000 * m.seconds, 1, median=True),
}

Row = Mapping[str, Statistic | None]


def summarize_methods(measurements: Mapping[str, Sequence[Measurement]]) -> dict[str, Row]:
    """One row for each method, the greatest difference of insertion and deletion first.

    Rows that differ by less than 1e-6, as those of methods that are equal by theory, keep their order.
    """
    rows = {
        name: {key: _summarize(many, column) for key, column in COLUMNS.items()} for name, many in measurements.items()
    }
    return dict(sorted(rows.items(), key=lambda item: -round(_value(item[1]["difference"]), 6)))


def to_markdown(rows: Mapping[str, Row], baselines: Sequence[str]) -> str:
    """The table in Markdown, columns aligned and baselines in italics; columns without any value are left out."""
    keys = [key for key in COLUMNS if any(row[key] for row in rows.values())]
    lines = [["method", *(COLUMNS[key].heading for key in keys)]]
    for name, row in rows.items():
        title = f"*{name}*" if name in baselines else name
        lines.append([title, *(_format(row[key], COLUMNS[key]) for key in keys)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(_align(line, widths) for line in lines)


def to_json(rows: Mapping[str, Row], baselines: Sequence[str]) -> list[dict[str, object]]:
    """The table as data for JSON: `value`, `error` and `n` of every measure, None where nothing was measured."""
    return [
        {"method": name, "baseline": name in baselines, **{key: one and asdict(one) for key, one in row.items()}}
        for name, row in rows.items()
    ]


def _summarize(measurements: Sequence[Measurement], column: Column) -> Statistic | None:
    values = [float(value) for value in map(column.value, measurements) if value is not None]
    if not values:
        return None
    if column.median:
        return Statistic(float(np.median(values)), None, len(values))
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return Statistic(float(np.mean(values)), error, len(values))


def _value(statistic: Statistic | None) -> float:
    assert statistic is not None
    return statistic.value


def _format(statistic: Statistic | None, column: Column) -> str:
    if statistic is None:
        return "–"
    error = "" if statistic.error is None else f" ± {statistic.error:.{column.digits}f}"
    return f"{statistic.value:.{column.digits}f}{error}"


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line with the first column to the left and the numbers to the right."""
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join([cells[0].ljust(widths[0]), *padded[1:]])} |"
