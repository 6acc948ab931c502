"""The application: settings in, an ASGI app out. Bundles are loaded beside the event loop, so that the process
is live at once and ready when they are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from service import problems
from service.cores import cores
from service.gauges import Gauges
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.plan import crews, plan
from service.repository import Repository
from service.routes import cam, control, features, filters, health, models, predict, v2
from service.routes import metrics as numbers
from service.routes.looking import CamQuery
from service.routes.query import State
from service.routes.short import ShortWay, Way
from service.settings import Settings, Telemetry
from service.timing import Timing
from service.tracing import tracing

DESCRIPTION = """Serves convolutional networks and shows what they saw: classes and masks (`/predict`), feature maps
(`/features`) and class-activation heatmaps (`/cam`). Errors are problem details (RFC 9457) with a stable `code`."""

WAYS = (
    Way("/predict", predict.predict, predict.PredictQuery),
    Way("/features", features.features, features.FeaturesQuery),
    Way("/cam", cam.cam, CamQuery),
    Way("/v2/models/{name}/infer", v2.infer, v2.Which),
    Way("/v2/models/{name}/versions/{version}/infer", v2.infer, v2.Which),
)
# What FastAPI of late tells OpenTelemetry by itself, in a process that has set it up: queries, and every request twice.
UNTOLD = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(settings: Settings | None = None, telemetry: Telemetry | None = None) -> FastAPI:
    """The service for `settings`, with traces as `telemetry` says, by default those of the environment.

    Raises `DeviceError` where CUDA was asked for by name and does not work.
    """
    settings = settings or Settings()
    threads = settings.threads or cores()
    how = plan(settings, threads)
    staff = crews(how, threads)
    metrics = Metrics()
    repository = Repository(settings.models, how, staff, settings.default_model, metrics)
    pipeline = Pipeline(settings, staff.host)
    traces = tracing(telemetry or Telemetry())

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
        title="Percept", version=version("percept"), description=DESCRIPTION, lifespan=lifespan, telemetry=UNTOLD
    )
    state = app.state.percept = State(settings, repository, pipeline, metrics)
    metrics.registry.register(Gauges(state))
    problems.install(app)
    for route in (predict, features, cam, models, filters, v2, control, health, numbers):
        app.include_router(route.router)

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/docs")

    # Outermost, so that every answer is timed, and before all that only the long way needs.
    app.middleware_stack = Timing(ShortWay(app.build_middleware_stack(), WAYS, state), metrics, traces)
    return app
