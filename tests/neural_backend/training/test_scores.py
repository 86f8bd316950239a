"""PSNR by hand, SSIM as scikit-image has it."""

import pytest
import torch
from skimage.metrics import structural_similarity

from neural_backend.training import scores


def pictures(*shape):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(*shape, generator=generator, dtype=torch.float64)
    truth[:, : shape[1] // 2] = 1.0  # much of a picture is plain background
    noise = 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (truth + noise).clamp(0.0, 1.0), truth


def test_psnr_by_hand():
    truth = torch.zeros(4, 3)
    assert scores.psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-4)
    assert scores.psnr(truth, truth) == pytest.approx(100.0)


@pytest.mark.parametrize("shape", [(2, 20, 31, 3), (1, 7, 7, 3), (3, 4, 9, 1)])
def test_ssim_is_scikit_image_s(shape):
    mine, truth = pictures(*shape)
    size = min(7, (min(shape[1:3]) - 1) // 2 * 2 + 1)
    expected = [
        structural_similarity(a, b, win_size=size, channel_axis=2, data_range=1.0)
        for a, b in zip(truth.numpy(), mine.numpy(), strict=True)
    ]
    assert scores.ssim(mine, truth) == pytest.approx(sum(expected) / len(expected), abs=1e-9)
    assert scores.ssim(mine.float(), truth.float()) == pytest.approx(
        sum(expected) / len(expected), abs=1e-4
    )
    assert scores.ssim(truth, truth) == pytest.approx(1.0)


def test_a_picture_without_structure_has_no_ssim():
    assert scores.ssim(torch.zeros(1, 2, 9, 3), torch.zeros(1, 2, 9, 3)) is None
