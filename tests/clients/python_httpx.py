"""Usage: python_httpx.py URL PHOTO: print the top class, and the number of bytes of the heatmap."""

import sys
from pathlib import Path

import httpx


def main(url: str, photo: str) -> None:
    """Post a photo as a form to `/predict`, and as bytes to `/cam`."""
    data = Path(photo).read_bytes()
    with httpx.Client(base_url=url, timeout=60) as client:
        response = client.post("/predict", files={"image": data}, data={"top_k": "1"})
        print(response.raise_for_status().json()["predictions"][0]["label"])
        response = client.post("/cam", content=data)
        print(len(response.raise_for_status().content))


main(*sys.argv[1:])
