"""Every task of the manifest has a row in `TASKS`."""

from typing import get_args

from percept.bundle.manifest import TaskName
from percept.tasks.table import TASKS


def test_every_task_of_a_manifest_has_a_row() -> None:
    assert set(TASKS) == set(get_args(TaskName))


def test_only_tasks_with_cells_are_spatial() -> None:
    assert {name for name, task in TASKS.items() if task.spatial} == {"segmentation"}
