import numpy as np
import pytest
import torch

from neural_backend.dataset.images import Images
from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.sampling import occupancy
from neural_backend.sampling.occupancy import OccupancyGrid, full_grid, visual_hull
from neural_backend.sampling.rays import Cameras, undistort

CPU = torch.device("cpu")
STEP = 0.01


def looking(axis, distance=3.0, centre=0.5):
    """A camera on the positive side of an axis that looks at the unit box's middle."""
    z = np.eye(3)[axis]
    x = np.eye(3)[(axis + 1) % 3]
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
    pose[:3, 3] = centre + distance * z
    return pose


def ball_images(size=256, radius=0.2, frame=1.0):
    """Silhouettes of a ball in the box's middle, along the three axes."""
    focal = 1.1 * size * frame
    intrinsics = Intrinsics(size, size, focal, focal, size / 2, size / 2)
    views = [View("", looking(axis), intrinsics) for axis in range(3)]
    centre = (np.arange(size) + 0.5 - size / 2) / focal
    x, y = np.meshgrid(centre, centre)
    # the ray passes the middle at this distance
    miss = 3.0 * np.sqrt((x * x + y * y) / (1 + x * x + y * y))
    image = np.zeros((size, size, 4), np.uint8)
    image[miss < radius] = 255
    pixels = torch.from_numpy(np.stack([image] * 3).reshape(-1, 4))
    offsets = torch.arange(4) * size * size
    return Images(tuple(views), pixels, offsets)


def cells(size):
    line = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)


def test_the_hull_holds_the_ball_and_little_more():
    images = ball_images()
    hull = visual_hull(images, Cameras(images.views, np.eye(4), CPU), 64)
    distance = (cells(64) - 0.5).norm(dim=-1)
    # every cell that the ball can touch
    assert hull[distance < 0.2 + 0.5 * 3**0.5 / 64].all()
    # three crossing cylinders and a border of some cells
    assert float(hull.sum()) < 2.2 * float((distance < 0.2).sum())


def test_cells_that_no_view_frames_are_impossible():
    images = ball_images(radius=0.03, frame=6.0)
    opaque = Images(images.views, torch.full_like(images.pixels, 255), images.offsets)
    cameras = Cameras(images.views, np.eye(4), CPU)
    # each frame reaches to 0.23 from the axis that it looks along
    for each, beside in ((images, False), (opaque, True)):
        hull = visual_hull(each, cameras, 64)
        assert not hull[0, 0, 0]
        assert not hull[63, 63, 63]
        assert hull[32, 32, 32]
        assert bool(hull[32, 32, 42]) == beside
        # only the camera along z frames it, behind the ball
        assert hull[32, 32, 0]


def test_without_alpha_everything_framed_is_possible():
    images = ball_images(frame=0.5)
    opaque = Images(images.views, torch.full_like(images.pixels, 255), images.offsets)
    assert visual_hull(opaque, Cameras(images.views, np.eye(4), CPU), 8).all()


def test_of_contracted_space_what_is_framed_is_possible():
    intrinsics = Intrinsics(100, 100, 100.0, 100.0, 50.0, 50.0)
    views = (View("", looking(2, distance=0.4), intrinsics),)
    white = Images(
        views, torch.full((10_000, 4), 255, dtype=torch.uint8), torch.tensor([0, 10_000])
    )
    framed = occupancy.framed_cells(white, Cameras(views, np.eye(4), CPU), 128)
    assert framed.shape == (128, 128, 128)
    assert framed[64, 64, :90].all()  # ahead, to the end of the world
    assert framed[64, 64, 125:].all()  # a cell of the last layer ends everywhere
    assert not framed[64, 64, 112:120].any()  # behind the camera, which stands at 0.84
    # the view widens by half as much to each side as it is deep
    assert framed[85, 64, 40]
    assert not framed[112, 64, 40]
    assert 0.2 < float(framed.float().mean()) < 0.75


def test_empty_images_do_not_empty_the_grid():
    images = ball_images()
    blank = Images(images.views, torch.zeros_like(images.pixels), images.offsets)
    assert visual_hull(blank, Cameras(images.views, np.eye(4), CPU), 8).all()


def test_a_camera_in_the_box_sees_what_is_before_it():
    images = ball_images()
    inside = View("", looking(2, distance=0.0), images.views[0].intrinsics)
    for value, ahead in ((0, False), (255, True)):
        pixels = torch.full((256 * 256, 4), value, dtype=torch.uint8)
        one = Images((inside,), pixels, torch.tensor([0, 256 * 256]))
        hull = visual_hull(one, Cameras(one.views, np.eye(4), CPU), 16)
        assert bool(hull[8, 8, 1]) == ahead
        assert not hull[8, 8, 15]  # behind
        assert hull[8, 8, 8]  # around the camera nothing is sure


@pytest.mark.parametrize(("focal", "k1"), [(280.0, 0.0), (1600.0, 0.0), (1600.0, -0.3)])
def test_an_empty_view_empties_only_what_it_frames(focal, k1):
    """Wide lenses, at whose edge cells look long; distorted ones, which are folded beyond it."""
    size = 800
    intrinsics = Intrinsics(size, size, focal, focal, size / 2, size / 2, k1=k1)
    views = View("", looking(2, distance=0.55), intrinsics), View("", looking(2), intrinsics)
    blank = torch.zeros(size * size, 4, dtype=torch.uint8)
    # the other view frames all of the box, so that nothing is impossible for not being seen
    pixels = torch.cat([blank, torch.full_like(blank, 255)])
    images = Images(views, pixels, torch.arange(3) * size * size)
    cameras = Cameras(views, np.eye(4), CPU)
    hull = visual_hull(images, cameras, 32)
    assert not hull.all()
    corner = (occupancy.coordinates(torch.arange(33**3), 33) / 32.0) - 0.5
    depth = 0.55 - corner[:, 2]
    tangent = corner[:, :2].abs().amax(1) / depth
    # where a ray to the frame's edge goes, in the plane of an axis and on the diagonal
    edge = torch.tensor([0.5 * size / focal])
    lens = torch.tensor([[k1, 0.0, 0.0, 0.0, 0.0]])
    widest = float(max(undistort(edge, torch.zeros(1), lens)[0], undistort(edge, edge, lens)[0]))
    unseen = (tangent > widest).view(33, 33, 33)
    for dx, dy, dz in np.ndindex(2, 2, 2):
        cells_beside = unseen[dx : dx + 32, dy : dy + 32, dz : dz + 32]
        assert hull[cells_beside].all()


def test_updates_find_what_is_there():
    grid = full_grid(8, STEP, CPU)
    generator = torch.Generator().manual_seed(0)

    def density(x):
        return 100.0 * ((x[:, 0] > 0.5) & (x[:, 1] < 0.25))

    for _ in range(80):
        grid.update(density, 512, generator)
    expected = torch.zeros(8, 8, 8, dtype=torch.bool)
    expected[4:, :2] = True
    assert torch.equal(grid.occupied, expected)
    assert grid.low.tolist() == [0.5, 0.0, 0.0]
    assert grid.high.tolist() == [1.0, 0.25, 1.0]


def test_an_impossible_cell_stays_empty():
    possible = torch.zeros(4, 4, 4, dtype=torch.bool)
    possible[1, 1, 1] = True
    grid = OccupancyGrid(possible, STEP)
    grid.update(lambda x: torch.full((len(x),), 1e6), 64, torch.Generator().manual_seed(0))
    assert torch.equal(grid.occupied, possible)


def test_nothing_dense_anywhere_keeps_the_grid_alive():
    grid = full_grid(4, STEP, CPU)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        grid.update(lambda x: torch.zeros(len(x)), 64, generator)
    assert grid.occupied.any()


def test_the_threshold_is_an_opacity():
    grid = full_grid(4, STEP, CPU)
    dense = -np.log(1 - occupancy.OPACITY) / STEP
    grid.density[:] = 1e3
    grid.density[0] = 0.98 * dense
    grid.density[1] = 1.02 * dense
    grid.load_state(grid.state())
    assert not grid.occupied[0, 0, 0]
    assert grid.occupied[0, 0, 1]


def test_state_round_trip():
    grid = full_grid(4, STEP, CPU)
    grid.update(lambda x: 50 * x[:, 0], 64, torch.Generator().manual_seed(0))
    other = full_grid(4, STEP, CPU)
    other.load_state(grid.state())
    assert torch.equal(other.occupied, grid.occupied)
    assert torch.equal(other.density, grid.density)


def test_in_contracted_space_long_samples_need_little_density():
    """The same density makes a far cell opaque and a near one not."""
    possible = torch.zeros(32, 32, 32, dtype=torch.bool)
    inner, outer = (15, 15, 15), (31, 16, 16)
    possible[inner] = possible[outer] = True
    # the outer cell begins at 8 half edges of the inner region from its middle: 4 times the reach
    grid = OccupancyGrid(possible, STEP, reach=0.5)
    dense = -np.log(1 - occupancy.OPACITY) / STEP
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        grid.update(lambda x: torch.full((len(x),), 0.1 * dense), 64, generator)
    assert grid.contracted
    assert grid.occupied[outer]
    assert not grid.occupied[inner]
    assert not grid.inner.any()
    other = full_grid(4, 1.0, CPU)
    other.load_state(grid.state())
    assert (other.step, other.reach) == (STEP, 0.5)


def test_cells_of_a_box():
    cells = occupancy.box_cells(torch.tensor([0.25, 0.0, 0.5]), torch.tensor([0.5, 1.0, 0.5]), 8)
    # from cell 2 to cell 4, one more on each side; all; around the plane between cells 3 and 4
    assert cells.any(2).any(1).nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert bool(cells.any(2).any(0).all())
    assert cells.any(1).any(0).nonzero()[:, 0].tolist() == [3, 4]


def test_pixels_are_counted_in_windows():
    mask = torch.rand(9, 14, generator=torch.Generator().manual_seed(0)) < 0.4
    windows = torch.tensor([[0, 14, 0, 9], [3, 8, 2, 3], [5, 5, 0, 9], [13, 14, 8, 9]]).float()
    counted = occupancy._count(mask, *windows.T)
    expected = [int(mask[t:b, le:r].sum()) for le, r, t, b in windows.long().tolist()]
    assert counted.tolist() == expected


def test_large_cells_are_carved_in_large_images():
    # 75 pixels a cell, looked at within about as many pixels around its middle
    images = ball_images(size=1024, radius=0.02)
    hull = visual_hull(images, Cameras(images.views, np.eye(4), CPU), 5)
    expected = torch.zeros(5, 5, 5, dtype=torch.bool)
    expected[1:4, 1:4, 1:4] = True
    assert torch.equal(hull, expected)


def test_renewed_cells_forget_what_they_held():
    grid = full_grid(8, STEP, CPU)
    generator = torch.Generator().manual_seed(0)
    asked = []

    def lower_half(x):
        asked.append(x)
        return 1e3 * (x[:, 2] < 0.5)

    grid.renew(lower_half, 8**3, generator)
    # every cell once, at its middle
    assert len(torch.cat(asked).unique(dim=0)) == 8**3
    assert torch.equal(grid.occupied, (cells(8)[..., 2] < 0.5))
    grid.renew(lambda x: 1e3 * (x[:, 2] > 0.5), 8**3, generator)
    assert torch.equal(grid.occupied, (cells(8)[..., 2] > 0.5))
    asked.clear()
    grid.renew(lower_half, 100, generator)
    assert len(torch.cat(asked)) == 100
    # half of the cells that are looked at are occupied ones
    assert (asked[0][:, 2] > 0.5).sum() > 60
