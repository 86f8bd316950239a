"""Stands in for every Python of an installation: the base, the environment's own, pip, the doctor.

Made executable under some name. What it is called with goes to ``FAKE_PYTHON_CALLS``, a json line
each; ``FAKE_PYTHON`` names the fault. An "environment" is a folder with a copy of it.
"""

import json
import os
import pathlib
import shutil
import sys
import time

FAULT = os.environ.get("FAKE_PYTHON", "")


def main() -> int:
    assert sys.argv[1] == "-m"
    module, arguments = sys.argv[2], sys.argv[3:]
    with open(os.environ["FAKE_PYTHON_CALLS"], "a", encoding="utf-8") as file:
        file.write(json.dumps([module, *arguments]) + "\n")
    if module == "neural_backend":
        return doctor()
    if arguments == ["about"]:
        return about()
    assert arguments[0] == "run"
    return {"venv": venv, "pip": pip}[arguments[1]](arguments[2:])


def about() -> int:
    version = "3.9.1" if FAULT == "old python" else "3.11.7"
    known = {"version": version, "wide": True, "free_threaded": False, "venv": True}
    print(json.dumps(known | {"ensurepip": FAULT != "no ensurepip", "pip": True}))
    return 0


def venv(arguments: list[str]) -> int:
    if FAULT == "no venv":
        print("Error: cannot make it", file=sys.stderr)
        return 1
    folder = pathlib.Path(arguments[-1])
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    shutil.copy(__file__, folder / "bin" / "python")
    return 0


def pip(arguments: list[str]) -> int:
    if "install" not in arguments or "--python" in arguments:
        return 0
    packages = pathlib.Path(__file__).parent.parent / "lib" / "python3.11" / "site-packages"
    torch = any("torch" in each for each in arguments)
    if FAULT == "no network" and torch:
        print(
            "WARNING: Retrying after connection broken by 'NameResolutionError(host='pypi.example'"
        )
        print("ERROR: No matching distribution found for torch==2.13.0")
        return 1
    if FAULT == "disk full" and torch:
        print("ERROR: Could not install packages due to an OSError: [Errno 28] No space left")
        return 1
    if FAULT == "killed" and torch:
        os.kill(os.getpid(), 9)
    name = "torch" if torch else "numpy"
    print(f"Collecting {name}==1.0", flush=True)
    print(f"  Downloading {name}-1.0-py3-none-any.whl (100.0 MB)")
    for done in (25_000_000, 50_000_000, 100_000_000):
        print(f"Progress {done} of 100000000", flush=True)
        time.sleep(0.02)
    # real pip does not read its standard input: the leash of neural_backend.environment does
    if FAULT == "slow" and torch:
        sys.stdin.read()
        return 1
    print(f"Installing collected packages: {name}", flush=True)
    (packages / name).mkdir(exist_ok=True)
    code = packages / name / "__init__.py"
    code.unlink(missing_ok=True)  # as pip does: it replaces files, it changes none
    code.write_text(os.environ.get("FAKE_CONTENT", "first"))
    (packages / f"{name}-1.0.dist-info").mkdir(exist_ok=True)
    cache = pathlib.Path(os.environ["PIP_CACHE_DIR"])
    cache.mkdir(exist_ok=True)
    (cache / f"{name}.whl").write_text("a wheel")
    print(f"Successfully installed {name}-1.0")
    return 0


def doctor() -> int:
    if FAULT == "bad torch":
        print("torch does not work (no libgomp); reinstall torch", file=sys.stderr)
        return 2
    packages = {"torch": "1.0", "numpy": "1.0"}
    print(json.dumps({"ok": True, "python": "3.11.7", "packages": packages, "device": "cpu"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
