"""A peer: nerfacc's occupancy grid and renderer around networks of tiny-cuda-nn.

The sizes and rates are those of nerfacc's own instant-ngp example; nothing of its code is here. It
needs an NVIDIA GPU, and nerfacc and tinycudann compiled for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import nerfacc
import numpy as np
import tinycudann
import torch
from torch import Tensor

from neural_backend.dataset.images import load_views
from neural_backend.dataset.transforms import Dataset, View
from neural_backend.fields.radiance import truncated_exp
from neural_backend.sampling.rays import Cameras

_STEP_OF_BOX = 5e-3 / 3.0
_SAMPLES = 2**18
_FIRST_RAYS = 1024
_RENDERED_RAYS = 8192
_FIRST_RATE_STEPS = 100
_HASH = {
    "otype": "HashGrid",
    "n_levels": 16,
    "n_features_per_level": 2,
    "log2_hashmap_size": 19,
    "base_resolution": 16,
    "per_level_scale": 1.4473,
}


def _mlp(hidden_layers: int, output: str) -> dict[str, object]:
    return {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": output,
        "n_neurons": 64,
        "n_hidden_layers": hidden_layers,
    }


class NerfaccPeer:
    """Trains on a dataset's training views over white, in world space."""

    def __init__(self, dataset: Dataset, device: torch.device, seed: int):
        torch.manual_seed(seed)
        self._device = device
        self._images = images = load_views(dataset, "train")
        self._cameras = Cameras(images.views, np.eye(4), device)
        self._pixels, self._starts = images.pixels.to(device), images.offsets.to(device)
        self._geometry = tinycudann.NetworkWithInputEncoding(3, 16, _HASH, _mlp(1, "None"))
        harmonics = {"otype": "SphericalHarmonics", "degree": 4}
        self._harmonics = tinycudann.Encoding(3, harmonics)
        self._colour = tinycudann.Network(16 + 15, 3, _mlp(2, "Sigmoid"))
        self._box = torch.from_numpy(dataset.bounds).float().to(device)
        self._grid = nerfacc.OccGridEstimator(self._box.view(6), resolution=128).to(device)
        parameters = [*self._geometry.parameters(), *self._colour.parameters()]
        self._optimiser = torch.optim.Adam(parameters, 1e-2, eps=1e-15, weight_decay=1e-6)
        self._scaler = torch.amp.GradScaler("cuda", 2.0**10)
        self._step_length = _STEP_OF_BOX * float((self._box[1] - self._box[0]).max())
        self._rays, self._steps = _FIRST_RAYS, 0

    def step(self, spent: float) -> int:
        """One optimiser step; the rate falls to a third at 1/2, 3/4 and 9/10 of the time."""
        self._grid.train()
        self._grid.update_every_n_steps(
            self._steps, lambda x: self._density(x)[0][:, None] * self._step_length, occ_thre=1e-2
        )
        pixel = torch.randint(len(self._pixels), (self._rays,), device=self._device)
        view = torch.searchsorted(self._starts, pixel, right=True) - 1
        place = pixel - self._starts[view]
        width = self._cameras.widths[view]
        rays = self._cameras.rays(view, place % width + 0.5, place // width + 0.5)
        truth = self._images.on_white(self._pixels[pixel])
        colour, samples = self._render(*rays, stratified=True)
        self._steps += 1
        if samples == 0:
            return 0
        self._rays = max(int(self._rays * _SAMPLES / samples), 1)
        loss = torch.nn.functional.smooth_l1_loss(colour, truth)
        rate = 1e-2 * min(1.0, self._steps / _FIRST_RATE_STEPS)
        rate *= 0.33 ** sum(spent > milestone for milestone in (0.5, 0.75, 0.9))
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad()
        # half-precision gradients need it, and Adam does not see it
        self._scaler.scale(loss).backward()
        self._optimiser.step()
        return samples

    @torch.no_grad()
    def colours(self, views: Sequence[View], view: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """[R, 3] what the views with the indices [R] show at x, y [R], over white."""
        self._grid.eval()
        cameras = Cameras(views, np.eye(4), self._device)
        points = [each.to(self._device).split(_RENDERED_RAYS) for each in (view, x, y)]
        rendered = [self._render(*cameras.rays(*part))[0] for part in zip(*points, strict=True)]
        return torch.cat(rendered).cpu()

    def _density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = (x - self._box[0]) / (self._box[1] - self._box[0])
        inside = ((x > 0.0) & (x < 1.0)).all(-1)
        out = self._geometry(x).float()
        return truncated_exp(out[:, 0] - 1.0) * inside, out[:, 1:]

    def _render(
        self, origins: Tensor, directions: Tensor, stratified: bool = False
    ) -> tuple[Tensor, int]:
        """[R, 3] colour over white, and the number of samples."""

        def positions(starts: Tensor, ends: Tensor, ray: Tensor) -> Tensor:
            return origins[ray] + directions[ray] * (starts + ends)[:, None] / 2.0

        def density(starts: Tensor, ends: Tensor, ray: Tensor) -> Tensor:
            return self._density(positions(starts, ends, ray))[0]

        def colour_and_density(starts: Tensor, ends: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
            value, geometry = self._density(positions(starts, ends, ray))
            # tiny-cuda-nn takes directions in [0, 1]
            seen = self._harmonics(0.5 * directions[ray] + 0.5)
            return self._colour(torch.cat([seen, geometry], -1)).float(), value

        ray, starts, ends = self._grid.sampling(
            origins,
            directions,
            sigma_fn=density,
            render_step_size=self._step_length,
            stratified=stratified,
        )
        white = torch.ones(3, device=self._device)
        colour, _, _, _ = nerfacc.rendering(
            starts,
            ends,
            ray,
            n_rays=len(origins),
            rgb_sigma_fn=colour_and_density,
            render_bkgd=white,
        )
        return colour, len(ray)
