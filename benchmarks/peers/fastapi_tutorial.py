"""FastAPI as its tutorials begin: one process, an endpoint of `def` on the thread pool, a session with default options.

From FastAPI's documentation: "Using the Request Directly", "Dependencies", "Concurrency and async / await".
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Request
from model import Model

app = FastAPI()
model = Model()


async def posted(request: Request) -> bytes:
    """The raw body."""
    return await request.body()


@app.post("/predict")
def predict(photo: Annotated[bytes, Depends(posted)]) -> dict:
    """The classes of a posted photo."""
    return model.answer(photo)
