"""The doctor, also in a Python that has nothing."""

import json
import pathlib
import subprocess
import sys

import pytest

from neural_backend import doctor

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_this_python_can_train(capsys):
    assert doctor.run(as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["device"] in ("cpu", "cuda", "mps")
    assert report["kernels"]
    assert "gloo" in report["torchrun"]
    assert set(report["packages"]) == set((doctor.NEEDED | doctor.WANTED).values())
    assert "warning" not in report
    assert doctor.run(as_json=False) == 0
    assert "torch" in capsys.readouterr().out


def test_an_old_python_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    report = doctor.examine()
    assert report["ok"] is False
    assert "3.11" in report["fix"]


def bare(*arguments):
    """A Python without any library: no site-packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", BARE, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


BARE = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv[0] = "neural_backend"
runpy.run_module("neural_backend", run_name="__main__", alter_sys=True)
"""


def test_without_any_library_the_doctor_names_the_fix():
    done = bare("doctor", "--json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert "torch" in report["problem"]
    assert "pip install" in report["fix"]
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["train", "x", "--run", "y"], ["--help"]])
def test_without_any_library_the_others_name_the_fix_too(command):
    done = bare(*command)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pip install" in done.stderr


def test_without_torch_training_names_the_fix(tmp_path):
    script = "import sys; sys.modules['torch'] = None; from neural_backend import command_line; "
    script += "sys.exit(command_line.run(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "train", "x", "--run", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "torch" in done.stderr
    assert "pip install" in done.stderr


def test_without_numba_training_works_with_a_warning(monkeypatch):
    from neural_backend import kernels

    found = doctor._found
    monkeypatch.setattr(doctor, "_found", lambda module: module != "numba" and found(module))
    monkeypatch.setattr(kernels, "why_not_fast", lambda device: "no module")
    report = doctor.examine()
    assert report["ok"] is True
    assert "numba" in report["warning"]
    assert "pip install numba" in report["warning"]
    assert "numba" not in report["packages"]


def test_a_device_that_fails_is_no_traceback(monkeypatch):
    from neural_backend import devices

    def fail(device):
        raise RuntimeError("no driver\nsecond line")

    monkeypatch.setattr(devices, "name", fail)
    report = doctor.examine()
    assert report["ok"] is False
    assert "no driver" in report["problem"]
    assert "second" not in report["problem"]
