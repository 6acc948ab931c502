"""`python benchmarks/overload.py`: measure `percept serve` under more load than it can serve.

In each round, closed-loop clients find the saturation rate; then an open loop sends requests at multiples of that rate.
At twice the rate, the service must answer at least 95 % of the best rate of the round, and every other request must get
a 429 with `Retry-After`. The exit status is 1 if a bar is missed. `docs/benchmarks.md` describes the method.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.report import format_median, format_table
from benchmarks.harness.server import WARM_S, Server, post_photos, run_module, start_percept, wait_until_idle
from benchmarks.harness.workspace import (
    Workspace,
    create_parser,
    create_repository,
    describe_machine,
    open_workspace,
    photo_files,
    write_json,
)
from percept.runtime.cpu_count import count_cpus
from percept.settings import Settings

FACTORS, HELD, TESTED = (0.5, 1.0, 2.0), 0.95, 2.0
HEADINGS = (
    *("network", "load", "offered/s", "200/s", "of the round's best: median (range)", "429/s", "Retry-After", "other"),
    *("lost", "p50 ms", "p99 ms", "connections", "late ms", "generator CPU s", "met"),
)


@dataclass(frozen=True)
class Sample:
    """One load in one round: the requests counted in `seconds`, the latencies of those with status 200.

    `factor` is 0 for the closed loop. Of the `refused` responses, `retry_after` had that header.
    """

    network: str
    factor: float
    round: int
    seconds: float
    offered: int
    good: int
    refused: int
    retry_after: int
    other: int
    lost: int
    connections: int
    late_ms: float
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Responses with status 200 per second."""
        return self.good / self.seconds


def measure_closed_loop(
    network: str, turn: int, server: Server, clients: int, seconds: float, workspace: Workspace
) -> Sample:
    """Measure a closed loop: each client sends its next request after the response."""
    before = _children()
    found = post_photos(server, clients, seconds, workspace)
    counts = (found.answers, found.answers, 0, 0, 0, 0, clients, 0.0)
    times = (found.p50_ms, found.p99_ms, _children() - before)
    return Sample(network, 0, turn, found.seconds, *counts, *times)


def measure_open_loop(
    network: str,
    turn: int,
    server: Server,
    factor: float,
    rate: float,
    seconds: float,
    lead: float,
    workspace: Workspace,
) -> Sample:
    """Measure an open loop of `rate` requests per second, counted after `lead` seconds."""
    url = f"{server.address}/predict"
    found = run_module("open_loop", url, rate, lead, seconds, "image/jpeg", *photo_files(workspace))
    return Sample(network, factor, turn, **found)


def queue_fill_seconds(rate: float) -> float:
    """The seconds after which twice the saturation rate has filled the queue."""
    return 1 + 1.5 * Settings(device="cpu").max_queue / rate


def measure(
    network: str,
    clients: int,
    factors: Sequence[float],
    seconds: float,
    rounds: int,
    lead: float | None,
    workspace: Workspace,
) -> list[Sample]:
    """Measure all loads in all rounds on one server."""
    samples = []
    with start_percept(create_repository(network, "float32", workspace), workspace) as server:
        post_photos(server, count_cpus(), WARM_S, workspace)
        for turn in range(rounds):
            wait_until_idle(server.process)
            samples.append(measure_closed_loop(network, turn, server, clients, seconds, workspace))
            rate = samples[-1].rate
            for factor in factors:
                wait_until_idle(server.process)
                wait = queue_fill_seconds(rate) if lead is None else lead
                samples.append(
                    measure_open_loop(network, turn, server, factor, factor * rate, seconds, wait, workspace)
                )
                print(f"{network}, round {turn + 1} of {rounds}: {factor:g}", file=sys.stderr, flush=True)
    return samples


def shares(samples: Sequence[Sample], group: Sequence[Sample]) -> list[float]:
    """The rate of each sample, divided by the best rate of its round."""
    best = {key: max(s.rate for s in samples if (s.network, s.round) == key) for key in {_key(s) for s in samples}}
    return [s.rate / best[_key(s)] for s in group]


def met(samples: Sequence[Sample], group: Sequence[Sample]) -> bool:
    """Whether the rate was held and every request got a 200, or a 429 with `Retry-After`."""
    held = median(shares(samples, group)) >= HELD
    return held and not any(s.other or s.lost or s.retry_after < s.refused for s in group)


def row(samples: Sequence[Sample], group: Sequence[Sample], clients: int) -> list[str]:
    """Format one load of a network over all rounds."""
    first = group[0]

    def format_mid(value: Callable[[Sample], float], digits: int) -> str:
        return f"{median(map(value, group)):.{digits}f}"

    refused, retry_after = sum(s.refused for s in group), sum(s.retry_after for s in group)
    return [
        *(first.network, f"{first.factor:g} x saturation" if first.factor else f"{clients} clients that wait"),
        *(
            format_mid(lambda s: s.offered / s.seconds, 1),
            format_mid(lambda s: s.rate, 1),
            format_median(shares(samples, group), 2),
        ),
        *(format_mid(lambda s: s.refused / s.seconds, 1), f"{retry_after} of {refused}"),
        *(str(sum(s.other for s in group)), str(sum(s.lost for s in group))),
        *(format_mid(lambda s: s.p50_ms, 1), format_mid(lambda s: s.p99_ms, 1)),
        *(format_mid(lambda s: s.connections, 0), format_mid(lambda s: s.late_ms, 1), format_mid(lambda s: s.cpu_s, 2)),
        {True: "yes", False: "NO"}[met(samples, group)] if first.factor == TESTED else "",
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    parser = create_parser(__doc__, ["squeezenet"], rounds=5, seconds=5)
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop that finds the saturation rate")
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS, help="of the saturation rate")
    parser.add_argument("--lead", type=float, help="seconds before counting starts (default: until the queue is full)")
    options = parser.parse_args(given)
    machine_info = describe_machine()
    samples: list[Sample] = []
    with open_workspace(options.photos) as workspace:
        for network in options.networks:
            samples += measure(
                network, options.clients, options.factors, options.seconds, options.rounds, options.lead, workspace
            )
    keys = dict.fromkeys((s.network, s.factor) for s in samples)
    groups = [[s for s in samples if (s.network, s.factor) == key] for key in keys]
    print(format_table(HEADINGS, [row(samples, group, options.clients) for group in groups]))
    print(f"\nIn each window of about {options.seconds:g} s the load generator used its CPU seconds on the same cores.")
    write_json(options.json, machine_info, samples=[asdict(s) for s in samples])
    sys.exit(not all(met(samples, group) for group in groups if group[0].factor == TESTED))


def _key(sample: Sample) -> tuple[str, int]:
    return sample.network, sample.round


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
