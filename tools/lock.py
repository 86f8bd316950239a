"""Makes the backend's lock files again, from pyproject.toml and PyPI.

    .venv/bin/python tools/lock.py [TORCH VERSION]

``neural_backend/requirements.lock`` has everything but torch, ``requirements-torch.lock`` has the
torch that PyPI has (CUDA on Linux, the CPU on Windows, Metal on macOS) with its own libraries.
Exact versions, each with the hashes of its wheels for the systems and Pythons below; what has no
wheel for one of them is said. The newest versions that fit pyproject.toml are taken; torch is
that of the present lock unless it is given. Prints what an installation downloads and unpacks,
for the table of sizes in operators/environment.py.
"""

from __future__ import annotations

import dataclasses
import html
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.parse
import urllib.request
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
INDEX = "https://pypi.org/simple"
BASE = ROOT / "neural_backend" / "requirements.lock"
TORCH = ROOT / "neural_backend" / "requirements-torch.lock"
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "linux": r"(many)?linux[0-9_a-z]*_x86_64",
    "win32": r"win_amd64",
    "darwin": r"macosx_\d+_\d+_(arm64|universal2)",
}
"""What ``sys.platform`` says, and the tags of its wheels."""

ALSO = ("pip",)
"""Packages of the environment that no other one asks for."""

ONLY = {"colorama": "win32"}
"""What tqdm asks for on one system only, which a resolution on another does not see."""

_HEAD = f"""\
# Made by tools/lock.py: change pyproject.toml and run it again.
# Python: {" ".join(PYTHONS)}
"""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A file of the index; ``tags`` as in its name: Python, ABI, platform."""

    name: str
    url: str
    sha256: str

    @property
    def tags(self) -> tuple[str, str, str]:
        python, abi, platform = self.name.removesuffix(".whl").split("-")[-3:]
        return python, abi, platform

    def fits(self, system: str, python: str) -> bool:
        """Whether a system's CPython of a version takes it."""
        python = python.replace(".", "")
        tags, abi, platform = self.tags
        if platform != "any" and not re.search(rf"(^|\.){SYSTEMS[system]}($|\.)", platform):
            return False
        for tag in tags.split("."):
            if tag in ("py3", "py2.py3") or (tag == f"cp{python}" and abi == f"cp{python}"):
                return True
            if abi == "abi3" and tag[:3] == "cp3" and int(tag[3:]) <= int(python[1:]):
                return True
        return False


def resolve(requirements: list[str]) -> dict[str, str]:
    """Names and exact versions of requirements and of all that they need, on this system."""
    with tempfile.TemporaryDirectory() as scratch:
        report = pathlib.Path(scratch) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:"]
        options += ["--index-url", INDEX, "--report", str(report)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *requirements],
            # nothing but PyPI, whatever this machine is set up with
            env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
            check=True,
        )
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {normal(each["metadata"]["name"]): each["metadata"]["version"] for each in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wheels(name: str, version: str) -> list[Wheel]:
    """Every wheel of a version that the index has."""
    with urllib.request.urlopen(f"{INDEX}/{name}/") as answer:
        page = answer.read().decode()
    found = []
    for link in re.findall(r'href="([^"]+)"', page):
        url, _, digest = html.unescape(link).partition("#sha256=")
        file = urllib.parse.unquote(url.rpartition("/")[2])
        if file.endswith(".whl") and file.split("-")[1] == version:
            found.append(Wheel(file, urllib.parse.urljoin(f"{INDEX}/{name}/", url), digest))
    return found


def lock(versions: dict[str, str], systems: dict[str, str]) -> tuple[str, list[list[Wheel]]]:
    """The lock file's text, and the wheels of each package."""
    text, files = [_HEAD], []
    for name, version in sorted(versions.items()):
        wanted = [systems[name]] if name in systems else list(SYSTEMS)
        fitting = set()
        for system in wanted:
            for python in PYTHONS:
                found = [each for each in wheels_of(name, version) if each.fits(system, python)]
                fitting.update(found)
                if not found:
                    print(f"{name} {version}: no wheel for {system}, Python {python}")
        marker = f' ; sys_platform == "{systems[name]}"' if name in systems else ""
        text.append(f"{name}=={version}{marker} \\\n")
        hashes = sorted({each.sha256 for each in fitting})
        text.append(" \\\n".join(f"    --hash=sha256:{each}" for each in hashes) + "\n")
        files.append(sorted(fitting, key=lambda each: each.name))
    return "".join(text), files


_known: dict[tuple[str, str], list[Wheel]] = {}


def wheels_of(name: str, version: str) -> list[Wheel]:
    if (name, version) not in _known:
        _known[name, version] = wheels(name, version)
    return _known[name, version]


class _Remote(io.RawIOBase):
    """A file on a server, read in parts."""

    def __init__(self, url: str):
        self.url, self.position = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
            self.size = int(answer.headers["Content-Length"])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        part = {"Range": f"bytes={self.position}-{end - 1}"}
        with urllib.request.urlopen(urllib.request.Request(self.url, headers=part)) as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def sizes(wheel: Wheel) -> tuple[int, int]:
    """Bytes of a wheel as it is downloaded, and unpacked."""
    remote = _Remote(wheel.url)
    with zipfile.ZipFile(io.BufferedReader(remote, 1 << 18)) as archive:
        return remote.size, sum(each.file_size for each in archive.infolist())


def report(title: str, files: list[list[Wheel]], python: str = PYTHONS[-1]) -> None:
    for system in SYSTEMS:
        chosen = [
            next((each for each in package if each.fits(system, python)), None) for package in files
        ]
        both = [sizes(each) for each in chosen if each is not None]
        down, disk = (sum(part) / 1e6 for part in zip(*both, strict=True))
        print(f"{title}, {system}: {down:.0f} MB to download, {disk:.0f} MB on the disk")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [each for each in project["dependencies"] if not each.startswith("torch")]
    version = sys.argv[1] if len(sys.argv) > 1 else ""
    if not version:
        version = re.findall(r"^torch==([\d.]+)", TORCH.read_text(encoding="utf-8"), re.M)[0]
    versions = resolve([*needed, *ALSO, f"torch=={version}"])
    base = {name: each for name, each in versions.items() if not _of_torch(name)}
    for name in ONLY:
        base |= resolve([name])
    own = {name: each for name, each in versions.items() if _of_torch(name)}
    text, files = lock(base, ONLY)
    BASE.write_text(text, encoding="utf-8")
    report("all but torch", files)
    text, files = lock(own, {name: "linux" for name in own if name != "torch"})
    TORCH.write_text(text, encoding="utf-8")
    report("torch", files)


def _of_torch(name: str) -> bool:
    """Whether it is torch or one of the libraries that only its CUDA build needs."""
    return name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))


if __name__ == "__main__":
    main()
