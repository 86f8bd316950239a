"""What renders: the evaluated geometry of a scene, as points to frame and as triangles."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import bpy
import numpy as np
import numpy.typing as npt

from ..neural_backend.protocol import GENERATOR, BadInput, write_whole
from .scratch import RESULT_MARK, Scratch, results_of

Points = npt.NDArray[np.float64]
T = TypeVar("T")

_EXACT = 20_000
"""Up to so many points are all kept; of more, those that lie outermost in many directions."""
_DIRECTIONS = 1024
_CHUNK = 1 << 22
_STRANDS = 5000
_ENORMOUS = 10.0
_FLAT = 0.05
_PLY_BEGIN = f"ply\nformat binary_little_endian 1.0\ncomment {GENERATOR}"

_SOLID = {"MESH"}
_POINTS = {"CURVES", "POINTCLOUD"}
_BOXES = {"VOLUME", "GPENCIL", "GREASEPENCIL"}
# text, curves and metaballs appear once more, as the mesh that they evaluate to
_GEOMETRY = _SOLID | _POINTS | _BOXES


@dataclasses.dataclass(frozen=True)
class Local:
    """One evaluated data-block in its own coordinates.

    Attributes:
        vertices: [N, 3] what is visible; vertices that belong to no face are not.
        triangles: [M, 3] indices; empty for what has none, such as hair.
        support: [K, 3] the vertices that decide what the whole reaches.
        digest: changes when the data does.
    """

    vertices: Points
    triangles: npt.NDArray[np.int64]
    support: Points
    digest: bytes


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one object of the scene renders, all its instances included.

    Attributes:
        name: the object's, or of an instance the instancer's.
        wanted: it is part of the subject.
        points: [N, 3] world space; their convex hull is the object's.
    """

    name: str
    wanted: bool
    points: Points

    @property
    def bounds(self) -> Points:
        return np.stack([self.points.min(0), self.points.max(0)])


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a scene renders.

    Attributes:
        pieces: by object.
        materials: names of the materials in use.
        digest: changes when a shape or a placement does.
    """

    pieces: tuple[Piece, ...]
    materials: frozenset[str]
    digest: str

    def subject(self) -> tuple[Piece, ...]:
        """The pieces to frame. Raises BadInput when there are none."""
        wanted = tuple(piece for piece in self.pieces if piece.wanted)
        if not wanted or max(np.ptp(bounds_of_pieces(wanted), axis=0)) <= 0.0:
            raise BadInput(_nothing(bool(self.pieces)))
        return wanted


def names_of(
    subject: str, collection: bpy.types.Collection | None, view_layer: bpy.types.ViewLayer
) -> frozenset[str] | None:
    """Full names of the subject's objects; None for the whole scene.

    Raises:
        BadInput: when nothing is selected or no collection is chosen.
    """
    if subject == "scene":
        return None
    if subject == "collection":
        if collection is None:
            raise BadInput("no collection is chosen: choose the subject's in the Rig panel")
        return frozenset(item.name_full for item in collection.all_objects)
    names = frozenset(
        item.name_full for item in view_layer.objects if item.select_get(view_layer=view_layer)
    )
    if not names:
        raise BadInput("nothing is selected: select the subject or choose Subject: Scene")
    return names


def survey(depsgraph: bpy.types.Depsgraph, names: frozenset[str] | None) -> Survey:
    """Look at everything that renders.

    Args:
        depsgraph: evaluated for rendering (``evaluated``), or for the viewport.
        names: of the subject's objects (``names_of``).
    """
    points: dict[str, list[Points]] = {}
    wanted: dict[str, bool] = {}
    materials: set[str] = set()
    digests: list[bytes] = []
    for instance, local in _instances(depsgraph):
        item = instance.object
        top = (instance.parent if instance.is_instance else item).original.name_full
        matrix = np.array(instance.matrix_world, dtype=np.float64)
        digests.append(
            hashlib.blake2b(
                local.digest + matrix.astype(np.float32).tobytes() + top.encode(), digest_size=16
            ).digest()
        )
        materials.update(slot.material.name_full for slot in item.material_slots if slot.material)
        materials.update(m.name_full for m in getattr(item.data, "materials", ()) if m)
        found = _finite(_transformed(matrix, local.support))
        if not len(found):
            continue
        part = names is None or top in names or item.original.name_full in names
        wanted[top] = wanted.get(top, False) or part
        gathered = points.setdefault(top, [])
        gathered.append(found)
        if len(gathered) > 256:
            gathered[:] = [support_of(np.concatenate(gathered))]
    # the order of what is drawn is not the same in every start of Blender
    total = hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
    pieces = tuple(
        Piece(name, wanted[name], support_of(np.concatenate(gathered)))
        for name, gathered in points.items()
    )
    return Survey(pieces, frozenset(materials), total)


def evaluated(scratch: Scratch, function: Callable[[bpy.types.Depsgraph], T]) -> T:
    """Call ``function`` with the dependency graph that a render of the scratch scene sees.

    Python gets that graph, where modifiers and visibility are the render's, in a render engine
    only: one is registered for the moment and draws nothing.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def look(self: Any, depsgraph: bpy.types.Depsgraph) -> None:
        try:
            answers.append(function(depsgraph))
        except Exception as error:
            errors.append(error)

    name = "NEURAL_FIELDS_survey"
    body = {"bl_idname": name, "bl_label": "Neural Fields", "render": look}
    engine = type("NEURAL_FIELDS_survey", (bpy.types.RenderEngine,), body)
    render: Any = scratch.scene.render
    before = render.engine, render.use_freestyle
    bpy.utils.register_class(engine)
    try:
        render.engine, render.use_freestyle = name, False
        render.use_compositing = render.use_sequencer = False
        bpy.ops.render.render(scene=scratch.scene.name)
    finally:
        render.engine, render.use_freestyle = before
        bpy.utils.unregister_class(engine)
    if errors:
        raise errors[0]
    if not answers:
        raise BadInput("Blender is busy with another render: wait for it or cancel it (Esc)")
    return answers[0]


def bounds_of_pieces(pieces: tuple[Piece, ...]) -> Points:
    """[2, 3] the box around some pieces."""
    boxes = np.stack([piece.bounds for piece in pieces])
    return np.stack([boxes[:, 0].min(0), boxes[:, 1].max(0)])


def without_enormous(pieces: tuple[Piece, ...]) -> tuple[tuple[Piece, ...], tuple[str, ...]]:
    """Leave out flat objects that dwarf everything else, such as a ground plane.

    Returns:
        The rest, and the names of what was left out: flat (within 5 % of its longest side) and
        more than ten times as long as the rest altogether.
    """
    kept = sorted(pieces, key=lambda piece: float(np.ptp(piece.bounds, axis=0).max()))
    dwarfing: list[str] = []
    while len(kept) > 1:
        sides = np.sort(np.ptp(kept[-1].bounds, axis=0))
        rest = float(np.ptp(bounds_of_pieces(tuple(kept[:-1])), axis=0).max())
        if sides[0] > _FLAT * sides[2] or sides[2] <= _ENORMOUS * rest or rest <= 0.0:
            break
        dwarfing.append(kept.pop().name)
    return tuple(kept), tuple(dwarfing)


def triangles_of(
    depsgraph: bpy.types.Depsgraph, subject: str, collection: bpy.types.Collection | None = None
) -> tuple[Points, npt.NDArray[np.int64]]:
    """Vertices [N, 3] and triangles [M, 3] of the subject's surfaces, world space.

    Of a whole scene without flat objects that dwarf all others (``without_enormous``).

    Raises:
        BadInput: when nothing of it has faces.
    """
    names = names_of(subject, collection, depsgraph.view_layer)
    dwarfing: tuple[str, ...] = ()
    if subject == "scene":
        _, dwarfing = without_enormous(survey(depsgraph, None).subject())
    return _triangles(depsgraph, names, frozenset(dwarfing))


def _triangles(
    depsgraph: bpy.types.Depsgraph, names: frozenset[str] | None, left_out: frozenset[str]
) -> tuple[Points, npt.NDArray[np.int64]]:
    vertices: list[Points] = []
    triangles: list[npt.NDArray[np.int64]] = []
    count = 0
    for instance, local in _instances(depsgraph):
        item = instance.object
        top = (instance.parent if instance.is_instance else item).original.name_full
        if names is not None and not {top, item.original.name_full} & names:
            continue
        if not len(local.triangles) or top in left_out:
            continue
        matrix = np.array(instance.matrix_world, dtype=np.float64)
        placed = _transformed(matrix, local.vertices)
        # a mirroring matrix turns faces inside out
        faces = local.triangles[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else local.triangles
        faces = faces[np.isfinite(placed).all(1)[faces].all(1)]
        vertices.append(np.where(np.isfinite(placed), placed, 0.0))
        triangles.append(faces + count)
        count += len(placed)
    if not sum(map(len, triangles)):
        raise BadInput(_nothing(True) + " (a signed distance field needs faces)")
    return np.concatenate(vertices), np.concatenate(triangles)


def write_mesh(
    depsgraph: bpy.types.Depsgraph,
    subject: str,
    collection: bpy.types.Collection | None,
    path: str | os.PathLike[str],
) -> None:
    """Write the subject's surfaces as one mesh, a binary PLY in world space.

    Raises:
        BadInput: when there are none, or the file cannot be written.
    """
    write_ply(path, *triangles_of(depsgraph, subject, collection))


def is_ours(path: pathlib.Path) -> bool:
    """Whether ``write_ply`` has written a file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_PLY_BEGIN)) == _PLY_BEGIN.encode()
    except OSError:
        return False


def write_ply(
    path: str | os.PathLike[str], vertices: npt.ArrayLike, triangles: npt.ArrayLike
) -> None:
    """Write vertices [N, 3] and triangles [M, 3] as a binary PLY, whole or not at all.

    A comment in it says whose it is.
    """
    corners = np.asarray(vertices, dtype="<f4")
    faces = np.empty(len(np.asarray(triangles)), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = triangles
    header = (
        f"{_PLY_BEGIN}\n"
        f"element vertex {len(corners)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )

    def write(beside: pathlib.Path) -> None:
        beside.write_bytes(header.encode("ascii") + corners.tobytes() + faces.tobytes())

    try:
        write_whole(path, write)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written ({error.strerror}); choose another Output folder"
        ) from None


def support_of(points: Points) -> Points:
    """The points that lie outermost, in enough directions to stand for all of them.

    Up to 20 000 points all are kept. Of more, those that are extreme along the axes and along
    1024 evenly spread directions: what is lost reaches 0.3 % further at most on a round shape.
    """
    if len(points) <= _EXACT:
        return points
    directions = np.concatenate([np.eye(3), -np.eye(3), fibonacci(_DIRECTIONS)])
    rows = max(_CHUNK // len(directions), 1)
    best = np.full(len(directions), -np.inf)
    index = np.zeros(len(directions), dtype=np.int64)
    for start in range(0, len(points), rows):
        reach = points[start : start + rows] @ directions.T
        furthest = reach.argmax(0)
        value = reach[furthest, np.arange(len(directions))]
        better = value > best
        best[better], index[better] = value[better], furthest[better] + start
    return points[np.unique(index)]


def fibonacci(count: int, lowest: float = -1.0) -> Points:
    """[count, 3] evenly spaced unit vectors: a Fibonacci lattice.

    Args:
        lowest: the height that it begins at, -1 for the sphere, 0 for the upper half.
    """
    steps = np.arange(count) + 0.5
    height = 1.0 - steps * (1.0 - lowest) / count
    # each point is turned against the one before by the golden angle
    turn = steps * np.pi * (3.0 - np.sqrt(5.0))
    ring = np.sqrt(np.maximum(1.0 - height**2, 0.0))
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)


def _nothing(others: bool) -> str:
    if others:
        return "nothing to render: the subject has no visible geometry; choose another Subject"
    return "nothing to render: the scene has no visible geometry; add or show an object"


def _instances(
    depsgraph: bpy.types.Depsgraph,
) -> Iterator[tuple[bpy.types.DepsgraphObjectInstance, Local]]:
    """Everything with a shape that a camera would see."""
    known: dict[Any, Local | None] = {}
    hidden = set() if depsgraph.mode == "RENDER" else _hidden_from_render(depsgraph)
    results = {item.name_full for item in results_of(bpy.data.objects)}
    results.update(
        item.name_full
        for collection in bpy.data.collections
        if collection.get(RESULT_MARK) is not None
        for item in collection.all_objects
    )
    for instance in depsgraph.object_instances:
        item = instance.object
        if item is None or item.type not in _GEOMETRY or item.data is None:
            continue
        original = item.original
        names = {original.name_full}
        if instance.is_instance and instance.parent is not None:
            names.add(instance.parent.original.name_full)
        if names & hidden or names & results or original.hide_render:
            continue
        if not original.visible_camera or original.is_holdout:
            continue
        if instance.show_self:
            key: Any = (item.type, item.data.as_pointer())
            if key not in known:
                known[key] = _local(item)
            if known[key] is not None:
                yield instance, known[key]
        if instance.show_particles and len(item.particle_systems):
            key = ("HAIR", original.name_full)
            if key not in known:
                known[key] = _hair(item)
            if known[key] is not None:
                yield instance, known[key]


def _hidden_from_render(depsgraph: bpy.types.Depsgraph) -> set[str]:
    """Objects that the viewport shows and a render does not, because of their collections."""
    shown: set[str] = set()
    every: set[str] = set()

    def visit(layer: bpy.types.LayerCollection, visible: bool) -> None:
        visible = visible and not layer.exclude and not layer.collection.hide_render
        for item in layer.collection.objects:
            every.add(item.name_full)
            if visible:
                shown.add(item.name_full)
        for child in layer.children:
            visit(child, visible)

    visit(depsgraph.view_layer.layer_collection, True)
    return every - shown


def _local(item: bpy.types.Object) -> Local | None:
    data: Any = item.data
    if item.type in _SOLID:
        if not data.is_editmode:
            return _mesh(data)
        # what is being edited has its faces elsewhere
        try:
            return _mesh(item.to_mesh())
        finally:
            item.to_mesh_clear()
    if item.type in _POINTS:
        return _cloud(data)
    return _loose(np.array(item.bound_box, dtype=np.float64))


def _mesh(mesh: bpy.types.Mesh) -> Local | None:
    if not len(mesh.polygons):
        return None
    mesh.calc_loop_triangles()
    vertices = _read(mesh.vertices, "co", 3, np.float32)
    triangles = _read(mesh.loop_triangles, "vertices", 3, np.int32).astype(np.int64)
    digest = hashlib.blake2b(vertices.tobytes() + triangles.tobytes(), digest_size=16)
    for attribute in mesh.attributes:
        values = _attribute(attribute)
        if values is not None:
            digest.update(f"{attribute.name} {attribute.domain}".encode() + values.tobytes())
    used = np.zeros(len(vertices), dtype=bool)
    used[triangles.ravel()] = True
    points = vertices.astype(np.float64)
    return Local(points, triangles, support_of(_finite(points[used])), digest.digest())


_ATTRIBUTE_FIELDS = {
    "FLOAT": ("value", 1, np.float32),
    "INT": ("value", 1, np.int32),
    "BOOLEAN": ("value", 1, bool),
    "FLOAT2": ("vector", 2, np.float32),
    "FLOAT_VECTOR": ("vector", 3, np.float32),
    "FLOAT_COLOR": ("color", 4, np.float32),
    "BYTE_COLOR": ("color", 4, np.float32),
}


def _attribute(attribute: bpy.types.Attribute) -> npt.NDArray[Any] | None:
    """What a surface looks like by: its UV maps, colours, material indices."""
    name = attribute.name
    if name == "position" or name.startswith(
        (".select", ".hide", ".edge", ".corner", ".vs", ".es")
    ):
        return None
    if attribute.data_type not in _ATTRIBUTE_FIELDS:
        return None
    field, size, kind = _ATTRIBUTE_FIELDS[attribute.data_type]
    return _read(attribute.data, field, size, kind)


def _cloud(data: Any) -> Local | None:
    position = data.attributes.get("position")
    if position is None or not len(position.data):
        return None
    points = _read(position.data, "vector", 3, np.float32).astype(np.float64)
    radius = data.attributes.get("radius")
    if radius is not None and radius.domain == "POINT":
        reach = _read(radius.data, "value", 1, np.float32).astype(np.float64)
        axes = np.concatenate([np.eye(3), -np.eye(3)])
        points = (points[:, None] + reach[:, :, None] * axes).reshape(-1, 3)
    return _loose(points)


def _hair(item: bpy.types.Object) -> Local | None:
    """Strands of particle hair, in the object's coordinates; of many, some."""
    points: list[tuple[float, ...]] = []
    for system in item.particle_systems:
        settings = system.settings
        if settings.type != "HAIR" or settings.render_type != "PATH":
            continue
        parents, children = len(system.particles), len(system.child_particles)
        first = parents if children and not settings.use_parent_particles else 0
        count = parents + children - first
        last = 2**settings.render_step
        for strand in range(first, first + count, max(count // _STRANDS, 1)):
            for step in (0, last // 2, last):
                point: Any = system.co_hair(object=item, particle_no=strand, step=step)
                # a step that is not there reads as the origin
                if point.length_squared:
                    points.append(tuple(point))
    if not points:
        return None
    world = np.array(points)
    to_local = np.linalg.pinv(np.array(item.matrix_world, dtype=np.float64))
    return _loose(_transformed(to_local, world))


def _loose(points: Points) -> Local:
    digest = hashlib.blake2b(points.astype(np.float32).tobytes(), digest_size=16).digest()
    return Local(points, np.empty((0, 3), dtype=np.int64), support_of(_finite(points)), digest)


def _read(items: Any, field: str, size: int, kind: Any) -> npt.NDArray[Any]:
    values = np.empty(len(items) * size, dtype=kind)
    items.foreach_get(field, values)
    return values.reshape(-1, size)


def _transformed(matrix: Points, points: Points) -> Points:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _finite(points: Points) -> Points:
    return points[np.isfinite(points).all(1)]
