"""What a test has several ranks do: ``ranks_script.py WHAT ARGUMENTS...``."""

import os
import pathlib
import sys

# as the program's own start does it
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import safetensors.torch
import torch

from neural_backend import command_line, launcher
from neural_backend.config import TrainingSettings
from neural_backend.dataset import transforms
from neural_backend.training import distributed, loop, nerf, sdf
from neural_backend.training.fitting import fit

CPU = torch.device("cpu")


def steps(folder: str, count: str) -> int:
    """Train; each rank keeps its state in the folder."""
    nerf.GRID_FROM, nerf.RESOLUTION = 16, 32
    settings = TrainingSettings(
        batch=2048, levels=4, coarsest=4, finest=32, log2_table_size=11, seed=3
    )
    source = pathlib.Path(folder)
    with distributed.joined() as ranks:
        dataset = transforms.read(source)
        task = nerf.NerfTask(fit(settings, CPU), dataset, ranks.device("cpu"), print, ranks)
        with torch.no_grad():
            # weights that differ, until rank 0's are everybody's
            for parameter in task.field.parameters():
                parameter += ranks.rank
        ranks.align(task)
        for step in range(int(count)):
            task.step(step / int(count))
        safetensors.torch.save_file(
            {name: each.contiguous() for name, each in task.state().items()},
            source / f"{ranks.rank}.safetensors",
        )
        ranks.leave()
    return 0


def fail(rank: str, step: str, how: str, *arguments: str) -> int:
    """The command line, of whose processes one fails in the middle of a training."""
    place, original, taken = launcher.place(), sdf.SdfTask.step, []

    def broken(task: sdf.SdfTask, progress: float) -> object:
        taken.append(progress)
        if place and place.rank == int(rank) and len(taken) == int(step):
            if how == "killed":
                os.kill(os.getpid(), 9)
            raise ZeroDivisionError("odd")
        return original(task, progress)

    sdf.SdfTask.step = broken
    return command_line.run(list(arguments))


def save(every: str, *arguments: str) -> int:
    """The command line, with a checkpoint each so many seconds."""
    loop.CHECKPOINT_EVERY, loop.CHORE_SHARE = float(every), 1.0
    return command_line.run(list(arguments))


if __name__ == "__main__":
    sys.exit({"steps": steps, "fail": fail, "save": save}[sys.argv[1]](*sys.argv[2:]))
