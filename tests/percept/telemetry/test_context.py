"""The request context records the stages, the model and the refusals of the current request only."""

import asyncio
from contextvars import Context

from percept.telemetry.context import (
    MAX_STAGE_SPANS,
    begin_request,
    current_request,
    record_refusal,
    record_stage,
    set_model,
    stage,
)


def test_stage_spans_are_kept_only_for_traced_requests() -> None:
    request = begin_request()
    record_stage("tail", 0, 1)
    assert request.stage_spans is None
    request.stage_spans = []
    for k in range(2 * MAX_STAGE_SPANS):
        record_stage("tail", k, k + 1)
    assert len(request.stage_spans) == MAX_STAGE_SPANS
    assert request.stage_seconds == {"tail": 2 * MAX_STAGE_SPANS + 1}


def test_concurrent_requests_record_separately() -> None:
    async def handle(number: int) -> None:
        request = begin_request(str(number))
        for _ in range(number):
            await asyncio.sleep(0)
            with stage("infer"):
                record_refusal("queue_full")
        set_model("m", number)
        assert current_request() is request
        assert (request.id, request.version, len(request.refusals)) == (str(number), str(number), number)
        assert request.stage_seconds.keys() == ({"infer"} if number else set())

    async def run() -> None:
        await asyncio.gather(*(handle(number) for number in range(5)))

    asyncio.run(run())


def test_nothing_is_recorded_outside_a_request() -> None:
    def record() -> None:
        set_model("m", 1)
        record_refusal("queue_full")
        with stage("infer"):
            pass
        assert current_request() is None

    Context().run(record)
