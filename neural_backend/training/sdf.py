"""The task ``sdf``: a signed distance field from a mesh."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from .. import kernels
from ..config import TrainingSettings
from ..dataset.colour import displayed
from ..dataset.transforms import View, field_from_bounds
from ..extraction import mesh_file
from ..fields.signed_distance import SignedDistanceField
from ..protocol import Event, Warning
from ..rendering import sphere_tracing
from ..sampling import solid
from ..sampling.surface import SurfaceSampler
from .distributed import ALONE, Ranks
from .optimiser import FieldOptimiser
from .scores import Scores
from .task import Step, field_state, restore

_CPU_POOL, _GPU_POOL = 1 << 17, 1 << 19
_ALL, _NEAR_PART, _FAR_PART = 4, 2, 1
"""Of so many samples, how many are near the surface and how many anywhere; the others are on it."""
_FAR_FROM = 0.2  # of the way from the surface to a point anywhere
_REFRESH_EVERY = 16  # steps; many points at once are looked up faster than a few
_REFRESHED = 32  # in so many rounds all of the pool is replaced
_NEAR = 0.04  # largest standard deviation of the noise, field units
_PREVIEW = 200  # pixels
_LAST_RATE = 0.03
"""The learning rate at the end, as a fraction of the first."""
_RELATIVE_FLOOR = 0.01
"""Field units, added to the distance that errors are divided by."""


class Reference:
    """The mesh that a field is trained on or compared with, in the unit box.

    Attributes:
        field_from_world: [4, 4].
        vertices: [M, 3] in the unit box.
        faces: [K, 3], counter-clockwise seen from outside.
        distance: signed distance to them.
        walls: whether there are faces that are no border of the inside.
        warnings: what is doubtful about the mesh.
    """

    def __init__(self, path: pathlib.Path, field_from_world: npt.NDArray | None = None):
        mesh = mesh_file.read(path)
        if field_from_world is None:
            field_from_world = field_from_bounds(np.asarray(mesh.bounds))
        self.field_from_world = field_from_world
        world = np.asarray(mesh.vertices)
        self.vertices = world @ field_from_world[:3, :3].T + field_from_world[:3, 3]
        found = solid.understood(self.vertices, np.asarray(mesh.faces, dtype=np.int64))
        self.faces, self.distance, self.walls = found.faces, found.distance, found.walls
        self.warnings = [f"{path}: {message}" for message in found.warnings]


class SdfTask:
    """Learns the signed distance to a mesh; see ``task.Task``.

    A quarter of the samples lies on the surface, half of them near it, a quarter anywhere in the
    unit box; the loss is the mean absolute percentage error, as in Müller et al. 2022, who sample
    space less: that leaves more spurious surfaces there. Those off the surface come from segments
    that end on it: any part of the way along one is a sample. They are kept in a pool, a part of
    which is replaced now and then.

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
        self._distance, self._walls = reference.distance, reference.walls
        self._settings = settings
        self._device = device
        self._ranks = ranks
        used = kernels.choose(device)
        self.field = SignedDistanceField(settings, used).to(device)
        self._sampler = SurfaceSampler(reference.vertices, reference.faces, device)
        self._on_mesh = not reference.walls and not reference.distance.thickness
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._host_generator = torch.Generator().manual_seed(settings.seed)
        self._rate, self._batch = settings.learning_rate, settings.batch
        self._pool_size = _CPU_POOL if device.type == "cpu" else _GPU_POOL
        self._pool = self._drawn(self._pool_size)
        self._steps = 0
        self._optimiser = FieldOptimiser(self.field, used, ranks=ranks)

    def _drawn(self, count: int) -> dict[str, torch.Tensor]:
        """Segments, as ``MeshDistance.segments`` has them, for a pool of ``count``: near the
        surface and anywhere; on the surface where that is not the whole mesh."""
        generator = self._host_generator
        near_count, far_count = count * _NEAR_PART // _ALL, count * _FAR_PART // _ALL
        near = self._sampler(near_count, self._generator).cpu()
        scale = _NEAR * torch.rand(near_count, 1, generator=generator)
        near += scale * torch.randn(near_count, 3, generator=generator)
        anywhere = torch.rand(far_count, 3, generator=generator)
        drawn = {
            "near": self._distance.segments(near.clamp(0.0, 1.0).numpy(), self._walls),
            "far": self._distance.segments(anywhere.numpy(), self._walls),
        }
        # near the surface there are enough others
        drawn["far"][:, 7] = drawn["far"][:, 7].clip(min=_FAR_FROM)
        if not self._on_mesh:
            points = self._sampler(count - near_count - far_count, self._generator).cpu()
            drawn["surface"] = self._distance.on_surface(points.double().numpy())
        return {name: torch.from_numpy(each).to(self._device) for name, each in drawn.items()}

    def _refresh(self) -> None:
        """Put new segments in the place of the oldest."""
        for name, new in self._drawn(self._pool_size // _REFRESHED).items():
            self._pool[name] = torch.cat([self._pool[name][len(new) :], new])

    def _samples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3] points and [N] signed distances: a batch."""
        generator, device = self._generator, self._device
        counts = {"near": self._batch * _NEAR_PART // _ALL, "far": self._batch * _FAR_PART // _ALL}
        counts["surface"] = self._batch - sum(counts.values())
        drawn = []
        for name, pool in self._pool.items():
            if len(pool):
                drawn.append(
                    pool[
                        torch.randint(
                            len(pool), (counts[name],), generator=generator, device=device
                        )
                    ]
                )
        segments = torch.cat(drawn)
        least = segments[:, 7]
        part = torch.rand(len(segments), generator=generator, device=device)
        # at all scales: what is close teaches the surface, what is further off the sign
        part = least + (1.0 - least) * part.square()
        points = segments[:, :3] + part[:, None] * segments[:, 3:6]
        distance = part * segments[:, 6]
        if self._on_mesh:
            points = torch.cat([points, self._sampler(counts["surface"], generator)])
            distance = torch.nn.functional.pad(distance, (0, counts["surface"]))
        return points, distance

    def step(self, progress: float) -> Step:
        if self._steps and self._steps % _REFRESH_EVERY == 0:
            self._refresh()
        self._steps += 1
        points, wanted = self._samples()
        error = (self.field(points) - wanted).abs() / (wanted.abs() + _RELATIVE_FLOOR)
        loss = error.mean()
        self._optimiser.learn(loss, self._rate * _LAST_RATE**progress)
        return Step(loss.detach(), len(points))

    def finish(self) -> None:
        self._optimiser.finish()

    def state(self) -> dict[str, torch.Tensor]:
        state = self._optimiser.state()
        state["training.generator"] = self._generator.get_state()
        state["training.host_generator"] = self._host_generator.get_state()
        state["training.steps"] = torch.tensor(self._steps)
        return state | {f"training.pool.{name}": each for name, each in self._pool.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._optimiser.load_state(state)
        for name in self._pool:
            pool = state[f"training.pool.{name}"]
            if pool.ndim != 2 or pool.shape[1] != self._pool[name].shape[1]:
                raise ValueError(f"the pool of samples {name} has another shape")
            self._pool[name] = pool.to(self._device, torch.float32, copy=True)
        self._steps = int(state["training.steps"])
        seed = self._settings.seed
        before = (seed, self._steps, self._ranks.rank)
        restore(self._generator, state["training.generator"], *before)
        restore(self._host_generator, state["training.host_generator"], *before)

    def validate(self) -> Scores:
        return Scores()

    def picture(self, view: View) -> torch.Tensor:
        with self._optimiser.averaged():
            rendered = sphere_tracing.render_image(
                self.field, view, self.field_from_world, self._device
            )
        return displayed(rendered, linear=False)

    def preview(self) -> npt.NDArray[np.uint8]:
        with self._optimiser.averaged():
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
