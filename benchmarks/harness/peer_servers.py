"""PEERS: the compared servers, one row each, with their requirements, their command and their request format.

A plain name is a server set up as in the first steps of its documentation: one worker, ONNX Runtime's default threads.
"NAME, tuned" has one worker per core, each with one thread. Versions are pinned here; a virtual environment for each
set of versions is created on demand. This module starts and measures nothing.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS_FOLDER = ROOT / "benchmarks" / "peers"
BOUNDARY = "percept-benchmark"
LIMIT = "limit"

ONNX = ("onnxruntime==1.31.1", "pillow==13.0.0", "numpy==2.4.6")
WEB = ("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
TORCH = ("torch==2.13.0", "torchvision==0.28.0", "grad-cam==1.5.7", "pillow==13.0.0", "numpy==2.4.6")
PERCEPT = (sys.executable, "-m", "percept", "serve")
UVICORN = ("{bin}/uvicorn", "--port", "{port}")
WORKERS = ("--workers", "{workers}")


def raw_body(photo: bytes) -> tuple[str, bytes]:
    """The photo as the request body."""
    return "image/jpeg", photo


def form_body(name: str) -> Callable[[bytes], tuple[str, bytes]]:
    """The photo as a file of a multipart form."""

    def post(photo: bytes) -> tuple[str, bytes]:
        head = f'Content-Disposition: form-data; name="{name}"; filename="photo.jpg"\r\nContent-Type: image/jpeg'
        body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (BOUNDARY.encode(), head.encode(), photo, BOUNDARY.encode())
        return f"multipart/form-data; boundary={BOUNDARY}", body

    return post


def inference_body(photo: bytes) -> tuple[str, bytes]:
    """A request of the Open Inference Protocol with the photo in base64."""
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = {"inputs": [{**tensor, "data": [base64.b64encode(photo).decode()]}]}
    return "application/json", json.dumps(body).encode()


@dataclass(frozen=True)
class Peer:
    """A server. `start_peer` fills in `{bin}`, `{port}`, `{spare}`, `{other}`, `{workers}` and `{here}`.

    `post` returns the content type and the body for a photo; `against` is the baseline of the ratio; `precision` is the
    bundle's; `networks` are those that the server can serve, None for all; `tuned` means one worker per core.
    """

    command: tuple[str, ...]
    path: str = "/predict"
    post: Callable[[bytes], tuple[str, bytes]] = raw_body
    requirements: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    against: str = LIMIT
    precision: str = "float32"
    networks: frozenset[str] | None = None
    tuned: bool = False


CLASSIFIERS = frozenset({"squeezenet", "mobilenet", "resnet50"})
LITSERVE = Peer(
    ("{bin}/python", "{here}/litserve_onnx.py"),
    post=form_body("request"),
    requirements=("litserve==0.2.19", "python-multipart==0.0.34", *ONNX),
)
BENTOML = Peer(
    ("{bin}/bentoml", "serve", "bentoml_onnx:Classifier", "--port", "{port}", "--working-dir", "{here}"),
    post=form_body("image"),
    requirements=("bentoml==1.4.39", *ONNX),
    environment={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "bentoml"},
)
MLSERVER = Peer(
    ("{bin}/mlserver", "start", "{here}/mlserver_onnx"),
    path="/v2/models/classifier/infer",
    post=inference_body,
    # Its workers do not start with a newer uvloop: SeldonIO/MLServer issue 2286.
    requirements=("mlserver==1.7.1", "uvloop==0.21.0", *ONNX),
    environment={
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{spare}",
        "MLSERVER_METRICS_PORT": "{other}",
        "MLSERVER_PARALLEL_WORKERS": "{workers}",
        "MLSERVER_DEBUG": "false",
    },
)
RAY = Peer(
    ("{bin}/python", "{here}/ray_onnx.py"),
    path="/",
    requirements=("ray[serve]==2.60.0", *ONNX),
    environment={"RAY_USAGE_STATS_ENABLED": "0"},
)
PEERS: Mapping[str, Peer] = {
    "Percept": Peer(PERCEPT),
    "uvicorn alone": Peer(
        (sys.executable, "-m", "uvicorn", "--app-dir", "{here}", "uvicorn_alone:app", "--port", "{port}"),
        tuned=True,
        networks=CLASSIFIERS,
    ),
    "FastAPI": Peer((*UVICORN, "fastapi_tutorial:app"), requirements=(*WEB, *ONNX)),
    "FastAPI, tuned": Peer((*UVICORN, *WORKERS, "fastapi_onnx:app"), requirements=(*WEB, *ONNX), tuned=True),
    "LitServe": LITSERVE,
    "LitServe, tuned": replace(LITSERVE, tuned=True),
    "BentoML": BENTOML,
    "BentoML, tuned": replace(BENTOML, tuned=True),
    "MLServer": MLSERVER,
    "MLServer, tuned": replace(MLSERVER, tuned=True),
    "Ray Serve": RAY,
    "Ray Serve, tuned": replace(RAY, tuned=True),
    "Percept int8": Peer(PERCEPT, against="Percept", precision="int8"),
    "Percept /cam": Peer(PERCEPT, path="/cam", against="grad-cam", networks=CLASSIFIERS),
    "grad-cam": Peer(
        (*UVICORN, *WORKERS, "gradcam_fastapi:app"),
        path="/cam",
        requirements=(*WEB, *TORCH),
        against="grad-cam",
        networks=CLASSIFIERS,
        tuned=True,
    ),
}


def slug(name: str) -> str:
    """A name that is valid as a file name."""
    return re.sub(r"\W+", "-", name.lower())


def environment(name: str, venvs: Path) -> Path:
    """The virtual environment of a peer, named after the first peer with the same requirements."""
    requirements = PEERS[name].requirements
    first = next(other for other, peer in PEERS.items() if peer.requirements == requirements)
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    return venvs / f"{slug(first)}-{digest}"


def install(name: str, venvs: Path) -> Path:
    """Create the virtual environment of a peer unless it exists; return the folder of its programs.

    Raises `CalledProcessError` with the output of pip in `output`.
    """
    requirements = PEERS[name].requirements
    if not requirements:
        return Path(sys.executable).parent
    folder = environment(name, venvs)
    done = folder / "done"
    if not done.exists():
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements)
        done.touch()
    return folder / "bin"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
