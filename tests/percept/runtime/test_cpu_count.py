"""The CPU count respects the cgroup's quota and the affinity of the process."""

import os
from pathlib import Path

import pytest

from percept.runtime.cpu_count import count_cpus

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", AFFINITY), ("50000 100000", 1), ("150000 100000", min(2, AFFINITY)), ("", AFFINITY)],
)
def test_cgroup_v2_quota_limits_the_count(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert count_cpus(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", AFFINITY), ("100000", 1)])
def test_cgroup_v1_quota_limits_the_count(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert count_cpus(tmp_path) == expected


def test_affinity_decides_without_cgroups(tmp_path: Path) -> None:
    assert count_cpus(tmp_path) == AFFINITY
