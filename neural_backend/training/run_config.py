"""A run's ``config.json``: what was trained, on what, and where that stands in the world."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import config, protocol
from ..config import TrainingSettings
from ..protocol import BadInput, RunFolder, first_line

VERSION = 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run's ``config.json``.

    Attributes:
        source: what it was trained on, an absolute path.
        field_from_world: [4, 4].
        display: the dataset's.
    """

    source: pathlib.Path
    settings: TrainingSettings
    field_from_world: npt.NDArray[np.float64]
    display: dict[str, Any] | None = None


def write_config(run: RunFolder, content: RunConfig) -> None:
    """Write ``config.json``.

    Raises:
        OSError: it cannot be written.
    """
    values = {
        "version": VERSION,
        "source": str(content.source),
        "settings": dataclasses.asdict(content.settings),
        "field_from_world": content.field_from_world.tolist(),
        "display": content.display,
    }
    protocol.write_json(run.config, values)


def read_config(run: RunFolder) -> RunConfig:
    """Read ``config.json``.

    Raises:
        BadInput: it is absent, damaged or of another version.
    """
    path = run.config
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{run.path}: not a run (it has no config.json); train first") from None
    except (OSError, ValueError, RecursionError) as error:
        detail = first_line(error)
        raise BadInput(f"{path}: cannot be read ({detail}); train again") from None
    if not isinstance(values, dict) or values.get("version") != VERSION:
        version = values.get("version") if isinstance(values, dict) else None
        raise BadInput(
            f"{path}: version: {_short(version)}, this program reads {VERSION}; train again, or "
            "use the version of Neural Fields that made it"
        )
    source, settings = values.get("source"), values.get("settings")
    if not isinstance(source, str) or "\0" in source:
        raise BadInput(f"{path}: source: {_short(source)} is not a path; train again")
    if not isinstance(settings, dict):
        raise BadInput(f"{path}: settings: not an object; train again")
    try:
        checked = config.from_dict(TrainingSettings, settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"{path}: settings: {first_line(error)}; train again") from None
    matrix = _similarity(values.get("field_from_world"))
    if matrix is None:
        raise BadInput(f"{path}: field_from_world: not a 4x4 scale and shift; train again")
    display = values.get("display")
    return RunConfig(
        pathlib.Path(source), checked, matrix, display if isinstance(display, dict) else None
    )


def _similarity(value: Any) -> npt.NDArray[np.float64] | None:
    """[4, 4] the matrix if it is a uniform scale and a shift, else None."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or matrix[0, 0] <= 0.0:
        return None
    wanted = np.eye(4)
    wanted[:3, :3] *= matrix[0, 0]
    wanted[:3, 3] = matrix[:3, 3]
    return matrix if np.allclose(matrix, wanted, rtol=1e-6, atol=0.0) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
