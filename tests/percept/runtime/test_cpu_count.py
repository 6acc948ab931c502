"""The CPU that the process may use, by quota and affinity."""

import os
from pathlib import Path

import pytest

from percept.runtime.cpu_count import cores

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", AFFINITY), ("50000 100000", 1), ("150000 100000", min(2, AFFINITY)), ("", AFFINITY)],
)
def test_the_quota_of_cgroup_v2_limits(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", AFFINITY), ("100000", 1)])
def test_the_quota_of_cgroup_v1_limits(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cores(tmp_path) == expected


def test_without_cgroups_affinity_decides(tmp_path: Path) -> None:
    assert cores(tmp_path) == AFFINITY
