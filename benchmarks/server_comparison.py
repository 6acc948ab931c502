"""`python benchmarks/server_comparison.py`: compare Percept with other servers of the same networks over HTTP.

Only one server runs at a time. Every server is restarted in each round and gets the same JPEGs; each round measures all
servers in turn, so that noise affects all of them. A server that cannot be measured is listed with the reason.
`harness/peer_servers.py` lists the servers, `docs/benchmarks.md` describes the method.
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.bare_loop import Setting, list_settings
from benchmarks.harness.peer_servers import LIMIT, PEERS, PEERS_FOLDER, ROOT, install, slug
from benchmarks.harness.process_tree import cpu_seconds, find_tree, free_port, resident_mb, start_process
from benchmarks.harness.report import ClosedLoopResult, Sample, comparison_table
from benchmarks.harness.server import (
    READY_S,
    WARM_S,
    BenchmarkError,
    last_lines,
    measure_bare_loop,
    require_success,
    run_load,
    wait_until_idle,
)
from benchmarks.harness.workspace import (
    Workspace,
    create_bundle,
    create_parser,
    create_repository,
    describe_machine,
    open_workspace,
    photo_files,
    write_json,
)
from percept.errors import BundleError
from percept.runtime.cpu_count import count_cpus

CACHE = Path.home() / ".cache" / "percept-benchmarks"
JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Comparison(Workspace):
    """A workspace with the options of a comparison."""

    seconds: float
    concurrency: tuple[int, ...]
    venvs: Path


@contextmanager
def start_peer(name: str, network: str, comparison: Comparison) -> Iterator[tuple[int, str, float]]:
    """Start a server; yield its process id, the address for requests and the seconds until the first response.

    Raises `BenchmarkError` with the end of the log if there is no response in time.
    """
    peer = PEERS[name]
    folder = create_bundle(network, peer.precision, comparison)
    port = free_port()
    workers, intra = (count_cpus(), 1) if peer.tuned else (1, 0)
    values = {"port": port, "spare": free_port(), "other": free_port(), "workers": workers, "here": PEERS_FOLDER}
    values["bin"] = install(name, comparison.venvs)
    environment = {
        "BENCH_BUNDLE": str(folder),
        "BENCH_NETWORK": network,
        "BENCH_PORT": str(port),
        "BENCH_WORKERS": str(workers),
        "BENCH_INTRA": str(intra),
        "PYTHONPATH": str(PEERS_FOLDER if peer.requirements else ROOT),
        "PERCEPT_MODELS": str(create_repository(network, peer.precision, comparison)),
        "PERCEPT_PORT": str(port),
        "PERCEPT_DEVICE": "cpu",
        "ORT_DISABLE_TELEMETRY": "1",  # as in the service: no connections to the outside
        **{key: value.format(**values) for key, value in peer.environment.items()},
    }
    log = comparison.log
    start = monotonic()
    command = [word.format(**values) for word in peer.command]
    with start_process(command, environment, comparison.scratch, log) as process:
        address = f"http://127.0.0.1:{port}{peer.path}"
        content_type, body = peer.post(photo_files(comparison)[0].read_bytes())
        while not (answer := post(address, content_type, body, log)):
            if process.poll() is not None or monotonic() - start > READY_S:
                raise BenchmarkError(f"no answer after {monotonic() - start:.0f} s; {last_lines(log)}")
            sleep(0.02)
        ready = monotonic() - start
        if not answer.startswith(JPEG):
            check_class(answer, network, peer.precision, comparison)
        yield process.pid, address, ready


def post(address: str, content_type: str, body: bytes, log: Path) -> bytes:
    """Post a photo; return the body of a 200, or nothing if the server is not ready. `BenchmarkError` for a 500."""
    request = urllib.request.Request(address, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())
    except OSError as error:  # not listening yet, or not ready by its status
        if getattr(error, "code", None) == 500:
            raise BenchmarkError(f"it answers 500; {last_lines(log)}") from error
        return b""


def check_class(answer: bytes, network: str, precision: str, comparison: Comparison) -> None:
    """Raise `BenchmarkError` if the top class of a response differs from that of the first server measured."""
    found = re.search(rb"index\W+(\d+)", answer)
    if not found:
        raise BenchmarkError(f"the answer names no class: {answer[:200]!r}")
    first = comparison.scratch / f"{network}-{precision}.class"
    if not first.exists():
        first.write_bytes(found[1])
    if first.read_bytes() != found[1]:
        raise BenchmarkError(f"its first class is {int(found[1])}, that of the others {int(first.read_bytes())}")


def write_bodies(name: str, comparison: Comparison) -> tuple[str, list[str]]:
    """Write the request bodies for a server unless they exist; return their content type and their files."""
    post, files = PEERS[name].post, photo_files(comparison)
    folder = comparison.scratch / f"posts-{slug(name)}"
    if not folder.exists():
        folder.mkdir()
        for path in files:
            (folder / path.name).write_bytes(post(path.read_bytes())[1])
    return post(files[0].read_bytes())[0], [str(folder / path.name) for path in files]


def load_peer(name: str, address: str, clients: int, seconds: float, comparison: Comparison) -> ClosedLoopResult:
    """Load a server with clients in a separate process."""
    content_type, files = write_bodies(name, comparison)
    return run_load(address, clients, seconds, content_type, files)


def measure(name: str, network: str, turn: int, comparison: Comparison) -> list[Sample]:
    """Measure a server under every load in turn."""
    samples = []
    with start_peer(name, network, comparison) as (process, address, ready):
        load_peer(name, address, count_cpus(), WARM_S, comparison)
        for clients in comparison.concurrency:
            wait_until_idle(process)
            before = cpu_seconds(process)
            found = load_peer(name, address, clients, comparison.seconds, comparison)
            require_success(found, clients, comparison.seconds)
            spent = 1e3 * (cpu_seconds(process) - before) / found.answers
            rest = (found.rate, found.p50_ms, found.p99_ms, spent, resident_mb(find_tree(process)), ready)
            samples.append(Sample(network, name, clients, turn, *rest))
    return samples


def measure_limit(network: str, setting: Setting, turn: int, seconds: float, comparison: Comparison) -> Sample:
    """Measure the bare loop with one setting."""
    found = measure_bare_loop(create_bundle(network, "float32", comparison), setting, seconds, comparison)
    return Sample(network, LIMIT, 0, turn, **found)


def attempt(name: str, network: str, turn: int, comparison: Comparison, reasons: dict[str, str]) -> list[Sample]:
    """Like `measure`, but record the reason and return nothing if the server cannot be measured."""
    key = f"{name}, {network}"
    peer = PEERS[name]
    if key in reasons or (peer.networks is not None and network not in peer.networks):
        return []
    try:
        return measure(name, network, turn, comparison)
    except (BenchmarkError, BundleError) as error:
        reasons[key] = str(error)
    except subprocess.CalledProcessError as error:
        reasons[key] = f"{Path(error.cmd[0]).name} failed: {' / '.join((error.output or '').strip().splitlines()[-3:])}"
    return []


def compare(
    networks: Sequence[str], peers: Sequence[str], rounds: int, comparison: Comparison
) -> tuple[list[Sample], dict[str, str], dict[str, str]]:
    """Measure everything; return the samples, the limit's setting by network, the reasons for missing servers."""
    samples: list[Sample] = []
    reasons: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for network in networks:
        tried = {
            setting: measure_limit(network, setting, 0, min(comparison.seconds, 3), comparison).rate
            for setting in list_settings(count_cpus())
        }
        best = max(tried, key=lambda setting: tried[setting])
        chosen[network] = str(best)
        for turn in range(rounds):
            samples.append(measure_limit(network, best, turn, comparison.seconds, comparison))
            for name in peers:
                samples += attempt(name, network, turn, comparison, reasons)
                print(f"{network}, round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    return samples, chosen, reasons


def parse_arguments(given: Sequence[str] | None) -> Namespace:
    """Parse the command line."""
    parser = create_parser(__doc__, ["squeezenet", "resnet50", "clothing"], rounds=5, seconds=5)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--venvs", type=Path, default=CACHE, help="folder for the environments of the peers")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    options = parse_arguments(given)
    machine_info = describe_machine()
    with open_workspace(options.photos) as workspace:
        comparison = Comparison(
            workspace.photos, workspace.scratch, options.seconds, tuple(options.concurrency), options.venvs
        )
        samples, chosen, reasons = compare(options.networks, options.peers, options.rounds, comparison)
    print(comparison_table(samples, {name: peer.against for name, peer in PEERS.items()} | {LIMIT: LIMIT}))
    for network, setting in chosen.items():
        print(f"\nThe limit of {network}: {setting}.", end="")
    for name, reason in reasons.items():
        print(f"\nNot measured: {name}: {reason}", end="")
    print()
    write_json(options.json, machine_info, samples=samples, limit=chosen, missing=reasons)


if __name__ == "__main__":
    main()
