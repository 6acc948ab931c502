"""LitServe: an uploaded file, decoded and predicted with the given number of worker processes.

From LitServe's documentation: "LitAPI", "LitServer"; files as by the type hint that its issue 272 shows.
"""

import os

import litserve as ls
from fastapi import UploadFile
from model import Model


class Classifier(ls.LitAPI):
    """A model in each worker."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (the name is LitServe's)
        """Load the model."""
        self.model = Model()

    def decode_request(self, request: UploadFile) -> bytes:
        """The photo of a request."""
        return request.file.read()

    def predict(self, photo: bytes) -> dict:
        """The classes of the photo."""
        return self.model.answer(photo)

    def encode_response(self, output: dict) -> dict:
        """The answer as it is."""
        return output


if __name__ == "__main__":
    server = ls.LitServer(Classifier(), accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), generate_client_file=False)
