"""The state that every route uses: the settings, repository, pipeline and metrics of the application."""

from typing import Annotated

from fastapi import Depends, Request

from percept.errors import UnknownImage
from percept.pipeline import Pipeline, PostedImage
from percept.runtime.model import Model
from percept.runtime.repository import Repository
from percept.settings import Settings
from percept.telemetry.context import set_model
from percept.telemetry.metrics import Metrics


class AppState:
    """The parts that `create_app` builds once; `app.state.percept` is the only instance."""

    def __init__(self, settings: Settings, repository: Repository, pipeline: Pipeline, metrics: Metrics) -> None:
        self.settings, self.repository, self.pipeline, self.metrics = settings, repository, pipeline, metrics

    def check_ready(self) -> None:
        """Raise `NotReady` while a load balancer should send this service no requests."""
        self.repository.check_ready()

    def find_model(self, name: str | None, version: int | None) -> Model:
        """The model of a request, which is recorded in the request context; raises `UnknownModel` or `NotReady`."""
        model = self.repository.find(name, version)
        set_model(model.manifest.name, model.manifest.version)
        return model

    def find_cached_image(self, id: str) -> PostedImage:
        """The image of an earlier request; its model is recorded in the request context. Raises `UnknownImage`."""
        try:
            image = self.pipeline.cached_image(id)
            if image.model not in (served := self.repository.all_versions):  # cached while the model was unloaded
                self.pipeline.cache.retain(served)
                image = self.pipeline.cached_image(id)
        except UnknownImage:
            self.metrics.cache_lookups.labels("miss").inc()
            raise
        self.metrics.cache_lookups.labels("hit").inc()
        set_model(image.model.manifest.name, image.model.manifest.version)
        return image


async def get_state(request: Request) -> AppState:
    """The dependency of routes. It is a coroutine because FastAPI would call a plain function on another thread."""
    state: AppState = request.app.state.percept
    return state


Service = Annotated[AppState, Depends(get_state)]
