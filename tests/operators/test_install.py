"""Install Backend and Remove Backend: all that can go wrong, and one installation for real."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile

import bpy
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import backend, environment, folders, install, job

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = pathlib.Path(__file__).with_name("fake_python.py")
pytestmark = [
    pytest.mark.usefixtures("registered"),
    pytest.mark.skipif(os.name == "nt", reason="the fake Python is a script"),
]


def drive(owner: job.Owner) -> None:
    while owner.advance():
        time.sleep(0.01)


@pytest.fixture
def own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The extension's own folder; nothing is installed there and the machine is a Linux PC."""
    folder = tmp_path / "own ünïcode folder"
    monkeypatch.setattr(folders, "own_folder", lambda name, create=True: folder / name)
    monkeypatch.setattr(install, "offline_reason", lambda: "")
    monkeypatch.setattr(environment, "detected", lambda: "cpu")
    monkeypatch.setattr(install, "_cards_steps", no_cards)
    monkeypatch.setattr(backend, "_checked", {})
    monkeypatch.setattr(job, "_WAIT", 0.005)
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    job.owner.forget()
    return folder / "backend"


def no_cards():
    yield job.Status("Looking")
    return ""


class Fake:
    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        self.program = folder / "python3.11"
        text = SCRIPT.read_text(encoding="utf-8")
        self.program.write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
        self.program.chmod(0o755)
        self._calls = folder / "calls.jsonl"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("FAKE_PYTHON_CALLS", str(self._calls))
        monkeypatch.setattr(install, "candidates", lambda: [str(self.program)])

    @property
    def calls(self) -> list[list[str]]:
        if not self._calls.exists():
            return []
        return [json.loads(line) for line in self._calls.read_text("utf-8").splitlines()]

    def fails(self, fault: str) -> None:
        self._monkeypatch.setenv("FAKE_PYTHON", fault)


@pytest.fixture
def fake(own, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def environments(own: pathlib.Path) -> list[str]:
    return sorted(path.name for path in own.iterdir() if path.is_dir())


def test_it_is_built_beside_checked_and_used(fake, own, capsys) -> None:
    with pytest.raises(BadInput, match="not installed: press Install Backend"):
        backend.python()
    assert bpy.ops.neural_fields.install_backend() == {"FINISHED"}
    program = own / "cpu-1" / "bin" / "python"
    assert backend.python() == str(program)
    assert [call[:3] for call in fake.calls] == [
        ["neural_backend.environment", "about"],
        ["neural_backend.environment", "run", "venv"],
        ["neural_backend.environment", "run", "pip"],
        ["neural_backend.environment", "run", "pip"],
        ["neural_backend.environment", "run", "pip"],
        ["neural_backend", "doctor", "--json"],
    ]
    packages, torch = (call for call in fake.calls if "install" in call)
    assert packages[-1] == str(environment.LOCK)
    assert "--require-hashes" in packages
    assert "torch==2.13.0+cpu" in torch
    assert torch[torch.index("--extra-index-url") + 1] == "https://download.pytorch.org/whl/cpu"
    assert environments(own) == ["cpu-1"], "neither downloads nor scratch are left"
    assert not (own / "cpu-1" / "scratch").exists()
    found = environment.installed()
    assert (found.build, found.python, found.torch, found.device) == ("CPU", "3.11.7", "1.0", "cpu")
    assert found.size > 1000
    printed = capsys.readouterr().out
    assert "of 100 MB" in printed
    assert "The backend is installed: CPU, Python 3.11.7, torch 1.0" in printed


def test_progress_only_grows(fake, own) -> None:
    fractions = []
    steps = install.install_steps("cpu")
    try:
        while True:
            status = next(steps)
            if status.fraction is not None:
                fractions.append(status.fraction)
            time.sleep(0.01)
    except StopIteration:
        pass
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no network", "pip cannot reach pypi.example: see to the connection"),
        ("disk full", "The disk is full: free some space"),
        ("killed", "pip was ended by signal 9"),
        ("bad torch", "The new environment does not work: .*torch does not work"),
        ("no venv", "No Python here can make the backend's environment: install Python 3.13"),
        ("old python", "is Python 3.9, not 3.11 to 3.13"),
    ],
)
def test_a_failure_is_one_line_and_the_old_environment_works_on(
    fake, own, fault: str, line: str
) -> None:
    bpy.ops.neural_fields.install_backend()
    before = backend.python()
    fake.fails(fault)
    with pytest.raises(RuntimeError, match=line):
        bpy.ops.neural_fields.install_backend(afresh=True)
    assert "\n" not in job.owner.error
    assert backend.python() == before
    assert [name for name in environments(own) if name != "cache"] == ["cpu-1"]
    fake.fails("")
    bpy.ops.neural_fields.install_backend(afresh=True)
    assert environments(own) == ["cpu-2"]


def test_downloads_are_kept_for_the_next_try_but_not_after_a_cancel(fake, own) -> None:
    fake.fails("no network")
    with pytest.raises(RuntimeError, match="cannot reach"):
        bpy.ops.neural_fields.install_backend()
    assert environments(own) == ["cache"]
    cancel_in_the_middle(fake)
    assert environments(own) == []


def cancel_in_the_middle(fake: Fake) -> None:
    fake.fails("slow")
    owner = job.Owner()
    owner.start("Install Backend", install.install_steps("cpu"))
    while "100 of 100" not in owner.status.text:
        owner.advance()
        time.sleep(0.01)
    before = time.monotonic()
    owner.cancel()
    while owner.running:
        try:
            owner.advance()
        except job.Cancelled:
            break
    assert time.monotonic() - before < 2.0
    assert owner.cancelled
    fake.fails("")


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_what_is_being_removed_is_removed_to_the_end(
    own, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(install, "_SLICE", 0.0)
    folders_there = [tmp_path / "first", tmp_path / "second"]
    for folder in folders_there:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").touch()
    owner = job.Owner()
    owner.start("Remove", install.removal_steps(folders_there))
    assert owner.advance()
    assert all(folder.exists() for folder in folders_there)
    if how == "cancelled":
        owner.cancel()
        with pytest.raises(job.Cancelled):
            drive(owner)
    else:
        owner.close()
    assert owner.cancelled
    assert not any(folder.exists() for folder in folders_there)


def test_cancelling_leaves_the_old_one(fake, own) -> None:
    bpy.ops.neural_fields.install_backend()
    before = backend.python()
    cancel_in_the_middle(fake)
    assert environments(own) == ["cpu-1"]
    assert backend.python() == before


def test_blender_closes_in_the_middle(fake, own) -> None:
    fake.fails("slow")
    owner = job.Owner()
    owner.start("Install Backend", install.install_steps("cpu"))
    while "of 100" not in owner.status.text:
        owner.advance()
        time.sleep(0.01)
    owner.close()
    assert environments(own) in ([], ["cache"])
    assert environment.installed() is None


def test_what_a_killed_blender_has_left_is_swept(fake, own) -> None:
    (own / "cuda-13.0-1" / "bin").mkdir(parents=True)
    (own / "cuda-13.0-1" / "bin" / "python").write_text("half")
    (own / "current.json.part").write_text("{")
    assert environment.installed() is None
    assert {path.name for path in environment.leftovers()} == {"cuda-13.0-1", "current.json.part"}
    bpy.ops.neural_fields.install_backend()
    assert environments(own) == ["cpu-1"]
    assert environment.leftovers() == []


def test_two_blenders(fake, own) -> None:
    steps = install.install_steps("cpu")
    next(steps)
    with pytest.raises(BadInput, match="Another Blender installs or removes"):
        list(install.remove_steps())
    steps.close()


def test_not_enough_space_is_said_before_anything_starts(fake, own, monkeypatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000_000)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RuntimeError, match=r"\d\.\d GB are needed .* and 1\.0 GB are free"):
        bpy.ops.neural_fields.install_backend()
    assert fake.calls == []


def test_offline_nothing_starts(fake, own, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(folders, "own_folder", lambda name, create=True: own.parent / name)
    assert not bpy.app.online_access
    with pytest.raises(RuntimeError, match=r"Allow Online Access, or run the commands"):
        bpy.ops.neural_fields.install_backend(variant="cpu")
    assert not own.exists()


def test_the_commands_for_a_terminal_are_those_that_are_run(own) -> None:
    lines = environment.commands(environment.build_of("cpu"))
    assert len(lines) == 3
    assert "-m venv" in lines[0]
    assert str(environment.LOCK) in lines[1]
    assert lines[2].endswith(
        "torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu"
    )
    assert lines[0].startswith(sys.executable)
    by_hand = own / "by_hand" / "bin"
    by_hand.mkdir(parents=True)
    (by_hand / "python").write_text("")
    assert backend.python() == str(by_hand / "python"), "there is nothing to set afterwards"


def test_the_commands_name_a_python_that_there_are_packages_for(own, monkeypatch) -> None:
    monkeypatch.setattr(environment, "pythons", lambda: ("3.1", "3.2"))
    assert environment.commands(environment.build_of("cpu"))[0].startswith("python3.2 -m venv")


def test_an_update_takes_over_what_has_not_changed(fake, own, monkeypatch) -> None:
    bpy.ops.neural_fields.install_backend()
    changed = own.parent / "requirements.lock"
    changed.write_text(environment.LOCK.read_text() + "\n# newer\n")
    monkeypatch.setattr(environment, "LOCK", changed)
    old = environment.installed()
    assert environment.is_old(old)
    packages = "lib/python3.11/site-packages"
    (own / "cpu-1" / packages / "kept.py").write_text("large")
    kept = (own / "cpu-1" / packages / "kept.py").stat().st_ino
    monkeypatch.setenv("FAKE_CONTENT", "second")
    before = len(fake.calls)
    bpy.ops.neural_fields.install_backend()
    assert environments(own) == ["cpu-2"]
    assert not any("venv" in call for call in fake.calls[before:])
    assert (own / "cpu-2" / packages / "kept.py").stat().st_ino == kept, "copied byte by byte"
    assert (own / "cpu-2" / packages / "numpy" / "__init__.py").read_text() == "second"
    assert not environment.is_old(environment.installed())


def test_a_failed_update_has_not_touched_the_old_one(fake, own, monkeypatch) -> None:
    bpy.ops.neural_fields.install_backend()
    monkeypatch.setenv("FAKE_CONTENT", "second")
    fake.fails("bad torch")
    with pytest.raises(RuntimeError, match="does not work"):
        bpy.ops.neural_fields.install_backend()
    code = own / "cpu-1" / "lib/python3.11/site-packages/numpy/__init__.py"
    assert code.read_text() == "first"


def test_repair_when_the_base_python_is_gone(fake, own) -> None:
    bpy.ops.neural_fields.install_backend()
    (own / "cpu-1" / "bin" / "python").unlink()
    with pytest.raises(BadInput, match="is gone: press Repair"):
        backend.python()
    bpy.ops.neural_fields.install_backend()
    assert backend.python() == str(own / "cpu-2" / "bin" / "python")


def test_remove(fake, own) -> None:
    bpy.ops.neural_fields.install_backend()
    (own / "cpu-9").mkdir()
    assert bpy.ops.neural_fields.remove_backend() == {"FINISHED"}
    assert [path.name for path in own.iterdir()] == [".lock"]
    assert environment.installed() is None
    with pytest.raises(RuntimeError, match="No backend is installed"):
        bpy.ops.neural_fields.remove_backend()


def test_what_a_failed_installation_has_left_is_removed(fake, own) -> None:
    fake.fails("no network")
    with pytest.raises(RuntimeError, match="cannot reach"):
        bpy.ops.neural_fields.install_backend()
    assert (own / "cache").exists(), "the next one goes on from there"
    assert bpy.ops.neural_fields.remove_backend() == {"FINISHED"}
    assert [path.name for path in own.iterdir()] == [".lock"]


def test_what_a_training_uses_is_not_removed(fake, own) -> None:
    bpy.ops.neural_fields.install_backend()
    fake.fails("slow")
    with open(os.devnull, "wb") as nothing:
        child = backend.Child(
            str(own / "cpu-1" / "bin" / "python"),
            ["run", "pip", "install", "torch"],
            nothing,
            nothing,
            "neural_backend.environment",
            {"PIP_CACHE_DIR": str(own)},
        )
    try:
        with pytest.raises(RuntimeError, match="A training uses the backend"):
            bpy.ops.neural_fields.remove_backend()
        fake.fails("")
        bpy.ops.neural_fields.install_backend(afresh=True)
        assert environments(own) == ["cpu-1", "cpu-2"], "the one in use stays"
    finally:
        child.end(5.0)
    bpy.ops.neural_fields.install_backend()
    assert environments(own) == ["cpu-1"]


def test_without_ensurepip_another_pip_helps(fake, own) -> None:
    fake.fails("no ensurepip")
    bpy.ops.neural_fields.install_backend()
    venv, pip = fake.calls[1:3]
    assert "--without-pip" in venv
    assert pip[3:5] == ["--python", str(own / "cpu-1" / "bin" / "python")]


def test_a_profile_that_was_copied_uses_its_own_environment(fake, own, monkeypatch) -> None:
    bpy.ops.neural_fields.install_backend()
    there = own.parent.parent / "5.2"
    shutil.copytree(own, there / "backend")
    monkeypatch.setattr(folders, "own_folder", lambda name, create=True: there / name)
    assert backend.python() == str(there / "backend" / "cpu-1" / "bin" / "python")


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ("", "CUDA 13.0"),
        ("580.65.06, 8.9\n", "CUDA 13.0"),
        ("550.54.15, 8.9\n", "CUDA 12.6"),
        ("581.08, 6.1\n", "CUDA 12.6"),
        ("581.08, 6.1\n581.08, 8.6\n", "CUDA 13.0"),
    ],
)
def test_the_cuda_build_fits_driver_and_cards(cards: str, name: str) -> None:
    assert environment.for_cards(environment.builds("linux")["cuda"], cards).name == name


def test_an_old_driver_is_told() -> None:
    with pytest.raises(BadInput, match="driver is version 470: install version 580"):
        environment.for_cards(environment.builds("linux")["cuda"], "470.1, 7.5")


def test_the_sources_of_torch() -> None:
    linux, windows, mac = (environment.builds(name) for name in ("linux", "win32", "darwin"))
    for build in (linux["cuda"], windows["cpu"], mac["metal"]):
        assert (build.torch, build.index) == ("", ""), "from PyPI, with hashes"
    assert windows["cuda"].index == "https://download.pytorch.org/whl/cu130"
    assert linux["rocm"].torch == "torch==2.13.0+rocm7.2"
    assert "rocm" not in windows
    assert linux["cuda"].download > 2_500_000_000 > linux["cpu"].download


def test_a_build_that_is_not_for_this_system_is_told(monkeypatch) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    with pytest.raises(BadInput, match=r"no Apple Metal for .*; choose one of Automatic, CPU"):
        environment.build_of("metal")
    monkeypatch.setattr(environment.platform, "machine", lambda: "riscv64")
    with pytest.raises(BadInput, match=r"nothing is built for .* on riscv64"):
        environment.build_of("cpu")


def locked_versions() -> dict[str, str]:
    versions = {}
    for file in (environment.LOCK, environment.TORCH_LOCK):
        for line in file.read_text("utf-8").splitlines():
            if "==" in line and not line.startswith(("#", " ")):
                name, _, rest = line.partition("==")
                versions[name] = rest.split()[0]
    return versions


def test_the_lock_has_every_dependency_in_its_range() -> None:
    version = pytest.importorskip("packaging.version")
    requirements = pytest.importorskip("packaging.requirements")
    versions = locked_versions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for text in project["dependencies"]:
        needed = requirements.Requirement(text)
        assert version.Version(versions[needed.name]) in needed.specifier, text
    assert versions["torch"] == "2.13.0"
    assert environment.pythons()[0] == project["requires-python"].removeprefix(">=")
    for file in (environment.LOCK, environment.TORCH_LOCK):
        for entry in re.split(r"^(?=[a-z])", file.read_text("utf-8"), flags=re.M)[1:]:
            assert "--hash=sha256:" in entry


def wheel(folder: pathlib.Path, name: str, version: str) -> str:
    """Make a package; returns its line of a lock file."""
    stem = f"{name}-{version}"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{stem}.dist-info/METADATA": about,
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{each},,\n" for each in files)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_the_real_pip_from_a_folder_of_wheels(own, tmp_path, monkeypatch) -> None:
    """Installed, updated over links, and refused where a wheel is not what the lock says."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    lock, torch = tmp_path / "requirements.lock", tmp_path / "requirements-torch.lock"
    head = f"#\n# Python: {sys.version_info[0]}.{sys.version_info[1]}\n"
    lock.write_text(head + wheel(wheels, "one", "1.0") + wheel(wheels, "two", "1.0"))
    torch.write_text(head + wheel(wheels, "torch", "1.0"))
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setattr(environment, "TORCH_LOCK", torch)
    monkeypatch.setattr(install, "candidates", lambda: [sys.executable])
    monkeypatch.setattr(install, "_BAR", ())  # that of the Python here may be older
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(wheels))):
        monkeypatch.setenv(name, value)

    def doctor_steps(program):
        yield job.Status("Checking")
        code = "import json, one, two, torch; print(json.dumps([one.version, two.version]))"
        answer = subprocess.run([program, "-c", code], capture_output=True, check=True)
        return {"packages": {"torch": "/".join(json.loads(answer.stdout))}}

    monkeypatch.setattr(backend, "doctor_steps", doctor_steps)
    monkeypatch.setattr(
        environment, "build_of", lambda variant: environment.builds("linux")["cuda"]
    )
    bpy.ops.neural_fields.install_backend()
    assert environment.installed().torch == "1.0/1.0"
    assert not (own / "cuda-13.0-1" / "one.py").exists()
    lock.write_text(head + wheel(wheels, "one", "1.0") + wheel(wheels, "two", "2.0"))
    bpy.ops.neural_fields.install_backend()
    assert environment.installed().torch == "1.0/2.0"
    assert environments(own) == ["cuda-13.0-2"]
    wheel(wheels, "one", "3.0")
    lock.write_text(head + "one==3.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(RuntimeError, match="its checksum differs"):
        bpy.ops.neural_fields.install_backend()
    assert environment.installed().torch == "1.0/2.0"
    lock.write_text(head + "absent==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(RuntimeError, match=r"pip finds no absent==1\.0 for this system"):
        bpy.ops.neural_fields.install_backend()


def test_a_true_installation(own, monkeypatch) -> None:
    """Everything from the configured index: minutes, so with one Blender only."""
    if bpy.app.version[:2] != (5, 0):
        pytest.skip("done once, with bpy 5.0")
    build = environment.build_of("cpu")
    ask = [sys.executable, "-m", "pip", "index", "versions", "torch", "--retries", "0"]
    ask += ["--extra-index-url", build.index] if build.index else []
    answer = subprocess.run(ask, capture_output=True, text=True, timeout=120)
    if build.torch.removeprefix("torch==") not in answer.stdout:
        pytest.skip(f"no package index with {build.torch} can be reached")
    monkeypatch.setattr(job, "_WAIT", 0.1)
    assert bpy.ops.neural_fields.install_backend(variant="cpu") == {"FINISHED"}
    found = environment.installed()
    assert (found.torch, found.device) == (build.torch.removeprefix("torch=="), "cpu")
    assert found.size == pytest.approx(build.disk, rel=0.15), "the size that was announced"
    report = next_result(backend.doctor_steps(backend.python()))
    assert report["ok"]
    assert report["kernels"] == "cpu"


def next_result(steps):
    try:
        while True:
            next(steps)
            time.sleep(0.1)
    except StopIteration as end:
        return end.value
