"""The served models: a folder of bundles, scanned, loaded, and looked up by name and version.

A broken bundle is refused with the reason while the others are served. Models may be loaded and unloaded while requests
are answered. It knows no HTTP.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

from percept.bundle.integrity import read_manifest
from percept.errors import BundleError, BundleRefused, DeviceError, NotReady, UnknownModel, did_you_mean
from percept.runtime.execution_plan import ExecutionPlan, WorkerPools
from percept.runtime.model import Model, load_model
from percept.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

NOT_LOADED = "not loaded"

Versions = Mapping[int, Model]
Models = Mapping[str, Versions]


class BundleStatus(NamedTuple):
    """Whether a bundle is served. The bundle is loaded, or in a folder below the root.

    `reason` says why a bundle is not served, or what is wrong with the files of one that is.
    """

    name: str
    version: int
    served: bool
    reason: str


class Repository:
    """The served models. `load_all`, `load_model` and `unload_model` block, one at a time; the rest is lookup.

    The mapping of served models is replaced as a whole, so that a request keeps the model that it found. `refused` has
    the reason for each refused bundle, by name/version. `default` is the name of the model for requests without one: as
    configured, else the first classifier by name.
    """

    def __init__(
        self,
        root: Path,
        plan: ExecutionPlan,
        pools: WorkerPools,
        default: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.root, self.plan, self._pools, self._metrics = root, plan, pools, metrics
        self.refused: dict[str, str] = {}
        self.default = default or ""
        self._configured_default = default
        self._models: Models = {}
        self._scanned = False
        self._changing = Lock()
        self._stopped = Event()

    @property
    def models(self) -> Sequence[Model]:
        """The newest version of every model, by name."""
        models = self._models
        return [models[name][max(models[name])] for name in sorted(models)]

    @property
    def all_versions(self) -> Sequence[Model]:
        """Every version of every model, by name and version."""
        models = self._models
        return [models[name][version] for name in sorted(models) for version in sorted(models[name])]

    def load_all(self) -> None:
        """Load every bundle below the root; refuse the broken ones, each with its reason."""
        with self._changing, suppress(NotReady):
            models, refused = self._load(_find_bundles(self.root))
            self._replace(models, refused)
            self._load_parallel_trunks(models, refused)
            if not self._models:
                log.error("no bundle to serve in %s", self.root)

    def load_model(self, name: str) -> None:
        """Serve the bundles of a model as they are now: load new and changed ones, drop those that are gone.

        If a changed bundle cannot be loaded, the model loaded from it before is still served. Raises `UnknownModel` if
        no bundle has this name, `BundleRefused` with the reasons, and `NotReady` if the server is shutting down.
        """
        with self._changing:
            folders = _find_bundles(self.root)
            own = [folder for folder in folders if folder.parent.name == name]
            if not own:
                raise UnknownModel(_no_bundle_reason(name, folders))
            models, refused = self._load(own)
            self._replace(_without(self._models, name) | models, self._refused_of_others(name) | refused)
            self._load_parallel_trunks(models, refused)
            if refused:
                raise BundleRefused("; ".join(f"{bundle}: {reason}" for bundle, reason in refused.items()))

    def unload_model(self, name: str) -> None:
        """Stop serving all versions of a model; raises `UnknownModel` if none is served."""
        with self._changing:
            if name not in self._models:
                raise UnknownModel(self._unknown_reason(name))
            self._replace(_without(self._models, name), self._refused_of_others(name))
            log.info("model %s is unloaded", name)

    def index(self) -> Sequence[BundleStatus]:
        """Every bundle that is served or in a folder below the root, by name and version; reads the disk."""
        served = {(model.manifest.name, model.manifest.version) for model in self.all_versions}
        on_disk = {(folder.parent.name, int(folder.name)) for folder in _find_bundles(self.root)}
        entries = []
        for name, version in sorted(served | on_disk):
            is_served = (name, version) in served
            reason = self.refused.get(f"{name}/{version}", "" if is_served else NOT_LOADED)
            entries.append(BundleStatus(name, version, is_served, reason))
        return entries

    def stop(self) -> None:
        """Load no further bundle, because the server is shutting down. Any thread may call this."""
        self._stopped.set()

    def check_ready(self) -> None:
        """Raise `NotReady` with the reason while the service cannot answer requests that name no model."""
        if not self._models:
            raise NotReady(self._empty_reason())
        if self.default not in self._models:
            raise NotReady(f"the default model {self.default!r} is not served")

    def versions(self, name: str) -> Sequence[int]:
        """The served versions of a model, ascending; empty where no model has this name."""
        return sorted(self._models.get(name, ()))

    def find(self, name: str | None = None, version: int | None = None) -> Model:
        """The model with this name (else the default) and version (else the newest).

        Raises `NotReady` while no model is served, else `UnknownModel` with the names or versions that exist.
        """
        if not self._models:
            raise NotReady(self._empty_reason())
        name = name or self.default
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(self._unknown_reason(name))
        if version is not None and version not in versions:
            raise UnknownModel(f"model {name!r} has no version {version}; it has {sorted(versions)}")
        return versions[max(versions) if version is None else version]

    def _load(self, folders: Sequence[Path]) -> tuple[dict[str, Versions], dict[str, str]]:
        """The models of these bundles, and the reasons for the refused ones; served models are kept if unchanged.

        Raises `NotReady` once `stop` was called.
        """
        models: dict[str, dict[int, Model]] = {}
        refused = {}
        for folder in folders:
            if self._stopped.is_set():
                raise NotReady("the server is shutting down and loads no more bundles")
            name, version = folder.parent.name, int(folder.name)
            model = self._models.get(name, {}).get(version)
            try:
                if model is None or read_manifest(folder) != model.manifest:
                    model = load_model(folder, self.plan, self._pools, self._metrics)
                    log.info("bundle %s/%d is loaded: %s", name, version, model.manifest.task)
            except (BundleError, DeviceError) as error:
                refused[f"{name}/{folder.name}"] = str(error)
                log.error("bundle %s/%s is refused: %s", name, folder.name, error)
            if model is not None:
                models.setdefault(name, {})[version] = model
        return dict(models), refused

    def _replace(self, models: Models, refused: dict[str, str]) -> None:
        """Replace the served models and the reasons for refused bundles, and choose the default model."""
        self._models, self.refused, self._scanned = models, refused, True
        self.default = self._configured_default or (self._first_model() if models else "")

    def _load_parallel_trunks(self, models: Models, refused: Collection[str]) -> None:
        """Load the second trunk of the newest versions, except those whose files on disk are now refused."""
        for name, versions in models.items():
            if f"{name}/{max(versions)}" not in refused:
                versions[max(versions)].network.load_parallel_trunk()

    def _refused_of_others(self, name: str) -> dict[str, str]:
        return {bundle: reason for bundle, reason in self.refused.items() if not bundle.startswith(f"{name}/")}

    def _first_model(self) -> str:
        """The first classifier by name, else the first model by name."""
        manifests = [model.manifest for model in self.models]
        return min(manifests, key=lambda m: (m.task != "classification", m.name)).name

    def _unknown_reason(self, name: str) -> str:
        reasons = (f"{k} is refused: {v}" for k, v in self.refused.items() if k.startswith(f"{name}/"))
        there_are = f"there are {', '.join(sorted(self._models))}{did_you_mean(name, self._models)}"
        return "; ".join(reasons) or f"there is no model {name!r}; {there_are}"

    def _empty_reason(self) -> str:
        if not self._scanned:
            return "the models are still being loaded"
        refused = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
        return f"no bundle is served from {self.root}: {refused or 'there is none, or all are unloaded'}"


def require_default(root: Path, name: str) -> None:
    """Raise `UnknownModel` if the folder has no bundle of the configured default model; no bundle is read."""
    folders = _find_bundles(root)
    if not any(folder.parent.name == name for folder in folders):
        raise UnknownModel(f"PERCEPT_DEFAULT_MODEL={name}: {_no_bundle_reason(name, folders)}")


def _no_bundle_reason(name: str, folders: Sequence[Path]) -> str:
    names = sorted({folder.parent.name for folder in folders})
    there_are = f"it has bundles of {', '.join(names) or 'no model'}{did_you_mean(name, names)}"
    return f"the repository has no bundle of {name!r}; {there_are}"


def _without(models: Models, name: str) -> dict[str, Versions]:
    return {key: versions for key, versions in models.items() if key != name}


def _find_bundles(root: Path) -> list[Path]:
    """The folders <name>/<version> below the root whose version is a whole number and whose name is not hidden."""
    folders = [f for f in root.glob("[!.]*/*") if f.name.isdecimal() and f.is_dir()]
    return sorted(folders, key=lambda f: (f.parent.name, int(f.name)))
