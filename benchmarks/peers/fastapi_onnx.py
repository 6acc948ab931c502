"""FastAPI, tuned: the raw body, the model on the thread pool, one uvicorn worker per core.

From FastAPI's documentation: "Using the Request Directly", "Concurrency and async / await", "Server Workers".
"""

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from model import Model

app = FastAPI()
model = Model()


@app.post("/predict")
async def predict(request: Request) -> dict:
    """The classes of a posted photo."""
    return await run_in_threadpool(model.answer, await request.body())
