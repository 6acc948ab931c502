"""`GET /models`, `GET /models/{name}`: what is served, and what is known of it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from percept import errors
from percept.api.params import Service, find
from percept.api.problems import documented
from percept.api.schemas.models import ModelAnswer, ModelsAnswer, ModelSummary, model_layers
from percept.runtime.model import Model
from percept.runtime.repository import Repository

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="The models", responses=documented(errors.NotReady))
async def models(service: Service) -> ModelsAnswer:
    """Every served model in its newest version, and every refused bundle with the reason."""
    repository = service.repository
    return ModelsAnswer(
        models=[_summary(model, repository) for model in repository.models],
        refused=repository.refused,
    )


@router.get(
    "/{name}",
    summary="One model",
    responses=documented(errors.UnknownModel, errors.BadParameter, errors.NotReady),
)
async def model(
    name: Annotated[str, Path(examples=["cifar10"])],
    service: Service,
    version: Annotated[int | None, Query(description="default: the newest")] = None,
) -> ModelAnswer:
    """Labels, preprocessing, layers with receptive fields, and where the network comes from."""
    found = find(service.repository, name, version)
    manifest = found.manifest
    return ModelAnswer(
        **_summary(found, service.repository).model_dump(),
        labels=list(manifest.labels),
        activation=manifest.activation,
        palette=list(manifest.palette),
        background=manifest.background,
        preprocessing=manifest.preprocessing,
        layers=await service.pipeline.work(model_layers, found),
        provenance=manifest.provenance,
    )


def _summary(model: Model, repository: Repository) -> ModelSummary:
    manifest = model.manifest
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        versions=list(repository.versions(manifest.name)),
        classes=len(manifest.labels),
        input=(manifest.preprocessing.height, manifest.preprocessing.width),
        precision=manifest.precision,
        cam_layer=manifest.cam_layer,
        default=manifest.name == repository.default,
    )
