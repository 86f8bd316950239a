"""Install Backend and Remove Backend: jobs that make the backend's environment and take it away."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_n as marked
from bpy.app.translations import pgettext_rpt as rpt
from bpy.app.translations import pgettext_tip as tip

from ..neural_backend import protocol
from ..neural_backend.protocol import BadInput
from . import backend, environment
from .environment import Build, Installed, megabytes
from .job import Cancelled, JobOperator, Status, Steps

_MODULE = "neural_backend.environment"
_SLICE = 0.02
"""Seconds that a step of many small ones may take."""

_ASK_TIMEOUT = 30.0
_RETRIES = "3"
_BAR = ("--progress-bar", "raw")
"""Understood by the pip of the lock file, which installs torch."""

# settings of a person's pip that would put the packages elsewhere
_NOT_FOR_PIP = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_REQUIREMENT")


def offline_reason() -> str:
    """Why nothing may be downloaded and what to do, in one line; empty where it may."""
    if bpy.app.online_access:
        return ""
    if bpy.app.online_access_override:
        return marked("Blender was started with --offline-mode: start it without")
    return marked("Blender is offline: tick Preferences > System > Network > Allow Online Access")


def install_steps(variant: str, afresh: bool = False) -> Steps[str]:
    """Make the environment of a variant, see that it works, and use it from then on.

    The one that is used until then is not touched before. Where only its versions are old, it is
    copied with hard links and what has changed is installed over the copy.

    Args:
        variant: one of ``environment.VARIANTS``.
        afresh: whether to begin with nothing even then.

    Raises:
        BadInput: in one line. Nothing of it is left then but what was downloaded.
    """
    build = environment.build_of(variant)
    if reason := offline_reason():
        raise BadInput(f"{reason}, or run the commands that the add-on's preferences show")
    if build.variant == "cuda":
        build = environment.for_cards(build, (yield from _cards_steps()))
    with _alone() as root:
        yield from removal_steps(environment.leftovers())
        old = environment.installed()
        copied = old is not None and not afresh and _fits(old, build)
        _require_space(root, environment.base_needed() if copied else build.needed)
        folder = _new_folder(root, build)
        try:
            new = yield from _made_steps(folder, build, old if copied else None)
            environment.make_current(new)
        except GeneratorExit:
            _remove_now(folder)
            raise
        except Cancelled:
            yield from removal_steps([folder, _cache(root)])
            raise
        except OSError as error:
            yield from removal_steps([folder])
            raise BadInput(_disk_line(error, folder)) from None
        except BaseException:
            yield from removal_steps([folder])
            raise
        # what another program still has open stays, until the next time
        with contextlib.suppress(BadInput):
            yield from removal_steps([*environment.leftovers(), _cache(root)])
    text = rpt("The backend is installed: {build}, Python {python}, torch {torch}").format(
        build=build.name, python=new.python, torch=new.torch
    )
    if build.variant in ("cuda", "rocm") and new.device == "cpu":
        more = rpt("torch finds no graphics card that it can use, so trainings use the CPU")
        text += f"; {more}"
    return text


def remove_steps() -> Steps[str]:
    """Take the environment away, with everything that belongs to it.

    Raises:
        BadInput: another program uses it.
    """
    with _alone() as root:
        current = environment.installed()
        if current is not None and current.folder.exists():
            if environment.in_use(current.folder):
                raise BadInput("A training uses the backend: wait for its end, or cancel it")
            # as a whole or not at all: Windows refuses where a file in it is open
            gone = _unused(root, "removed")
            try:
                os.rename(current.folder, gone)
            except OSError as error:
                raise BadInput(
                    f"{current.folder}: cannot be removed ({error.strerror}); close what uses it"
                ) from None
        environment.pointer().unlink(missing_ok=True)
        yield from removal_steps([*environment.leftovers(), _cache(root)])
        (root / "install.log").unlink(missing_ok=True)
    return rpt("The backend is removed")


def removal_steps(paths: Sequence[pathlib.Path]) -> Steps[None]:
    """Remove files and folders, a little at a time.

    To the end also where the job is cancelled or closed meanwhile.

    Raises:
        BadInput: something cannot be removed.
    """
    failed: list[OSError] = []
    cancelled: Cancelled | None = None
    work = itertools.chain.from_iterable(_removals(path, failed) for path in paths)
    while True:
        try:
            yield from _in_slices(work, Status(iface("Removing files")))
            break
        except Cancelled as asked:
            cancelled = asked
        except GeneratorExit:
            for _ in work:
                pass
            raise
    if cancelled:
        raise cancelled
    if failed:
        raise BadInput(
            f"{failed[0].filename}: cannot be removed ({failed[0].strerror}); close what uses it"
        )


def _removals(path: pathlib.Path, failed: list[OSError]) -> Iterator[None]:
    def attempt(remove: Callable[[str], None], name: str) -> None:
        try:
            remove(name)
        except FileNotFoundError:
            pass
        except OSError:
            try:  # Windows keeps files that are marked as read-only
                os.chmod(name, stat.S_IWRITE | stat.S_IREAD | stat.S_IEXEC)
                remove(name)
            except OSError as error:
                failed.append(error)

    if path.is_symlink() or path.is_file():
        attempt(os.unlink, str(path))
    elif path.is_dir():
        for folder, names, files in os.walk(path, topdown=False):
            for name in files:
                attempt(os.unlink, os.path.join(folder, name))
                yield
            for name in names:  # walk takes a link to a folder for a folder
                inner = os.path.join(folder, name)
                attempt(os.unlink if os.path.islink(inner) else os.rmdir, inner)
        attempt(os.rmdir, str(path))


def _remove_now(path: pathlib.Path) -> None:
    for _ in _removals(path, []):
        pass


def _in_slices(work: Iterator[None], status: Status) -> Steps[None]:
    """Do small pieces of work, some each step."""
    until = time.monotonic() + _SLICE
    for _ in work:
        if time.monotonic() > until:
            yield status
            until = time.monotonic() + _SLICE


@contextlib.contextmanager
def _alone() -> Iterator[pathlib.Path]:
    """Make the folder and keep another Blender from changing it.

    Raises:
        BadInput: it cannot be made, or another Blender changes it.
    """
    with contextlib.ExitStack() as stack:
        try:
            root = environment.root(create=True)
            stack.enter_context(protocol.held(root))
        except BlockingIOError:
            raise BadInput(
                "Another Blender installs or removes the backend; wait for its end"
            ) from None
        except OSError as error:
            raise BadInput(f"{environment.root()}: cannot be written ({error.strerror})") from None
        yield root


def _cache(root: pathlib.Path) -> pathlib.Path:
    """What pip has downloaded; kept when an installation fails, so that the next one goes on."""
    return root / "cache"


def _new_folder(root: pathlib.Path, build: Build) -> pathlib.Path:
    return _unused(root, re.sub(r"[^a-z0-9.]+", "-", build.name.lower()))


def _unused(root: pathlib.Path, name: str) -> pathlib.Path:
    number = 1
    while (folder := root / f"{name}-{number}").exists():
        number += 1
    return folder


def _fits(old: Installed, build: Build) -> bool:
    """Whether an environment becomes one of the build by exchanging some packages."""
    return old.works and bool(old.variant) and old.torch_from == environment.torch_of(build)


def _require_space(root: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise BadInput(
            f"{root}: {megabytes(needed)} are needed to install the backend and {megabytes(free)} "
            "are free; free some space, or choose a smaller build"
        )


def _disk_line(error: OSError, folder: pathlib.Path) -> str:
    return f"{error.filename or folder}: cannot be written ({error.strerror}); free some space"


def _made_steps(folder: pathlib.Path, build: Build, old: Installed | None) -> Steps[Installed]:
    """Make the environment, or a copy of ``old`` with other versions, and ask its doctor."""
    log = folder.parent / "install.log"
    with open(log, "wb"):
        pass  # that of the last installation
    if old is None:
        yield from _empty_steps(folder, log)
    else:
        yield from _in_slices(_links(old.folder, folder), Status(iface("Copying the environment")))
    program = str(environment.program_of(folder))
    yield from _pip_steps(program, folder, build, log)
    try:
        report = yield from backend.doctor_steps(program)
    except BadInput as error:
        raise BadInput(f"The new environment does not work: {error}; its log is {log}") from None
    size = yield from _size_steps(folder)
    return Installed(
        folder=folder,
        variant=build.variant,
        build=build.name,
        made_from=environment.fingerprint(build),
        torch_from=environment.torch_of(build),
        python=str(report.get("python", "")),
        torch=str(report.get("packages", {}).get("torch", "")),
        device=str(report.get("device", "")),
        size=size,
    )


def _links(old: pathlib.Path, new: pathlib.Path) -> Iterator[None]:
    """Copy an environment without copying its contents: pip replaces files, it changes none."""
    for folder, names, files in os.walk(old):
        there = new / os.path.relpath(folder, old)
        there.mkdir(parents=True)
        for name in [*files, *names]:
            source, target = os.path.join(folder, name), there / name
            if name == environment.CLAIM:
                continue
            if os.path.islink(source):
                os.symlink(os.readlink(source), target)
            elif name in files:
                try:
                    os.link(source, target)
                except OSError:  # a file system without such links
                    shutil.copy2(source, target)
            yield


def _size_steps(folder: pathlib.Path) -> Steps[int]:
    sizes: list[int] = []

    def look() -> Iterator[None]:
        for inner, _, files in os.walk(folder):
            for name in files:
                sizes.append(os.lstat(os.path.join(inner, name)).st_size)
                yield

    yield from _in_slices(look(), Status(iface("Checking the backend")))
    return sum(sizes)


def _cards_steps() -> Steps[str]:
    """What NVIDIA's driver says of the machine's cards, as ``environment.for_cards`` reads it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    question = "--query-gpu=driver_version,compute_cap"
    answer = yield from _answer_steps([program, question, "--format=csv,noheader"])
    return answer


def _answer_steps(command: Sequence[str]) -> Steps[str]:
    """What a program prints; empty when it fails or takes too long."""
    with tempfile.TemporaryFile() as answer:
        try:
            process = subprocess.Popen(
                command,
                cwd=backend.EXTENSION,
                env=backend.child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError:
            return ""
        until = time.monotonic() + _ASK_TIMEOUT
        try:
            while process.poll() is None and time.monotonic() < until:
                yield Status(iface("Looking at this machine"))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        answer.seek(0)
        return answer.read().decode("utf-8", "replace") if process.returncode == 0 else ""


def candidates() -> list[str]:
    """Programs that may be a Python to make an environment of, Blender's own first.

    Its own is only read: an environment has its own packages in a folder of its own.
    """
    names = [f"python{version}" for version in reversed(environment.pythons())]
    found: list[str | None] = [sys.executable]
    found += [shutil.which(name) for name in (*names, "python3", "python")]
    home = pathlib.Path.home()
    places = {
        # a program that is started from the desktop has a short PATH
        "darwin": [pathlib.Path("/opt/homebrew/bin"), pathlib.Path("/usr/local/bin")],
        "win32": sorted((home / "AppData/Local/Programs/Python").glob("Python3*")),
    }.get(sys.platform, [])
    places += sorted((home / ".pyenv/versions").glob("3.*/bin"), reverse=True)
    for place in places:
        found += [shutil.which(name, path=str(place)) for name in (*names, "python")]
    unique: dict[str, str] = {}
    for each in filter(None, found):
        unique.setdefault(os.path.realpath(each), each)
    return list(unique.values())


def _empty_steps(folder: pathlib.Path, log: pathlib.Path) -> Steps[None]:
    """Make an environment in which nothing but pip is installed.

    Raises:
        BadInput: with none of the Pythons that this machine has.
    """
    status = Status(iface("Making the Python environment"), 0.0)
    why = []
    for program in candidates():
        yield status
        about = yield from _about_steps(program)
        if why_not := _why_not(about):
            why.append(f"{program} {why_not}")
            continue
        arguments = ["venv", "--clear", str(folder)]
        if not about["ensurepip"]:
            arguments.insert(1, "--without-pip")
        if (yield from _run_steps(program, arguments, log, lambda: status)) == 0:
            inner = environment.program_of(folder)
            pip = ["pip", "--version"]
            if not about["ensurepip"]:
                pip = ["pip", "--python", str(inner), "install", "pip"]
            runner = str(inner) if about["ensurepip"] else program
            if (yield from _run_steps(runner, pip, log, lambda: status)) == 0:
                return
        why.append(f"{program} makes no environment")
        yield from removal_steps([folder])
    newest = environment.pythons()[-1]
    advice = f"install Python {newest} from python.org"
    if sys.platform == "linux":
        advice = f"install Python {newest} with its venv module (Debian: python3-venv)"
    raise BadInput(f"No Python here can make the backend's environment: {advice}. {_few(why)}")


def _few(why: list[str]) -> str:
    """The first reasons of many."""
    more = f" and {len(why) - 2} more" if len(why) > 2 else ""
    return f"Tried: {'; '.join(why[:2])}{more}"


def _about_steps(program: str) -> Steps[dict[str, Any]]:
    answer = yield from _answer_steps([program, "-m", _MODULE, "about"])
    with contextlib.suppress(ValueError):
        value = json.loads(answer)
        if isinstance(value, dict):
            return value
    return {}


def _why_not(about: dict[str, Any]) -> str:
    """Why a Python cannot be the base of an environment; empty where it can."""
    if not about:
        return "does not answer"
    version = ".".join(str(about.get("version")).split(".")[:2])
    if version not in environment.pythons():
        known = environment.pythons()
        return f"is Python {version}, not {known[0]} to {known[-1]}"
    if not about.get("wide") or about.get("free_threaded"):
        return "is another kind of Python"
    if not about.get("venv") or not (about.get("ensurepip") or about.get("pip")):
        return "lacks the modules venv and ensurepip"
    return ""


def _run_steps(
    program: str,
    arguments: Sequence[str],
    log: pathlib.Path,
    look: Callable[[], Status],
    more: dict[str, str] | None = None,
) -> Steps[int]:
    """Run a module of a Python to its end; returns its exit status."""
    with open(log, "ab") as file:
        child = backend.Child(program, ["run", *arguments], file, file, _MODULE, more)
        try:
            while (status := child.status()) is None:
                yield look()
            yield look()
        finally:
            child.end(1.0)
    return status


def _pip_steps(program: str, folder: pathlib.Path, build: Build, log: pathlib.Path) -> Steps[None]:
    """Install everything into an environment.

    Raises:
        BadInput: pip fails.
    """
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    more = {name: "" for name in _NOT_FOR_PIP if name in os.environ} | {
        "PIP_USER": "0",
        "PIP_CACHE_DIR": str(_cache(folder.parent)),
        "PIP_RETRIES": _RETRIES,
        # the system's may be in memory and smaller than torch
        **{name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")},
    }
    packages, torch = environment.pip_arguments(build)
    base = environment.base_download()
    share = base / build.download
    calls = (
        (packages, _Reader(log, folder, 0.0, share, environment.packages(), base)),
        (torch, _Reader(log, folder, share, 1.0, 0, build.download - base)),
    )
    for arguments, reader in calls:
        start = log.stat().st_size
        bar = _BAR if arguments is torch else ()
        status = yield from _run_steps(program, ["pip", *arguments, *bar], log, reader, more)
        if status != 0:
            with open(log, "rb") as file:
                file.seek(start)
                said = file.read().decode("utf-8", "replace")
            raise BadInput(f"{pip_line(said, status)}; its log is {log}")
    yield from removal_steps([scratch])


class _Reader:
    """Reads what pip prints, into a status.

    Args:
        log: the file that it prints into.
        folder: the environment.
        begin: the fraction of the whole that was done before it.
        end: the same after it.
        packages: how many it collects; 0: it says the bytes of each.
        size: bytes that it downloads, about.
    """

    def __init__(
        self,
        log: pathlib.Path,
        folder: pathlib.Path,
        begin: float,
        end: float,
        packages: int,
        size: int,
    ):
        self._log, self._folder = log, folder
        self._position = log.stat().st_size
        self._rest = b""
        self._begin, self._span, self._packages, self._size = begin, end - begin, packages, size
        self._collected = self._finished = self._now = self._of = self._unpacked = 0
        self._name = ""
        self._installing: list[str] = []
        self._there: int | None = None

    def __call__(self) -> Status:
        if self._there is None:
            self._there = self._count()
        with open(self._log, "rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._read(line.decode("utf-8", "replace"))
        return self._status()

    def _read(self, line: str) -> None:
        if found := re.match(r"\s*Progress (\d+) of (\d+)", line):
            now, of = int(found[1]), int(found[2])
            self._finished += self._of if now < self._now else 0
            self._now, self._of = now, of
        elif found := re.match(r"(Collecting|Requirement already satisfied:) ([\w.-]+)", line):
            self._collected += 1
            self._name = found[2] if found[1] == "Collecting" else self._name
        elif found := re.match(r"\s*Downloading \S*?([^/\s]+?)-\d\S*\.whl \(", line):
            self._name = found[1].replace("_", "-")
        elif found := re.match(r"Installing collected packages: (.+)", line):
            self._installing = [name.strip() for name in found[1].split(",")]

    def _status(self) -> Status:
        if self._installing:
            # pip moves its own away and back in between
            self._unpacked = max(self._count() - (self._there or 0), self._unpacked)
            of = len(self._installing)
            part = 0.8 + 0.2 * min(self._unpacked / of, 1.0)
            text = iface("Unpacking package {number} of {count}").format(
                number=min(self._unpacked + 1, of), count=of
            )
        elif self._of:
            part = 0.8 * min((self._finished + self._now) / self._size, 1.0)
            text = iface("Downloading {name}: {now} of {size} MB").format(
                name=self._name, now=f"{self._now / 1e6:.0f}", size=f"{self._of / 1e6:.0f}"
            )
        else:
            part = 0.8 * min(self._collected / (self._packages or 1e9), 1.0)
            text = iface("Starting pip")
            if self._name:
                text = iface("Downloading {name}").format(name=self._name)
        return Status(text, self._begin + self._span * part)

    def _count(self) -> int:
        folder = environment.site_packages(self._folder)
        try:
            names = os.listdir(folder) if folder else []
        except OSError:
            names = []
        return sum(name.endswith(".dist-info") for name in names)


def pip_line(said: str, status: int) -> str:
    """Why pip has failed, in one line: what it said last, and what to do where that is known."""
    errors = re.findall(r"^\s*ERROR: (.+)$", said, re.M)
    last = (errors or said.strip().splitlines() or [f"it ended with status {status}"])[-1].strip()
    if re.search(r"No space left|Errno 28|Errno 122|WinError 112|not enough space", said):
        return "The disk is full: free some space and install again"
    if re.search(r"CERTIFICATE_VERIFY_FAILED|SSLError", said):
        return (
            "pip does not trust the connection (its certificate): set up pip for the proxy of "
            "your network, and install again"
        )
    network = r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError"
    network += r"|ProtocolError|IncompleteRead|Failed to establish|Network is unreachable"
    if re.search(network, said) and not re.search(r"HASHES", said):
        hosts = re.findall(r"host='([^']+)'", said)
        host = hosts[-1] if hosts else "the internet"
        return f"pip cannot reach {host}: see to the connection and install again"
    if re.search(r"DO NOT MATCH THE HASHES", said):
        return (
            "A downloaded package is not the one that was expected (its checksum differs): "
            "install again, on another network if it stays so"
        )
    if found := re.search(r"No matching distribution found for (\S+)", said):
        mend = "choose another build" if "torch" in found[1] else "see to the index that pip uses"
        return f"pip finds no {found[1]} for this system: {mend}, and install again"
    how = f"was ended by signal {-status}" if status < 0 else "failed"
    return f"pip {how}: {last}"


class NEURAL_FIELDS_OT_install_backend(JobOperator, bpy.types.Operator):
    """Download what the backend needs into an environment of its own among the extension's files,
    and check that it works. Blender's own Python is not changed"""

    bl_idname = "neural_fields.install_backend"
    bl_label = "Install Backend"

    variant: bpy.props.EnumProperty(
        name="PyTorch Build",
        description="Which build of PyTorch",
        items=environment.VARIANTS,
        options={"SKIP_SAVE"},
    )
    afresh: bpy.props.BoolProperty(
        name="Afresh",
        description="Make everything anew, also what is good already",
        options={"SKIP_SAVE", "HIDDEN"},
    )

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        return install_steps(self._variant(), self.afresh)

    def _variant(self) -> str:
        if self.properties.is_property_set("variant"):
            return self.variant
        return environment.preference("variant", "auto")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[Any]:
        if offline_reason():
            return self.execute(context)
        self.variant = self._variant()
        return context.window_manager.invoke_props_dialog(
            self, width=460, title=self.bl_label, confirm_text="Install"
        )

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(self, "variant")
        try:
            build = environment.build_of(self.variant)
        except BadInput as error:
            column.label(text=str(error), icon="ERROR")
            return
        root = environment.root()
        there = next(path for path in (root, *root.parents) if path.exists())
        free = shutil.disk_usage(there).free
        size = iface("about {size}")
        free_of = iface("{free}; {needed} are needed meanwhile")
        rows = (
            (iface("PyTorch"), f"{environment.torch_version()}, {build.name}"),
            (iface("Download"), size.format(size=megabytes(build.download))),
            (iface("From"), build.source),
            (iface("On the Disk"), size.format(size=megabytes(build.disk))),
            (
                iface("Free Space"),
                free_of.format(free=megabytes(free), needed=megabytes(build.needed)),
            ),
            (iface("Folder"), str(root)),
        )
        for name, value in rows:
            row = column.split(factor=0.4)
            title = row.row()
            title.alignment = "RIGHT"
            title.label(text=name, translate=False)
            row.label(text=value, translate=False)


class NEURAL_FIELDS_OT_remove_backend(JobOperator, bpy.types.Operator):
    """Remove the environment that Install Backend has made, and free its space.
    Runs and results stay"""

    bl_idname = "neural_fields.remove_backend"
    bl_label = "Remove Backend"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if environment.is_there():
            return True
        cls.poll_message_set(tip("No backend is installed"))
        return False

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        return remove_steps()

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[Any]:
        return context.window_manager.invoke_confirm(self, event)


class NEURAL_FIELDS_OT_copy_backend_commands(bpy.types.Operator):
    """Copy the commands that make the environment by hand, for a terminal"""

    bl_idname = "neural_fields.copy_backend_commands"
    bl_label = "Copy Commands"

    def execute(self, context: bpy.types.Context) -> set[Any]:
        try:
            build = environment.build_of(environment.preference("variant", "auto"))
        except BadInput as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.window_manager.clipboard = "\n".join(environment.commands(build)) + "\n"
        self.report({"INFO"}, rpt("Copied: paste the commands into a terminal"))
        return {"FINISHED"}


CLASSES = (
    NEURAL_FIELDS_OT_install_backend,
    NEURAL_FIELDS_OT_remove_backend,
    NEURAL_FIELDS_OT_copy_backend_commands,
)
