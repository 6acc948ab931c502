"""Usage: python_requests.py URL PHOTO: print the top class, and the number of bytes of the heatmap."""

import sys
from pathlib import Path

import requests


def main(url: str, photo: str) -> None:
    """Post a photo as a form to `/predict`, and as a stream to `/cam`."""
    with Path(photo).open("rb") as file:
        response = requests.post(f"{url}/predict", files={"image": file}, data={"top_k": 1}, timeout=60)
    response.raise_for_status()
    print(response.json()["predictions"][0]["label"])
    with Path(photo).open("rb") as file:
        response = requests.post(f"{url}/cam", data=file, timeout=60)
    response.raise_for_status()
    print(len(response.content))


main(*sys.argv[1:])
