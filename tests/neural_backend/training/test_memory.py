import pytest
import torch

from neural_backend.training import memory


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "the device's"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "the device's"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "the device's"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "the memory"),
        (MemoryError(), "the memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
    ],
)
def test_full(error: Exception, where: str) -> None:
    assert memory.full(error).startswith(where)
    assert bool(memory.full(error)) == bool(where)
