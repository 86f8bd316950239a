"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

_VERSIONS = 8


def folder(name: str, version: str = "") -> pathlib.Path:
    """A folder in the user's cache, made if need be: the extension's own may be read-only.

    Args:
        version: for which it has a folder of its own; only those used last are kept.

    Raises:
        OSError, RuntimeError: there can be none.
    """
    home = pathlib.Path.home()
    if sys.platform == "win32":
        cache = pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = home / "Library" / "Caches"
    else:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    kept = cache / "neural_fields" / name / version
    kept.mkdir(parents=True, exist_ok=True)
    if version:
        os.utime(kept)
        by_use = sorted(kept.parent.iterdir(), key=lambda each: each.stat().st_mtime)
        for old in by_use[:-_VERSIONS]:
            shutil.rmtree(old, ignore_errors=True)
    return kept
