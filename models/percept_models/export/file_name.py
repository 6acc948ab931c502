"""File names for layers of any name: a safe name in every file system, and no two that differ in case only."""

import re
from collections.abc import Iterable
from hashlib import sha256

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+|\.{2,}")
MAX_LENGTH = 100
HASH_LENGTH = 8


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """Return a part of a file name for each name: the name itself if it is safe, else one with a part of its hash."""
    stems: dict[str, str] = {}
    for name in names:
        stem = UNSAFE.sub("_", name)[:MAX_LENGTH]
        if stem != name or stem.lower() in {taken.lower() for taken in stems.values()}:
            stem = f"{stem}-{sha256(name.encode()).hexdigest()[:HASH_LENGTH]}"
        stems[name] = stem
    return stems
