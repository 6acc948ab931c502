"""The number of CPUs that this process may use: a container may use fewer than the host has.

The scheduler's affinity mask and the files of the cgroup come in; a whole number leaves.
"""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def count_cpus(cgroup: Path = CGROUP) -> int:
    """The CPUs allowed by affinity and by the cgroup's CPU quota (v2, then v1), rounded up; at least 1."""
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, math.ceil(quota) if quota else allowed or 1))


def _quota_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
