"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
import pathlib
import sys


def folder(name: str) -> pathlib.Path:
    """A folder in the user's cache, made if need be: the extension's own may be read-only.

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
    kept = cache / "neural_fields" / name
    kept.mkdir(parents=True, exist_ok=True)
    return kept
