"""The sandbox's images: built once per recipe, kept in the engine, copied into the sandbox's registry."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.sandbox.engine import CACHE, HERE, environment, run, timed

# Where no registry can be reached, a root filesystem made of Debian packages stands in for the public image.
STAND_INS = {
    "debian:bookworm-slim": ("bookworm", "ca-certificates"),
    "python:3.13-slim": ("trixie", "ca-certificates,python3,python3-venv,python3-pip"),
}
VERSIONS = (
    # what CapRover runs in an app that was never deployed
    "placeholder",
    "v1",
    "v2",
    "v3",
    "v3-fails",
    "v3-fails-early",
    "v3-hangs",
    "v3-crashes",
    "v3-unhealthy",
    "v3-slow-stop",
)


def ensure_base(name: str) -> None:
    """Have a public image by pulling it, or its stand-in."""
    if _exists(name):
        return
    with timed(f"base image {name}"):
        if _docker("pull", "--quiet", name, timeout=120) == 0:
            return
        suite, packages = STAND_INS[name]
        bootstrap = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={packages}"]
        certificates = Path("/usr/local/share/ca-certificates")
        if any(certificates.glob("*.crt")):
            bootstrap.append(f"--customize-hook=sync-in {certificates} {certificates}")
            bootstrap.append('--customize-hook=chroot "$1" update-ca-certificates')
        if "python3" in packages:
            bootstrap.append('--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/python"')
        if os.geteuid() != 0:
            bootstrap.insert(0, "sudo")
        settings = ["--change", "LABEL capmig.sandbox=stand-in", "--change", 'CMD ["bash"]']
        settings += ["--change", "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt"]
        if "PIP_INDEX_URL" in os.environ:
            settings += ["--change", f"ENV PIP_INDEX_URL={os.environ['PIP_INDEX_URL']}"]
        log = CACHE / f"{suite}.log"
        CACHE.mkdir(parents=True, exist_ok=True)
        with (
            log.open("w") as errors,
            subprocess.Popen([*bootstrap, suite, "-"], stdout=subprocess.PIPE, stderr=errors) as root,
        ):
            importing = ["docker", "import", *settings, "-", name]
            subprocess.run(importing, stdin=root.stdout, check=True, env=environment(), stdout=subprocess.DEVNULL)
        if root.returncode != 0:
            run("docker", "rmi", name)
            raise RuntimeError(f"mmdebstrap failed for {name}:\n{log.read_text()}")


def build(folder: Path, *, dockerfile: str = "Dockerfile") -> str:
    """Build a folder's image unless this recipe was built before; its local name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    recipe = hashlib.sha256()
    for path in files:
        recipe.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        recipe.update(path.read_bytes())
    name = f"capmig-sandbox/{folder.name}:{recipe.hexdigest()[:12]}"
    if not _exists(name):
        with timed(f"image {folder.name}"):
            run("docker", "build", "--quiet", "--tag", name, str(folder))
    return name


def build_all(folders: Sequence[str] = ("node", "registry", "postgres", "demoapp")) -> dict[str, str]:
    """Build what the sandbox needs, or some of it, side by side; local names by folder."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ensure_base, STAND_INS))
        return dict(zip(folders, pool.map(lambda folder: build(HERE / folder), folders), strict=True))


def variants(demoapp: str) -> dict[str, str]:
    """Derive the demo app's versions from its one image; local names by version."""
    names = {}
    for version in VERSIONS:
        recipe = f"FROM {demoapp}\nENV DEMO_VERSION={version}\nLABEL demo.version={version}\n"
        if version == "v3-unhealthy":
            recipe += "HEALTHCHECK --interval=1s --timeout=2s --retries=2 CMD false\n"
        names[version] = derive(f"demo-{version}", recipe)
    return names


def derive(name: str, recipe: str) -> str:
    """Build a Dockerfile that needs no files, unless that was done before; the image's local name."""
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    image = f"capmig-sandbox/{name}:{digest}"
    if not _exists(image):
        command = ["docker", "build", "--quiet", "--tag", image, "-"]
        subprocess.run(
            command, input=recipe, text=True, check=True, env=environment(), capture_output=True, timeout=120
        )
    return image


def push(local: str, registry: str, name: str, tag: str) -> None:
    """Copy an image of the outer engine into the registry at this address, unless it is there."""
    answer = requests.get(
        f"http://{registry}/v2/{name}/manifests/{tag}",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
        timeout=60,
    )
    if answer.ok:
        # An engine's ID of an image is one or the other, depending on how it stores images.
        there = {answer.json().get("config", {}).get("digest"), answer.headers["Docker-Content-Digest"]}
        if run("docker", "image", "inspect", "--format={{.Id}}", local).strip() in there:
            return
    copy(local, f"{registry}/{name}:{tag}")


def copy(local: str, remote: str, *, env: Mapping[str, str] | None = None) -> None:
    """Push an image of the outer engine under this name. `env` is added to the docker program's environment."""
    run("docker", "tag", local, remote)
    run("docker", "push", "--quiet", remote, env=env)
    run("docker", "rmi", "--no-prune", remote)


def _exists(name: str) -> bool:
    return _docker("image", "inspect", name) == 0


def _docker(*arguments: str, timeout: float = 60) -> int:
    done = subprocess.run(["docker", *arguments], capture_output=True, env=environment(), timeout=timeout, check=False)
    return done.returncode
