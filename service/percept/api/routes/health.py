"""`GET /health/live` and `/health/ready`: whether to restart the process, and whether to send it work."""

from fastapi import APIRouter

from percept import errors
from percept.api.params import Service, State
from percept.api.problems import documented
from percept.api.schemas.models import Health

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Whether the process lives")
async def live(service: Service) -> Health:
    """200 as long as the process answers at all, loading or not."""
    return _health("live", service)


@router.get(
    "/ready",
    summary="Whether a model can answer",
    responses=documented(errors.NotReady),
)
async def ready(service: Service) -> Health:
    """200 once every bundle was loaded or refused and at least one is served; 503 with the reason before."""
    service.check()
    return _health("ready", service)


def _health(status: str, service: State) -> Health:
    repository = service.repository
    names = [f"{m.manifest.name}/{m.manifest.version}" for m in repository.models]
    return Health(status=status, models=names, refused=repository.refused)
