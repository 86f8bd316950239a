"""Compiles the ``.cu`` files on the user's machine, keeps the result, and launches its kernels.

The run-time compiler is the one that torch brings: NVRTC, or hiprtc with a torch for ROCm. It is
called directly, because ``torch.cuda._compile_kernel`` works only where a CUDA toolkit is
installed besides (it asks for the toolkit's headers, which these kernels do not need), converts
its arguments anew in each launch, and keeps nothing between runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import protocol
from . import cache

FOLDER = pathlib.Path(__file__).parent
SOURCES = ("encode.cu", "adam.cu", "march.cu", "composite.cu")
HEADERS = ("common.cuh",)

_INVALID_CONTEXT = 201
_NO_CONTRACTION = ("--fmad=false", "-ffp-contract=off")  # NVRTC's and hiprtc's word for it


class Launcher:
    """Calls kernels by name."""

    def __call__(
        self,
        name: str,
        blocks: tuple[int, int],
        threads: int,
        *arguments: Tensor | int | float | None,
    ) -> None:
        """Run ``threads`` threads in each of ``blocks``; returns before they are done.

        Args:
            arguments: contiguous tensors are pointers, None is the null pointer, int is a
                ``long long`` and float a ``float``.

        Raises:
            RuntimeError: the kernel cannot run.
        """
        if 0 not in blocks:
            self._launch(name, blocks, threads, [_as_c(each) for each in arguments])

    def _launch(
        self, name: str, blocks: tuple[int, int], threads: int, values: Sequence[Any]
    ) -> None:
        raise NotImplementedError


def _as_c(argument: Tensor | int | float | None) -> Any:
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_longlong(argument)
    return ctypes.c_float(argument)


def pointers(values: Sequence[Any]) -> Any:
    """The addresses of ctypes' values, as launching functions take them."""
    return (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))


class DeviceLauncher(Launcher):
    """Runs the kernels on a GPU.

    Raises:
        OSError, RuntimeError: they cannot be compiled or loaded.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._hip = torch.version.hip is not None
        self._driver = _driver()
        self._functions: dict[str, ctypes.c_void_p] = {}
        with torch.cuda.device(device):
            # the driver's own functions need torch's context
            torch.cuda.current_stream().query()
            properties = torch.cuda.get_device_properties(torch.cuda.current_device())
            if self._hip:
                architecture = f"--offload-arch={properties.gcnArchName}"
            else:
                architecture = f"--gpu-architecture=sm_{properties.major}{properties.minor}"
            options = (architecture, "-std=c++17", _NO_CONTRACTION[self._hip])
            self._module = self._load(options)

    def _load(self, options: Sequence[str]) -> ctypes.c_void_p:
        texts = {name: (FOLDER / name).read_bytes() for name in (*SOURCES, *HEADERS)}
        version = torch.version.hip if self._hip else torch.version.cuda
        words = " ".join((*options, str(version))).encode()
        key = hashlib.sha256(b"\0".join((words, *texts.values())))
        kept: pathlib.Path | None = None
        # what is kept may be cut short or unreadable, and there may be no place to keep it
        with contextlib.suppress(OSError, RuntimeError):
            kept = cache.folder("cuda") / f"{key.hexdigest()}.bin"
            return self._module_of(kept.read_bytes())
        binary = compiled(_compiler(self._hip), self._hip, texts, options)
        module = self._module_of(binary)
        if kept is not None:
            with contextlib.suppress(OSError):
                protocol.write_whole(kept, lambda beside: beside.write_bytes(binary))
        return module

    def _module_of(self, binary: bytes) -> ctypes.c_void_p:
        module = ctypes.c_void_p()
        load = self._driver.hipModuleLoadData if self._hip else self._driver.cuModuleLoadData
        self._check(load(ctypes.byref(module), binary))
        return module

    def _function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            function = ctypes.c_void_p()
            driver = self._driver
            get = driver.hipModuleGetFunction if self._hip else driver.cuModuleGetFunction
            self._check(get(ctypes.byref(function), self._module, name.encode()))
            self._functions[name] = function
        return self._functions[name]

    def _check(self, status: int) -> None:
        if status != 0:
            api = "hip" if self._hip else "cuda"
            raise RuntimeError(f"the {api} driver refuses a kernel (status {status})")

    def _launch(
        self, name: str, blocks: tuple[int, int], threads: int, values: Sequence[Any]
    ) -> None:
        launch = self._driver.hipModuleLaunchKernel if self._hip else self._driver.cuLaunchKernel
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            geometry = (*blocks, 1, threads, 1, 1)
            where = (0, ctypes.c_void_p(stream.cuda_stream))
            call = (self._function(name), *geometry, *where, pointers(values), None)
            status = launch(*call)
            if status == _INVALID_CONTEXT:
                # a new thread, as autograd's, has none before its first call of torch's runtime
                stream.query()
                status = launch(*call)
        self._check(status)


def compiled(
    compiler: ctypes.CDLL, hip: bool, texts: dict[str, bytes], options: Sequence[str]
) -> bytes:
    """What a run-time compiler makes of the kernels.

    Args:
        compiler: the NVRTC library, or with ``hip`` the hiprtc one.
        texts: of ``SOURCES`` and ``HEADERS``, by name.
        options: the compiler's.

    Raises:
        RuntimeError: it finds an error, or cannot compile for the device.
    """

    def call(name: str, *arguments: Any) -> None:
        status = getattr(compiler, ("hiprtc" if hip else "nvrtc") + name)(*arguments)
        if status != 0:
            raise RuntimeError(f"the run-time compiler fails (status {status} of {name})")

    program = ctypes.c_void_p()
    source = "".join(f'#include "{name}"\n' for name in SOURCES).encode()
    files = (ctypes.c_char_p * len(texts))(*texts.values())
    names = (ctypes.c_char_p * len(texts))(*(name.encode() for name in texts))
    into = ctypes.byref(program)
    call("CreateProgram", into, source, b"kernels.cu", len(texts), files, names)
    size = ctypes.c_size_t()
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        try:
            call("CompileProgram", program, len(options), given)
        except RuntimeError as error:
            call("GetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            call("GetProgramLog", program, log)
            lines = log.value.decode(errors="replace").splitlines()
            # the log may be long; its first complaint tells enough
            complaint = next((line for line in lines if "error" in line), str(error))
            raise RuntimeError(complaint) from None
        kind = "Code" if hip else "CUBIN"
        call(f"Get{kind}Size", program, ctypes.byref(size))
        binary = ctypes.create_string_buffer(size.value)
        call(f"Get{kind}", program, binary)
    finally:
        call("DestroyProgram", into)
    return binary.raw


def _driver() -> ctypes.CDLL:
    if torch.version.hip:
        from torch.cuda import _utils

        return _utils._get_gpu_runtime_library()
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _compiler(hip: bool) -> ctypes.CDLL:
    if hip:
        from torch.cuda import _utils

        return _utils._get_gpu_rtc_library()
    major = str(torch.version.cuda).partition(".")[0]
    name = f"nvrtc64_{major}0_0.dll" if sys.platform == "win32" else f"libnvrtc.so.{major}"
    # torch's own first: another one on the system may not know the device
    packages = pathlib.Path(torch.__file__).parent.parent
    folders = [packages / "torch" / "lib"]
    for folder in ("lib", "bin"):
        folders += sorted((packages / "nvidia").glob(f"*/{folder}"))
    own = (str(folder / name) for folder in folders if (folder / name).exists())
    return ctypes.CDLL(next(own, name))
