"""A signed distance field."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TrainingSettings
from ..kernels import Kernels
from .encodings import make_encoding
from .mlp import MLP

_RADIUS = 0.25


class SignedDistanceField(torch.nn.Module):
    """Signed distance over the unit box, negative inside.

    The network learns the difference to a sphere in the box's middle, so that the field starts as
    what a distance is like: positive far away, with gradients of about length 1.
    """

    def __init__(self, settings: TrainingSettings, kernels: Kernels):
        super().__init__()
        generator = torch.Generator().manual_seed(settings.seed)
        self.encoding = make_encoding(settings, kernels, generator)
        self.network = MLP(
            self.encoding.features,
            1,
            settings.hidden_layers,
            settings.width,
            settings.activation,
            generator,
            30.0 if settings.encoding == "none" else torch.pi,
        )
        # what the weights were trained on: those of another sphere do not fit
        self.register_buffer("smoothing", torch.tensor(_RADIUS))
        with torch.no_grad():
            self.network.weights[-1] *= 0.01
            self.network.biases[-1].zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[N] signed distance in field units, at [N, 3]; outside the unit box it stays positive
        as long as the box's border is."""
        offset = x - 0.5
        # smoothed: what curves in the middle must be unlearned there, and shows as noise
        sphere = (
            torch.sqrt((offset * offset).sum(-1) + self.smoothing.square()) - 2.0**0.5 * _RADIUS
        )
        return sphere + self.network(self.encoding(x))[:, 0]
