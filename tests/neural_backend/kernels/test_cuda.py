"""The cuda kernels do what the reference does, forwards and backwards.

The .cu files are compiled for the CPU (see cuda_shim.cpp), so no GPU is needed; where there is
one, the same tests run on it too.
"""

from __future__ import annotations

import ctypes
import pathlib
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import imageio.v3
import numpy as np
import pytest
import torch

from neural_backend import kernels as all_kernels
from neural_backend.config import TrainingSettings
from neural_backend.dataset.transforms import Dataset, Intrinsics, View
from neural_backend.kernels import Kernels, Samples, cuda_launcher, hash_grid, trial
from neural_backend.kernels.cuda import CudaKernels
from neural_backend.kernels.reference import ReferenceKernels
from neural_backend.training import nerf

CPU = torch.device("cpu")
ROOT = pathlib.Path(__file__).resolve().parents[3]
SHIM = pathlib.Path(__file__).with_name("cuda_shim.cpp")
OPTIONS = (
    *("-std=c++17", "-O1", "-fPIC", "-shared"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fsanitize=alignment"),
)
LETTERS = {ctypes.c_void_p: "p", ctypes.c_longlong: "l", ctypes.c_float: "f"}


class HostLauncher(cuda_launcher.Launcher):
    """Runs the kernels on CPU tensors, thread by thread."""

    def __init__(self, path: pathlib.Path):
        self.library = ctypes.CDLL(str(path))
        self.library.signature_of.restype = ctypes.c_char_p
        self.library.additions.restype = ctypes.c_long
        self.library.launch.restype = ctypes.c_char_p

    def _launch(
        self, name: str, blocks: tuple[int, int], threads: int, values: Sequence[Any]
    ) -> None:
        wanted = self.library.signature_of(name.encode())
        assert wanted is not None, name
        assert "".join(LETTERS[type(value)] for value in values) == wanted.decode(), name
        arguments = cuda_launcher.pointers(values)
        wrong = self.library.launch(name.encode(), *blocks, threads, arguments)
        assert wrong == b"", name


@pytest.fixture(scope="session")
def compile_shim(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], CudaKernels]:
    """Compiles the kernels as for a compute capability."""
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler is found")
    made: dict[int, CudaKernels] = {}

    def compiled(capability: int) -> CudaKernels:
        if capability not in made:
            path = tmp_path_factory.mktemp("shim") / "kernels.so"
            macro = f"-D__CUDA_ARCH__={10 * capability}"
            include = f"-I{cuda_launcher.FOLDER}"
            command = [compiler, *OPTIONS, macro, include, str(SHIM), "-o", str(path)]
            subprocess.run(command, check=True)
            made[capability] = CudaKernels(CPU, HostLauncher(path))
        return made[capability]

    return compiled


@pytest.fixture(params=["shim", "cuda"] if torch.cuda.is_available() else ["shim"])
def cuda(request: pytest.FixtureRequest, compile_shim) -> CudaKernels:
    return compile_shim(86) if request.param == "shim" else CudaKernels(torch.device("cuda"))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def both(cuda: CudaKernels, run: Callable[[Kernels, Callable], Any]) -> tuple[Any, Any]:
    """What ``run`` gives with the cuda kernels and with the reference, on the CPU.

    It gets the kernels and a function that moves a tensor to their device.
    """
    found = []
    for kernels in (cuda, ReferenceKernels(CPU)):
        # a copy: what runs on the CPU must not see what the other has changed
        results = run(kernels, lambda tensor, to=kernels.device: tensor.clone().to(to))  # type: ignore[misc]
        found.append([each.detach().cpu() for each in results])
    return found[0], found[1]


def test_the_trial_agrees(cuda: CudaKernels) -> None:
    assert trial.difference(cuda, ReferenceKernels(cuda.device)) == ""


# --- hash grid


@pytest.mark.parametrize("features", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("capability", [86, 90])
def test_encode(compile_shim, capability: int, features: int) -> None:
    """Forwards and backwards, with single additions and with those of vectors."""
    check_encode(compile_shim(capability), features)


@pytest.mark.parametrize("features", [2, 8])
def test_encode_on_the_device(cuda: CudaKernels, features: int) -> None:
    check_encode(cuda, features)


def check_encode(cuda: CudaKernels, features: int) -> None:
    grid = hash_grid(levels=5, coarsest=4, finest=300, log2_table_size=12)
    table = random(grid.entries, features) - 0.5
    edges = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-0.1, 0.5, 1.2], [1.0, 0.0, 0.25]])
    x = torch.cat([edges, random(300, 3, seed=1), ray_points(300)])
    upstream = random(len(x), grid.levels * features, seed=2)

    def run(kernels: Kernels, move: Callable):
        leaf = move(table).requires_grad_()
        out = kernels.encode(move(x), leaf, grid)
        return out, *torch.autograd.grad(out, leaf, move(upstream))

    mine, theirs = both(cuda, run)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert mine[1].abs().max() > 0.1


def ray_points(count: int) -> torch.Tensor:
    """Close together, as neighbouring samples are."""
    along = torch.linspace(0.1, 0.9, count)[:, None]
    return along * torch.tensor([1.0, 0.3, 0.7]) + torch.tensor([0.0, 0.2, 0.1])


def test_gradients_of_samples_in_one_cell_are_added_at_once(compile_shim) -> None:
    shim = compile_shim(86)
    grid = hash_grid(levels=1, coarsest=4, finest=4, log2_table_size=12)
    table = random(grid.entries, 2).requires_grad_()
    shim._launch.library.additions()  # from here on
    shim.encode(ray_points(1024), table, grid).sum().backward()
    # 8 corners of 2 features for each sample, or for each run of 8 and each of the few borders
    assert shim._launch.library.additions() < 1.1 * 1024 * 8 * 2 / 8


def test_what_has_no_gradient_is_not_touched(compile_shim) -> None:
    shim = compile_shim(86)
    grid = hash_grid(levels=3, coarsest=4, finest=64, log2_table_size=12)
    table = random(grid.entries, 2).requires_grad_()
    shim._launch.library.additions()
    (0.0 * shim.encode(random(100, 3), table, grid)).sum().backward()
    assert shim._launch.library.additions() == 0


def test_gradient_is_diverted_and_known_features_are_taken(cuda: CudaKernels) -> None:
    grid = hash_grid(levels=3, coarsest=4, finest=30, log2_table_size=10)
    table, x, known = random(grid.entries, 2), random(50, 3), random(50, 6, seed=1)
    start = torch.ones_like(table)

    def run(kernels: Kernels, move: Callable):
        leaf, gathered = move(table).requires_grad_(), move(start)
        out = kernels.encode(move(x), leaf, grid, move(known), gathered)
        out.square().sum().backward()
        assert leaf.grad is None
        return out, gathered

    mine, _ = both(cuda, run)
    assert torch.equal(mine[0], known)
    leaf = table.clone().requires_grad_()
    features = ReferenceKernels(CPU).encode(x, leaf, grid)
    (expected,) = torch.autograd.grad(features, leaf, 2.0 * known)
    torch.testing.assert_close(mine[1], expected + 1.0)


def test_derivatives_by_the_position(cuda: CudaKernels) -> None:
    grid = hash_grid(levels=2, coarsest=3, finest=5, log2_table_size=7)
    table, x = random(grid.entries, 2), random(20, 3)

    def run(kernels: Kernels, move: Callable):
        at = move(x).requires_grad_()
        out = kernels.encode(at, move(table).requires_grad_(), grid)
        return torch.autograd.grad(out.sum(), at)

    mine, theirs = both(cuda, run)
    torch.testing.assert_close(mine, theirs)
    assert mine[0].abs().max() > 0.1


# --- optimiser


def test_adam(cuda: CudaKernels) -> None:
    start, touched = random(500, 2), torch.zeros(500, 2, dtype=torch.bool)
    touched[::7, 0] = True

    def run(kernels: Kernels, move: Callable):
        table, first, second = (move(each) for each in (start, 0.1 * start, 0.2 * start))
        for steps in (1, 2, 3):
            gradient = move((random(500, 2, seed=steps) - 0.5) * touched)
            kernels.adam(table, gradient, first, second, 0.01, steps, (0.9, 0.99), 1e-15)
            assert not gradient.any()
        return table, first, second

    mine, theirs = both(cuda, run)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    for found, before in zip(mine, (start, 0.1 * start, 0.2 * start), strict=True):
        assert torch.equal(found[~touched], before[~touched])
        assert not torch.equal(found[touched], before[touched])


def test_a_table_in_training_is_read_in_half_precision(cuda: CudaKernels) -> None:
    """What the optimiser has changed is read in half precision; what another has, as it is."""
    device = cuda.device
    grid = hash_grid(levels=4, coarsest=4, finest=64, log2_table_size=12)
    table, x = random(grid.entries, 2).to(device), random(400, 3).to(device)
    averages = torch.zeros_like(table), torch.zeros_like(table)
    reference = ReferenceKernels(device)
    for steps in (1, 2):
        gradient = (random(grid.entries, 2, seed=steps) - 0.5).to(device)
        gradient[::3] = 0.0
        cuda.adam(table, gradient, *averages, 0.05, steps, (0.9, 0.99), 1e-15)
        expected = reference.encode(x, table, grid)
        rounded = reference.encode(x, table.half().float(), grid)
        found = cuda.encode(x, table, grid)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found, rounded, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    table.mul_(-2.0)
    expected = reference.encode(x, table, grid)
    torch.testing.assert_close(cuda.encode(x, table, grid), expected, rtol=1e-6, atol=1e-6)


def test_tensors_that_lie_askew(cuda: CudaKernels) -> None:
    """Parts of larger tensors need not begin where a device can read several numbers at once."""
    grid = hash_grid(levels=2, coarsest=4, finest=8, log2_table_size=12)
    numbers = 2 * grid.entries

    def askew(tensor: torch.Tensor, move: Callable) -> torch.Tensor:
        whole = move(torch.cat([torch.zeros(1), tensor.flatten()]))
        return whole[1:].view(tensor.shape)

    def run(kernels: Kernels, move: Callable):
        table = askew(random(numbers).view(-1, 2), move).requires_grad_()
        gathered = askew(torch.zeros(grid.entries, 2), move)
        out = kernels.encode(move(random(50, 3)), table, grid, None, gathered)
        out.backward(askew(random(50, 4, seed=1), move))
        moved, found = table.detach().clone(), gathered.clone()
        averages = torch.zeros_like(moved), torch.zeros_like(moved)
        kernels.adam(moved, gathered, *averages, 0.01, 1, (0.9, 0.99), 1e-15)
        return out, found, moved

    mine, theirs = both(cuda, run)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


# --- marching


def rays(count: int) -> tuple[torch.Tensor, ...]:
    """Rays through the unit box, some along its axes, with their spans in it."""
    origins = 0.5 + 1.5 * torch.nn.functional.normalize(random(count, 3) - 0.5, dim=-1)
    directions = torch.nn.functional.normalize(random(count, 3, seed=1) - origins, dim=-1)
    origins[0], directions[0] = torch.tensor([-1.0, 0.3, 0.6]), torch.tensor([1.0, 0.0, 0.0])
    origins[1], directions[1] = torch.tensor([0.3, 0.6, 2.0]), torch.tensor([0.0, 0.0, -1.0])
    first, second = (0.0 - origins) / directions, (1.0 - origins) / directions
    near = torch.minimum(first, second).nan_to_num(-1e9).amax(1).clamp(min=0.0)
    far = torch.maximum(first, second).nan_to_num(1e9).amin(1)
    return origins, directions, near, far


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_march(cuda: CudaKernels, share: float) -> None:
    inputs = [*rays(300)]
    inputs[3][5] = inputs[2][5]  # a ray that misses
    occupied, jitter = random(32, 32, 32, seed=3) < share, random(300, seed=4)

    def run(kernels: Kernels, move: Callable):
        grid = move(occupied)
        samples = kernels.march(*map(move, inputs), grid, 0.01, move(jitter))
        return samples.t_start, samples.t_end, samples.ray, samples.offsets

    mine, theirs = both(cuda, run)
    # a middle on a cell's border may fall to either side
    differing = mine[3].diff() != theirs[3].diff()
    assert differing.sum() <= 3
    assert len(mine[0]) == mine[3][-1]
    assert (len(mine[0]) > 100) == (share > 0.0)
    assert torch.equal(mine[2], torch.repeat_interleave(mine[3].diff()))
    starts, ends = mine[0][~differing[mine[2]]], mine[1][~differing[mine[2]]]
    torch.testing.assert_close(starts, theirs[0][~differing[theirs[2]]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ends, starts + 0.01, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_march_through_contracted_space(cuda: CudaKernels, share: float, size: int) -> None:
    """Also where the inner region does not end where coarse cells do."""
    origins = 0.5 + 1.2 * (random(200, 3) - 0.5)
    directions = torch.nn.functional.normalize(random(200, 3, seed=1) - 0.5, dim=-1)
    near, far = 0.05 * torch.ones(200), 40.0 * torch.ones(200)
    occupied, jitter = random(size, size, size, seed=3) < share, random(200, seed=4)

    def run(kernels: Kernels, move: Callable):
        given = map(move, (origins, directions, near, far, occupied))
        samples = kernels.march(*given, 0.004, move(jitter), 0.8)
        assert samples.contracted
        return samples.t_start, samples.t_end, samples.ray, samples.offsets

    mine, theirs = both(cuda, run)
    # a middle on a cell's border may fall to either side
    differing = mine[3].diff() != theirs[3].diff()
    assert differing.sum() <= 6
    assert (mine[0].max() > 30.0) if share else (len(mine[0]) == 0)
    assert torch.equal(mine[2], torch.repeat_interleave(mine[3].diff()))
    for found, expected in zip(mine[:2], theirs[:2], strict=True):
        kept, wanted = found[~differing[mine[2]]], expected[~differing[theirs[2]]]
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-5)


def test_march_of_nothing(cuda: CudaKernels) -> None:
    occupied = torch.ones(8, 8, 8, dtype=torch.bool, device=cuda.device)
    none = torch.zeros(0, 3, device=cuda.device)
    found = cuda.march(none, none, none[:, 0], none[:, 0], occupied, 0.1, none[:, 0])
    assert (len(found), found.rays) == (0, 0)


def test_march_ends_without_an_end(cuda: CudaKernels) -> None:
    """A device that never comes back would take the whole machine along."""
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool, device=cuda.device)
    origin, direction = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]])
    ends = torch.zeros(1), torch.full((1,), torch.inf), torch.zeros(1)
    ray = [each.to(cuda.device) for each in (origin, direction, *ends)]
    assert len(cuda.march(*ray[:4], occupied, 0.01, ray[4])) == 0


# --- compositing


def packed(*counts: int) -> Samples:
    count = torch.tensor(counts)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    start = random(int(offsets[-1]))
    return Samples(start, start + 0.1, torch.repeat_interleave(count), offsets)


@pytest.mark.parametrize("channels", [1, 3, 8, 9])
def test_composite(cuda: CudaKernels, channels: int) -> None:
    """Rays with no sample, with less than a warp has lanes, with as many, with more."""
    samples = packed(3, 0, 32, 1, 100, 64, 0)
    # light gets through to the last ones
    density = 2.0 * random(len(samples), seed=1) ** 3
    colour = random(len(samples), channels, seed=2)
    shapes = ((7, channels), (7,), (len(samples),))
    upstream = [random(*shape, seed=seed) - 0.3 for seed, shape in enumerate(shapes, 3)]

    def run(kernels: Kernels, move: Callable):
        leaves = [move(each).requires_grad_() for each in (density, colour)]
        mine = Samples(*map(move, (samples.t_start, samples.t_end, samples.ray, samples.offsets)))
        outputs = kernels.composite(*leaves, mine)
        gradients = torch.autograd.grad(outputs, leaves, [move(each) for each in upstream])
        return *outputs, *gradients, kernels.transmittance(leaves[0], mine)

    mine, theirs = both(cuda, run)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_composite_where_only_one_output_counts(cuda: CudaKernels, output: int) -> None:
    samples = packed(40, 5)
    density, colour = 20.0 * random(45, seed=1), random(45, 3, seed=2)

    def run(kernels: Kernels, move: Callable):
        leaves = [move(each).requires_grad_() for each in (density, colour)]
        mine = Samples(*map(move, (samples.t_start, samples.t_end, samples.ray, samples.offsets)))
        kernels.composite(*leaves, mine)[output].square().sum().backward()
        return [torch.zeros(1) if each.grad is None else each.grad for each in leaves]

    mine, theirs = both(cuda, run)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine[1], theirs[1].expand_as(mine[1]), rtol=1e-4, atol=1e-5)


def test_a_dense_ray_does_not_spoil_the_next(cuda: CudaKernels) -> None:
    samples = packed(2, 2)
    density = torch.tensor([1e12, 1e12, 1e-2, 1e-2])
    moved = [samples.t_start, samples.t_end, samples.ray, samples.offsets, density]
    *parts, density = (each.to(cuda.device) for each in moved)
    before = cuda.transmittance(density, Samples(*parts))
    torch.testing.assert_close(before.cpu(), torch.tensor([1.0, 0.0, 1.0, 0.999]))


class Walls:
    """A field that is opaque from some x on, another for each y."""

    def __init__(self, *walls: float):
        self.walls = torch.tensor(walls)

    def encode(self, x: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        return x.clone()

    def density_of(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        walls = self.walls.to(features.device)[features[:, 1].round().long()]
        return torch.where(features[:, 0] > walls, 1e3, 0.1), features


def test_what_is_hidden_is_left_out(cuda: CudaKernels) -> None:
    """Rays that end in their first sample, behind a warp's samples, in its last, and nowhere."""
    samples = packed(3, 0, 100, 40, 7)
    place = torch.arange(len(samples)) - samples.offsets[samples.ray]
    samples = Samples(0.1 * place, 0.1 * place + 0.1, samples.ray, samples.offsets)
    origins = torch.arange(5.0)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    directions = torch.tensor([1.0, 0.0, 0.0]).repeat(5, 1)
    field = Walls(0.0, 0.0, 4.5, 3.1, 9.0)

    def run(kernels: Kernels, move: Callable):
        mine = Samples(*map(move, (samples.t_start, samples.t_end, samples.ray, samples.offsets)))
        kept, features = kernels._visible(field, move(origins), move(directions), mine)
        return kept.t_start, kept.t_end, kept.ray, kept.offsets, features

    mine, theirs = both(cuda, run)
    assert mine[3].tolist() == [0, 1, 1, 47, 79, 86]
    torch.testing.assert_close(mine, theirs)


# --- training


def test_trains_as_the_reference_does(
    cuda: CudaKernels, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps of a whole training, with a grid that is looked at anew: the same losses."""
    monkeypatch.setattr(nerf, "RESOLUTION", 16)
    monkeypatch.setattr(nerf, "GRID_FROM", 2)
    monkeypatch.setattr(nerf, "GRID_EVERY", 2)
    intrinsics = Intrinsics(24, 24, 30.0, 30.0, 12.0, 12.0)
    views = []
    for index in range(4):
        pose = np.eye(4)
        turn = np.pi / 2 * index
        pose[:3, :3] = [
            [np.cos(turn), 0.0, np.sin(turn)],
            [0.0, 1.0, 0.0],
            [-np.sin(turn), 0.0, np.cos(turn)],
        ]
        pose[:3, 3] = 3.0 * pose[:3, 2]
        image = np.zeros((24, 24, 4), np.uint8)
        image[6:18, 6:18] = (255, 60 * index, 0, 255)
        imageio.v3.imwrite(tmp_path / f"{index}.png", image)
        views.append(View(f"{index}.png", pose, intrinsics, "train"))
    dataset = Dataset(tmp_path, tuple(views), np.array([[-1.0] * 3, [1.0] * 3]))
    settings = TrainingSettings(
        batch=512, levels=3, coarsest=4, finest=32, log2_table_size=12, learning_rate=1e-2
    )
    losses = []
    for kernels in (cuda, ReferenceKernels(cuda.device)):
        monkeypatch.setattr(nerf, "choose", lambda device, chosen=kernels: chosen)
        task = nerf.NerfTask(settings, dataset, cuda.device, lambda event: None)
        losses.append([float(task.step(step / 8).loss) for step in range(8)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < 0.8 * losses[0][0]


# --- choosing, compiling, launching


def test_chosen_where_there_is_a_gpu_and_explained_where_it_fails() -> None:
    device = torch.device("cuda")
    if torch.cuda.is_available():
        assert all_kernels.why_not_fast(device) == ""
        assert all_kernels.choose(device).name == "cuda"
    else:
        assert all_kernels.choose(device).name == "reference"
        assert "the fast GPU kernels do not work" in all_kernels.why_not_fast(device)


class Driver:
    """A driver's functions, whose calls can be looked at."""

    def __init__(self) -> None:
        self.loaded: list[bytes] = []
        self.launched: list[tuple] = []
        self.statuses: list[int] = []

    def cuModuleLoadData(self, module: Any, binary: bytes) -> int:
        self.loaded.append(binary)
        return 200 if binary.startswith(b"spoilt") else 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        return 0 if name == b"adam" else 500

    def cuLaunchKernel(self, function: Any, *call: Any) -> int:
        *geometry, stream, arguments, extra = call
        kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_float)
        given = zip(kinds, arguments, strict=False)
        values = [kind.from_address(at).value for kind, at in given]
        self.launched.append((geometry, stream.value, values, extra))
        return self.statuses.pop() if self.statuses else 0


class Compiler:
    """A run-time compiler's functions."""

    def __init__(self, log: bytes = b""):
        self.log = log
        self.options: list[bytes] = []
        self.files: dict[bytes, bytes] = {}

    def nvrtcCreateProgram(self, program, source, name, count, files, names) -> int:
        self.files = dict(zip(names, files, strict=True))
        return 0

    def nvrtcCompileProgram(self, program, count, options) -> int:
        self.options = list(options)
        return 6 if self.log else 0

    def nvrtcGetProgramLogSize(self, program, size) -> int:
        size._obj.value = len(self.log) + 1
        return 0

    def nvrtcGetProgramLog(self, program, log) -> int:
        log.value = self.log
        return 0

    def nvrtcGetCUBINSize(self, program, size) -> int:
        size._obj.value = 4
        return 0

    def nvrtcGetCUBIN(self, program, binary) -> int:
        binary.raw = b"\x7fEL\0"
        return 0

    def nvrtcDestroyProgram(self, program) -> int:
        return 0


class Context:
    def __init__(self, device: object = None): ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class Stream:
    cuda_stream = 77
    queries = 0

    def query(self) -> bool:
        Stream.queries += 1
        return True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> tuple[Driver, Compiler]:
    """A computer that seems to have a GPU, and an empty cache."""

    class Properties:
        major, minor = 8, 6

    driver, compiler = Driver(), Compiler()
    monkeypatch.setattr(cuda_launcher, "_driver", lambda: driver)
    monkeypatch.setattr(cuda_launcher, "_compiler", lambda hip: compiler)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device", Context)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return driver, compiler


def test_what_is_compiled_is_kept(gpu: tuple[Driver, Compiler], tmp_path: pathlib.Path) -> None:
    driver, compiler = gpu
    cuda_launcher.DeviceLauncher(CPU)
    assert b"--gpu-architecture=sm_86" in compiler.options
    assert set(compiler.files) == {path.name.encode() for path in sources()}
    assert b"march_count" in compiler.files[b"march.cu"]
    compiler.options = []
    cuda_launcher.DeviceLauncher(CPU)
    assert compiler.options == []
    assert driver.loaded == [b"\x7fEL\0"] * 2
    (kept,) = tmp_path.rglob("*.bin")
    kept.write_bytes(b"spoilt")
    cuda_launcher.DeviceLauncher(CPU)
    assert compiler.options != []
    assert kept.read_bytes() == b"\x7fEL\0"


def test_other_sources_and_devices_are_compiled_anew(
    gpu: tuple[Driver, Compiler], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = gpu[0]
    cuda_launcher.DeviceLauncher(CPU)
    monkeypatch.setattr(torch.cuda.get_device_properties(0), "minor", 9)
    cuda_launcher.DeviceLauncher(CPU)
    changed = shutil.copytree(cuda_launcher.FOLDER, tmp_path / "changed")
    (changed / "adam.cu").write_text("// nothing\n", encoding="utf-8")
    monkeypatch.setattr(cuda_launcher, "FOLDER", changed)
    cuda_launcher.DeviceLauncher(CPU)
    assert len(driver.loaded) == len(list(tmp_path.rglob("*.bin"))) == 3


def test_it_works_without_a_cache(
    gpu: tuple[Driver, Compiler], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    cuda_launcher.DeviceLauncher(CPU)
    assert gpu[0].loaded == [b"\x7fEL\0"]


def test_the_first_complaint_of_the_compiler_is_told(gpu: tuple[Driver, Compiler]) -> None:
    gpu[1].log = b"common.cuh(3): warning: odd\nmarch.cu(7): error: no such name\nanother error\n"
    with pytest.raises(RuntimeError, match=r"^march.cu\(7\): error: no such name$"):
        cuda_launcher.DeviceLauncher(CPU)


def test_a_launch_is_what_the_driver_expects(gpu: tuple[Driver, Compiler]) -> None:
    driver = gpu[0]
    launch = cuda_launcher.DeviceLauncher(CPU)
    tensor = torch.arange(3.0)
    launch("adam", (0, 4), 256, tensor)
    assert driver.launched == []
    driver.statuses = [201]
    before = Stream.queries
    launch("adam", (5, 4), 256, tensor, None, 2**40, 0.5)
    # a thread without a context gets one, and then the kernel runs
    assert len(driver.launched) == 2
    assert Stream.queries == before + 1
    values = [tensor.data_ptr(), None, 2**40, 0.5]
    assert driver.launched[1] == ([5, 4, 1, 256, 1, 1, 0], 77, values, None)
    driver.statuses = [1]
    with pytest.raises(RuntimeError, match="status 1"):
        launch("adam", (1, 1), 32, tensor)
    with pytest.raises(RuntimeError, match="status 500"):
        launch("adamant", (1, 1), 32, tensor)


def test_the_compiler_that_torch_brings_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: name)
    names = {"linux": "libnvrtc.so.13", "win32": "nvrtc64_130_0.dll"}
    folders = {"linux": "nvidia/cu13/lib", "win32": "torch/lib"}
    for platform, name in names.items():
        monkeypatch.setattr("sys.platform", platform)
        assert cuda_launcher._compiler(hip=False) == name
        own = tmp_path / folders[platform] / name
        own.parent.mkdir(parents=True)
        own.touch()
        assert cuda_launcher._compiler(hip=False) == str(own)


def sources() -> list[pathlib.Path]:
    return sorted(cuda_launcher.FOLDER.glob("*.cu*"))


def test_the_sources_are_in_the_package() -> None:
    assert {path.name for path in sources()} == {*cuda_launcher.SOURCES, *cuda_launcher.HEADERS}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["neural_backend.kernels"]
    assert all(any(path.match(pattern) for pattern in patterns) for path in sources())
