"""Which networks are served: a folder of bundles scanned, loaded, and looked up by name and version.

A broken bundle is refused by name with its reason, and the others are served. What is served may change while it is.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock
from time import perf_counter, time
from typing import NamedTuple, TypeVar

import numpy as np

from service import buckets, filters
from service import manifest as contract
from service.batcher import UNWATCHED, Batcher, Watch
from service.crew import Crew
from service.errors import BundleError, BundleRefused, DeviceError, NotReady, UnknownModel
from service.image import Map, Pixels
from service.manifest import Manifest
from service.metrics import Metrics
from service.network import Look, Network
from service.providers import PLAIN, Device, Tuning
from service.session import Arrays, resolve
from service.settings import Settings

log = logging.getLogger(__name__)

LOGITS = frozenset({"logits"})
UNLOADED = "not loaded"
INNER = 4  # threads of one run at most: more gain little, and are in each other's way under load


@dataclass(frozen=True)
class Plan:
    """How networks are run: on what, how many runs at once, each by how many threads, in batches of what size, with how
    many waiting. On a GPU batches are padded to the `buckets`, and `tuning` bounds what it may use.
    """

    device: Device
    workers: int
    threads: int
    max_batch: int
    max_queue: int
    buckets: tuple[int, ...] = ()
    tuning: Tuning = PLAIN


def plan(settings: Settings, threads: int) -> Plan:
    """How to run networks by settings, on so many cores.

    Raises `DeviceError` where a device was asked for by name and does not work.
    """
    device = resolve(settings.device)
    # A CPU gains nothing from batches: one image per core is already near its limit.
    workers, batch = (threads, 1) if device == "cpu" else (1, 16)
    # Alone a run has all cores; with others beside it each gets along with its own.
    inner = min(threads, INNER) if device == "cpu" else 1
    most = settings.max_batch or batch
    tuning = Tuning(memory_bytes=settings.gpu_memory_bytes, engines=settings.engine_cache)
    sizes = () if device == "cpu" else buckets.sizes(most)
    return Plan(device, workers, inner, most, settings.max_queue, sizes, tuning)


L = TypeVar("L", bound=Look)
Versions = Mapping[int, "Model"]
Models = Mapping[str, Versions]


@dataclass(frozen=True, eq=False)
class Model:
    """A network in service: one queue in front of it, and the PNGs of its filters by file.

    `loaded_s` is how long loading took, `loaded_at` when it was done, in seconds since 1970.
    """

    network: Network
    queue: Batcher[Look, Arrays]
    drawn: Mapping[str, bytes]
    loaded_s: float
    loaded_at: float

    @property
    def manifest(self) -> Manifest:
        """The manifest of its bundle."""
        return self.network.manifest

    @property
    def known(self) -> frozenset[str]:
        """All that the trunk gives of an image."""
        return LOGITS.union(*(self.network.cut(layer) for layer in self.manifest.layers))

    async def run(self, make: Callable[[], L]) -> tuple[L, Arrays]:
        """What `make` gives, called on a thread when its turn has come, and the trunk's outputs that it wants.

        Raises what `make` raises, or `InferenceError`.
        """
        return await self.queue.submit(make)  # type: ignore[return-value]  # what is made comes back

    async def logits(self, pixels: Pixels) -> Map:
        """The logits of images [n,H,W,3], queued with everybody else's, never more than one batch of them at a time."""
        found: list[Map] = []
        for start in range(0, len(pixels), self.queue.width):
            batch = [Look(one, LOGITS) for one in pixels[start : start + self.queue.width]]
            rows = await asyncio.gather(*(self.queue.submit(partial(_ready, look)) for look in batch))
            found += [row["logits"] for _, row in rows]
        return np.stack(found)


@dataclass(frozen=True, eq=False)
class Crews:
    """Who works for all models: `host` decodes and draws, `device` runs networks. On a CPU they are the same threads,
    each taking an image from its bytes to its outputs.
    """

    host: Crew
    device: Crew

    def close(self) -> None:
        """Stop the threads once they are done with what they hold."""
        self.device.close()
        self.host.close()


def crews(plan: Plan, threads: int) -> Crews:
    """The threads that a plan needs, so many of them for the host."""
    host = Crew(threads, "host")
    return Crews(host, host if plan.device == "cpu" else Crew(plan.workers, "device"))


def load(folder: Path, plan: Plan, crews: Crews, metrics: Metrics | None = None) -> Model:
    """The bundle in a folder, ready to answer; blocks, and raises `BundleError` or `DeviceError`."""
    start = perf_counter()
    network = Network(folder, plan.device, plan.threads, plan.buckets, plan.tuning)
    drawn = {one.file: filters.load(folder, one) for one in network.manifest.filters}

    def run(looks: Sequence[Look]) -> list[Arrays]:
        return network.forward(looks, alone=crews.device.busy <= 1)

    watch = _watch(network.manifest, metrics) if metrics else UNWATCHED
    queue = Batcher(run, plan.max_batch, plan.max_queue, crews.host, crews.device, watch)
    return Model(network, queue, drawn, perf_counter() - start, time())


def _watch(manifest: Manifest, metrics: Metrics) -> Watch:
    labels = manifest.name, str(manifest.version)
    return Watch(metrics.waits.labels(*labels).observe, metrics.batches.labels(*labels).observe)


def _ready(look: Look) -> Look:
    return look


class State(NamedTuple):
    """A bundle below the root, or one that is served from there: whether it is, and what is wrong with its files."""

    name: str
    version: int
    served: bool
    reason: str


class Repository:
    """The models being served. `load`, `load_model` and `unload_model` block, one at a time; the rest is lookup.

    What is served is a mapping that is replaced as a whole: whoever found a model has it until they are done with it.
    `default` is the model that is meant where none is named: as set, else the first classifier by name.
    """

    def __init__(
        self, root: Path, plan: Plan, crews: Crews, default: str | None = None, metrics: Metrics | None = None
    ) -> None:
        self.root, self.plan, self._crews, self._metrics = root, plan, crews, metrics
        self.refused: dict[str, str] = {}
        self.default = default or ""
        self._wish = default
        self._models: Models = {}
        self._complete = False
        self._changing = Lock()
        self._stopped = Event()

    @property
    def models(self) -> Sequence[Model]:
        """The newest version of every model, by name."""
        models = self._models
        return [models[name][max(models[name])] for name in sorted(models)]

    @property
    def all(self) -> Sequence[Model]:
        """Every version of every model, by name and version."""
        models = self._models
        return [models[name][version] for name in sorted(models) for version in sorted(models[name])]

    def load(self) -> None:
        """Load every bundle below the root; refuse the broken ones, each with its reason."""
        with self._changing, suppress(NotReady):
            self._serve(*self._open(_bundles(self.root)))
            if not self._models:
                log.error("no bundle to serve in %s", self.root)

    def load_model(self, name: str) -> None:
        """Serve a model as its bundles are now: new ones are loaded, altered ones loaded anew, those gone let go.

        Where an altered one cannot be loaded, what it was is served on. Raises `UnknownModel` where no bundle has that
        name, `BundleRefused` with the reasons, or `NotReady` where the process is about to end.
        """
        with self._changing:
            folders = _bundles(self.root)
            own = [folder for folder in folders if folder.parent.name == name]
            if not own:
                there = ", ".join(sorted({folder.parent.name for folder in folders}))
                raise UnknownModel(f"the repository has no bundle of {name!r}; it has those of {there or 'no model'}")
            models, refused = self._open(own)
            self._serve(_without(self._models, name) | models, self._refused_but(name) | refused)
            if refused:
                raise BundleRefused("; ".join(f"{bundle}: {reason}" for bundle, reason in refused.items()))

    def unload_model(self, name: str) -> None:
        """Serve no version of a model any longer; raises `UnknownModel` where none is served."""
        with self._changing:
            if name not in self._models:
                raise UnknownModel(self._no_model(name))
            self._serve(_without(self._models, name), self._refused_but(name))
            log.info("model %s is unloaded", name)

    def index(self) -> Sequence[State]:
        """Every bundle that is served or lies below the root, by name and version; blocks."""
        served = {(model.manifest.name, model.manifest.version) for model in self.all}
        lying = {(folder.parent.name, int(folder.name)) for folder in _bundles(self.root)}
        found = []
        for name, version in sorted(served | lying):
            known = (name, version) in served
            reason = self.refused.get(f"{name}/{version}", "" if known else UNLOADED)
            found.append(State(name, version, known, reason))
        return found

    def stop(self) -> None:
        """Load no more bundles: the process is about to end. Any thread may do this."""
        self._stopped.set()

    def check(self) -> None:
        """Raise `NotReady` with the reason while requests that name no model cannot be answered."""
        if not self._models:
            raise NotReady(self._why_nothing())
        if self.default not in self._models:
            raise NotReady(f"the default model {self.default!r} is not served")

    def versions(self, name: str) -> Sequence[int]:
        """The served versions of a model, ascending; empty where there is none of that name."""
        return sorted(self._models.get(name, ()))

    def find(self, name: str | None = None, version: int | None = None) -> Model:
        """The model of that name (else the default) and version (else the newest).

        Raises `NotReady` while nothing is served, `UnknownModel` with what there is otherwise.
        """
        if not self._models:
            raise NotReady(self._why_nothing())
        name = name or self.default
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(self._no_model(name))
        if version is not None and version not in versions:
            raise UnknownModel(f"model {name!r} has no version {version}; it has {sorted(versions)}")
        return versions[max(versions) if version is None else version]

    def _open(self, folders: Sequence[Path]) -> tuple[dict[str, Versions], dict[str, str]]:
        """The models of some bundles, of which those that are served and unaltered stay; and the refused ones.

        Raises `NotReady` once it is told to stop.
        """
        models: dict[str, dict[int, Model]] = {}
        refused = {}
        for folder in folders:
            if self._stopped.is_set():
                raise NotReady("the service stops: it loads nothing more")
            name, version = folder.parent.name, int(folder.name)
            model = self._models.get(name, {}).get(version)
            try:
                if model is None or contract.read(folder) != model.manifest:
                    model = load(folder, self.plan, self._crews, self._metrics)
                    log.info("bundle %s/%d is served as %s", name, version, model.manifest.task)
            except (BundleError, DeviceError) as error:
                refused[f"{name}/{folder.name}"] = str(error)
                log.error("bundle %s/%s is refused: %s", name, folder.name, error)
            if model is not None:
                models.setdefault(name, {})[version] = model
        return dict(models), refused

    def _serve(self, models: Models, refused: dict[str, str]) -> None:
        self._models, self.refused, self._complete = models, refused, True
        self.default = self._wish or (self._first() if models else "")
        for model in self.models:
            model.network.double()

    def _refused_but(self, name: str) -> dict[str, str]:
        return {bundle: reason for bundle, reason in self.refused.items() if not bundle.startswith(f"{name}/")}

    def _first(self) -> str:
        """The first classifier by name, else the first model by name."""
        manifests = [model.manifest for model in self.models]
        return min(manifests, key=lambda m: (m.task != "classification", m.name)).name

    def _no_model(self, name: str) -> str:
        reasons = (f"{k} is refused: {v}" for k, v in self.refused.items() if k.startswith(f"{name}/"))
        return "; ".join(reasons) or f"there is no model {name!r}; there are {', '.join(sorted(self._models))}"

    def _why_nothing(self) -> str:
        if not self._complete:
            return "the models are still being loaded"
        refused = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
        return f"no bundle is served from {self.root}: {refused or 'there is none, or all are unloaded'}"


def _without(models: Models, name: str) -> dict[str, Versions]:
    return {key: versions for key, versions in models.items() if key != name}


def _bundles(root: Path) -> list[Path]:
    """The folders <name>/<version> below the root, versions being whole numbers, hidden ones left out."""
    folders = [f for f in root.glob("[!.]*/*") if f.name.isdecimal() and f.is_dir()]
    return sorted(folders, key=lambda f: (f.parent.name, int(f.name)))
