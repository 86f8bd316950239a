"""Stands in for the backend: speaks its protocol within milliseconds, and fails as it is told to.

Copied as ``neural_backend/__main__.py`` of a folder of its own; ``FAKE_BACKEND`` names the fault.
"""

import json
import os
import pathlib
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Sequence

FAULT = os.environ.get("FAKE_BACKEND", "")
FIELD_FROM_WORLD = [[0.25, 0, 0, 0.5], [0, 0.25, 0, 0.5], [0, 0, 0.25, 0.5], [0, 0, 0, 1]]


def main() -> int:
    command, arguments = sys.argv[1], sys.argv[2:]
    with open(os.environ["FAKE_BACKEND_CALLS"], "a", encoding="utf-8") as file:
        file.write(json.dumps([command, *arguments]) + "\n")
    commands = {
        "doctor": doctor,
        "train": train,
        "mesh": mesh,
        "render": render,
        "volume": volume,
        "compare": compare,
    }
    return commands[command](arguments)


def doctor(arguments: list[str]) -> int:
    if FAULT == "no torch":
        print("torch: not installed in this Python; run pip install torch", file=sys.stderr)
        return 2
    report = {
        "python": "3.11",
        "packages": {"torch": "0.0"},
        "device": "cpu",
        "device_name": "a CPU",
    }
    print(json.dumps(report | {"environment": sorted(os.environ)}))
    return 0


def train(arguments: list[str]) -> int:
    if FAULT == "refused":
        print("max_seconds is 3: give a hat", file=sys.stderr)
        return 2
    run = pathlib.Path(arguments[arguments.index("--run") + 1])
    run.mkdir(parents=True, exist_ok=True)
    if (run / "checkpoint.safetensors").exists() and "--resume" not in arguments:
        kept = run.with_name(f"run.{len(list(run.parent.glob('run.*'))) + 1}")
        kept.mkdir()
        for name in ("checkpoint.safetensors", "events.jsonl"):
            (run / name).rename(kept / name)
    lock = open(run / ".lock", "a")  # noqa: SIM115
    if os.name == "posix":
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
    os.utime(run / ".lock")
    cancelled = threading.Event()

    def watch() -> None:
        for line in sys.stdin:
            if line.strip() == "cancel":
                break
        if not (run / "keep").exists():
            cancelled.set()

    threading.Thread(target=watch, daemon=True).start()
    field = arguments[arguments.index("--field") + 1] if "--field" in arguments else "nerf"
    if "--resume" not in arguments:
        settings = {"field": field, "max_seconds": 120.0, "seed": 7}
        config = {"settings": settings, "field_from_world": FIELD_FROM_WORLD}
        (run / "config.json").write_text(json.dumps(config))
    say(run, type="started", field="nerf", device="cpu", kernels="reference", parameters=1)
    if FAULT == "error":
        say(run, type="error", message="transforms.json: frames: broken", hint="export it again")
        print("transforms.json: frames: broken", file=sys.stderr)
        return 2
    if FAULT == "bad input":
        print("\rbusy\rmesh.ply: holds no faces; give a mesh", file=sys.stderr)
        return 2
    if FAULT == "crash":
        raise ZeroDivisionError("nothing to divide by")
    if FAULT == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe\x00\x1b[31m\n" * 2000)
        with open(run / "events.jsonl", "ab") as file:
            file.write(b'{"type": "progress", "step": 1, "eta": "soon"}\n\xff\x00{[\n' * 100)
        sys.stderr.buffer.write(b"\x1b[1m\x00\xffwhat is this\x07\n\x00\n")
        return 1
    if FAULT == "killed":
        print("\rTraining: 12%", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    steps = 10_000 if FAULT in ("slow", "deaf") else 3
    for step in range(1, steps + 1):
        if (run / "cancel").exists():
            cancelled.set()
        if cancelled.is_set() and FAULT != "deaf":
            break
        say(
            run,
            type="progress",
            step=step,
            of=0,
            seconds=40.0 * step,
            max_seconds=120.0,
            loss=0.1,
            eta=120.0 - 40.0 * step,
            psnr=27.31,
        )
        show(run, step)
        time.sleep(0.02)
    (run / "checkpoint.safetensors").write_bytes(b"weights")
    for name in ("cancel", "keep"):
        (run / name).unlink(missing_ok=True)
    reason = "cancelled" if cancelled.is_set() else "finished"
    say(run, type="done", step=step, seconds=120.0, reason=reason, psnr=27.31)
    return 0


def show(run: pathlib.Path, step: int) -> None:
    """The live view: one row, as wide as the eye's, red on the left and empty on the right."""
    try:
        content = json.loads((run / "eye.json").read_text())
    except (OSError, ValueError):
        return
    width = content["w"]
    half = width // 2
    row = [(255, 0, 0, 255)] * half + [(0, 0, 0, 0)] * (width - half)
    (run / ".live.png").write_bytes(picture([row]))
    (run / ".live.png").replace(run / "live.png")
    told = {"step": step, "width": width, "height": 1, "seconds": 0.1}
    say(run, type="live", eye=content["frames"][0]["file_path"], **told)


def say(run: pathlib.Path, **event: object) -> None:
    with open(run / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def mesh(arguments: list[str]) -> int:
    if FAULT == "no mesh":
        print("checkpoint.safetensors: the field is empty; train longer", file=sys.stderr)
        return 2
    write_glb(pathlib.Path(arguments[arguments.index("--output") + 1]))
    return 0


def write_glb(path: pathlib.Path, scale: float = 1.0) -> None:
    """A quad of two triangles in the plane y = 2 of Blender's world, with coloured corners."""
    corners = [(0, 2, 0), (1, 2, 0), (1, 2, 3), (0, 2, 3)]
    positions = b"".join(
        struct.pack("<3f", scale * x, scale * z, -scale * y) for x, y, z in corners
    )
    colours = bytes([255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 51, 102, 153, 255])
    indices = struct.pack("<6I", 0, 1, 2, 0, 2, 3)
    binary = positions + colours + indices
    content = {
        "asset": {"version": "2.0", "generator": "Neural Fields"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"children": [1]}, {"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {
                "bufferView": 1,
                "componentType": 5121,
                "count": 4,
                "type": "VEC4",
                "normalized": True,
            },
            {"bufferView": 2, "componentType": 5125, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 16},
            {"buffer": 0, "byteOffset": 64, "byteLength": 24},
        ],
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(binary)
    header = struct.pack("<4sII", b"glTF", 2, size)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    path.write_bytes(header + chunks)


def render(arguments: list[str]) -> int:
    cameras = json.loads(pathlib.Path(arguments[arguments.index("--cameras") + 1]).read_text())
    folder = pathlib.Path(arguments[arguments.index("--output") + 1])
    for frame in cameras["frames"]:
        (folder / frame["file_path"]).write_bytes(picture())
    return 0


def compare(arguments: list[str]) -> int:
    if FAULT == "sdf":
        print("run: a signed distance has no views to compare with; measure it", file=sys.stderr)
        return 2
    pathlib.Path(arguments[arguments.index("--output") + 1]).write_bytes(picture())
    print("garbage" if FAULT == "garbage" else json.dumps({"psnr": 27.31, "views": 2}))
    return 0


def volume(arguments: list[str]) -> int:
    write_voxels(pathlib.Path(arguments[arguments.index("--output") + 1]))
    return 0


def write_voxels(path: pathlib.Path, edge: float = 0.1, density: float = 2.0) -> None:
    """Orange voxels, 8 x 16 x 24, and a layer around them that is empty. A quarter turn about z
    takes them into the world, where the layer's corner is at (1, 2, 0)."""
    import numpy as np

    shape = (10, 18, 26)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    inside = ((index > 0) & (index < np.array(shape) - 1)).all(1)
    matrix = np.eye(4)
    matrix[:3, :3] = edge * np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    matrix[:3, 3] = np.array([1.0, 2.0, 0.0]) + matrix[:3, :3] @ [0.5, 0.5, 0.5]
    np.savez(
        path,
        index=index.astype("u2"),
        density=np.where(inside, density, 0.0).astype("f2"),
        color=np.tile(np.array([0.8, 0.4, 0.1], "f2"), (len(index), 1)),
        world_from_index=matrix,
    )


def picture(rows: Sequence[Sequence[Sequence[int]]] = (((255, 0, 0),),)) -> bytes:
    """A PNG of RGB or RGBA ``rows``; one red pixel where none are given."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    kind = {3: 2, 4: 6}[len(rows[0][0])]
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + b"".join(map(bytes, row)) for row in rows))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


if __name__ == "__main__":
    sys.exit(main())
