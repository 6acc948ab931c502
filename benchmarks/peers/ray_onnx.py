"""Ray Serve: the raw body of a Starlette request, with the given number of replicas.

From Ray's documentation: the PyTorch tutorial (`serve/doc_code/tutorial_pytorch.py`), "Resource Allocation".
"""

import os

import ray
from model import Model
from ray import serve
from starlette.requests import Request

WORKERS = int(os.environ["BENCH_WORKERS"])


@serve.deployment(num_replicas=WORKERS)
class Classifier:
    """A model in each replica."""

    def __init__(self) -> None:
        self.model = Model()

    async def __call__(self, request: Request) -> dict:
        """The classes of a posted photo."""
        return self.model.answer(await request.body())


if __name__ == "__main__":
    ray.init(num_cpus=WORKERS, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Classifier.bind(), blocking=True)
