"""Fewer faces for the same surface."""

from __future__ import annotations

import fast_simplification
import numpy as np

from . import topology
from .topology import Faces, Points


def decimated(vertices: Points, faces: Faces, count: int) -> tuple[Points, Faces]:
    """A mesh of at most about ``count`` faces, by quadric error metrics.

    Garland and Heckbert 1997, "Surface simplification using quadric error metrics".
    """
    if len(faces) <= count:
        return vertices, faces
    points, triangles = fast_simplification.simplify(
        vertices, faces.astype(np.int32), target_count=count
    )
    # thin parts may have collapsed onto themselves
    return topology.manifold(points.astype(np.float64), triangles.astype(np.int64))
