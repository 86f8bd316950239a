"""A radiance field: density and colour in space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import TrainingSettings
from ..kernels import Kernels, Network, Samples
from ..kernels.interface import COLOUR_RANGE
from .encodings import SPHERICAL_HARMONICS, HashEncoding, make_encoding, spherical_harmonics
from .mlp import MLP

_LARGEST_EXPONENT = 15.0


class _TruncatedExp(torch.autograd.Function):
    """exp, whose gradient is clamped (Müller et al. 2022): one large value must not end a run."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # past this the value is opaque at any step length, and infinity would give NaN
        return torch.exp(x.clamp(max=2.0 * _LARGEST_EXPONENT))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT))


def truncated_exp(x: Tensor) -> Tensor:
    """exp(x) with a gradient of at most exp(15)."""
    return _TruncatedExp.apply(x)


class _Emitted(torch.autograd.Function):
    """A colour, whose gradient leads no farther out and always back."""

    @staticmethod
    def forward(ctx, x: Tensor, linear: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.linear = linear
        return torch.exp(x.clamp(max=2.0 * _LARGEST_EXPONENT)) if linear else torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        bound = _LARGEST_EXPONENT if ctx.linear else COLOUR_RANGE
        outward = ((x < -bound) & (grad > 0.0)) | ((x > bound) & (grad < 0.0))
        inside = x.clamp(-bound, bound)
        if ctx.linear:
            slope = torch.exp(inside)
        else:
            value = torch.sigmoid(inside)
            slope = value * (1.0 - value)
        return (grad * slope).masked_fill(outward, 0.0), None


def emitted(x: Tensor, linear: bool) -> Tensor:
    """A colour of a network's output: sRGB through a sigmoid, or linear light through ``exp``.

    Outside of +-``COLOUR_RANGE`` (linear light: +-15) a gradient that leads farther out is 0, and
    one that leads back is as large as at that bound.
    """
    return _Emitted.apply(x, linear)


class RadianceField(torch.nn.Module):
    """Density and colour over the unit box.

    With the hash encoding this is the network of Müller et al. 2022 (density 1x64 to 16 features,
    colour 2x64); with the others one trunk, 4x256, as in Tancik et al. 2020, and for the
    direction of view a small head. ``hidden_layers`` and ``width`` are those of the part that
    takes the encoding.

    Args:
        settings: fitted ones (``training.fitting``), like every field's.
        linear: whether the colour is linear light, which has no upper bound; else it is sRGB.
    """

    half_trunk = True
    """Whether the trunk may be multiplied in bfloat16."""

    def __init__(self, settings: TrainingSettings, kernels: Kernels, linear: bool = False):
        super().__init__()
        self.linear = linear
        # a checkpoint tells what its colours are
        self.register_buffer("in_linear_light", torch.tensor(linear))
        generator = torch.Generator().manual_seed(settings.seed)
        self._kernels = kernels
        self.view_direction = settings.view_direction
        self.encoding = make_encoding(settings, kernels, generator)
        hashed = settings.encoding == "hash"
        self._rectified = settings.activation == "relu"
        frequency = 30.0 if settings.encoding == "none" else torch.pi
        # without a colour network the trunk's own three features are the colour
        self.geometry = 15 if hashed else 32 if self.view_direction else 3
        self.trunk = MLP(
            self.encoding.features,
            1 + self.geometry,
            settings.hidden_layers,
            settings.width,
            settings.activation,
            generator,
            frequency,
            half=self.half_trunk,
        )
        self.colour: MLP | None = None
        if hashed or self.view_direction:
            inputs = self.geometry + (SPHERICAL_HARMONICS if self.view_direction else 0)
            layers = 2 if hashed else 1
            self.colour = MLP(
                inputs, 3, layers, 64, settings.activation, generator, torch.pi, half=True
            )

    def encode(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """[N, F] features at [N, 3] in the unit box; see ``make_encoding`` for ``known``."""
        return self.encoding(x, known)

    def density_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N] density per field unit and [N, G] geometry features, from [N, F] features."""
        out = self.trunk(features)
        return truncated_exp(out[:, 0]), out[:, 1:]

    def density(self, x: Tensor) -> Tensor:
        """[N] density per field unit at [N, 3] in the unit box; no gradient."""
        return self._kernels.density(self, x)

    def radiance(self, geometry: Tensor, d: Tensor, ray: Tensor | None = None) -> Tensor:
        """[N, 3] colour: sRGB, 0 to 1; or linear light, from 0 on.

        Args:
            geometry: [N, G] features.
            d: [N, 3] unit directions; or [R, 3] where ``ray`` [N] tells each sample's.
        """
        if self.colour is None:
            return self._emitted(geometry)
        if self.view_direction:
            harmonics = self._harmonics(d)
            if ray is not None:
                harmonics = harmonics.index_select(0, ray)
            geometry = torch.cat([geometry, harmonics], -1)
        return self._emitted(self.colour(geometry))

    def _emitted(self, x: Tensor) -> Tensor:
        """The last activation, which gives the colour its range."""
        return emitted(x, self.linear)

    def _harmonics(self, d: Tensor) -> Tensor:
        """[R, H] what the colour takes of directions [R, 3]."""
        return spherical_harmonics(d) if self.view_direction else d[:, :0]

    def render(
        self, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor]:
        """[R, 3] premultiplied colour and [R] alpha of rays; see ``Kernels.render``."""
        return self._kernels.render(self, origins, directions, samples)

    def network(self) -> Network | None:
        """See ``kernels.interface.Radiance``."""
        encoding = self.encoding
        if not isinstance(encoding, HashEncoding) or self.colour is None or not self._rectified:
            return None
        return Network(
            encoding.table,
            encoding.grid,
            encoding.gradient,
            self.trunk.layers(),
            self.colour.layers(),
            self._harmonics,
            self.linear,
        )

    def forward(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """[N] density per field unit and [N, 3] colour, as ``radiance`` has it, seen along ``d``.

        Args:
            x: [N, 3] in the unit box.
            d: [N, 3] unit directions, from the camera into the scene.
        """
        density, geometry = self.density_of(self.encode(x))
        return density, self.radiance(geometry, d)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """See ``torch.nn.Module``.

        Raises:
            KeyError, ValueError: besides, where the weights' colours are of the other kind.
        """
        if bool(state_dict["in_linear_light"]) != self.linear:
            kinds = ("linear light", "sRGB")
            one, other = kinds if self.linear else reversed(kinds)
            raise ValueError(f"the images are {one}, its colours {other}")
        return super().load_state_dict(state_dict, *args, **options)
