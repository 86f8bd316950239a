"""A signed distance field with colour: a surface that is looked for in images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import TrainingSettings
from ..kernels import Kernels, Network, Samples
from .encodings import HashEncoding
from .radiance import RadianceField

FIRST_SHARPNESS = 50.0
"""Per field unit: light first stops within about a tenth of the unit box."""

_SHARPNESS_RATE = 10.0  # a step changes the logarithm by so many learning rates


class SurfaceRadianceField(RadianceField):
    """Signed distance, negative inside, and colour over the unit box (NeuS, Wang et al. 2021).

    The network is that of a radiance field, except that its first output is a distance. Light
    that meets the surface straight on is let through by ``sigmoid(sharpness * distance)``.
    """

    # a bfloat16 has 8 bits: a distance needs more
    half_trunk = False

    def __init__(self, settings: TrainingSettings, kernels: Kernels, linear: bool = False):
        super().__init__(settings, kernels, linear)
        start = math.log(FIRST_SHARPNESS) / _SHARPNESS_RATE
        self.log_sharpness = torch.nn.Parameter(torch.tensor(start))
        # a checkpoint tells how far training had opened the field
        self.register_buffer("directed", torch.tensor(1.0))
        self.register_buffer("opened", torch.tensor(settings.levels))

    def open(self, levels: int, directed: float) -> None:
        """How far training has come, which the field follows from now on.

        Args:
            levels: only so many of the hash grid's, from the coarsest on, have features.
            directed: how much of the direction of view the colour gets, 0 to 1. Without any, only
                a surface at the right place has one colour for all views.
        """
        self.opened.fill_(levels)
        self.directed.fill_(directed)
        if isinstance(self.encoding, HashEncoding):
            self.encoding.open(levels)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """See ``RadianceField``; opens the field as far as it was."""
        result = super().load_state_dict(state_dict, *args, **options)
        self.open(int(self.opened), float(self.directed))
        return result

    def _harmonics(self, d: Tensor) -> Tensor:
        return self.directed * super()._harmonics(d)

    @property
    def sharpness(self) -> Tensor:
        """[] how steeply light stops at the surface, per field unit."""
        return torch.exp(_SHARPNESS_RATE * self.log_sharpness)

    def distance_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N] signed distance in field units and [N, G] geometry features, from [N, F] features."""
        out = self.trunk(features)
        return out[:, 0], out[:, 1:]

    def distance(self, x: Tensor) -> Tensor:
        """[N] signed distance in field units at [N, 3] in the unit box."""
        return self._kernels.distance(self, x)

    def density_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The density at which light that goes straight towards the surface stops as it should."""
        distance, geometry = self.distance_of(features)
        return self.sharpness * torch.sigmoid(-self.sharpness * distance), geometry

    def network(self) -> None:
        """No kernel evaluates the density as a whole: surfaces are rendered without one."""
        return None

    def surface_network(self) -> Network | None:
        """See ``kernels.interface.Surface``; without what closed levels would contribute."""
        network = super().network()
        if network is None or not isinstance(self.encoding, HashEncoding):
            return None
        grid = self.encoding.opened
        (weight, bias), *others = network.density
        first = weight[:, : grid.levels * network.table.shape[1]]
        return dataclasses.replace(network, grid=grid, density=[(first, bias), *others])

    def render(
        self, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor]:
        """[R, 3] premultiplied colour and [R] alpha of rays; see ``Kernels.render_surface``."""
        return self._kernels.render_surface(self, origins, directions, samples)[:2]
