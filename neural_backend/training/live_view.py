"""The live view: what the field in training looks like from where somebody looks at it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable

import torch

from .. import png, protocol
from ..dataset import transforms
from ..dataset.transforms import View
from ..rendering.volume import scaled
from . import memory
from .task import Task

EVERY = 1.0
"""Seconds between two views from the same place, where the machine is fast enough."""
SHARE = 0.1
"""Views take at most this share of the time while somebody looks."""
PRESENT = 5.0
"""Seconds after which nobody looks any more who has not said so again."""
SMALLEST, LARGEST = 96, 480
"""Pixels of the longer side."""

_LOOK = 0.1  # seconds between two looks for the eye
_FIRST = 192  # pixels
_ALMOST = 0.9  # of the time that a view may take, so that one that costs more than the last fits


class LiveView:
    """Renders the field from the run's ``eye.json`` while that is written or touched anew.

    Without it, or with one that nothing touches, there is no work. One that stands there from the
    start is an earlier run's until it is touched.

    Args:
        task: whose field it is.
        run: whose folder has the eye and gets the views.
        emit: gets an event for each view.
    """

    def __init__(self, task: Task, run: protocol.RunFolder, emit: Callable[[protocol.Event], None]):
        self._task, self._run, self._emit = task, run, emit
        self._mark = self._marked()
        self._view: View | None = None
        self._moved = False
        self._present_until = -math.inf
        self._look_at = -math.inf
        self._began = -math.inf
        self._free_at = -math.inf
        self._side = _FIRST
        self._seconds = 0.0

    def if_due(self, step: int) -> float:
        """Render a view if somebody looks and it is time for one; returns the seconds it took."""
        now = time.perf_counter()
        if now < self._look_at:
            return 0.0
        self._look_at = now + _LOOK
        self._look(now)
        if self._view is None or now >= self._present_until or now < self._free_at:
            return 0.0
        if not self._moved and now < self._began + EVERY:
            return 0.0
        self._began = now
        self._show(self._view, step)
        self._seconds = time.perf_counter() - now
        # the training has its share before the next one
        self._free_at = now + self._seconds / SHARE
        return self._seconds

    def seconds_within(self, wall: float) -> float:
        """How long views will take in all within the next ``wall`` seconds, if it stays so."""
        if time.perf_counter() >= self._present_until:
            return 0.0
        return wall * self._seconds / max(EVERY, self._seconds / SHARE)

    def _marked(self) -> tuple[int, int, int] | None:
        """What is another after each writing and touching of the eye; None where there is none."""
        try:
            status = os.stat(self._run.eye)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _look(self, now: float) -> None:
        mark = self._marked()
        # times of the disk are compared with each other only: its clock may not be ours
        if mark == self._mark:
            return
        self._mark = mark
        if mark is None:
            self._present_until = -math.inf
            return
        self._present_until = now + PRESENT
        # a damaged one changes nothing
        with contextlib.suppress(protocol.BadInput, ArithmeticError, ValueError):
            view = transforms.read(self._run.eye, images=False).views[0]
            self._moved |= self._view is None or view.file != self._view.file
            self._view = view

    def _show(self, view: View, step: int) -> None:
        began = time.perf_counter()
        self._moved = False
        smaller = dataclasses.replace(view, intrinsics=scaled(view.intrinsics, self._side))
        picture = self._picture(smaller)
        if picture is None:
            self._side = SMALLEST
            return
        pixels = (picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu().numpy()
        try:
            protocol.write_whole(
                self._run.live, lambda beside: beside.write_bytes(png.encode(pixels))
            )
        except OSError:
            return  # only a picture: the next checkpoint tells whether the folder can be written
        seconds = time.perf_counter() - began
        height, width = pixels.shape[:2]
        self._emit(protocol.Live(step, width, height, seconds, view.file))
        fitting = max(width, height) * math.sqrt(_ALMOST * SHARE * EVERY / max(seconds, 1e-6))
        self._side = min(max(round(fitting), SMALLEST), LARGEST)

    def _picture(self, view: View) -> torch.Tensor | None:
        """[H, W, 4] sRGB with straight alpha; None where memory is full."""
        try:
            return self._task.picture(view)
        except (MemoryError, RuntimeError) as error:
            if not memory.full(error):
                raise
        memory.release(next(self._task.field.parameters()).device)
        return None
