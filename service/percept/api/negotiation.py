"""Content negotiation: the format of a response, from the parameter `format`, else the `Accept` header.

The parameter, the header and the available formats come in; the name of one format leaves. `MEDIA_TYPES` gives its
media type.
"""

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
PICTURES = ("jpeg", "png", "webp")  # the formats of pictures, the default first


def choose_format(requested: str | None, accept: str | None, available: Sequence[str]) -> str:
    """Choose one of the `available` formats, which are in order of preference; the first one is the default.

    Raises `BadParameter` if `requested` is not available, `NotAcceptable` if `Accept` admits none of them.
    """
    if requested is not None:
        if requested not in available:
            raise BadParameter(f"format={requested} is not available here; available are {', '.join(available)}")
        return requested
    if not accept or accept == "*/*":  # as most clients send it
        return available[0]
    qualities = {name: _quality(MEDIA_TYPES[name], accept) for name in available}
    best = max(available, key=lambda name: qualities[name])
    if qualities[best] <= 0:
        types = ", ".join(MEDIA_TYPES[name] for name in available)
        raise NotAcceptable(f"no media type of Accept: {accept} is available here; available are {types}")
    return best


def _quality(media_type: str, accept: str) -> float:
    """The quality of a media type: that of the most specific range that matches it (RFC 9110, section 12.5.1)."""
    ranges = (media_type, media_type.split("/")[0] + "/*", "*/*")
    qualities: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        qualities[name] = max(qualities.get(name, 0.0), _weight(parameters))
    return next((qualities[name] for name in ranges if name in qualities), 0.0)


def _weight(parameters: Sequence[str]) -> float:
    """The value of the parameter `q` of a media range; 1 without one, 0 if it is not a number."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
