"""`python benchmarks/server_comparison.py`: Percept beside other servers of the same networks, over HTTP, as one table.

Every server stands alone while it is measured, starts anew in each round, and gets the same JPEGs; the rounds go
through all of them in turn, so that noise meets all alike. A server that cannot be had is named with the reason. What
is compared stands in `harness/peer_servers.py`, how in `docs/benchmarks.md`.
"""

import re
import subprocess
import sys
import urllib.request
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules beside this one

from benchmarks.harness import workspace
from benchmarks.harness.bare_loop import Setting, settings
from benchmarks.harness.peer_servers import HERE, LIMIT, PEERS, ROOT, installed, slug
from benchmarks.harness.process_tree import cpu, free_port, memory, started, tree
from benchmarks.harness.report import Load, Sample, table
from benchmarks.harness.server import READY_S, WARM_S, Failed, bare, faultless, fire, settle, tail
from benchmarks.harness.workspace import Place, bundle, pictures, repository
from percept.errors import BundleError
from percept.runtime.cpu_count import count_cpus

CACHE = Path.home() / ".cache" / "percept-benchmarks"
JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Asked(Place):
    """What was asked for, and where things lie."""

    seconds: float
    concurrency: tuple[int, ...]
    venvs: Path


@contextmanager
def served(name: str, network: str, asked: Asked) -> Iterator[tuple[int, str, float]]:
    """A running server: its process, the address of its answers, the seconds until the first.

    Raises `Failed` with the end of its log where there is none in time.
    """
    peer = PEERS[name]
    folder = bundle(network, peer.precision, asked)
    port = free_port()
    workers, intra = (count_cpus(), 1) if peer.tuned else (1, 0)
    words = {"port": port, "spare": free_port(), "other": free_port(), "workers": workers, "here": HERE}
    words["bin"] = installed(name, asked.venvs)
    environment = {
        "BENCH_BUNDLE": str(folder),
        "BENCH_NETWORK": network,
        "BENCH_PORT": str(port),
        "BENCH_WORKERS": str(workers),
        "BENCH_INTRA": str(intra),
        "PYTHONPATH": str(HERE if peer.requirements else ROOT),
        "PERCEPT_MODELS": str(repository(network, peer.precision, asked)),
        "PERCEPT_PORT": str(port),
        "PERCEPT_DEVICE": "cpu",
        "ORT_DISABLE_TELEMETRY": "1",  # as the service does: none may open a connection of its own meanwhile
        **{key: value.format(**words) for key, value in peer.environment.items()},
    }
    log = asked.log
    start = monotonic()
    with started([word.format(**words) for word in peer.command], environment, asked.scratch, log) as process:
        address = f"http://127.0.0.1:{port}{peer.path}"
        kind, body = peer.post(pictures(asked)[0].read_bytes())
        while not (answer := ask(address, kind, body, log)):
            if process.poll() is not None or monotonic() - start > READY_S:
                raise Failed(f"no answer after {monotonic() - start:.0f} s; {tail(log)}")
            sleep(0.02)
        ready = monotonic() - start
        if not answer.startswith(JPEG):
            agree(answer, network, peer.precision, asked)
        yield process.pid, address, ready


def ask(address: str, kind: str, body: bytes, log: Path) -> bytes:
    """The body of a good answer, or none while there is none; raises `Failed` where the server does."""
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())
    except OSError as error:  # nobody listens yet, or says so by a status
        if getattr(error, "code", None) == 500:
            raise Failed(f"it answers 500; {tail(log)}") from error
        return b""


def agree(answer: bytes, network: str, precision: str, asked: Asked) -> None:
    """Raise `Failed` where the first class of an answer is not that of the first server of this network."""
    found = re.search(rb"index\W+(\d+)", answer)
    if not found:
        raise Failed(f"the answer names no class: {answer[:200]!r}")
    first = asked.scratch / f"{network}-{precision}.class"
    if not first.exists():
        first.write_bytes(found[1])
    if first.read_bytes() != found[1]:
        raise Failed(f"its first class is {int(found[1])}, that of the others {int(first.read_bytes())}")


def bodies(name: str, asked: Asked) -> tuple[str, list[str]]:
    """The content type and the files that hold what is posted to a server, written where they are not yet there."""
    post, files = PEERS[name].post, pictures(asked)
    folder = asked.scratch / f"posts-{slug(name)}"
    if not folder.exists():
        folder.mkdir()
        for path in files:
            (folder / path.name).write_bytes(post(path.read_bytes())[1])
    return post(files[0].read_bytes())[0], [str(folder / path.name) for path in files]


def load(name: str, address: str, clients: int, seconds: float, asked: Asked) -> Load:
    """What clients in a process of their own get from a server."""
    kind, files = bodies(name, asked)
    return fire(address, clients, seconds, kind, files)


def measure(name: str, network: str, turn: int, asked: Asked) -> list[Sample]:
    """A server under every load, one after the other."""
    samples = []
    with served(name, network, asked) as (process, address, ready):
        load(name, address, count_cpus(), WARM_S, asked)
        for clients in asked.concurrency:
            settle(process)
            before = cpu(process)
            found = load(name, address, clients, asked.seconds, asked)
            faultless(found, clients, asked.seconds)
            spent = 1e3 * (cpu(process) - before) / found.answers
            rest = (found.rate, found.p50_ms, found.p99_ms, spent, memory(tree(process)), ready)
            samples.append(Sample(network, name, clients, turn, *rest))
    return samples


def limit(network: str, how: Setting, turn: int, seconds: float, asked: Asked) -> Sample:
    """The bare loop, under one setting."""
    found = bare(bundle(network, "float32", asked), how, seconds, asked)
    return Sample(network, LIMIT, 0, turn, **found)


def attempt(name: str, network: str, turn: int, asked: Asked, reasons: dict[str, str]) -> list[Sample]:
    """As `measure`; none, and the reason noted, where it cannot be done."""
    key = f"{name}, {network}"
    peer = PEERS[name]
    if key in reasons or (peer.networks is not None and network not in peer.networks):
        return []
    try:
        return measure(name, network, turn, asked)
    except (Failed, BundleError) as error:
        reasons[key] = str(error)
    except subprocess.CalledProcessError as error:
        reasons[key] = f"{Path(error.cmd[0]).name} failed: {' / '.join((error.output or '').strip().splitlines()[-3:])}"
    return []


def compare(
    networks: Sequence[str], peers: Sequence[str], rounds: int, asked: Asked
) -> tuple[list[Sample], dict[str, str], dict[str, str]]:
    """All samples, the setting of each network's limit, and the reasons of those that are missing."""
    samples: list[Sample] = []
    reasons: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for network in networks:
        tried = {how: limit(network, how, 0, min(asked.seconds, 3), asked).rate for how in settings(count_cpus())}
        best = max(tried, key=lambda how: tried[how])
        chosen[network] = str(best)
        for turn in range(rounds):
            samples.append(limit(network, best, turn, asked.seconds, asked))
            for name in peers:
                samples += attempt(name, network, turn, asked, reasons)
                print(f"{network}, round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    return samples, chosen, reasons


def arguments(given: Sequence[str] | None) -> Namespace:
    """What was said on the command line."""
    words = workspace.parser(__doc__, ["squeezenet", "resnet50", "clothing"], rounds=5, seconds=5)
    words.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    words.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    words.add_argument("--venvs", type=Path, default=CACHE, help="where the peers are installed")
    return words.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the file."""
    said = arguments(given)
    begun = workspace.machine()
    with workspace.place(said.photos) as where:
        asked = Asked(where.photos, where.scratch, said.seconds, tuple(said.concurrency), said.venvs)
        samples, chosen, reasons = compare(said.networks, said.peers, said.rounds, asked)
    print(table(samples, {name: peer.against for name, peer in PEERS.items()} | {LIMIT: LIMIT}))
    for network, how in chosen.items():
        print(f"\nThe limit of {network}: {how}.", end="")
    for name, reason in reasons.items():
        print(f"\nNot measured: {name}: {reason}", end="")
    print()
    workspace.keep(said.json, begun, samples=samples, limit=chosen, missing=reasons)


if __name__ == "__main__":
    main()
