"""The application: settings come in, an ASGI application leaves.

Bundles are loaded in a thread beside the event loop, so that the process is live at once, and ready when they are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from percept import __version__
from percept.api import problems
from percept.api.routes import cam, features, filters, health, models, predict
from percept.api.routes import metrics as metrics_route
from percept.api.state import AppState
from percept.oip import repository_routes
from percept.oip import routes as oip_routes
from percept.pipeline import Pipeline
from percept.runtime.cpu_count import count_cpus
from percept.runtime.execution_plan import create_worker_pools, plan_execution
from percept.runtime.repository import Repository
from percept.server.collectors import ServiceCollector
from percept.server.middleware import RefuseOnShutdown, RequestTelemetry
from percept.settings import Settings, TracingSettings
from percept.telemetry.metrics import Metrics
from percept.telemetry.tracing import create_tracing

DESCRIPTION = """Serves convolutional networks and shows what they saw: classes and masks (`/predict`), feature maps
(`/features`) and class-activation heatmaps (`/cam`). Errors are problem details (RFC 9457) with a stable `code`."""
ROUTES = (predict, features, cam, models, filters, oip_routes, repository_routes, health, metrics_route)
# FastAPI's own OpenTelemetry support would send query strings, and every request twice, in a process that sets it up.
NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(settings: Settings | None = None, tracing_settings: TracingSettings | None = None) -> FastAPI:
    """Create the service; settings that are not given are read from the environment.

    Raises `DeviceError` if a device was requested by name and does not work.
    """
    settings = settings or Settings()
    threads = settings.threads or count_cpus()
    plan = plan_execution(settings, threads)
    pools = create_worker_pools(plan, threads)
    metrics = Metrics()
    repository = Repository(settings.models, plan, pools, settings.default_model, metrics)
    tracing = create_tracing(tracing_settings or TracingSettings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(repository.load_all))
        try:
            yield
        finally:
            repository.stop()
            await loading
            pools.close()
            if tracing:
                await asyncio.to_thread(tracing.close)

    # Its documentation pages work without access to the internet.
    app = FastAPIOffline(
        title="Percept", version=__version__, description=DESCRIPTION, lifespan=lifespan, telemetry=NO_TELEMETRY
    )
    app.state.percept = AppState(settings, repository, Pipeline(settings, pools.host), metrics)
    metrics.registry.register(ServiceCollector(app.state.percept))
    problems.add_exception_handlers(app)
    for module in ROUTES:
        app.include_router(module.router)

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/docs")

    build_middleware_stack = app.build_middleware_stack

    def build_with_telemetry() -> RequestTelemetry:
        """Put the telemetry outside of all middleware, also of what a caller of `create_app` adds later."""
        return RequestTelemetry(RefuseOnShutdown(build_middleware_stack()), metrics, tracing)

    app.build_middleware_stack = build_with_telemetry  # type: ignore[method-assign]
    return app
