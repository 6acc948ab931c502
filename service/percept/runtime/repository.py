"""Which models are served: a folder of bundles scanned, loaded, and looked up by name and version.

A broken bundle is refused by name with its reason, and the others are served. What is served may change while it is.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

from percept.bundle.integrity import read_manifest
from percept.errors import BundleError, BundleRefused, DeviceError, NotReady, UnknownModel
from percept.runtime.execution_plan import ExecutionPlan, WorkerPools
from percept.runtime.model import Model, load_model
from percept.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

UNLOADED = "not loaded"

Versions = Mapping[int, Model]
Models = Mapping[str, Versions]


class IndexEntry(NamedTuple):
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
        self,
        root: Path,
        plan: ExecutionPlan,
        crews: WorkerPools,
        default: str | None = None,
        metrics: Metrics | None = None,
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
            models, refused = self._open(_bundles(self.root))
            self._serve(models, refused)
            self._double(models, refused)
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
            self._double(models, refused)
            if refused:
                raise BundleRefused("; ".join(f"{bundle}: {reason}" for bundle, reason in refused.items()))

    def unload_model(self, name: str) -> None:
        """Serve no version of a model any longer; raises `UnknownModel` where none is served."""
        with self._changing:
            if name not in self._models:
                raise UnknownModel(self._no_model(name))
            self._serve(_without(self._models, name), self._refused_but(name))
            log.info("model %s is unloaded", name)

    def index(self) -> Sequence[IndexEntry]:
        """Every bundle that is served or lies below the root, by name and version; blocks."""
        served = {(model.manifest.name, model.manifest.version) for model in self.all}
        lying = {(folder.parent.name, int(folder.name)) for folder in _bundles(self.root)}
        found = []
        for name, version in sorted(served | lying):
            known = (name, version) in served
            reason = self.refused.get(f"{name}/{version}", "" if known else UNLOADED)
            found.append(IndexEntry(name, version, known, reason))
        return found

    def stop(self) -> None:
        """Load no more bundles: the process is about to end. Any thread may do this."""
        self._stopped.set()

    def check_ready(self) -> None:
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
                if model is None or read_manifest(folder) != model.manifest:
                    model = load_model(folder, self.plan, self._crews, self._metrics)
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

    def _double(self, models: Models, refused: Collection[str]) -> None:
        """Load the newest of these models once more, of which the files were just found to be what is served."""
        for name, versions in models.items():
            if f"{name}/{max(versions)}" not in refused:
                versions[max(versions)].network.load_parallel_trunk()

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
