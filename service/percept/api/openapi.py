"""Parts of the OpenAPI document: the problems and formats of a route, and schemas without references.

Error classes, formats and pydantic models come in; dictionaries for FastAPI's `responses` and `openapi_extra` leave.
"""

from typing import Any

from pydantic import BaseModel

from percept import errors
from percept.api.negotiation import MEDIA_TYPES
from percept.api.problems import MEDIA_TYPE, PROBLEMS, Problem

# The errors of every endpoint that receives an image.
IMAGE_ERRORS = (
    errors.BadRequest,
    errors.UnknownModel,
    errors.NotAcceptable,
    errors.ImageTooLarge,
    errors.NotAnImage,
    errors.UnsupportedMediaType,
    errors.BrokenImage,
    errors.BadParameter,
    errors.NetworkNotFinite,
    errors.QueueFull,
    errors.NotReady,
    errors.DeadlineExceeded,
)
# The errors of every endpoint about a cached image.
CACHED_IMAGE_ERRORS = (
    errors.UnknownImage,
    errors.NotAcceptable,
    errors.BadParameter,
    errors.NetworkNotFinite,
    errors.QueueFull,
    errors.DeadlineExceeded,
)


def problem_responses(*kinds: type[errors.PerceptError]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route for the errors that it raises, by status."""
    codes: dict[int | str, list[str]] = {}
    for kind in kinds:
        codes.setdefault(PROBLEMS[kind].status, []).append(PROBLEMS[kind].code)
    return {
        status: {
            "description": ", ".join(f"`{code}`" for code in names),
            "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for status, names in sorted(codes.items(), key=str)
    }


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a model with its `$ref`s replaced by what they refer to.

    In `openapi_extra` a reference such as `#/$defs/RequestInput` would refer to the whole document, which has no such
    definition.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            name = value.get("$ref", "").removeprefix("#/$defs/")
            return inline(definitions[name]) if name else {key: inline(item) for key, item in value.items()}
        return [inline(item) for item in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(schema)
    return inlined


def format_responses(*names: str) -> dict[str, Any]:
    """Return the `content` of a route's 200 response for its formats other than JSON."""
    return {MEDIA_TYPES[name]: {"schema": {"type": "string", "format": "binary"}} for name in names}
