"""pytorch-grad-cam behind plain FastAPI: a raw body in, a JPEG of the network's input with the heat over it out.

From pytorch-grad-cam's README. Its hooks are state, so a worker explains one photo at a time; there is one per core.
"""

import io
import os
import sys
from threading import Lock

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image

try:
    import torchvision
except RuntimeError:
    # Beside a CPU build of torch its compiled operators do not load; their names are enough for what is used here.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import preprocess_image, show_cam_on_image
from torchvision.transforms.functional import center_crop, resize

# The layer that Percept takes by default.
LAYERS = {"resnet50": "layer4", "squeezenet": "features", "mobilenet": "features"}
SOURCES = {"resnet50": "resnet50", "squeezenet": "squeezenet1_1", "mobilenet": "mobilenet_v2"}

torch.set_num_threads(1)
name = os.environ["BENCH_NETWORK"]
network = torchvision.models.get_model(SOURCES[name], weights=None).eval()
cam = GradCAM(network, [network.get_submodule(LAYERS[name])])
app = FastAPI()


lock = Lock()


def overlay(data: bytes) -> bytes:
    """The heat of the top class over a photo."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    seen = np.asarray(center_crop(resize(photo, 256), 224), np.float32) / 255
    pixels = preprocess_image(seen, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with lock:
        heat = cam(pixels, targets=None)[0]
    stream = io.BytesIO()
    Image.fromarray(show_cam_on_image(seen, heat, use_rgb=True)).save(stream, "JPEG")
    return stream.getvalue()


@app.post("/cam")
async def explain(request: Request) -> Response:
    """The overlay of a posted photo."""
    return Response(await run_in_threadpool(overlay, await request.body()), media_type="image/jpeg")
