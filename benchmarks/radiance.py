"""Radiance fields side by side: the classic code, ours and, on a GPU, a peer.

    python benchmarks/radiance.py [--data FOLDER] [--seconds 30 60 120] [--contestants ...]
                                  [--device auto] [--json FILE]

Every contestant trains once for each time that is asked for, in a process of its own, so that its
learning rate decays over just that time and its memory is its own. The time is that of the training
steps alone. Prints a table for RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from neural_backend.dataset.transforms import Dataset, View
    from neural_backend.fields.radiance import RadianceField
    from neural_backend.kernels import Kernels
    from neural_backend.sampling.occupancy import OccupancyGrid

ROOT = pathlib.Path(__file__).resolve().parent.parent
# what is measured is the code beside this file, whatever is installed
sys.path.insert(0, str(ROOT))

from benchmarks.machine import commit, described  # noqa: E402
from neural_backend.protocol import BadInput  # noqa: E402

BASELINE = "classic"
OURS = ("gaussian", "hash")
PEER = "nerfacc"
PEER_NEEDS = ("nerfacc", "tinycudann")
_SEED = 0


class Contestant(Protocol):
    """What is measured."""

    def step(self, spent: float) -> int:
        """One optimiser step with ``spent`` in [0, 1] of the time gone; how many samples it had."""
        ...

    def colours(
        self, views: Sequence[View], view: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """[R, 3] what the views with the indices [R] show at x, y [R], over white, on the CPU."""
        ...


class Ours:
    """The backend's own training of a field."""

    def __init__(self, encoding: str, seconds: float, dataset: Dataset, device: torch.device):
        from neural_backend.config import TrainingSettings
        from neural_backend.training.fitting import fit
        from neural_backend.training.nerf import NerfTask

        settings = TrainingSettings(encoding=encoding, max_seconds=seconds, seed=_SEED)
        self._settings = fit(settings, device, dataset.pixels)
        self._device = device
        self._task = NerfTask(self._settings, dataset, device, lambda event: None)

    @functools.cached_property
    def _trained(self) -> tuple[RadianceField, OccupancyGrid, Kernels]:
        """What a checkpoint would give."""
        from neural_backend.training.nerf import load_field

        return load_field(self._settings, self._task.state(), self._device)

    def step(self, spent: float) -> int:
        return self._task.step(spent).samples

    def colours(
        self, views: Sequence[View], view: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        from neural_backend.dataset.colour import over_white
        from neural_backend.rendering.volume import render_points
        from neural_backend.sampling.rays import Cameras

        field, grid, kernels = self._trained
        cameras = Cameras(views, self._task.field_from_world, self._device)
        points = (each.to(self._device) for each in (view, x, y))
        return over_white(render_points(field, grid, cameras, *points, kernels)).cpu()


@dataclasses.dataclass(frozen=True)
class Measured:
    """One training.

    Attributes:
        seconds: that it was given.
        psnr: on random pixels of all test views, over white, decibels.
        views_psnr: mean over whole test views; None where none was rendered.
        seconds_per_view: to render one; likewise.
        peak_memory: bytes, of the process or of the GPU, until the training's end; None where the
            system does not say.
        machine: what it ran on.
    """

    seconds: float
    psnr: float
    views_psnr: float | None
    seconds_per_view: float | None
    steps: int
    samples_per_second: float
    peak_memory: int | None
    machine: str


def measure(name: str, data: str, seconds: float, device: str, pixels: int, views: int) -> Measured:
    """Train one contestant in this process and look at it.

    Args:
        pixels: about how many random test pixels.
        views: how many whole test views.
    """
    import torch

    from neural_backend import devices
    from neural_backend.dataset import transforms
    from neural_backend.dataset.images import image_size, load_views
    from neural_backend.training import scores

    on = devices.choose(device)
    dataset = transforms.read(data, image_size)
    if not dataset.split("test"):
        raise BadInput(f"{data}: split: no test views; choose another dataset")
    contestant: Contestant
    if name == BASELINE:
        from benchmarks.classic_nerf import ClassicNerf

        contestant = ClassicNerf(dataset, on, _SEED)
    elif name == PEER:
        from benchmarks.nerfacc_peer import NerfaccPeer

        contestant = NerfaccPeer(dataset, on, _SEED)
    else:
        contestant = Ours(name, seconds, dataset, on)

    def clock() -> float:
        if on.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    steps = samples = 0
    spent, start = 0.0, clock()
    while spent < 1.0:
        samples += contestant.step(spent)
        steps += 1
        spent = (time.perf_counter() - start) / seconds
    trained = clock() - start
    memory = torch.cuda.max_memory_allocated() if on.type == "cuda" else peak_memory()

    truth, at = _test_pixels(dataset, pixels)
    seen = contestant.colours(dataset.split("test"), *at)
    psnr = scores.psnr(seen, truth)
    whole, rendering = [], 0.0
    if views:
        images = load_views(dataset, "test", views)
        for index, view in enumerate(images.views):
            w, h = view.intrinsics.w, view.intrinsics.h
            y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            first = torch.zeros(w * h, dtype=torch.int64)
            start = clock()
            seen = contestant.colours([view], first, x.reshape(-1), y.reshape(-1))
            rendering += clock() - start
            truth = images.on_white(images.image(index)).view(-1, 3)
            whole.append(scores.psnr(seen, truth))
    return Measured(
        seconds=seconds,
        psnr=psnr,
        views_psnr=sum(whole) / len(whole) if whole else None,
        seconds_per_view=rendering / len(whole) if whole else None,
        steps=steps,
        samples_per_second=samples / trained,
        peak_memory=memory,
        machine=described(on),
    )


def _test_pixels(
    dataset: Dataset, count: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """[R, 3] the truth at about ``count`` random points of all test views: view, x, y [R] each.

    Always the same points; one image is read at a time.
    """
    import torch

    from neural_backend.dataset.images import Images, read_image

    generator = torch.Generator().manual_seed(_SEED)
    views = dataset.split("test")
    each = -(-count // len(views))
    truth, column, row = [], [], []
    for view in views:
        pixels = torch.from_numpy(read_image(dataset.folder / view.file)).view(-1, 4)
        image = Images((view,), pixels, torch.tensor([0, len(pixels)]))
        pixel = torch.randint(len(pixels), (each,), generator=generator)
        truth.append(image.on_white(pixels[pixel]))
        column.append(pixel % view.intrinsics.w + 0.5)
        row.append(pixel // view.intrinsics.w + 0.5)
    index = torch.arange(len(views)).repeat_interleave(each)
    return torch.cat(truth), (index, torch.cat(column), torch.cat(row))


def peak_memory() -> int | None:
    """Bytes of memory that this process has had at most; None where the system does not say."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # Linux's getrusage would count what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def table(results: dict[str, list[Measured]], absent: dict[str, str]) -> str:
    """The markdown table: a row a contestant, in brackets what it is against the baseline.

    Args:
        results: of each contestant, from the shortest time to the longest. PSNR stands under its
            time; the other figures are the longest run's, the memory is the highest.
        absent: contestants that could not run, and why.
    """
    base = _figures(results[BASELINE]) if BASELINE in results else {}
    head = list(dict.fromkeys(title for runs in results.values() for title in _figures(runs)))
    lines = [["", *head], ["---"] * (1 + len(head))]
    for name, runs in results.items():
        figures = _figures(runs)
        other = {} if name == BASELINE else base
        lines.append(
            [name, *(_cell(title, figures.get(title), other.get(title)) for title in head)]
        )
    lines += [[name, why] + ["-"] * (len(head) - 1) for name, why in absent.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figures(runs: list[Measured]) -> dict[str, float | None]:
    """A row's figures by the title of their column."""
    last = runs[-1]
    memory = [each.peak_memory / 1e9 for each in runs if each.peak_memory is not None]
    return {
        **{f"{each.seconds:g} s, dB": each.psnr for each in runs},
        "whole views, dB": last.views_psnr,
        "M samples a second": last.samples_per_second / 1e6,
        "peak memory, GB": max(memory, default=None),
        "seconds a view": last.seconds_per_view,
    }


def _cell(title: str, value: float | None, base: float | None) -> str:
    if value is None:
        return "-"
    if title.endswith("dB"):
        return f"{value:.2f}" + (f" ({value - base:+.2f})" if base is not None else "")
    return f"{value:.3g}" + (f" ({value / base:.3g}x)" if base else "")


def _child(options: argparse.Namespace, name: str, seconds: float, views: int) -> Measured:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds)]
    command += ["--data", options.data, "--device", options.device]
    command += ["--pixels", str(options.pixels), "--views", str(views)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _absent(name: str) -> str:
    """Why a contestant cannot run here; empty if it can."""
    if name != PEER:
        return ""
    missing = [module for module in PEER_NEEDS if importlib.util.find_spec(module) is None]
    return f"not at hand ({' and '.join(missing)} not installed)" if missing else ""


def _options(arguments: list[str] | None) -> argparse.Namespace:
    folder = pathlib.Path(os.environ.get("NEURAL_FIELDS_DATA", ROOT.parent / "shared" / "data"))
    names = [BASELINE, *OURS, PEER]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        default=str(folder / "nerf_synthetic" / "lego"),
        help="a dataset with test views; default: nerf_synthetic/lego in NEURAL_FIELDS_DATA",
    )
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[30.0, 60.0, 120.0], help="of training, each"
    )
    parser.add_argument("--contestants", nargs="+", choices=names, default=names)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--pixels", type=int, default=20_000, help="random test pixels, about")
    parser.add_argument("--views", type=int, default=2, help="whole test views, of the longest run")
    parser.add_argument("--json", metavar="FILE", help="write all figures into a file too")
    parser.add_argument("--one", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    if options.one:
        [seconds] = options.seconds
        try:
            figures = measure(
                options.one, options.data, seconds, options.device, options.pixels, options.views
            )
        except BadInput as error:
            sys.exit(str(error))
        print(json.dumps(dataclasses.asdict(figures)))
        return
    results: dict[str, list[Measured]] = {}
    absent: dict[str, str] = {}
    times = sorted(set(options.seconds))
    for name in options.contestants:
        if why := _absent(name):
            absent[name] = why
            continue
        for seconds in times:
            print(f"{name}, {seconds:g} s ...", file=sys.stderr, flush=True)
            views = options.views if seconds == times[-1] else 0
            results.setdefault(name, []).append(_child(options, name, seconds, views))
    date, sources = datetime.date.today().isoformat(), commit()
    said = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "benchmarks/radiance.py", *said])
    machine = next((runs[0].machine for runs in results.values()), "")
    print(f"## Radiance fields, {pathlib.Path(options.data).name} ({date}, {sources})\n")
    print(f"    {command}\n\n{machine}\n\n{table(results, absent)}")
    if options.json:
        report: dict[str, Any] = {
            "date": date,
            "commit": sources,
            "command": command,
            "machine": machine,
            "results": {
                name: [dataclasses.asdict(each) for each in runs] for name, runs in results.items()
            },
            "absent": absent,
        }
        pathlib.Path(options.json).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
