"""The choice of kernels, which must never fail where the reference would do."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

from neural_backend import kernels
from neural_backend.kernels import cpu, cpu_loops

CPU = torch.device("cpu")
ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def fresh():
    kernels._choose.cache_clear()
    yield
    kernels._choose.cache_clear()


def test_the_fast_ones_are_chosen_and_compiled_once() -> None:
    assert kernels.choose(CPU).name == "cpu"
    assert kernels.why_not_fast(CPU) == ""
    loops = {name: each for name, each in vars(cpu_loops).items() if hasattr(each, "signatures")}
    for name in ("encode", "encode_backward", "adam", "march", "composite_backward"):
        assert len(loops[name].signatures) == 1, name


@pytest.mark.usefixtures("fresh")
def test_wrong_results_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu_loops.composite_backward

    def wrong(*arrays) -> None:
        right(*arrays)
        arrays[-2][0] += 1.0

    monkeypatch.setattr(cpu_loops, "composite_backward", wrong)
    assert kernels.choose(CPU).name == "reference"
    assert "density's gradient" in kernels.why_not_fast(CPU)


@pytest.mark.usefixtures("fresh")
def test_what_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments) -> None:
        raise RuntimeError("no locator available\nfor a file")

    monkeypatch.setattr(cpu.CpuKernels, "__init__", fail)
    assert kernels.choose(CPU).name == "reference"
    assert "no locator available" in kernels.why_not_fast(CPU)


def test_compiled_loops_are_kept_in_the_users_cache(tmp_path: pathlib.Path) -> None:
    """In a folder for each version of them; where it cannot be made, numba chooses."""
    code = "from neural_backend.kernels import cpu_loops\nprint(cpu_loops.numba.config.CACHE_DIR)"
    (tmp_path / "file").touch()
    for cache, kept in ((tmp_path, "numba"), (tmp_path / "file", "")):
        places = {"XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache), "HOME": str(cache)}
        given = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=given | places,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        folder = pathlib.PurePath(done.stdout.strip())
        assert folder.parent.name == kept
        assert len(folder.name) == (16 if kept else 0)


def test_what_one_installation_has_compiled_another_need_not(tmp_path: pathlib.Path) -> None:
    """The first are the sources here; another one's loops are the same, elsewhere and younger."""
    kernels.choose(CPU)
    code = """
import torch
from neural_backend.kernels import choose, cpu_loops
choose(torch.device("cpu"))
found = [each.stats for each in vars(cpu_loops).values() if hasattr(each, "stats")]
print(cpu_loops.__file__)
print(sum(sum(each.cache_hits.values()) for each in found))
print(sum(sum(each.cache_misses.values()) for each in found))
"""
    shutil.copytree(ROOT / "neural_backend", tmp_path / "neural_backend", copy_function=shutil.copy)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    file, hits, misses = done.stdout.split()
    assert pathlib.Path(file).is_relative_to(tmp_path)
    assert int(hits) > 3
    assert misses == "0"


def test_torch_keeps_its_threads() -> None:
    """Numba, which may share OpenMP with it, has as many as the processor has cores."""
    code = "import torch\nfrom neural_backend import kernels\nkernels.choose(torch.device('cpu'))\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print(torch.get_num_threads())"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"
