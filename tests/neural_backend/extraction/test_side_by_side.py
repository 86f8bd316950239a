"""Pictures beside one another: where each stands, and how large it is."""

import numpy as np

from neural_backend.extraction.side_by_side import Panel, sheet


def flat(height, width, color):
    return np.tile(np.array(color, float), (height, width, 1))


def test_panels_stand_in_rows_under_their_captions():
    chequer = np.indices((4, 4)).sum(0)[..., None] % 2 * np.ones(3)
    rows = [
        [Panel("one", flat(300, 400, (1.0, 0.5, 2.0))), Panel("two", flat(300, 400, (0, 0, 0)))],
        [Panel("three", chequer)],
    ]
    pixels = sheet(rows)
    orange = (pixels == [255, 128, 255]).all(-1)
    top, left = np.argwhere(orange)[0]
    assert orange.sum() == 300 * 400
    assert orange[top : top + 300, left : left + 400].all()
    black = (pixels == 0).all(-1)
    assert black[top : top + 300, left + 408 : left + 808].all()
    # small ones are magnified, each pixel 64 times
    assert black[top + 300 :].sum() == 8 * 64 * 64
    captions = pixels[:top]
    assert (captions.max(-1) > 150).any(0)[left : left + 400].any()
    assert (captions.max(-1) > 150).any(0)[left + 408 :].any()


def test_large_pictures_are_reduced():
    pixels = sheet([[Panel("wide", flat(100, 4096, (1.0, 0.0, 0.0)))]])
    red = (pixels == [255, 0, 0]).all(-1)
    assert red.sum() == 25 * 1024
    assert pixels.shape[1] == 1024 + 16
