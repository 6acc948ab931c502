"""`python benchmarks/overload.py`: what `percept serve` answers while more is asked of it than it can do.

In each round clients that wait for their answers find the saturation rate; then requests come at multiples of it
whether or not earlier ones were answered. At twice that rate the answers must stay at least 95 % of the round's best
rate, and whoever gets none must get a 429 that says when to come again. Exits with 1 where that is missed. How it is
measured stands in `docs/benchmarks.md`.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules beside this one

from benchmarks.harness import workspace
from benchmarks.harness.report import markdown, spread
from benchmarks.harness.server import WARM_S, Server, asked, running, settle, spoken
from benchmarks.harness.workspace import Place, pictures, repository
from percept.runtime.cpu_count import count_cpus
from percept.settings import Settings

FACTORS, HELD, TESTED = (0.5, 1.0, 2.0), 0.95, 2.0
HEADINGS = (
    *("network", "load", "offered/s", "200/s", "of the round's best: median (range)", "429/s", "told when", "other"),
    *("lost", "p50 ms", "p99 ms", "connections", "late ms", "generator CPU s", "met"),
)


@dataclass(frozen=True)
class Sample:
    """One load in one round: requests counted in `seconds`, latencies of those that were answered well.

    `factor` is 0 for clients that wait. Of the `refused`, `told` were told when to come again.
    """

    network: str
    factor: float
    round: int
    seconds: float
    offered: int
    good: int
    refused: int
    told: int
    other: int
    lost: int
    connections: int
    late_ms: float
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.good / self.seconds


def closed(network: str, turn: int, server: Server, clients: int, seconds: float, where: Place) -> Sample:
    """So many clients who ask again when they have their answer."""
    before = _children()
    found = asked(server, clients, seconds, where)
    counts = (found.answers, found.answers, 0, 0, 0, 0, clients, 0.0)
    times = (found.p50_ms, found.p99_ms, _children() - before)
    return Sample(network, 0, turn, found.seconds, *counts, *times)


def opened(
    network: str, turn: int, server: Server, factor: float, rate: float, seconds: float, lead: float, where: Place
) -> Sample:
    """Requests at `rate`, counted after `lead` seconds."""
    url = f"{server.address}/predict"
    found = spoken("open_loop", url, rate, lead, seconds, "image/jpeg", *pictures(where))
    return Sample(network, factor, turn, **found)


def filling(rate: float) -> float:
    """Seconds after which twice the rate that a server can bear has filled its queue."""
    return 1 + 1.5 * Settings(device="cpu").max_queue / rate


def measure(
    network: str, clients: int, factors: Sequence[float], seconds: float, rounds: int, lead: float | None, where: Place
) -> list[Sample]:
    """All loads of all rounds on one server."""
    samples = []
    with running(repository(network, "float32", where), where) as server:
        asked(server, count_cpus(), WARM_S, where)
        for turn in range(rounds):
            settle(server.process)
            samples.append(closed(network, turn, server, clients, seconds, where))
            rate = samples[-1].rate
            for factor in factors:
                settle(server.process)
                wait = filling(rate) if lead is None else lead
                samples.append(opened(network, turn, server, factor, factor * rate, seconds, wait, where))
                print(f"{network}, round {turn + 1} of {rounds}: {factor:g}", file=sys.stderr, flush=True)
    return samples


def shares(samples: Sequence[Sample], own: Sequence[Sample]) -> list[float]:
    """The rate of each sample by the best of its round."""
    best = {key: max(s.rate for s in samples if (s.network, s.round) == key) for key in {_key(s) for s in samples}}
    return [s.rate / best[_key(s)] for s in own]


def met(samples: Sequence[Sample], own: Sequence[Sample]) -> bool:
    """Whether the rate was held and everybody got a 200, or a 429 with the time to come again."""
    held = median(shares(samples, own)) >= HELD
    return held and not any(s.other or s.lost or s.told < s.refused for s in own)


def row(samples: Sequence[Sample], own: Sequence[Sample], clients: int) -> list[str]:
    """A load of a network in all rounds."""
    first = own[0]

    def mid(value: Callable[[Sample], float], digits: int) -> str:
        return f"{median(map(value, own)):.{digits}f}"

    refused, told = sum(s.refused for s in own), sum(s.told for s in own)
    return [
        *(first.network, f"{first.factor:g} x saturation" if first.factor else f"{clients} clients that wait"),
        *(mid(lambda s: s.offered / s.seconds, 1), mid(lambda s: s.rate, 1), spread(shares(samples, own), 2)),
        *(mid(lambda s: s.refused / s.seconds, 1), f"{told} of {refused}"),
        *(str(sum(s.other for s in own)), str(sum(s.lost for s in own))),
        *(mid(lambda s: s.p50_ms, 1), mid(lambda s: s.p99_ms, 1)),
        *(mid(lambda s: s.connections, 0), mid(lambda s: s.late_ms, 1), mid(lambda s: s.cpu_s, 2)),
        {True: "yes", False: "NO"}[met(samples, own)] if first.factor == TESTED else "",
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the file."""
    words = workspace.parser(__doc__, ["squeezenet"], rounds=5, seconds=5)
    words.add_argument("--clients", type=int, default=32, help="that wait, to find the saturation rate")
    words.add_argument("--factors", nargs="+", type=float, default=FACTORS, help="of the saturation rate")
    words.add_argument(
        "--lead", type=float, help="seconds before anything is counted; without it until the queue is full"
    )
    said = words.parse_args(given)
    begun = workspace.machine()
    samples: list[Sample] = []
    with workspace.place(said.photos) as where:
        for network in said.networks:
            samples += measure(network, said.clients, said.factors, said.seconds, said.rounds, said.lead, where)
    keys = dict.fromkeys((s.network, s.factor) for s in samples)
    groups = [[s for s in samples if (s.network, s.factor) == key] for key in keys]
    print(markdown(HEADINGS, [row(samples, own, said.clients) for own in groups]))
    print(f"\nIn each window of about {said.seconds:g} s the server had the cores without the generator's CPU seconds.")
    workspace.keep(said.json, begun, samples=[asdict(s) for s in samples])
    sys.exit(not all(met(samples, own) for own in groups if own[0].factor == TESTED))


def _key(sample: Sample) -> tuple[str, int]:
    return sample.network, sample.round


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
