"""Run containers without a container engine, as an engine would.

A container has a read-only root, its own namespaces for mounts and processes, the user, environment and command of its
image, and no capabilities. Needs root, buildah and util-linux.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A bind mount becomes read-only with a second mount. Every engine provides /dev and /proc; /models is the volume.
ENTER = """
set -e
root=$1 user=$2 volume=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
[ -z "$volume" ] || mount --bind -o ro "$volume" "$root/models"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero random urandom; do touch "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"; done
mount -o remount,ro "$root/dev"
mount -t proc proc "$root/proc"
mount -o remount,ro,bind "$root"
cd "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image in buildah's storage: its configuration, and the folder where its files are mounted."""

    config: dict[str, Any]
    root: Path

    @property
    def size(self) -> int:
        """The size of all files in bytes; hard links count once."""
        found = (path.lstat() for path in self.root.rglob("*") if path.is_symlink() or path.is_file())
        return sum({each.st_ino: each.st_size for each in found}.values())


@dataclass(frozen=True)
class Container:
    """A running container: the `unshare` process, and the id of the container's first process on this machine."""

    image: Image
    process: subprocess.Popen[str]
    environment: dict[str, str]
    pid: int

    def status(self) -> dict[str, str]:
        """Return the fields of /proc/<pid>/status of the first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: " ".join(value.split()) for name, value in (line.split(":", 1) for line in lines)}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container as the user of the image, as `docker exec` does."""
        user, group = self.image.config["User"].split(":")
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--root",
            f"--setuid={user}",
            f"--setgid={group}",
        ]
        variables = [f"{name}={value}" for name, value in (self.environment | environment).items()]
        return subprocess.run([*enter, "env", "-i", *variables, *command], capture_output=True, text=True, timeout=60)


def buildah(*arguments: str) -> str:
    """Run a command of buildah and return its output."""
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def mount_image(name: str) -> Iterator[Image]:
    """Mount the files of an image while the block runs."""
    inspected = json.loads(buildah("inspect", "--type", "image", name))
    container = buildah("from", "--pull-never", name)
    try:
        yield Image(inspected["Docker"]["config"], Path(buildah("mount", container)))
    finally:
        buildah("rm", container)


@contextmanager
def run_container(image: Image, volume: Path | None = None, **environment: str) -> Iterator[Container]:
    """Run a container, with a folder mounted over /models if one is given; it is killed at the end of the block."""
    variables = dict(pair.split("=", 1) for pair in image.config["Env"]) | environment
    command = [
        "env",
        "-i",
        *(f"{k}={v}" for k, v in variables.items()),
        *image.config["Entrypoint"],
        *image.config["Cmd"],
    ]
    enter = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "sh"]
    process = subprocess.Popen(
        [*enter, image.root, image.config["User"], str(volume or ""), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    container = Container(image, process, variables, _first_process(process))
    try:
        yield container
    finally:
        if (
            process.poll() is None
        ):  # ending `unshare` would not end it: a process that changed its user survives its parent
            os.kill(container.pid, signal.SIGKILL)
        process.communicate()


def _first_process(process: subprocess.Popen[str]) -> int:
    """Return the id of the first process in the container: the only child of `unshare`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        os.sched_yield()
    raise AssertionError(f"the container did not start: {process.stderr and process.stderr.read()}")
