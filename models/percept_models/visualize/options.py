"""What `percept visualize` draws: the options, parsed without torch."""

from dataclasses import dataclass
from pathlib import Path

CHANNELS, STEPS = 9, 256


@dataclass(frozen=True)
class VisualizeOptions:
    """The layers to draw (empty: all), the number of channels of each, the number of steps, and the photo to invert.

    Without a photo the golden input is inverted.
    """

    layers: tuple[str, ...] = ()
    channels: int = CHANNELS
    steps: int = STEPS
    photo: Path | None = None
