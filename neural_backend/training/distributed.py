"""One training in several processes, on one machine or more, that ``torchrun`` starts.

Data parallelism with synchronous steps (Li et al. 2020, "PyTorch Distributed"): all ranks hold the
same weights, each draws its own batch, and the mean of the gradients makes one step. The batch is
each rank's, so that N ranks see N times as many samples in a step. Rank 0 alone touches the run's
folder and speaks; its clock decides when the budget is spent.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from .. import devices, launcher
from ..config import Device
from ..fields.encodings import HashEncoding
from ..protocol import EXIT_BAD_INPUT, EXIT_FAILED, BadInput, first_line
from .task import Task

_TOGETHER = 1 << 17  # numbers: smaller gradients travel in one tensor
_DELAY = 2  # steps from a word to its being heard, so that nobody waits for the device
_PATIENCE = datetime.timedelta(seconds=5)


@dataclasses.dataclass(frozen=True)
class Word:
    """What the training loop decides by.

    Attributes:
        time_spent: part of the time that is spent.
        cancelled: whether the training is to end before its budget is spent.
    """

    time_spent: float
    cancelled: bool


class RankFailed(Exception):
    """Another process of the training has failed, so that this one cannot go on."""


class Ranks:
    """The processes that train one field. This class is a single one; its methods cost nothing.

    Attributes:
        rank: this process's number, from 0.
        size: how many they are.
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the run's folder and speaks."""
        return self.rank == 0

    def device(self, wanted: Device) -> torch.device:
        """The device that this process trains on.

        Raises:
            BadInput: this machine has no such device, or several processes cannot share it.
        """
        return devices.choose(wanted)

    def share(self, value: Any) -> Any:
        """Rank 0's value, made of what json knows, on all ranks."""
        return value

    def align(self, task: Task) -> None:
        """Give all ranks' tasks the state of rank 0's."""

    def average(self, field: torch.nn.Module) -> None:
        """Replace the field's gradients by their means over the ranks.

        Raises:
            RankFailed: another rank is gone.
        """

    def agree(self, word: Word) -> Word:
        """What all ranks go by before their next step, given what this one would.

        The time is rank 0's; one rank's cancelling is enough. With several ranks it is what they
        said some steps ago, which came along with the gradients.
        """
        return word

    def leave(self) -> None:
        """Part from the other ranks, once all have come here."""


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that were started together with this one; without a launcher it is alone.

    Raises:
        BadInput: torch cannot do it.
        SystemExit: this rank has failed and another one says why.
    """
    place = launcher.place()
    if place is None:
        yield ALONE
        return
    if not backends():
        raise BadInput(
            "torchrun: this torch was built without torch.distributed; start one process, or "
            "install another torch"
        )
    ranks = _Group(place)
    try:
        yield ranks
    except BaseException as error:
        if not ranks.may_tell(error):
            status = EXIT_BAD_INPUT if isinstance(error, BadInput) else EXIT_FAILED
            raise SystemExit(status) from None
        raise


class _Group(Ranks):
    """Several processes that torch connects: gloo on the CPU, nccl between NVIDIA GPUs."""

    def __init__(self, place: launcher.Place):
        # loaded later, its functions would keep hold of the group and let no thread of it end
        import torch.distributed.nn  # noqa: F401

        self.rank, self.size = place.rank, place.size
        self._local_rank = place.local_rank
        self._launcher = os.getppid()
        self._uses_nccl = False
        self._lost = False
        self._said = Word(0.0, False)
        self._heard: Word | None = None
        self._coming: collections.deque[Callable[[], Tensor]] = collections.deque()
        store, _, _ = next(dist.rendezvous("env://"))
        self._store = dist.PrefixStore("neural_fields", store)
        dist.init_process_group(backends(), store=store, rank=self.rank, world_size=self.size)

    def device(self, wanted: Device) -> torch.device:
        kind = self.share(devices.choose(wanted).type if self.first else None)
        if kind == "mps":
            raise BadInput(
                "device: mps trains in one process only; start it without torchrun, or choose "
                "--device cpu"
            )
        device = devices.choose(cast(Device, kind))
        if kind == "cuda":
            there = torch.cuda.device_count()
            if self._local_rank >= there:
                raise BadInput(
                    f"device: cuda: this machine has {there} GPUs, fewer than processes; start it "
                    f"with torchrun --nproc-per-node {there}"
                )
            device = torch.device(kind, self._local_rank)
            torch.cuda.set_device(device)
            self._uses_nccl = "nccl" in backends()
        return device

    def share(self, value: Any) -> Any:
        return json.loads(self._share_bytes(json.dumps(value).encode() if self.first else b""))

    def align(self, task: Task) -> None:
        if not self.first:
            task.load_state(safetensors.torch.load(self._share_bytes(b"")))
            return
        state = {name: each.detach().contiguous().cpu() for name, each in task.state().items()}
        self._share_bytes(safetensors.torch.save(state))

    def _share_bytes(self, data: bytes) -> bytes:
        with self._others_needed():
            count = torch.tensor(len(data))
            dist.broadcast(count, 0)
            content = torch.empty(int(count), dtype=torch.uint8)
            if self.first:
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return content.numpy().tobytes()

    def average(self, field: torch.nn.Module) -> None:
        gradients = _gradients(field)
        small = [each for each in gradients if each.numel() <= _TOGETHER]
        large = [each for each in gradients if each.numel() > _TOGETHER]
        # the mean over the ranks is rank 0's time, and above 0 where any of them cancels
        said = [self._said.time_spent * self.size if self.first else 0.0, self._said.cancelled]
        word = torch.tensor(said, device=gradients[0].device)
        together = torch.cat([word, *(each.flatten() for each in small)])
        with self._others_needed():
            tensors = [together, *large]
            for work in [dist.all_reduce(each, async_op=True) for each in tensors]:
                work.wait()
        for each in tensors:
            each /= self.size
        word, *means = together.split([len(word), *(each.numel() for each in small)])
        for gradient, mean in zip(small, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        self._coming.append(_to_host(word))

    def agree(self, word: Word) -> Word:
        # whoever started the processes may have died without a signal to them
        orphaned = os.getppid() != self._launcher
        self._said = Word(word.time_spent, word.cancelled or orphaned)
        if self._heard is None:
            # all start from one checkpoint, with its clock
            self._heard = Word(word.time_spent, False)
        if len(self._coming) == _DELAY:
            time_spent, cancelled = self._coming.popleft()().tolist()
            self._heard = Word(time_spent, cancelled > 0.0)
        return self._heard

    def leave(self) -> None:
        with self._others_needed():
            dist.all_reduce(torch.zeros(1))
        dist.destroy_process_group()

    @contextlib.contextmanager
    def _others_needed(self) -> Iterator[None]:
        try:
            yield
        # what gloo and nccl raise when a connection breaks
        except RuntimeError:
            self._lost = True
            raise self._why() from None

    def _why(self) -> Exception:
        """What a rank that has failed has left to say."""
        with contextlib.suppress(RuntimeError):
            for kind in (BadInput, RankFailed):
                if self._store.check([kind.__name__]):
                    return kind(self._store.get(kind.__name__).decode())
        return RankFailed("another process of the training is gone; continue with --resume")

    def may_tell(self, error: BaseException) -> bool:
        """Whether this rank, which has failed, is the one to say why.

        That is rank 0, unless it is stuck or gone. Another one leaves it what to say.
        """
        with contextlib.suppress(RuntimeError):
            if isinstance(error, BadInput) and not self._lost:
                self._store.set(BadInput.__name__, f"rank {self.rank}: {error}")
            elif not self._lost:
                said = f"rank {self.rank}: {type(error).__name__}: {first_line(error)}"
                self._store.set(RankFailed.__name__, said)
            # another rank may be waiting for this one; nccl would have this one wait too
            if isinstance(error, Exception) and dist.is_initialized() and not self._uses_nccl:
                dist.destroy_process_group()
            if self.first:
                self._store.set("told", "")
            else:
                self._store.wait(["told"], _PATIENCE)
                return False
        return True


def backends() -> str:
    """What connects several processes on this machine, as torch says it; empty where nothing."""
    if not dist.is_available() or not dist.is_gloo_available():
        return ""
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    return "cpu:gloo,cuda:nccl" if nccl else "gloo"


def _gradients(field: torch.nn.Module) -> list[Tensor]:
    """The gradients of all parameters, in an order that is the same on all ranks."""
    found = []
    diverted = set()
    for module in field.modules():
        if isinstance(module, HashEncoding) and module.gradient is not None:
            found.append(module.gradient)
            diverted.add(module.table)
    for parameter in field.parameters():
        if parameter in diverted:
            continue
        if parameter.grad is None:
            # this rank's batch did not reach it; another one's may have
            parameter.grad = torch.zeros_like(parameter)
        found.append(parameter.grad)
    return found


def _to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to the CPU; the function returned waits for the copy."""
    copy = tensor.to("cpu", non_blocking=True, copy=True)
    if not tensor.is_cuda:
        return lambda: copy
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait
