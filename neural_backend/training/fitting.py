"""What follows from the device and the time: everything that the settings leave open."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch

from ..config import PRESET_SECONDS, FieldKind, TrainingSettings

FITTED = (
    "max_seconds",
    "learning_rate",
    "batch",
    "levels",
    "log2_table_size",
    "coarsest",
    "finest",
    "frequencies",
    "sigma",
    "hidden_layers",
    "width",
)
"""The settings for which 0 means: what fits."""


class _Hash(NamedTuple):
    levels: int
    log2_table_size: int
    finest: int
    batch: int
    hidden_layers: int
    width: int
    learning_rate: float
    coarsest: int = 16


class _Fourier(NamedTuple):
    batch: int
    hidden_layers: int
    width: int
    learning_rate: float


# A row is for budgets up to its seconds. A larger table takes longer to learn and leaves the
# cache, so it pays only with minutes. The networks and rates are those of Müller et al. 2022 and
# Tancik et al. 2020, but for the latter's on CPUs, where a smaller network sees more of the views
# in the same time, and its rate for sdf. There a smaller network and rate are as good in fewer
# seconds, and coarser cells carry the distance through space between the few samples there.
_ALWAYS = math.inf
# What views show in more pixels needs finer cells: a row's finest level is for so many pixels.
_PIXELS = 400
_COARSEST_FINEST, _FINEST = 512, 2048
_HASH: dict[tuple[str, FieldKind], tuple[tuple[float, _Hash], ...]] = {
    ("cpu", "nerf"): (
        (45.0, _Hash(12, 16, 1024, 2**16, 1, 64, 2e-2)),
        (150.0, _Hash(12, 17, 1024, 2**16, 1, 64, 2e-2)),
        (600.0, _Hash(12, 18, 1024, 2**16, 1, 64, 2e-2)),
        (_ALWAYS, _Hash(12, 19, 1024, 2**16, 1, 64, 2e-2)),
    ),
    ("cpu", "neus"): ((_ALWAYS, _Hash(12, 16, 1024, 2**15, 1, 64, 1e-2)),),
    ("cpu", "sdf"): (
        (30.0, _Hash(12, 17, 1024, 2**13, 1, 64, 5e-3, 8)),
        (120.0, _Hash(12, 18, 1024, 2**13, 1, 64, 5e-3, 8)),
        (_ALWAYS, _Hash(12, 19, 1024, 2**13, 1, 64, 5e-3, 8)),
    ),
    ("gpu", "nerf"): (
        (120.0, _Hash(16, 19, 1024, 2**18, 1, 64, 2e-2)),
        (_ALWAYS, _Hash(16, 20, 2048, 2**18, 1, 64, 2e-2)),
    ),
    ("gpu", "neus"): ((_ALWAYS, _Hash(16, 19, 1024, 2**18, 1, 64, 1e-2)),),
    ("gpu", "sdf"): ((_ALWAYS, _Hash(16, 19, 1024, 2**18, 2, 64, 1e-2)),),
}
_FOURIER: dict[tuple[str, FieldKind], tuple[tuple[float, _Fourier], ...]] = {
    ("cpu", "nerf"): ((_ALWAYS, _Fourier(2**13, 3, 128, 5e-3)),),
    ("cpu", "neus"): ((_ALWAYS, _Fourier(2**13, 3, 128, 2e-3)),),
    ("cpu", "sdf"): ((_ALWAYS, _Fourier(2**11, 4, 256, 1e-3)),),
    ("gpu", "nerf"): ((_ALWAYS, _Fourier(2**18, 4, 256, 5e-4)),),
    ("gpu", "neus"): ((_ALWAYS, _Fourier(2**18, 4, 256, 5e-4)),),
    ("gpu", "sdf"): ((_ALWAYS, _Fourier(2**18, 4, 256, 1e-3)),),
}
# cycles along the unit box; a distance is much smoother than a radiance
_FREQUENCIES: dict[str, dict[tuple[str, FieldKind], dict[str, float]]] = {
    "gaussian": {
        ("cpu", "nerf"): {"frequencies": 128, "sigma": 6.05},
        ("gpu", "nerf"): {"frequencies": 256, "sigma": 6.05},
        ("cpu", "neus"): {"frequencies": 128, "sigma": 3.0},
        ("gpu", "neus"): {"frequencies": 256, "sigma": 3.0},
        ("cpu", "sdf"): {"frequencies": 256, "sigma": 1.0},
        ("gpu", "sdf"): {"frequencies": 256, "sigma": 1.0},
    },
    "positional": {
        ("cpu", "nerf"): {"frequencies": 10},
        ("gpu", "nerf"): {"frequencies": 10},
        ("cpu", "neus"): {"frequencies": 6},
        ("gpu", "neus"): {"frequencies": 6},
        ("cpu", "sdf"): {"frequencies": 4},
        ("gpu", "sdf"): {"frequencies": 4},
    },
}


def fit(settings: TrainingSettings, device: torch.device, pixels: int = 0) -> TrainingSettings:
    """The settings with what suits the device, the time and the views wherever they say 0.

    What is given stays; what the encoding does not use stays too.

    Args:
        pixels: along the longer side of the views; 0 where there are none.
    """
    seconds = settings.max_seconds or PRESET_SECONDS[device.type][settings.preset]
    kind = "cpu" if device.type == "cpu" else "gpu"
    fitting: dict[str, Any] = {"max_seconds": seconds}
    rows = _HASH if settings.encoding == "hash" else _FOURIER
    fitting |= next(row for most, row in rows[kind, settings.field] if seconds <= most)._asdict()
    fitting |= _FREQUENCIES.get(settings.encoding, {}).get((kind, settings.field), {})
    if pixels and "finest" in fitting:
        finest = round(fitting["finest"] * pixels / _PIXELS)
        fitting["finest"] = min(max(finest, _COARSEST_FINEST), _FINEST)
    wanted = {name: value for name, value in fitting.items() if not getattr(settings, name)}
    return dataclasses.replace(settings, **wanted)
