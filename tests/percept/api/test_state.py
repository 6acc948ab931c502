"""The state that routes reach finds images of served models only."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from percept.api.state import AppState
from percept.errors import UnknownImage
from percept.server.app import create_app
from percept.settings import Settings
from tests.photos import draw_marker, encode_photo

MODEL = "classification-squeeze"
PHOTO = encode_photo(draw_marker((64, 64), (32, 32), 20))


def test_image_cached_after_its_model_was_unloaded_is_unknown(bundles: Path) -> None:
    app = create_app(Settings(models=bundles, device="cpu", model_control="explicit"))
    with TestClient(app) as client:
        state: AppState = app.state.percept
        while client.get("/health/ready").status_code != 200:
            pass
        model = state.find_model(MODEL, None)
        assert client.post(f"/v2/repository/models/{MODEL}/unload").status_code == 200
        # A request that began before does this when its network has run.
        state.pipeline.cache.put("late", PHOTO, model)
        with pytest.raises(UnknownImage):
            state.find_cached_image("late")
        assert len(state.pipeline.cache) == 0
        assert client.get("/cam/late").json()["code"] == "unknown_image"
