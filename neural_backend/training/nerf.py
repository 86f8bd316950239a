"""A radiance field trained from images (Mildenhall et al. 2020, Müller et al. 2022)."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import protocol
from ..config import TrainingSettings
from ..dataset.colour import over_white
from ..dataset.images import Images, load_views, premultiplied
from ..dataset.transforms import INNER, Dataset, View
from ..fields.radiance import RadianceField
from ..kernels import Kernels, Samples, choose
from ..rendering import volume
from ..sampling.occupancy import (
    RESOLUTION,
    OccupancyGrid,
    box_cells,
    framed_cells,
    full_grid,
    visual_hull,
)
from ..sampling.pixels import Drawn, Pixels
from ..sampling.rays import Cameras
from . import memory, scores
from .distributed import ALONE, Ranks
from .optimiser import FieldOptimiser
from .scores import Scores
from .task import Step, field_state, part, reseed, restore

LAST_RATE = 0.3
"""The learning rate at the end, as a fraction of the first."""
WEIGHT_DECAY = 1e-6
RELATIVE_FLOOR = 1e-2
"""Added to the squared prediction that errors in linear light are divided by."""

PIXELS_A_STEP = 1.5
SHORTEST_STEP = math.sqrt(3.0) / 1024
LONGEST_STEP = math.sqrt(3.0) / 256
SAMPLES_A_PERIOD = 8
"""Samples in the shortest wave of Gaussian features, where they need no more."""

GRID_FROM = 128  # steps, before which the density says little
GRID_EVERY = 16
_FIRST_RAYS = 1024
_MOST_RAYS = 2**16
_VALIDATION_VIEWS = 8
_VALIDATION_PIXELS = 8192
_VALIDATION_WINDOWS = 128
_PREVIEW_SIDE = 200
_GRID = "field.grid."  # what the grid's tensors are called in a checkpoint


class Rays(NamedTuple):
    """Rays through pixels of the training views.

    Attributes:
        pixels: [R] which of all views' pixels.
        origins, directions: [R, 3].
        rgba: [R, 4] what the views show, premultiplied.
        background: [R, 3] to put behind it.
        weight: [R] see ``sampling.pixels.Drawn``.
    """

    pixels: Tensor
    origins: Tensor
    directions: Tensor
    rgba: Tensor
    background: Tensor
    weight: Tensor


class NerfTask:
    """See ``task.Task``.

    Args:
        settings: fitted ones.
        dataset: whose training views are learned; the validation views (else the test views) are
            only looked at.
        emit: gets a warning where something is doubtful.
        ranks: that train together.

    Raises:
        BadInput: there is no view to train on, or an image is at fault.
    """

    kind = RadianceField
    """Of field."""
    surroundings = True
    """Whether views without alpha show what lies around the bounds."""

    def __init__(
        self,
        settings: TrainingSettings,
        dataset: Dataset,
        device: torch.device,
        emit: Callable[[protocol.Event], None],
        ranks: Ranks = ALONE,
    ):
        if not dataset.split("train"):
            raise protocol.BadInput(f"{dataset.folder}: frames: none is for training; add views")
        if dataset.missing:
            emit(
                protocol.Warning(
                    f"{len(dataset.missing)} images that the json lists are missing, the first is "
                    f"{dataset.missing[0]}; training goes on without them"
                )
            )
        self._settings, self._emit = settings, emit
        self._device = device
        self._ranks = ranks
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reading = pool.submit(load_views, dataset, "train")
            self._kernels = choose(device)  # loading them takes as long as the images do
            self._images = reading.result()
        # without alpha they may show what lies far around
        around = self.surroundings and self._images.opaque
        self.field_from_world = (
            dataset.field_from_surroundings if around else dataset.field_from_world
        )
        self._cameras = Cameras(self._images.views, self.field_from_world, device)
        self.views = len(self._images.views)
        self._pixels = self._images.pixels.to(device)
        self._offsets = self._images.offsets.to(device)
        split = next((name for name in ("val", "test") if dataset.split(name)), None)
        self._held_out = load_views(dataset, split, _VALIDATION_VIEWS) if split else None

        self.field = self.kind(settings, self._kernels, self._images.linear).to(device)
        self._bounds = torch.from_numpy(
            dataset.bounds @ self.field_from_world[:3, :3].T + self.field_from_world[:3, 3]
        ).float()  # mps has no doubles
        self.grid = self._first_grid()
        possible = None if self.grid.contracted else self.grid.possible
        self._drawn = Pixels(self._cameras, possible)
        self._tell_doubts()
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._grid_generator = torch.Generator(device)
        self._rate, self._batch = settings.learning_rate, settings.batch
        self._error = relative_l2 if self._images.linear else l2
        self._rays = min(_FIRST_RAYS, self._batch)
        self._steps = 0
        self._optimiser = FieldOptimiser(self.field, self._kernels, WEIGHT_DECAY, ranks)

    def _tell_doubts(self) -> None:
        """Say what will keep the field from becoming anything.

        Raises:
            BadInput: the views show nothing at all.
        """
        if not self._images.opaque and not self._images.pixels[:, 3].any():
            raise protocol.BadInput(
                f"{self.views} training views: all of their pixels are transparent; render what "
                "the field shall show"
            )
        eyes = self._cameras.origins
        if float((eyes - eyes[0]).abs().max()) < SHORTEST_STEP:
            self._emit(
                protocol.Warning(
                    "all training views are from one place, which tells nothing of the depth; add "
                    "views from around"
                )
            )
        if self._drawn.blind:
            self._emit(
                protocol.Warning(
                    "no training view sees the scene's bounds; check where the cameras look"
                )
            )

    def _first_grid(self) -> OccupancyGrid:
        step = step_length(self._cameras, self._settings)
        if self._images.opaque:
            # without silhouettes there is much to look through, which must not take for ever
            size = RESOLUTION // 2 if self._device.type == "cpu" else RESOLUTION
            framed = framed_cells(self._images, self._cameras, size)
            return OccupancyGrid(framed, max(step, LONGEST_STEP / 2), reach(self._cameras))
        return OccupancyGrid(self._hull(), step)

    def _hull(self) -> Tensor:
        """[G, G, G] bool: the cells that no view shows to be empty, within the bounds."""
        hull = visual_hull(self._images, self._cameras, RESOLUTION)
        # behind transparent pixels there is nothing; opaque ones may show what lies far away
        within = hull & box_cells(*self._bounds.to(self._device), RESOLUTION)
        return within if within.any() else hull

    def step(self, progress: float) -> Step:
        """One optimiser step; where memory is full, with half as many samples from then on."""
        while True:
            try:
                return self._take_step(progress)
            except (MemoryError, RuntimeError) as error:
                where = memory.full(error)
                if not where or self._batch // 2 < memory.LEAST_BATCH:
                    raise
            if self._batch == self._settings.batch:
                too_many = f"{where} is full with {self._batch} samples a step"
                self._emit(protocol.Warning(f"{too_many}; training goes on with fewer"))
            self._batch, self._rays = self._batch // 2, max(self._rays // 2, 1)
            self._optimiser.forget()
            memory.release(self._device)

    def _take_step(self, progress: float) -> Step:
        """One optimiser step on rays through random pixels of all training views."""
        self._prepare(progress)
        drawn = self._drawn.draw(self._rays, self._generator)
        rays = self._rays_through(drawn)
        jitter = torch.rand(len(rays.pixels), generator=self._generator, device=self._device)
        along = rays.origins, rays.directions
        samples = volume.march(*along, self.grid, self._kernels, jitter)
        marched = len(samples)
        loss, error = self._loss_of(rays, samples)
        if not self._images.linear:  # whose noise would be drawn most
            self._drawn.note_errors(drawn.tile, error)
        self._learn(loss, progress)
        # not before the step is whole: one taken again counts once, on all ranks alike
        self._steps += 1
        # as many rays next time as would have filled the batch, without sudden jumps
        fitting = self._batch / max(marched, 1) * self._rays
        self._rays = int(min(max(fitting, self._rays / 2, 64), self._rays * 2, _MOST_RAYS))
        return Step((error * drawn.weight).mean(), marched)

    def _prepare(self, progress: float) -> None:
        """What comes before a step's rays."""
        if self._steps % GRID_EVERY == 0 and self._steps >= GRID_FROM:
            self.grid.update(self.field.density, self._batch, self._for_grid())

    def _for_grid(self) -> torch.Generator:
        """One for the grid alone, so that all ranks have the same."""
        reseed(self._grid_generator, self._settings.seed, self._steps)
        return self._grid_generator

    def _loss_of(self, rays: Rays, samples: Samples) -> tuple[Tensor, Tensor]:
        """[] the loss, and [R] how far the colours that the field shows are from the views'."""
        return self._colour_loss(*self.field.render(rays.origins, rays.directions, samples), rays)

    def _colour_loss(self, colour: Tensor, alpha: Tensor, rays: Rays) -> tuple[Tensor, Tensor]:
        """As ``_loss_of``, of premultiplied colours [R, 3] with alphas [R]."""
        shown = colour + (1.0 - alpha)[:, None] * rays.background
        target = rays.rgba[:, :3] + (1.0 - rays.rgba[:, 3:]) * rays.background
        error = self._error(shown, target)
        # between even, which forgets thin structures, and the whole gradient of the mean
        return (error * rays.weight.sqrt()).mean(), error.detach()

    def _learn(self, loss: Tensor, progress: float) -> None:
        """An optimiser step."""
        self._optimiser.learn(loss, self._rate * LAST_RATE**progress)

    def _rays_through(self, drawn: Drawn) -> Rays:
        """Rays through pixels, with what the views show there."""
        device, generator = self._device, self._generator
        view, row, column = drawn[:3]
        count = len(view)
        origins, directions = self._cameras.rays(view, column + 0.5, row + 0.5)
        pixel = self._offsets[view] + row * self._cameras.widths[view] + column
        rgba = premultiplied(self._pixels[pixel])
        if self._settings.background == "random":
            background = torch.rand(count, 3, generator=generator, device=device)
        else:
            white = self._settings.background == "white"
            background = torch.full((count, 3), float(white), device=device)
        return Rays(pixel, origins, directions, rgba, background, drawn.weight)

    def finish(self) -> None:
        self._optimiser.finish()

    def state(self) -> dict[str, Tensor]:
        """The field, its grid, and what a resumed run needs to go on as if never stopped."""
        state = self._optimiser.state()
        state |= {f"{_GRID}{name}": value for name, value in self.grid.state().items()}
        state |= {f"training.pixels.{name}": value for name, value in self._drawn.state().items()}
        state["training.generator"] = self._generator.get_state()
        state["training.counters"] = torch.tensor([self._steps, self._rays])
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up ``state()``.

        Raises:
            KeyError, ValueError, RuntimeError: when it does not fit.
        """
        self.grid.load_state(part(state, _GRID))
        self._optimiser.load_state(state)
        self._drawn.load_state(part(state, "training.pixels."))
        self._steps, self._rays = state["training.counters"].tolist()
        before = (state["training.generator"], self._settings.seed, self._steps)
        restore(self._generator, *before, self._ranks.rank)

    def validate(self) -> Scores:
        """Over always the same pixels and small windows of a few held-out views."""
        if self._held_out is None:
            return Scores()
        images = self._held_out
        cameras = Cameras(images.views, self.field_from_world, self._device)
        generator = torch.Generator().manual_seed(0)
        pixel = torch.randint(len(images.pixels), (_VALIDATION_PIXELS,), generator=generator)
        windows = _windows(images, _VALIDATION_WINDOWS, generator)
        pixel = torch.cat([pixel, windows.view(-1)])
        view = torch.searchsorted(images.offsets, pixel, right=True) - 1
        place = pixel - images.offsets[view]
        truth = images.on_white(images.pixels[pixel])
        view, place = view.to(self._device), place.to(self._device)
        width = cameras.widths[view]
        with self._optimiser.averaged():
            colour = volume.render_points(
                self.field,
                self.grid,
                cameras,
                view,
                place % width + 0.5,
                place // width + 0.5,
                self._kernels,
            )
        shown = over_white(colour).cpu()
        first, shape = _VALIDATION_PIXELS, (*windows.shape, 3)
        return Scores(
            scores.psnr(shown[:first], truth[:first]),
            scores.ssim(shown[first:].view(shape), truth[first:].view(shape)),
        )

    def picture(self, view: View) -> Tensor:
        """[H, W, 4] what a camera sees, see ``task.Task``."""
        with self._optimiser.averaged():
            return volume.render_image(
                self.field,
                self.grid,
                view.intrinsics,
                view.world_from_camera,
                self.field_from_world,
                self._kernels,
            )

    def preview(self) -> npt.NDArray[np.uint8]:
        """[H, W, 3] a held-out view (else the first training view) beside its truth, on white."""
        images = self._held_out or self._images
        view = images.views[0]
        intrinsics = volume.scaled(view.intrinsics, _PREVIEW_SIDE)
        rendered = self.picture(dataclasses.replace(view, intrinsics=intrinsics))
        truth = images.on_white(images.image(0))
        truth = torch.nn.functional.interpolate(
            truth.permute(2, 0, 1)[None], (intrinsics.h, intrinsics.w), mode="area"
        )[0].permute(1, 2, 0)
        both = torch.cat([over_white(rendered).cpu(), truth], 1)
        return (both.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def _windows(images: Images, count: int, generator: torch.Generator) -> Tensor:
    """[count, S, S] the pixels of windows at random places of the images, for ``scores.ssim``."""
    side = min(scores.WINDOW, *(min(view.intrinsics.w, view.intrinsics.h) for view in images.views))
    widths, heights = (
        torch.tensor([getattr(view.intrinsics, name) for view in images.views]) for name in "wh"
    )
    view = torch.arange(count) % len(images.views)
    across, down = torch.rand(2, count, generator=generator)
    column = (across * (widths[view] - side + 1)).long()
    row = (down * (heights[view] - side + 1)).long()
    corner = images.offsets[view] + row * widths[view] + column
    inner = torch.arange(side)
    return corner[:, None, None] + inner[:, None] * widths[view][:, None, None] + inner


def l2(predicted: Tensor, target: Tensor) -> Tensor:
    """[R] squared error of colours [R, 3], mean over the channels."""
    return (predicted - target).square().mean(1)


def relative_l2(predicted: Tensor, target: Tensor) -> Tensor:
    """[R] squared error relative to the square of what is predicted (Müller et al. 2021).

    As if the eye saw it, errors in dark parts count as much as in bright ones. The gradient does
    not go through the denominator, and the target is not in it: so the noise of a target, whose
    mean is right, pulls as much up as down, and averages out over the views (Lehtinen et al. 2018).

    Args:
        predicted, target: [R, 3] linear light.
    """
    scale = predicted.detach().square() + RELATIVE_FLOOR
    return ((predicted - target).square() / scale).mean(1)


def step_length(cameras: Cameras, settings: TrainingSettings) -> float:
    """Length of a sample, field units: about as fine as the views show the box's middle.

    Gaussian features hold nothing much finer than a wave of three deviations: with them it is
    longer where that suffices, and the same time is enough for more rays.
    """
    distance = (cameras.origins - 0.5).norm(dim=-1)
    pixel = float((distance / cameras.intrinsics[:, 0]).median())
    length = max(PIXELS_A_STEP * pixel, SHORTEST_STEP)
    if settings.encoding == "gaussian":
        length = max(length, 1.0 / (3.0 * settings.sigma * SAMPLES_A_PERIOD))
    return min(length, LONGEST_STEP)


def reach(cameras: Cameras) -> float:
    """How far most cameras see to the end of the inner region of contracted space, field units."""
    distance = (cameras.origins - 0.5).norm(dim=-1)
    return float(distance.median()) + 0.5 * math.sqrt(3.0) * INNER


def load_field(
    settings: TrainingSettings,
    state: dict[str, Tensor],
    device: torch.device,
    kind: type[RadianceField] = RadianceField,
) -> tuple[RadianceField, OccupancyGrid, Kernels]:
    """A trained field of a kind, with its occupancy grid, from a checkpoint's tensors.

    Raises:
        KeyError, ValueError, RuntimeError: when the state does not fit the settings.
    """
    kernels = choose(device)
    linear = bool(state["field.in_linear_light"])
    field = kind(settings, kernels, linear).to(device)
    grid = full_grid(len(state[f"{_GRID}density"]), SHORTEST_STEP, device)
    grid.load_state(part(state, _GRID))
    field.load_state_dict(field_state(state))
    return field.eval(), grid, kernels
