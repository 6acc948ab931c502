"""TASKS: one row for each task. A new task is a module beside this one and a row here."""

from percept.bundle.manifest import TaskName
from percept.tasks.classification import CLASSIFICATION
from percept.tasks.segmentation import SEGMENTATION
from percept.tasks.task import Task

TASKS: dict[TaskName, Task] = {"classification": CLASSIFICATION, "segmentation": SEGMENTATION}
