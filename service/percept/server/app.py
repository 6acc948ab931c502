"""The application: settings in, an ASGI app out. Bundles are loaded beside the event loop, so that the process
is live at once and ready when they are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from percept import __version__
from percept.api import problems
from percept.api.cam_params import CamQuery
from percept.api.params import AppState
from percept.api.routes import cam, features, filters, health, models, predict
from percept.api.routes import metrics as numbers
from percept.api.short import ShortWay, Way
from percept.oip import repository_routes, routes
from percept.pipeline import Pipeline
from percept.runtime.cpu_count import count_cpus
from percept.runtime.execution_plan import create_worker_pools, plan_execution
from percept.runtime.repository import Repository
from percept.server.collectors import ServiceCollector
from percept.server.middleware import RequestTelemetry
from percept.settings import Settings, TracingSettings
from percept.telemetry.metrics import Metrics
from percept.telemetry.tracing import create_tracing

DESCRIPTION = """Serves convolutional networks and shows what they saw: classes and masks (`/predict`), feature maps
(`/features`) and class-activation heatmaps (`/cam`). Errors are problem details (RFC 9457) with a stable `code`."""

WAYS = (
    Way("/predict", predict.predict, predict.PredictQuery),
    Way("/features", features.features, features.FeaturesQuery),
    Way("/cam", cam.cam, CamQuery),
    Way("/v2/models/{name}/infer", routes.infer, routes.ModelPath),
    Way("/v2/models/{name}/versions/{version}/infer", routes.infer, routes.ModelPath),
)
# What FastAPI of late tells OpenTelemetry by itself, in a process that has set it up: queries, and every request twice.
UNTOLD = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(settings: Settings | None = None, telemetry: TracingSettings | None = None) -> FastAPI:
    """The service for `settings`, with traces as `telemetry` says, by default those of the environment.

    Raises `DeviceError` where CUDA was asked for by name and does not work.
    """
    settings = settings or Settings()
    threads = settings.threads or count_cpus()
    how = plan_execution(settings, threads)
    staff = create_worker_pools(how, threads)
    metrics = Metrics()
    repository = Repository(settings.models, how, staff, settings.default_model, metrics)
    pipeline = Pipeline(settings, staff.host)
    traces = create_tracing(telemetry or TracingSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(repository.load))
        try:
            yield
        finally:
            repository.stop()
            await loading
            staff.close()
            if traces:
                await asyncio.to_thread(traces.close)

    # The documentation must work where there is no way out to a content delivery network.
    app = FastAPIOffline(
        title="Percept", version=__version__, description=DESCRIPTION, lifespan=lifespan, telemetry=UNTOLD
    )
    state = app.state.percept = AppState(settings, repository, pipeline, metrics)
    metrics.registry.register(ServiceCollector(state))
    problems.add_exception_handlers(app)
    for route in (predict, features, cam, models, filters, routes, repository_routes, health, numbers):
        app.include_router(route.router)

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/docs")

    # Outermost, so that every answer is timed, and before all that only the long way needs.
    app.middleware_stack = RequestTelemetry(ShortWay(app.build_middleware_stack(), WAYS, state), metrics, traces)
    return app
