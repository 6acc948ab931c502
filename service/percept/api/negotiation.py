"""Which media type an answer has: by the parameter `format`, else by the `Accept` header, else the first offered."""

from collections.abc import Sequence

from percept.errors import BadParameter, NotAcceptable

MEDIA_TYPES = {
    "json": "application/json",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "npy": "application/x-npy",
    "multipart": "multipart/mixed",
    "zip": "application/zip",
}


def choose(wish: str | None, accept: str | None, offered: Sequence[str]) -> str:
    """The format, out of those `offered` in order of preference.

    Raises `BadParameter` where `format` names another one, `NotAcceptable` where `Accept` admits none.
    """
    if wish is not None:
        if wish not in offered:
            raise BadParameter(f"format={wish} cannot be made here; there are {', '.join(offered)}")
        return wish
    if not accept:
        return offered[0]
    weights = {name: _weight(MEDIA_TYPES[name], accept) for name in offered}
    best = max(offered, key=lambda name: weights[name])
    if weights[best] <= 0:
        types = ", ".join(MEDIA_TYPES[name] for name in offered)
        raise NotAcceptable(f"nothing in Accept: {accept} can be made here; there are {types}")
    return best


def _weight(media_type: str, accept: str) -> float:
    """The quality of a type, from the most specific range that matches it (RFC 9110, 12.5.1)."""
    ranges = (media_type, media_type.split("/")[0] + "/*", "*/*")
    found: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        found[name] = max(found.get(name, 0.0), _quality(parameters))
    return next((found[name] for name in ranges if name in found), 0.0)


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
