"""The task ``sdf``: a signed distance field from a mesh."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from .. import kernels
from ..config import TrainingSettings
from ..dataset.transforms import field_from_bounds
from ..extraction import mesh_file
from ..fields.signed_distance import SignedDistanceField
from ..protocol import Event, Warning
from ..rendering import sphere_tracing
from ..sampling.surface import MeshDistance, SurfaceSampler, logistic
from . import optimiser
from .distributed import ALONE, Ranks
from .scores import Scores
from .task import Step, field_state, restore

_CPU_POOL, _GPU_POOL = 1 << 18, 1 << 20
_FRESH = 512  # samples of the pool that a step replaces
_NEAR = 30.0 / 1024.0  # largest scale of the noise, field units
_PREVIEW = 200  # pixels
_DECAY = 0.1  # of the learning rate over the budget


class Reference:
    """The mesh that a field is trained on or compared with, in the unit box.

    Attributes:
        field_from_world: [4, 4].
        vertices: [M, 3] in the unit box.
        faces: [K, 3], counter-clockwise seen from outside.
        distance: signed distance to them.
        warnings: what is doubtful about the mesh.
    """

    def __init__(self, path: pathlib.Path, field_from_world: npt.NDArray | None = None):
        mesh = mesh_file.read(path)
        if field_from_world is None:
            field_from_world = field_from_bounds(np.asarray(mesh.bounds))
        self.field_from_world = field_from_world
        world = np.asarray(mesh.vertices)
        self.vertices = world @ field_from_world[:3, :3].T + field_from_world[:3, 3]
        self.faces = np.asarray(mesh.faces, dtype=np.int64)
        self.distance = MeshDistance(self.vertices, self.faces)
        self.warnings: list[str] = []
        points = np.random.default_rng(0).random((1 << 14, 3))
        winding = self.distance.winding_number(points)
        inside, reversed_inside = (winding > 0.5).mean(), (winding < -0.5).mean()
        if reversed_inside > inside:
            self.warnings.append(f"{path}: its faces point inwards; they are turned around")
            self.faces = np.ascontiguousarray(self.faces[:, ::-1])
            self.distance = MeshDistance(self.vertices, self.faces)
            inside = reversed_inside
        if inside < 1e-4:
            self.warnings.append(
                f"{path}: its faces enclose hardly any space, so the field has hardly an inside"
            )


class SdfTask:
    """Learns the signed distance to a mesh; see ``task.Task``.

    A quarter of the samples lies on the surface, 3/8 near it, 3/8 anywhere in the unit box; the
    loss is the mean absolute percentage error, as in Müller et al. 2022, who sample the surface
    more and space less: that leaves more spurious surfaces in space. The distances of the two
    latter parts come from a pool, a little of which is replaced in each step.

    Args:
        settings: fitted ones.
        source: the mesh file.
        device: where the field trains.
        emit: gets warnings about the mesh.
        ranks: that train together.
    """

    views = 0

    def __init__(
        self,
        settings: TrainingSettings,
        source: pathlib.Path,
        device: torch.device,
        emit: Callable[[Event], None],
        ranks: Ranks = ALONE,
    ):
        reference = Reference(source)
        for message in reference.warnings:
            emit(Warning(message))
        self.field_from_world = reference.field_from_world
        self._distance = reference.distance
        self._settings = settings
        self._device = device
        self._ranks = ranks
        self.field = SignedDistanceField(settings, kernels.choose(device)).to(device)
        self._sampler = SurfaceSampler(reference.vertices, reference.faces, device)
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._host_generator = torch.Generator().manual_seed(settings.seed)
        self._rate, self._batch = settings.learning_rate, settings.batch
        pool = _CPU_POOL if device.type == "cpu" else _GPU_POOL
        self._pool, self._pool_distance = self._measure(pool)
        self._steps = 0
        self._optimiser = optimiser.Adam(self.field.parameters())

    def _measure(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[count, 3] points near the surface and, one in two, anywhere; [count] distances."""
        near = self._sampler(count - count // 2, self._generator).cpu()
        # at all scales: what is close teaches the surface, what is further off the sign
        scale = _NEAR * torch.rand(len(near), 1, generator=self._host_generator) ** 3
        near += scale * logistic(tuple(near.shape), self._host_generator)
        anywhere = torch.rand(count // 2, 3, generator=self._host_generator)
        points = torch.cat([near, anywhere])
        # in any order, so that each part of the pool has both
        points = points[torch.randperm(count, generator=self._host_generator)].clamp(0.0, 1.0)
        distance = torch.from_numpy(self._distance(points.numpy())).float()
        return points.to(self._device), distance.to(self._device)

    def _refresh(self) -> None:
        points, distance = self._measure(_FRESH)
        begin = self._steps * _FRESH % len(self._pool)
        self._pool[begin : begin + _FRESH] = points
        self._pool_distance[begin : begin + _FRESH] = distance
        self._steps += 1

    def step(self, progress: float) -> Step:
        self._refresh()
        on_surface = self._sampler(self._batch // 4, self._generator)
        choice = torch.randint(
            len(self._pool),
            (self._batch - len(on_surface),),
            generator=self._generator,
            device=self._device,
        )
        points = torch.cat([on_surface, self._pool[choice]])
        wanted = torch.cat([points.new_zeros(len(on_surface)), self._pool_distance[choice]])
        loss = ((self.field(points) - wanted).abs() / (wanted.abs() + 0.01)).mean()
        self._optimiser.zero_grad()
        loss.backward()
        self._ranks.average(self.field)
        self._optimiser.step(self._rate * _DECAY**progress)
        return Step(loss.detach(), len(points))

    def state(self) -> dict[str, torch.Tensor]:
        state = {f"field.{name}": value for name, value in self.field.state_dict().items()}
        state |= self._optimiser.state()
        state["training.generator"] = self._generator.get_state()
        state["training.host_generator"] = self._host_generator.get_state()
        state["training.steps"] = torch.tensor(self._steps)
        state["training.pool"] = self._pool
        state["training.pool_distance"] = self._pool_distance
        return state

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.field.load_state_dict(field_state(state))
        self._optimiser.load_state(state)
        pool, distance = state["training.pool"], state["training.pool_distance"]
        if pool.shape != (len(distance), 3) or len(pool) == 0 or len(pool) % _FRESH:
            raise ValueError("the pool of samples has another size")
        self._pool = pool.to(self._device, torch.float32, copy=True)
        self._pool_distance = distance.to(self._device, torch.float32, copy=True)
        self._steps = int(state["training.steps"])
        seed = self._settings.seed
        before = (seed, self._steps, self._ranks.rank)
        restore(self._generator, state["training.generator"], *before)
        restore(self._host_generator, state["training.host_generator"], *before)

    def validate(self) -> Scores:
        return Scores()

    def preview(self) -> npt.NDArray[np.uint8]:
        pixels = sphere_tracing.portrait(self.field, _PREVIEW, self._device)
        return np.round(255.0 * pixels).astype(np.uint8)


def load_field(
    settings: TrainingSettings, state: dict[str, torch.Tensor], device: torch.device
) -> SignedDistanceField:
    """A trained field, from a checkpoint's tensors.

    Raises:
        KeyError, ValueError, RuntimeError: when the state does not fit the settings.
    """
    field = SignedDistanceField(settings, kernels.choose(device))
    field.load_state_dict(field_state(state))
    return field.to(device).eval()
