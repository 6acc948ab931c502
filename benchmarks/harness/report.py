"""From the samples of all rounds to one Markdown table of medians and ranges. This module measures nothing."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

HEADINGS = (
    *("network", "server", "clients", "images/s", "ratio: median (range)", "of"),
    *("p50 ms", "p99 ms", "CPU ms/image", "memory MB", "ready s"),
)


@dataclass(frozen=True)
class ClosedLoopResult:
    """The responses of one run: their number, refused ones by status, lost connections, latencies."""

    answers: int
    refused: int
    lost: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Successful responses per second."""
        return (self.answers - self.refused) / self.seconds


@dataclass(frozen=True)
class Sample:
    """One server under one load in one round. The limit has 0 clients and no `ready_s`."""

    network: str
    server: str
    clients: int
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mb: float
    ready_s: float | None = None


def parse_load(output: str) -> ClosedLoopResult:
    """Parse the only line of JSON in the output of a load generator."""
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise ValueError(f"the load generator printed no result: {output.strip()[-200:]}")
    return ClosedLoopResult(**json.loads(line))


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile: the least value that `fraction` of all values do not exceed."""
    return sorted(values)[max(math.ceil(fraction * len(values)) - 1, 0)]


def ratios(samples: Sequence[Sample], group: Sequence[Sample], against: str) -> list[float]:
    """The rate of each sample divided by that of `against` in the same round, under the same load or the limit."""
    rates = {(s.network, s.round, s.clients): s.rate for s in samples if s.server == against}
    found = []
    for s in group:
        rate = rates.get((s.network, s.round, s.clients)) or rates.get((s.network, s.round, 0))
        if rate:
            found.append(s.rate / rate)
    return found


def comparison_table(samples: Sequence[Sample], against: Mapping[str, str]) -> str:
    """Format the table by network and load; `against` names the baseline of each server."""
    rows: dict[tuple[str, int, str], list[Sample]] = {}
    for sample in samples:
        rows.setdefault((sample.network, sample.clients, sample.server), []).append(sample)
    networks = list(dict.fromkeys(sample.network for sample in samples))
    ordered = sorted(rows, key=lambda key: (networks.index(key[0]), key[1]))
    cells = []
    for key in ordered:
        baseline = against.get(key[2], "")
        cells.append(_cells(rows[key], ratios(samples, rows[key], baseline), baseline))
    return format_table(HEADINGS, cells)


def format_table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a Markdown table."""
    return "\n".join(map(format_row, (headings, ["---"] * len(headings), *rows)))


def format_row(cells: Iterable[str]) -> str:
    """Format a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def format_median(values: Sequence[float], digits: int) -> str:
    """The median of all rounds with the least and the greatest value in brackets."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _cells(group: Sequence[Sample], ratio_values: Sequence[float], baseline: str) -> Iterable[str]:
    first = group[0]
    ratio = format_median(ratio_values, 2) if ratio_values else ""
    ready = [s.ready_s for s in group if s.ready_s is not None]
    return (
        *(first.network, first.server, str(first.clients or ""), f"{median(s.rate for s in group):.1f}"),
        *(ratio, baseline if ratio_values else ""),
        *(f"{median(s.p50_ms for s in group):.1f}", f"{median(s.p99_ms for s in group):.1f}"),
        *(f"{median(s.cpu_ms for s in group):.1f}", f"{median(s.memory_mb for s in group):.0f}"),
        f"{median(ready):.1f}" if ready else "",
    )
