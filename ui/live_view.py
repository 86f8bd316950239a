"""The live view of a training in the 3D viewport: its field, its curve and its numbers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import blf
import bpy
import gpu
import numpy as np
import numpy.typing as npt
from bpy.app.translations import pgettext_iface as iface
from gpu_extras.batch import batch_for_shader
from mathutils import Matrix

from ..neural_backend.protocol import Progress, in_words
from ..operators import eye, live, train
from ..operators.live import Following, History, Picture
from .panels import SidebarPanel

Colour = tuple[float, ...]

PSNR, LOSS = (0.36, 0.68, 1.0, 1.0), (1.0, 0.62, 0.2, 1.0)
_TEXT, _FAINT = (0.95, 0.95, 0.95, 1.0), (1.0, 1.0, 1.0, 0.14)
_BOX = (0.06, 0.06, 0.06, 0.78)
_SIZE = (330.0, 190.0)
_SMALLEST = (480.0, 300.0)
"""Of a region in which there is room for the curve."""
_FONT, _LETTERS, _LINE = 0, 11.0, 16.0
_WIDTH = 1.6
_INSET = 12.0
_LEFT, _RIGHT, _LOW, _HIGH = 40.0, 52.0, 24.0, 44.0
"""Around the curve, within its box. All lengths are in pixels at a scale of 1."""

_handles: list[object] = []
_texture: tuple[Picture, Colour, gpu.types.GPUTexture] | None = None
_plot: tuple[History, tuple[float, ...], _Plot] | None = None
"""What was drawn the last time, and of what."""
_broken = False


# --- numbers


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers within [low, high], at most ``most`` of them."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [each * step for each in range(first, last + 1)]
    return []


def log_ticks(low: float, high: float) -> list[float]:
    """Logarithms within [low, high] of powers of ten, and of more round numbers where these are
    few; all to base 10."""
    found: list[float] = []
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        found = [power + math.log10(factor) for power in powers for factor in factors]
        found = [each for each in found if low - 1e-6 <= each <= high + 1e-6]
        if len(found) >= 2:
            break
    return found[:: math.ceil(len(found) / 4) or 1]


def limits(values: npt.NDArray[np.float64], least: float) -> tuple[float, float]:
    """Between which an axis shows values: all of them, but a few that are far out."""
    low, high = np.percentile(values, [0.5, 99.5])
    missing = max(least - (high - low), 0.0)
    return float(low - 0.05 * (high - low) - missing / 2), float(
        high + 0.05 * (high - low) + missing / 2
    )


# --- the field


def over(pixels: npt.NDArray[np.uint8], colour: Colour) -> npt.NDArray[np.float32]:
    """[H, W, 4] a picture with straight alpha over an opaque colour, the lowest row first."""
    flipped = pixels[::-1].astype(np.float32) / 255.0
    alpha = flipped[..., 3:]
    picture = np.ones_like(flipped)
    picture[..., :3] = flipped[..., :3] * alpha + (1.0 - alpha) * np.array(colour, np.float32)
    return picture


def _behind() -> Colour:
    """The viewport's own colour where nothing is."""
    gradients = bpy.context.preferences.themes[0].view_3d.space.gradients
    return tuple(gradients.high_gradient[:])


def _texture_for(picture: Picture) -> gpu.types.GPUTexture:
    global _texture
    behind = _behind()
    if _texture is None or _texture[0] is not picture or _texture[1] != behind:
        pixels = over(picture.pixels, behind)
        h, w = pixels.shape[:2]
        flat: Any = pixels.ravel()
        data = gpu.types.Buffer("FLOAT", pixels.size, flat)
        texture = gpu.types.GPUTexture((w, h), format="RGBA16F", data=data)
        _texture = picture, behind, texture
    return _texture[2]


@functools.cache
def _shader() -> gpu.types.GPUShader:
    """Draws a picture of display colours. The built-in ones take, in some versions and draw types
    only, a texture's colours for linear light."""
    between = gpu.types.GPUStageInterfaceInfo("neural_fields_live")
    between.smooth("VEC2", "place")
    info = gpu.types.GPUShaderCreateInfo()
    info.push_constant("MAT4", "ModelViewProjectionMatrix")
    info.push_constant("FLOAT", "opacity")
    # Blender sets it to whether what is drawn on takes linear light
    info.push_constant("BOOL", "srgbTarget")
    info.sampler(0, "FLOAT_2D", "picture")
    info.vertex_in(0, "VEC2", "pos")
    info.vertex_in(1, "VEC2", "texCoord")
    info.vertex_out(between)
    info.fragment_out(0, "VEC4", "colour")
    info.vertex_source(
        "void main() { place = texCoord;"
        " gl_Position = ModelViewProjectionMatrix * vec4(pos, 0.0, 1.0); }"
    )
    info.fragment_source(
        "void main() { vec3 shown = max(texture(picture, place).rgb, 0.0);"
        " vec3 bright = pow((shown + 0.055) / 1.055, vec3(2.4));"
        " if (srgbTarget) shown = mix(bright, shown / 12.92, step(shown, vec3(0.04045)));"
        " colour = vec4(shown, opacity); }"
    )
    return gpu.shader.create_from_info(info)


def _draw_picture(picture: Picture, rectangle: eye.Rectangle, opacity: float) -> None:
    left, bottom, width, height = rectangle
    right, top = left + width, bottom + height
    shader = _shader()
    corners = [(left, bottom), (right, bottom), (left, top), (right, top)]
    places = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    batch = batch_for_shader(shader, "TRI_STRIP", {"pos": corners, "texCoord": places})
    shader.bind()
    shader.uniform_sampler("picture", _texture_for(picture))
    shader.uniform_float("opacity", opacity)
    batch.draw(shader)


# --- the curve


@dataclasses.dataclass(frozen=True)
class _Words:
    """Words at x, y: from there on (align 0), around it (.5) or up to it (1)."""

    text: str
    x: float
    y: float
    colour: Colour = _TEXT
    align: float = 0.0

    def draw(self, scale: float) -> None:
        blf.size(_FONT, _LETTERS * scale)
        width = blf.dimensions(_FONT, self.text)[0] if self.align else 0.0
        blf.color(_FONT, *self.colour)
        blf.position(_FONT, round(self.x - self.align * width), round(self.y), 0.0)
        blf.draw(_FONT, self.text)


class _Plot:
    """The curve with its axes and numbers, as it is until the training has gone on."""

    def __init__(self, history: History, left: float, bottom: float, scale: float):
        self._scale = scale
        self._words: list[_Words] = []
        self._lines: list[tuple[gpu.types.GPUBatch, Colour, float]] = []
        width, height = _SIZE[0] * scale, _SIZE[1] * scale
        corners = [(left, bottom), (left + width, bottom)]
        corners += [(x, y + height) for x, y in corners]
        self._box = batch_for_shader(_filled(), "TRI_STRIP", {"pos": corners})
        self._x = left + _LEFT * scale, left + width - _RIGHT * scale
        self._y = bottom + _LOW * scale, bottom + height - _HIGH * scale
        self.note_at = left + width - _INSET * scale, bottom + height - _LINE * scale
        if history.last is not None:
            self._head(history.last, left + _INSET * scale)
            self._curves(history)

    def _head(self, last: Progress, left: float) -> None:
        right, top = self.note_at
        head = iface("Step {step}, {left} left").format(
            step=f"{last.step:,}", left=in_words(last.eta)
        )
        self._words.append(_Words(head, left, top))
        top -= _LINE * self._scale
        if last.psnr is not None:
            self._words.append(_Words(f"PSNR {last.psnr:.1f} dB", left, top, PSNR))
        loss = f"{iface('Loss')} {last.loss:.3g}"
        self._words.append(_Words(loss, right, top, LOSS, 1.0))

    def _curves(self, history: History) -> None:
        scale = self._scale
        psnr, loss = history.curve("psnr"), history.curve("loss")
        loss = loss[loss[:, 1] > 0.0]
        loss[:, 1] = np.log10(loss[:, 1])
        end = max([curve[-1, 0] for curve in (psnr, loss) if len(curve)], default=0.0)
        if end <= 0.0:
            return
        (x0, x1), (y0, y1) = self._x, self._y
        faint = [(x0, y1), (x0, y0), (x0, y0), (x1, y0), (x1, y0), (x1, y1)]
        below = y0 - 17.0 * scale
        self._words += [_Words("0", x0, below), _Words(in_words(end), x1, below, align=1.0)]
        drawn = []
        for curve, colour, least in ((loss, LOSS, 0.3), (psnr, PSNR, 1.0)):
            if not len(curve):
                continue
            low, high = limits(curve[:, 1], least)
            is_loss = curve is loss
            for tick in log_ticks(low, high) if is_loss else ticks(low, high):
                y = y0 + (y1 - y0) * (tick - low) / (high - low)
                if is_loss:
                    text, x, align = f"{10.0**tick:.3g}", x1 + 6.0 * scale, 0.0
                else:
                    text, x, align = f"{tick:g}", x0 - 6.0 * scale, 1.0
                    faint += [(x0, y), (x1, y)]
                self._words.append(_Words(text, x, y - 4.0 * scale, colour, align))
            points = np.zeros((len(curve), 3), np.float32)
            points[:, 0] = x0 + (x1 - x0) * curve[:, 0] / end
            points[:, 1] = y0 + (y1 - y0) * np.clip((curve[:, 1] - low) / (high - low), 0.0, 1.0)
            if len(points) == 1:
                points = points[[0, 0]]
                points[0, 0] -= 6.0 * scale
            drawn.append((self._batch(points.tolist(), "LINE_STRIP"), colour, _WIDTH))
        grid = self._batch([(*point, 0.0) for point in faint], "LINES")
        self._lines = [(grid, _FAINT, 1.0), *drawn]

    def _batch(self, points: Sequence[Sequence[float]], kind: Any) -> gpu.types.GPUBatch:
        return batch_for_shader(_polyline(), kind, {"pos": points})

    def draw(self, note: str) -> None:
        """Draw it, with a note in its corner."""
        shader = _filled()
        shader.bind()
        shader.uniform_float("color", _BOX)
        self._box.draw(shader)
        shader = _polyline()
        shader.bind()
        shader.uniform_float("viewportSize", gpu.state.viewport_get()[2:])
        for batch, colour, width in self._lines:
            shader.uniform_float("lineWidth", width * self._scale)
            shader.uniform_float("color", colour)
            batch.draw(shader)
        for words in self._words:
            words.draw(self._scale)
        if note:
            _Words(note, *self.note_at, align=1.0).draw(self._scale)


def _filled() -> gpu.types.GPUShader:
    return gpu.shader.from_builtin("UNIFORM_COLOR")


def _polyline() -> gpu.types.GPUShader:
    return gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")


def _plot_for(history: History, left: float, bottom: float, scale: float) -> _Plot:
    global _plot
    key = (history.version, left, bottom, scale)
    if _plot is None or _plot[0] is not history or _plot[1] != key:
        _plot = history, key, _Plot(history, left, bottom, scale)
    return _plot[2]


def _free_width(area: bpy.types.Area, region: bpy.types.Region) -> float:
    """Right end, pixels of the region, of what the sidebar leaves free."""
    right = float(region.width)
    for other in area.regions:
        begin = other.x - region.x
        if other.type == "UI" and other.width > 1 and region.width / 2 < begin < region.width:
            right = min(right, float(begin))
    return right


# --- all of it


def _shown(context: bpy.types.Context) -> Following | None:
    """The training that is to be seen in the region that is being drawn."""
    following = live.following()
    if following is None or _broken or context.region_data is None:
        return None
    known = following.field_from_world is not None
    return following if known and following.is_shown_in(context.scene) else None


def _rectangle(context: bpy.types.Context, following: Following) -> eye.Rectangle | None:
    """Where the picture that is there belongs in the region; None where it is of another eye."""
    region, picture = context.region, following.picture
    space: Any = context.space_data
    if picture is None:
        return None
    seen = eye.of_viewport(
        context.scene,
        space,
        context.region_data,
        (region.width, region.height),
        following.field_from_world,
    )
    return seen.rectangle if seen is not None and seen.sees_as(picture.eye) else None


def _draw_field(context: bpy.types.Context, following: Following) -> None:
    """In the scene's own turn, so that gizmos and words stay on top."""
    rectangle = _rectangle(context, following)
    if rectangle is None:
        return
    region, matrix = context.region, gpu.matrix
    to_clip = Matrix.Diagonal((2.0 / region.width, 2.0 / region.height, 1.0, 1.0))
    gpu.state.blend_set("ALPHA")
    gpu.state.depth_test_set("NONE")
    with matrix.push_pop(), matrix.push_pop_projection():
        matrix.load_matrix(Matrix.Identity(4))
        matrix.load_projection_matrix(Matrix.Translation((-1.0, -1.0, 0.0)) @ to_clip)
        opacity = context.scene.neural_fields.live_opacity
        _draw_picture(following.picture, rectangle, opacity)


def _draw_curve(context: bpy.types.Context, following: Following) -> None:
    region = context.region
    scale = context.preferences.system.ui_scale
    right = _free_width(context.area, region)
    room = right >= _SMALLEST[0] * scale and region.height >= _SMALLEST[1] * scale
    shown = context.scene.neural_fields.show_curve and following.is_seen_from(region)
    if not shown or not room:
        return
    note = "" if _rectangle(context, following) else iface("updating the view")
    left = right - (_SIZE[0] + _INSET) * scale
    gpu.state.blend_set("ALPHA")
    _plot_for(following.history, left, _INSET * scale, scale).draw(note)


def _draw(draw: str) -> None:
    global _broken
    following = _shown(bpy.context)
    if following is None:
        return
    try:
        _DRAWN[draw](bpy.context, following)
    except Exception as error:  # an error here would come back with every redraw
        print(f"Neural Fields: the live view is not drawn ({error!r})", flush=True)
        _broken = True
    finally:
        gpu.state.blend_set("NONE")


_DRAWN = {"POST_VIEW": _draw_field, "POST_PIXEL": _draw_curve}
"""What is drawn, by when."""


def rows(last: Progress) -> list[tuple[str, str]]:
    """A training's numbers with their names."""
    found = [(iface("Step"), f"{last.step:,}")]
    if last.psnr is not None:
        found.append(("PSNR", f"{last.psnr:.2f} dB"))
    if last.ssim is not None:
        found.append(("SSIM", f"{last.ssim:.3f}"))
    found.append((iface("Loss"), f"{last.loss:.3g}"))
    found.append((iface("Samples a Second"), train.short(last.samples_per_second)))
    found.append((iface("Time Left"), in_words(last.eta)))
    return found


class NEURAL_FIELDS_PT_live(SidebarPanel, bpy.types.Panel):
    bl_label = "Live View"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(context.scene.neural_fields, "show_live", text="")

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.neural_fields
        following = live.following()
        if following is not None and following.history.running and following.history.last:
            column = self.layout.column(align=True)
            for name, value in rows(following.history.last):
                split = column.split(factor=0.5)
                split.label(text=name, translate=False)
                split.label(text=value, translate=False)
        column = self._column()
        part = column.column()
        part.active = settings.show_live
        part.prop(settings, "live_opacity")
        part.prop(settings, "show_curve")
        column.operator("neural_fields.show_live", icon="IMAGE_DATA")


def register() -> None:
    global _broken
    _broken = False
    if bpy.app.background:
        return
    for draw in _DRAWN:
        handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (draw,), "WINDOW", draw)
        _handles.append(handle)


def unregister() -> None:
    global _texture, _plot
    for handle in _handles:
        bpy.types.SpaceView3D.draw_handler_remove(handle, "WINDOW")
    _handles.clear()
    _texture = _plot = None
    _shader.cache_clear()


CLASSES = (NEURAL_FIELDS_PT_live,)
