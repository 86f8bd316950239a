"""Fewer faces for the same surface."""

from __future__ import annotations

import fast_simplification
import numpy as np

from . import topology
from .topology import Faces, Points

_ATTEMPTS = 4
FEWEST = 4
"""Faces of a closed mesh."""


def decimated(vertices: Points, faces: Faces, count: int) -> tuple[Points, Faces]:
    """A mesh of at most ``count`` faces, or as few as it folds down to, by quadric error metrics.

    Garland and Heckbert 1997, "Surface simplification using quadric error metrics".
    """
    if len(faces) <= count:
        return vertices, faces
    target = count
    for _ in range(_ATTEMPTS):
        points, triangles = fast_simplification.simplify(
            vertices, faces.astype(np.int32), target_count=target
        )
        # thin parts may have collapsed onto themselves
        found = topology.manifold(points.astype(np.float64), triangles.astype(np.int64))
        over = len(found[1]) - count
        if over <= 0:
            break
        # what is taken apart has more faces again
        target -= over + over // 4
        if target < FEWEST:
            break
    return found
