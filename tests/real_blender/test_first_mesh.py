"""From a fresh profile to the first mesh, in as few clicks as there are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
import subprocess
import zipfile

from blender_process import PICTURES, ROOT, Blender

SCRIPT = pathlib.Path(__file__).with_name("first_mesh_script.py")
TORCH_LOCK = ROOT / "neural_backend" / "requirements-torch.lock"
ASK = """
import json, sys, sysconfig
paths = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
print(json.dumps(["%d.%d" % sys.version_info[:2], sorted(set(paths))]))
"""


def wheel(folder: pathlib.Path, name: str, version: str, **files: str) -> str:
    """Make a package; returns its line of a lock file."""
    stem = f"{name}-{version}"
    files[f"{stem}.dist-info/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    files[f"{stem}.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{each},,\n" for each in files)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_three_clicks(blender: Blender, tmp_path: pathlib.Path) -> None:
    """Install Backend, the dialog's button, Train Neural Field.

    Before them come Install from Disk, for which Blender is allowed to go online, and opening the
    tab. The packages are not downloaded: torch's is a stand-in that shows the environment those of
    the tests' own Python. The scene is Blender's, with few and small views for a short training.
    """
    (zip_file,) = blender.profile.parent.glob("*.zip")
    fresh = dataclasses.replace(blender, profile=tmp_path / "profile")
    fresh.profile.mkdir()
    fresh.run("--command", "extension", "install-file", "-r", "user_default", "-e", zip_file)

    python = fresh.environment["NEURAL_FIELDS_PYTHON"]
    answer = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True)
    version, places = json.loads(answer.stdout)
    wheels, lock = tmp_path / "wheels", tmp_path / "requirements.lock"
    wheels.mkdir()
    lock.write_text(f"#\n# Python: {version}\n" + wheel(wheels, "other", "1.0"))
    (torch,) = re.findall(r"^torch==([\d.]+)", TORCH_LOCK.read_text("utf-8"), re.M)
    wheel(wheels, "torch", f"{torch}+cpu", **{"stand_in.pth": "\n".join(places) + "\n"})

    said, printed = fresh.play(
        SCRIPT,
        tmp_path,
        "--online-mode",
        lock=str(lock),
        wheels=str(wheels),
        path=str(pathlib.Path(python).parent),
    )
    print(f"{said['clicks']} clicks; {said['seconds']} s; {said['installed']}; {said['message']}")
    assert said["clicks"] == 3
    assert list(said["meshes"]) == ["untitled"], printed[-4000:]
    assert said["meshes"]["untitled"] > 100
    assert said["installed"].startswith("The backend is installed: CPU")
    assert fresh.profile in pathlib.Path(said["program"]).parents
    for name in ("fresh", "dialog", "installed", "mesh"):
        file = PICTURES / blender.version / f"first_mesh_{name}.png"
        assert file.stat().st_size > 10_000, name
