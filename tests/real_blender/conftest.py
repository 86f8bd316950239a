"""The real Blenders: found on the PATH, with the extension's zip built and installed in each."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest
from blender_process import PICTURES, ROOT, SHADERS, Blender

VERSIONS = ("4.3", "5.2")


@pytest.fixture(scope="session", params=VERSIONS)
def blender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blender:
    """A real Blender in which the zip was built, validated and installed by the command line."""
    program = shutil.which(f"blender-{request.param}")
    if program is None:
        pytest.skip(f"no blender-{request.param} on the PATH")
    # of an earlier time
    shutil.rmtree(PICTURES / request.param, ignore_errors=True)
    folder = tmp_path_factory.mktemp(f"blender-{request.param}")
    found = Blender(program, request.param, folder / "profile")
    found.profile.mkdir()
    (SHADERS / found.version).mkdir(parents=True, exist_ok=True)
    build = found.run(
        *("--command", "extension", "build", "--source-dir", ROOT, "--output-dir", folder)
    )
    (zip_file,) = folder.glob("*.zip")
    validated = found.run("--command", "extension", "validate", zip_file)
    for output in (build.stdout, validated.stdout):
        # a Blender in a container complains of the container's file systems
        lines = [line for line in output.lower().splitlines() if "file-systems" not in line]
        assert not any("warning" in line for line in lines), output
    found.run("--command", "extension", "install-file", "-r", "user_default", "-e", zip_file)
    return found


@pytest.fixture(scope="session")
def data() -> pathlib.Path:
    """The folder of scenes made by others, where this machine has it."""
    folder = pathlib.Path(os.environ.get("NEURAL_FIELDS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data: {folder} does not exist (set NEURAL_FIELDS_DATA)")
    return folder.resolve()
