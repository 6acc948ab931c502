"""`GET /models`: the served models; `GET /models/{name}`: the description of one."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from percept import errors
from percept.api.openapi import problem_responses
from percept.api.params import VersionParams
from percept.api.schemas.models import ModelAnswer, ModelsAnswer, ModelSummary, model_layers
from percept.api.state import Service
from percept.runtime.model import Model
from percept.runtime.repository import Repository

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List the models", responses=problem_responses(errors.NotReady))
async def models(service: Service) -> ModelsAnswer:
    """List every served model in its newest version, and every refused bundle with the reason."""
    repository = service.repository
    return ModelsAnswer(
        models=[_summary(model, repository) for model in repository.models],
        refused=repository.refused,
    )


@router.get(
    "/{name}",
    summary="Describe a model",
    responses=problem_responses(errors.UnknownModel, errors.BadParameter, errors.NotReady),
)
async def model(
    name: Annotated[str, Path(description="name of the model", examples=["cifar10"])],
    params: Annotated[VersionParams, Query()],
    service: Service,
) -> ModelAnswer:
    """Describe a model: labels, preprocessing, layers with receptive fields and methods, and provenance."""
    model = service.find_model(name, params.version)
    manifest = model.manifest
    return ModelAnswer(
        **_summary(model, service.repository).model_dump(),
        labels=list(manifest.labels),
        activation=manifest.activation,
        palette=list(manifest.palette),
        background=manifest.background,
        preprocessing=manifest.preprocessing,
        layers=await service.pipeline.workers.run(model_layers, model),
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
