"""Containers run as an engine would run them where no engine can: a read-only root, namespaces of their own for mounts
and processes, the image's own user, environment and command, no capabilities. Needs root, buildah and util-linux.
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

# A bind mount is made read-only by a second mount. /dev and /proc are what any engine gives; /models is the volume.
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
    """An image in buildah's store: its configuration, and its files where they are mounted."""

    config: dict[str, Any]
    root: Path

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        found = (path.lstat() for path in self.root.rglob("*") if path.is_symlink() or path.is_file())
        return sum({each.st_ino: each.st_size for each in found}.values())


@dataclass(frozen=True)
class Container:
    """A running container: the process that stands for it here, and its first process as this machine numbers it."""

    image: Image
    process: subprocess.Popen[str]
    environment: dict[str, str]
    pid: int

    def status(self) -> dict[str, str]:
        """What the kernel says of the first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: " ".join(value.split()) for name, value in (line.split(":", 1) for line in lines)}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside as the image's user, as `docker exec` does."""
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
        told = [f"{name}={value}" for name, value in (self.environment | environment).items()]
        return subprocess.run([*enter, "env", "-i", *told, *command], capture_output=True, text=True, timeout=60)


def buildah(*arguments: str) -> str:
    """What a command of buildah's prints."""
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def mounted(name: str) -> Iterator[Image]:
    """An image by name, its files mounted."""
    said = json.loads(buildah("inspect", "--type", "image", name))
    container = buildah("from", "--pull-never", name)
    try:
        yield Image(said["Docker"]["config"], Path(buildah("mount", container)))
    finally:
        buildah("rm", container)


@contextmanager
def running(image: Image, volume: Path | None = None, **environment: str) -> Iterator[Container]:
    """A container of an image, with a folder mounted over /models if one is given; killed at the end if it is left."""
    told = dict(pair.split("=", 1) for pair in image.config["Env"]) | environment
    command = ["env", "-i", *(f"{k}={v}" for k, v in told.items()), *image.config["Entrypoint"], *image.config["Cmd"]]
    enter = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "sh"]
    process = subprocess.Popen(
        [*enter, image.root, image.config["User"], str(volume or ""), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    container = Container(image, process, told, _first(process))
    try:
        yield container
    finally:
        if process.poll() is None:  # `unshare` could not end it: who changes users outlives its parent
            os.kill(container.pid, signal.SIGKILL)
        process.communicate()


def _first(process: subprocess.Popen[str]) -> int:
    """The process that is the first inside: the only child of `unshare`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        os.sched_yield()
    raise AssertionError(f"no container: {process.stderr and process.stderr.read()}")
