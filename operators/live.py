"""Looking at a training: its events, its curve, and the field from where the person looks.

A timer reads what is new in the run's folder and tells the backend, in ``eye.json``, from where the
field is looked at. Nothing here waits for anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from ..neural_backend import png, protocol
from ..neural_backend.dataset import transforms
from ..neural_backend.protocol import RunFolder
from . import eye, live_image
from .eye import Eye

TICK = 0.1
"""Seconds between two looks."""

_SOON = 0.02  # seconds, while an old run's many events are being read
_PART = 1 << 14  # bytes of events in a look: some milliseconds' worth, a hundred events
_TOUCH_EVERY = 1.0  # seconds, less than half of what the backend takes for absence
_REDRAW_EVERY = 2.0  # seconds, for the curve alone: a viewport draws all of its scene anew
_CAMERA_SIDE = 480  # pixels, where only an image editor shows the view
_LARGER = 1.2  # the eye is told anew where its picture has grown so much
_REMEMBERED = 8  # eyes
_MOST = 2000  # points of the curve


@dataclasses.dataclass(frozen=True)
class Picture:
    """A live view.

    Attributes:
        pixels: [H, W, 4] sRGB and straight alpha, the upper row first.
        eye: that it is seen from.
        step: of the training.
    """

    pixels: npt.NDArray[np.uint8]
    eye: Eye
    step: int


class History:
    """A run's progress, all of it; of a long one every n-th event.

    Attributes:
        last: the newest progress.
        running: whether the run has started and not ended.
        version: another one after each change.
    """

    def __init__(self) -> None:
        self.last: protocol.Progress | None = None
        self.running = False
        self.version = 0
        self._points: list[protocol.Progress] = []
        self._every, self._passed = 1, 0

    def add(self, event: protocol.Event) -> None:
        if isinstance(event, protocol.Started):
            # what came after the checkpoint that it goes on from is no longer true
            self._points = [point for point in self._points if point.step <= event.step]
            if not self._points:
                self._every, self._passed, self.last = 1, 0, None
            self.running = True
        elif isinstance(event, protocol.Progress):
            self.last = event
            if self._passed % self._every == 0:
                self._points.append(event)
            self._passed += 1
            if len(self._points) > _MOST:
                self._points = self._points[::2]
                self._every *= 2
        elif isinstance(event, (protocol.Done, protocol.Error)):
            self.running = False
        else:
            return
        self.version += 1

    def curve(self, name: str) -> npt.NDArray[np.float64]:
        """[N, 2] seconds of training and a progress's value, where it was known; one that stays
        the same, as scores do from one validation to the next, where it was new."""
        rows: list[tuple[float, float]] = []
        for point in self._points:
            value = getattr(point, name)
            if value is not None and (not rows or value != rows[-1][1]):
                rows.append((point.seconds, value))
        return np.array(rows, dtype=np.float64).reshape(-1, 2)


class Following:
    """A run that is being looked at.

    Args:
        scene: the name of the one that its field belongs to; empty where that is not known.

    Attributes:
        history: its progress.
        picture: the newest live view.
        field_from_world: [4, 4] of the run; None before it is known.
    """

    def __init__(self, run: RunFolder, scene: str = ""):
        self.run = run
        self._scene = scene
        self.history = History()
        self.picture: Picture | None = None
        self.field_from_world: npt.NDArray[np.float64] | None = None
        self._reader = protocol.EventReader(run.events)
        self._token = uuid.uuid4().hex[:8]
        self._names = 0
        self._told: dict[str, Eye] = {}
        self._asked: Eye | None = None
        self._before: dict[int, Eye] = {}
        self._followed = 0
        self._touch_at = 0.0
        self._drawn, self._draw_at = 0, 0.0

    def is_shown_in(self, scene: bpy.types.Scene) -> bool:
        """Whether viewports that show a scene show the field too."""
        ours = self._scene in ("", scene.name)
        return ours and self.history.running and bool(scene.neural_fields.show_live)

    def is_seen_from(self, region: bpy.types.Region) -> bool:
        """Whether it is a viewport's region that the backend renders for."""
        return self._followed == region.as_pointer()

    def look(self) -> float:
        """Look once; returns the seconds until it should look again."""
        events = self._reader.poll(_PART)
        shown = None
        for event in events:
            self.history.add(event)
            if isinstance(event, protocol.Started):
                self.field_from_world = _field_from_world(self.run)
            elif isinstance(event, protocol.Live) and event.eye in self._told:
                shown = event
        if shown is not None:
            self._load(shown)
        if self.history.running and self.field_from_world is not None:
            self._tell(self.field_from_world)
            live_image.refresh()
        now = time.monotonic()
        if shown is not None or (self.history.version != self._drawn and now >= self._draw_at):
            self._drawn, self._draw_at = self.history.version, now + _REDRAW_EVERY
            _redraw(self.is_shown_in)
        return _SOON if len(events) > 50 else TICK

    def end(self) -> None:
        """Tell the backend that nobody looks any more."""
        with contextlib.suppress(OSError):
            self.run.eye.unlink(missing_ok=True)
        _redraw()

    def _load(self, event: protocol.Live) -> None:
        try:
            pixels = png.decode(self.run.live.read_bytes())
        except (OSError, ValueError):
            return  # the next one comes soon
        # else it is the next one's already
        if pixels.shape[:2] == (event.height, event.width):
            self.picture = Picture(pixels, self._told[event.eye], event.step)
            live_image.changed(self.run.live)

    def _tell(self, field_from_world: npt.NDArray[np.float64]) -> None:
        """Have the field shown from where somebody looks, once that has come to rest."""
        seen, rests = self._seen(field_from_world)
        if seen is None:
            return
        now = time.monotonic()
        asked = self._asked
        grown = asked is not None and max(seen.size) > _LARGER * max(asked.size)
        try:
            if rests and (asked is None or grown or not seen.sees_as(asked)):
                self._ask(seen)
            elif now >= self._touch_at:
                os.utime(self.run.eye)
            else:
                return
        except OSError:  # the file is gone, or the whole folder: it is tried again
            self._asked = None
        self._touch_at = now + _TOUCH_EVERY

    def _ask(self, seen: Eye) -> None:
        self._names += 1
        name = f"{self._token}-{self._names}"
        self._told[name] = self._asked = seen
        for old in list(self._told)[:-_REMEMBERED]:
            del self._told[old]
        transforms.write_cameras(self.run.eye, (seen.view(name),))

    def _seen(self, field_from_world: npt.NDArray[np.float64]) -> tuple[Eye | None, bool]:
        """From where the person looks, and whether it was so the last time.

        Of several viewports it is the one that has moved last.
        """
        eyes: dict[int, Eye] = {}
        in_image = live_image.shown()
        for window, area, region, data in _viewports():
            if not (in_image or self.is_shown_in(window.scene)):
                continue
            size = region.width, region.height
            space: Any = area.spaces.active
            found = eye.of_viewport(window.scene, space, data, size, field_from_world)
            if found is not None:
                eyes[region.as_pointer()] = found
        if not eyes and in_image:
            depsgraph = bpy.context.evaluated_depsgraph_get()
            found = eye.of_camera(depsgraph, _CAMERA_SIDE, field_from_world)
            if found is not None:
                eyes[0] = found
        before, self._before = self._before, eyes
        moved = [
            key for key, each in eyes.items() if key not in before or not each.sees_as(before[key])
        ]
        if moved:
            self._followed = max(moved, key=lambda key: eyes[key].size)
        elif self._followed not in eyes and eyes:
            self._followed = max(eyes, key=lambda key: eyes[key].size)
        return eyes.get(self._followed), self._followed not in moved


def _field_from_world(run: RunFolder) -> npt.NDArray[np.float64] | None:
    try:
        content = json.loads(run.config.read_text(encoding="utf-8"))
        matrix = np.array(content["field_from_world"], dtype=np.float64)
        np.linalg.inv(matrix)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return matrix if matrix.shape == (4, 4) else None


def _viewports() -> Iterator[
    tuple[bpy.types.Window, bpy.types.Area, bpy.types.Region, bpy.types.RegionView3D]
]:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type != "VIEW_3D":
                continue
            space: Any = area.spaces.active
            for region in area.regions:
                data = region.data if space.region_quadviews else space.region_3d
                if region.type == "WINDOW" and data is not None:
                    yield window, area, region, data


def _redraw(shown_in: Callable[[bpy.types.Scene], bool] = lambda _: True) -> None:
    for window, area, _, _ in _viewports():
        if shown_in(window.scene):
            area.tag_redraw()


_following: Following | None = None


def following() -> Following | None:
    """The run that is being looked at."""
    return _following


def follow(run: RunFolder, scene: str = "") -> None:
    """Look at a training, until ``stop``; instead of at another one.

    Args:
        scene: the name of the one that the field belongs to; empty where that is not known.
    """
    global _following
    stop()
    _following = Following(run, scene)
    if not bpy.app.background:  # where nothing is to be seen
        bpy.app.timers.register(_look, first_interval=TICK, persistent=True)


def stop() -> None:
    """Look at no training any more."""
    global _following
    if bpy.app.timers.is_registered(_look):
        bpy.app.timers.unregister(_look)
    if _following is not None:
        _following.end()
    _following = None


def _look() -> float | None:
    if _following is None:
        return None
    try:
        return _following.look()
    except Exception:  # a timer that raises is not called again
        traceback.print_exc()
        return 10.0 * TICK
