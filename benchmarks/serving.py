"""`python benchmarks/serving.py`: Percept beside other servers of the same networks, over HTTP, as one table.

Every server stands alone while it is measured, starts anew in each round, and gets the same JPEGs; the rounds go
through all of them in turn, so that noise meets all alike. A server that cannot be had is named with the reason. What
is compared stands in `contestants.py`, how in `README.md`.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules beside this one

from benchmarks.contestants import HERE, LIMIT, PEERS, ROOT, installed, slug
from benchmarks.explaining import photo
from benchmarks.limit import Setting, settings
from benchmarks.process import cpu, free_port, memory, started, tree
from benchmarks.report import Load, Sample, parse, table
from models.conversion import convert
from models.draft import Wish
from service.cores import cores
from service.errors import BundleError
from service.settings import BUILT_IN

NETWORKS = {
    "squeezenet": "torchvision:squeezenet1_1",
    "mobilenet": "torchvision:mobilenet_v2",
    "resnet50": "torchvision:resnet50",
    "clothing": str(BUILT_IN / "clothing" / "1"),
}
PHOTOS = ROOT.parent / "shared" / "images" / "imagenet"
CACHE = Path.home() / ".cache" / "percept-benchmarks"
READY_S, WARM_S = 60.0, 2.0
SETTLE_S, LULL_S, IDLE = 20.0, 0.25, 0.2  # at most so long, until no more of a core than that is used
JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Asked:
    """What was asked for, and where things lie."""

    seconds: float
    concurrency: tuple[int, ...]
    venvs: Path
    photos: Path
    scratch: Path


class Failed(Exception):
    """Why a server cannot be measured."""


def bundle(network: str, precision: str, asked: Asked) -> Path:
    """The bundle of a network, made where it is not yet there; raises `BundleError` with the reason if it cannot be."""
    out = asked.scratch / precision
    folder = out / network / "1"
    if folder.exists():
        return folder
    source = NETWORKS[network]
    if precision != "float32":
        whole = str(bundle(network, "float32", asked))
        return convert(Wish(whole, network, out=out, precision="int8", calibration=asked.photos), lambda line: None)
    if source.startswith(str(BUILT_IN)):
        return Path(shutil.copytree(source, folder))
    return convert(Wish(source, network, out=out, weights="none"), lambda line: None)


@contextmanager
def served(name: str, network: str, asked: Asked) -> Iterator[tuple[int, str, float]]:
    """A running server: its process, the address of its answers, the seconds until the first.

    Raises `Failed` with the end of its log where there is none in time.
    """
    peer = PEERS[name]
    folder = bundle(network, peer.precision, asked)
    # Percept serves what lies in a folder: of this network alone.
    alone = asked.scratch / f"{network}-{peer.precision}"
    alone.mkdir(exist_ok=True)
    if not (alone / network).exists():
        (alone / network).symlink_to(folder.parent)
    port = free_port()
    words = {"port": port, "spare": free_port(), "other": free_port(), "cores": cores(), "here": HERE}
    words["bin"] = installed(name, asked.venvs)
    environment = {
        "BENCH_BUNDLE": str(folder),
        "BENCH_NETWORK": network,
        "BENCH_PORT": str(port),
        "BENCH_WORKERS": str(cores()),
        "PYTHONPATH": str(HERE if peer.requirements else ROOT),
        "PERCEPT_MODELS": str(alone),
        "PERCEPT_PORT": str(port),
        "PERCEPT_DEVICE": "cpu",
        "ORT_DISABLE_TELEMETRY": "1",  # as the service does: none may open a connection of its own meanwhile
        **{key: value.format(**words) for key, value in peer.environment.items()},
    }
    log = asked.scratch / "log"
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


def tail(log: Path) -> str:
    """The last lines of a log as one."""
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]


def pictures(asked: Asked) -> list[Path]:
    """The photos, in order."""
    return sorted(path for path in asked.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))


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
    if wrk := shutil.which("wrk"):
        many = ["-t", "1", "-c", str(clients), "-d", f"{max(round(seconds), 1)}s", "--timeout", "60s"]
        command = [wrk, *many, "-s", str(ROOT / "benchmarks" / "load.lua"), address, "--", kind, *files]
    else:
        command = [sys.executable, "-m", "benchmarks.load", address, str(clients), str(seconds), kind, *files]
    return parse(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def settle(process: int) -> None:
    """Wait until a server has done what clients that are gone had asked for."""
    end = monotonic() + SETTLE_S
    while monotonic() < end:
        before = cpu(process)
        sleep(LULL_S)
        if cpu(process) - before < IDLE * LULL_S:
            return


def measure(name: str, network: str, turn: int, asked: Asked) -> list[Sample]:
    """A server under every load, one after the other."""
    samples = []
    with served(name, network, asked) as (process, address, ready):
        load(name, address, cores(), WARM_S, asked)
        for clients in asked.concurrency:
            settle(process)
            before = cpu(process)
            found = load(name, address, clients, asked.seconds, asked)
            if found.refused or found.lost or not found.answers:
                bad = f"{found.refused} of {found.answers} answers were errors, {found.lost} were lost"
                raise Failed(f"{clients} clients, {asked.seconds:g} s: {bad}")
            spent = 1e3 * (cpu(process) - before) / found.answers
            rest = (found.rate, found.p50_ms, found.p99_ms, spent, memory(tree(process)), ready)
            samples.append(Sample(network, name, clients, turn, *rest))
    return samples


def limit(network: str, how: Setting, turn: int, seconds: float, asked: Asked) -> Sample:
    """The bare loop, under one setting."""
    numbers = map(str, (seconds, how.processes, how.threads, how.intra, how.batch))
    folder = bundle(network, "float32", asked)
    command = [sys.executable, "-m", "benchmarks.limit", str(folder), *numbers, *map(str, pictures(asked))]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return Sample(network, LIMIT, 0, turn, **json.loads(found.stdout))


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


def compare(networks: Sequence[str], peers: Sequence[str], rounds: int, asked: Asked) -> dict[str, object]:
    """All samples, the setting of each network's limit, and the reasons of those that are missing."""
    samples: list[Sample] = []
    reasons: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for network in networks:
        tried = {how: limit(network, how, 0, min(asked.seconds, 3), asked).rate for how in settings(cores())}
        best = max(tried, key=lambda how: tried[how])
        chosen[network] = str(best)
        for turn in range(rounds):
            samples.append(limit(network, best, turn, asked.seconds, asked))
            for name in peers:
                samples += attempt(name, network, turn, asked, reasons)
                print(f"{network}, round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    return {"samples": samples, "limit": chosen, "missing": reasons}


def machine() -> dict[str, object]:
    """What it was measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {"cores": cores(), "cpu": names[0] if names else platform.machine(), "load": os.getloadavg()[0]}


def arguments() -> argparse.Namespace:
    """What was said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["squeezenet", "resnet50", "clothing"])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of JPEGs; without it one is made")
    parser.add_argument("--venvs", type=Path, default=CACHE, help="where the peers are installed")
    parser.add_argument("--json", type=Path, help="file for every sample")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write the file."""
    said = arguments()
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        if not said.photos.is_dir():
            said.photos = scratch / "photos"
            said.photos.mkdir()
            (said.photos / "photo.jpg").write_bytes(photo())
        asked = Asked(said.seconds, tuple(said.concurrency), said.venvs, said.photos, scratch)
        begun = machine()
        found = compare(said.networks, said.peers, said.rounds, asked)
    against = {name: peer.against for name, peer in PEERS.items()} | {LIMIT: LIMIT}
    print(table(found["samples"], against))
    for network, how in found["limit"].items():
        print(f"\nThe limit of {network}: {how}.", end="")
    for name, reason in found["missing"].items():
        print(f"\nNot measured: {name}: {reason}", end="")
    print()
    if said.json:
        said.json.write_text(json.dumps({"machine": begun, **found}, indent=1, default=asdict))


if __name__ == "__main__":
    main()
