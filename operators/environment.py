"""The backend's environment on the disk: where it is, what it holds, what this machine can have.

It lies among the extension's own files, never in Blender's Python::

    backend/  current.json  install.log  <an environment>/

``current.json``, written whole, names the environment that is used, so one is always built beside
the other, and what an interrupted installation has left is no part of anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from typing import IO, Any

import bpy

from .. import __package__ as base_package
from ..neural_backend import protocol
from ..neural_backend.protocol import BadInput
from . import folders

EXTENSION = pathlib.Path(__file__).resolve().parent.parent
LOCK = EXTENSION / "neural_backend" / "requirements.lock"
"""Everything but torch, for every system."""

TORCH_LOCK = EXTENSION / "neural_backend" / "requirements-torch.lock"
"""The torch that PyPI has; other builds come from PyTorch's own index."""

BY_HAND = "by_hand"
"""The environment that the commands for a person's own terminal make."""

CLAIM = ".used"
"""The file in an environment that its running programs have locked."""

VARIANTS = (
    ("auto", "Automatic", "What fits this machine"),
    ("cpu", "CPU", "Trains on the processor: the smallest download"),
    ("cuda", "CUDA", "NVIDIA graphics cards, on Linux and Windows"),
    ("rocm", "ROCm", "AMD graphics cards, on Linux"),
    ("metal", "Apple Metal", "Apple's own processors, on macOS"),
)

_INDEX = "https://download.pytorch.org/whl"
_MB = 1_000_000
_COMPILED = 1.17
"""How much pip's compiling of the sources adds to what the wheels hold, measured."""

# (compute capability 7.5 is Turing) what the CUDA 13 build asks for, and the 12.6 one's driver
_CUDA_13_DRIVER, _CUDA_13_CAPABILITY, _CUDA_12_DRIVER = 580, 7.5, 525

# what PyTorch's ROCm build has kernels for, as the kernel driver writes it: gfx90a is 90010
_ROCM_TARGETS = frozenset(
    (
        *(90000, 90006, 90008, 90010, 90402, 90500),
        *(100300, 110000, 110001, 110002, 110500, 110501, 120000, 120001),
    )
)


@dataclasses.dataclass(frozen=True)
class Build:
    """One build of torch with everything else that the backend needs.

    Attributes:
        variant: which of VARIANTS it is.
        name: its name in the panel.
        torch: the requirement as pip takes it; empty: TORCH_LOCK has it.
        index: where pip looks beside what it is set up with; empty: nowhere else.
        download: bytes, about.
        disk: bytes, about.
    """

    variant: str
    name: str
    torch: str
    index: str
    download: int
    disk: int

    @property
    def needed(self) -> int:
        """Bytes that must be free meanwhile."""
        return _needed(self.download, self.disk)

    @property
    def source(self) -> str:
        """The sites that it comes from."""
        return "pypi.org, download.pytorch.org" if self.index else "pypi.org"


# megabytes, printed by tools/lock.py: all but torch, to download and on the disk
_BASE = {"linux": (165, 516), "win32": (148, 458), "darwin": (130, 414)}


def _needed(download: int, disk: int) -> int:
    # pip has a wheel twice, in its cache and where it unpacks from, and then the environment
    return 2 * download + disk + 300 * _MB


def base_download() -> int:
    """Bytes of everything but torch, about."""
    return _BASE[sys.platform][0] * _MB


def base_needed() -> int:
    """Bytes that must be free where the torch that is there stays."""
    download, disk = _BASE[sys.platform]
    return _needed(download * _MB, disk * _MB)


def _build(variant: str, name: str, system: str, download: int, disk: int, tag: str = "") -> Build:
    base_download, base_disk = _BASE[system]
    return Build(
        variant,
        name,
        f"torch=={torch_version()}+{tag}" if tag else "",
        f"{_INDEX}/{tag}" if tag else "",
        (base_download + download) * _MB,
        round((base_disk + disk) * _MB * _COMPILED),
    )


def builds(system: str = sys.platform) -> dict[str, Build]:
    """The builds for a system, torch's megabytes to download and on the disk with them."""
    if system == "linux":
        return {
            "cpu": _build("cpu", "CPU", system, 190, 700, "cpu"),
            "cuda": _build("cuda", "CUDA 13.0", system, 2730, 4725),
            "cuda12": _build("cuda", "CUDA 12.6", system, 3300, 6000, "cu126"),
            "rocm": _build("rocm", "ROCm 7.2", system, 6500, 15000, "rocm7.2"),
        }
    if system == "win32":
        return {
            "cpu": _build("cpu", "CPU", system, 122, 467),
            "cuda": _build("cuda", "CUDA 13.0", system, 1920, 3500, "cu130"),
            "cuda12": _build("cuda", "CUDA 12.6", system, 2600, 4800, "cu126"),
        }
    if system == "darwin":
        metal = _build("metal", "Apple Metal", system, 111, 471)
        return {"metal": metal, "cpu": metal}  # it is one build: a training chooses
    return {}


def torch_version() -> str:
    """The version of torch that every build is of."""
    return re.findall(r"^torch==([\d.]+)", TORCH_LOCK.read_text(encoding="utf-8"), re.M)[0]


def pythons() -> tuple[str, ...]:
    """The versions of Python that the lock files are for, as ``3.11``, the oldest first."""
    return tuple(re.findall(r"^# Python: (.+)", LOCK.read_text(encoding="utf-8"), re.M)[0].split())


def packages() -> int:
    """How many packages LOCK installs on this system."""
    lines = re.findall(r"^[^#\s].*==.*", LOCK.read_text(encoding="utf-8"), re.M)
    return sum("sys_platform" not in line or sys.platform in line for line in lines)


@functools.cache
def detected() -> str:
    """The variant that fits this machine, as files of its drivers tell; starts no program."""
    if sys.platform == "darwin":
        return "metal"
    if sys.platform == "win32":
        driver = pathlib.Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll")
        return "cuda" if driver.is_file() else "cpu"
    nvidia = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
    if any(os.path.exists(file) for file in nvidia):
        return "cuda"
    for file in pathlib.Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        with contextlib.suppress(OSError):
            found = re.search(r"^gfx_target_version (\d+)", file.read_text(), re.M)
            if found and int(found[1]) in _ROCM_TARGETS:
                return "rocm"
    return "cpu"


def build_of(variant: str) -> Build:
    """The build of a variant for this machine; ``auto`` is the detected one.

    Raises:
        BadInput: there is none.
    """
    here = builds()
    if not here or platform.machine().lower() not in _machines():
        raise BadInput(
            f"Install Backend: nothing is built for {platform.system()} on {platform.machine()}; "
            "make an environment yourself and give its Python in the add-on's preferences"
        )
    wanted = detected() if variant == "auto" else variant
    if wanted not in here:
        names = ", ".join(name for key, name, _ in VARIANTS if key in ("auto", *here))
        raise BadInput(
            f"Build: there is no {label(wanted)} for {platform.system()}; choose one of {names}"
        )
    return here[wanted]


def _machines() -> tuple[str, ...]:
    return ("arm64",) if sys.platform == "darwin" else ("x86_64", "amd64")


def label(variant: str) -> str:
    """A variant's name in the panel."""
    return next(name for key, name, _ in VARIANTS if key == variant)


def for_cards(build: Build, cards: str) -> Build:
    """The CUDA build that the machine's driver and cards can run.

    Args:
        build: the one that was chosen.
        cards: what ``nvidia-smi`` says of driver_version and compute_cap, a card a line; empty
            where it says nothing.

    Raises:
        BadInput: the driver is too old for any.
    """
    found = re.findall(r"^\s*(\d+)[\d.]*\s*,\s*(\d+\.\d+)\s*$", cards, re.M)
    if build.variant != "cuda" or not found:
        return build
    driver = min(int(each) for each, _ in found)
    if driver < _CUDA_12_DRIVER:
        raise BadInput(
            f"NVIDIA's driver is version {driver}: install version {_CUDA_13_DRIVER} or newer, or "
            "choose the CPU build"
        )
    # the best card is the one that trains
    capability = max(float(each) for _, each in found)
    old = driver < _CUDA_13_DRIVER or capability < _CUDA_13_CAPABILITY
    return builds()["cuda12"] if old else build


def fingerprint(build: Build) -> str:
    """What an environment of a build is made from: it is out of date when this has changed."""
    digest = hashlib.sha256(LOCK.read_bytes())
    digest.update(build.torch.encode() or TORCH_LOCK.read_bytes())
    return digest.hexdigest()[:16]


def torch_of(build: Build) -> str:
    """What identifies a build's torch."""
    return build.torch or hashlib.sha256(TORCH_LOCK.read_bytes()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Installed:
    """The environment that is used.

    Attributes:
        folder: its place.
        variant: which of VARIANTS it is; empty where it was made by hand.
        build: the build's name.
        made_from: the ``fingerprint`` of its build, then.
        torch_from: the ``torch_of`` its build, then.
        python: its Python's version.
        torch: its torch's version.
        device: what it trains on.
        size: bytes.
    """

    folder: pathlib.Path
    variant: str = ""
    build: str = ""
    made_from: str = ""
    torch_from: str = ""
    python: str = ""
    torch: str = ""
    device: str = ""
    size: int = 0

    @property
    def program(self) -> pathlib.Path:
        return program_of(self.folder)

    @property
    def works(self) -> bool:
        """Whether its Python is still there: a removed Blender takes the one it is made of away."""
        return self.program.exists()


def program_of(folder: pathlib.Path) -> pathlib.Path:
    """The Python of an environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def site_packages(folder: pathlib.Path) -> pathlib.Path | None:
    """Where an environment has its packages."""
    if sys.platform == "win32":
        return folder / "Lib" / "site-packages"
    return next(folder.glob("lib/python3.*/site-packages"), None)


def root(create: bool = False) -> pathlib.Path:
    """The folder of all this."""
    return folders.own_folder("backend", create)


def pointer() -> pathlib.Path:
    """The file that names the environment that is used."""
    return root() / "current.json"


def installed() -> Installed | None:
    """The environment that is used, or one that a person has made there by hand."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        value: dict[str, Any] = json.loads(pointer().read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(Installed)]
        known = {name: value[name] for name in names if name in value}
        # its name only: the profile may have been moved or copied to another version of Blender
        return Installed(**known | {"folder": root() / pathlib.Path(value["folder"]).name})
    by_hand = Installed(root() / BY_HAND)
    return by_hand if by_hand.works else None


def claim(program: str) -> IO[bytes] | None:
    """Say that a program of an environment runs, for as long as the file is open in it.

    On Windows its open files say that already. None where it is no environment of ours.
    """
    folder = pathlib.Path(program).parent.parent
    if sys.platform == "win32" or folder.parent != root():
        return None
    import fcntl

    with contextlib.suppress(OSError):
        file = open(folder / CLAIM, "ab")  # noqa: SIM115
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return file
    return None


def in_use(folder: pathlib.Path) -> bool:
    """Whether a program of an environment runs, started by any Blender."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with open(folder / CLAIM, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # some network drives know no locks
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def is_old(found: Installed) -> bool:
    """Whether the lock files have changed since an environment was made."""
    made = next((build for build in builds().values() if build.name == found.build), None)
    return made is None or fingerprint(made) != found.made_from


def make_current(environment: Installed) -> None:
    """Use an environment from now on."""
    value = dataclasses.asdict(environment) | {"folder": environment.folder.name}
    protocol.write_json(pointer(), value)


def leftovers() -> list[pathlib.Path]:
    """What lies in the folder and is used by nothing."""
    used = installed()
    kept = {pointer().name, ".lock", "cache", "install.log"}
    kept |= {used.folder.name} if used else set()
    try:
        paths = [path for path in sorted(root().iterdir()) if path.name not in kept]
    except OSError:
        return []
    return [path for path in paths if not in_use(path)]


def is_there() -> bool:
    """Whether there is anything to remove: an environment, what is left of one, downloads."""
    try:
        return any(path.name != ".lock" for path in root().iterdir())
    except OSError:
        return False


def preference(name: str, default: Any) -> Any:
    """One of the add-on's preferences."""
    addon: bpy.types.Addon | None = bpy.context.preferences.addons.get(base_package)
    return getattr(addon.preferences, name, default) if addon else default


def pip_arguments(build: Build) -> tuple[list[str], list[str]]:
    """What pip is called with, once for everything but torch and once for torch.

    The lock files' lines have hashes; torch's own index publishes none that a file could hold for
    every version of Python, so its builds are trusted to their address.
    """
    common = ["install", "--no-input", "--disable-pip-version-check", "--only-binary=:all:"]
    locked = [*common, "--require-hashes", "--no-deps", "-r"]
    torch = [*locked, str(TORCH_LOCK)]
    if build.torch:
        torch = [*common, build.torch, "--extra-index-url", build.index]
    return [*locked, str(LOCK)], torch


def commands(build: Build) -> list[str]:
    """What a person types into a terminal to have the same without this add-on going online."""
    folder = root() / BY_HAND
    program = str(program_of(folder))
    base = [sys.executable]
    if f"{sys.version_info[0]}.{sys.version_info[1]}" not in pythons():
        newest = pythons()[-1]
        base = ["py", f"-{newest}"] if sys.platform == "win32" else [f"python{newest}"]
    lines = [[*base, "-m", "venv", "--clear", str(folder)]]
    lines += [[program, "-m", "pip", *arguments] for arguments in pip_arguments(build)]
    join = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    return [join(line) for line in lines]


def megabytes(size: int) -> str:
    """``350 MB``, ``2.9 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
