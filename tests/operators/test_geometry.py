"""What renders: bounds, subjects, triangles."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")

from neural_fields.neural_backend.protocol import BadInput  # noqa: E402
from neural_fields.operators import geometry  # noqa: E402
from neural_fields.operators.scratch import RESULT_MARK, Scratch  # noqa: E402


def cube(location=(0.0, 0.0, 0.0), size: float = 2.0, name: str = "Cube"):
    bpy.ops.mesh.primitive_cube_add(location=location, size=size)
    bpy.context.object.name = name
    return bpy.context.object


def bounds(subject: str = "scene", collection=None) -> np.ndarray:
    """Of what a render shows."""
    context = bpy.context
    names = geometry.names_of(subject, collection, context.view_layer)
    with Scratch(context.scene, context.view_layer) as scratch:
        found = geometry.evaluated(scratch, lambda graph: geometry.survey(graph, names))
    return geometry.bounds_of_pieces(found.subject())


def viewport_bounds():
    depsgraph = bpy.context.evaluated_depsgraph_get()
    return geometry.bounds_of_pieces(geometry.survey(depsgraph, None).subject())


def box(low, high) -> object:
    return pytest.approx(np.array([low, high], dtype=float), abs=1e-4)


def test_bounds_of_a_moved_and_scaled_cube(scene) -> None:
    cube((1.0, 2.0, 3.0)).scale = 1.0, 2.0, 0.5
    bpy.ops.object.camera_add(location=(50.0, 0.0, 0.0))
    bpy.ops.object.light_add(location=(0.0, 50.0, 0.0))
    bpy.ops.object.empty_add(location=(0.0, 0.0, 50.0))
    assert bounds() == box([0, 0, 2.5], [2, 4, 3.5])
    assert viewport_bounds() == box([0, 0, 2.5], [2, 4, 3.5])


@pytest.mark.parametrize("where", ["render", "viewport"])
def test_what_does_not_render_is_left_out(scene, where) -> None:
    cube()
    cube((10.0, 0.0, 0.0)).hide_render = True
    hidden = bpy.data.collections.new("hidden")
    scene.collection.children.link(hidden)
    inside = cube((0.0, 10.0, 0.0))
    scene.collection.objects.unlink(inside)
    hidden.objects.link(inside)
    hidden.hide_render = True
    cube((0.0, 0.0, 10.0)).visible_camera = False
    loose = bpy.data.meshes.new("loose")
    loose.from_pydata([(0, 0, 0), (0, 0, 20)], [(0, 1)], [])
    scene.collection.objects.link(bpy.data.objects.new("loose", loose))
    if where == "render":
        assert bounds() == box([-1] * 3, [1] * 3)
    else:
        assert viewport_bounds() == box([-1] * 3, [1] * 3)


def test_what_only_renders_is_there(scene) -> None:
    """Hidden in the viewport, by object or by modifier, and yet rendered."""
    cube((10.0, 0.0, 0.0)).hide_viewport = True
    item = cube()
    array = item.modifiers.new("array", "ARRAY")
    array.count, array.show_viewport = 3, False
    assert bounds() == box([-1] * 3, [11, 1, 1])


def test_modifiers_text_curves_metaballs(scene) -> None:
    item = cube((0.0, 0.0, 0.0))
    item.modifiers.new("array", "ARRAY").count = 3
    assert bounds() == box([-1] * 3, [5, 1, 1])
    bpy.data.objects.remove(item)
    bpy.ops.object.text_add(location=(0.0, 0.0, 3.0))
    assert bounds()[:, 2] == pytest.approx([3.0, 3.0])
    bpy.data.objects.remove(bpy.context.object)
    bpy.ops.object.metaball_add(radius=1.0)
    assert 1.0 < np.ptp(bounds(), axis=0).min() < 3.0
    bpy.data.objects.remove(bpy.context.object)
    bpy.ops.curve.primitive_bezier_circle_add(radius=2.0)
    bpy.context.object.data.bevel_depth = 0.5
    assert bounds() == pytest.approx(np.array([[-2.5, -2.5, -0.5], [2.5, 2.5, 0.5]]), abs=0.1)


def test_a_curve_without_a_surface_is_nothing(scene) -> None:
    bpy.ops.curve.primitive_bezier_circle_add()
    bpy.context.object.data.fill_mode = "FULL"
    bpy.context.object.data.dimensions = "3D"
    with pytest.raises(BadInput, match="nothing to render"):
        bounds()


def test_collection_instances(scene) -> None:
    asset = bpy.data.collections.new("asset")
    item = cube((1.0, 0.0, 0.0))
    scene.collection.objects.unlink(item)
    asset.objects.link(item)
    empty = bpy.data.objects.new("instance", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", asset
    empty.location, empty.scale = (0.0, 10.0, 0.0), (2.0, 2.0, 2.0)
    scene.collection.objects.link(empty)
    wanted = box([0, 8, -2], [4, 12, 2])
    assert bounds() == wanted
    cube((-50.0, 0.0, 0.0))
    assert bounds("collection", asset) == wanted
    bpy.ops.object.select_all(action="DESELECT")
    empty.select_set(True)
    assert bounds("selection") == wanted


def test_nodes_that_instance(scene) -> None:
    item = cube()
    tree = bpy.data.node_groups.new("nodes", "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    given, taken = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    line, place = (
        tree.nodes.new("GeometryNodeMeshLine"),
        tree.nodes.new("GeometryNodeInstanceOnPoints"),
    )
    line.inputs["Count"].default_value = 3
    line.inputs["Offset"].default_value = 0.0, 0.0, 5.0
    tree.links.new(line.outputs["Mesh"], place.inputs["Points"])
    tree.links.new(given.outputs["Geometry"], place.inputs["Instance"])
    tree.links.new(place.outputs["Instances"], taken.inputs["Geometry"])
    item.modifiers.new("nodes", "NODES").node_group = tree
    assert bounds() == box([-1, -1, -1], [1, 1, 11])


def test_particles_and_hair(scene) -> None:
    bpy.ops.mesh.primitive_plane_add(size=2.0)
    plane = bpy.context.object
    plane.modifiers.new("hair", "PARTICLE_SYSTEM")
    settings = plane.particle_systems[0].settings
    settings.type, settings.count, settings.hair_length = "HAIR", 50, 3.0
    assert bounds()[1, 2] == pytest.approx(3.0, abs=0.1)
    item = cube((100.0, 0.0, 0.0), size=1.0)
    settings.render_type, settings.instance_object = "OBJECT", item
    settings.particle_size, settings.use_rotation_instance = 1.0, False
    assert bounds()[1, 2] > 0.5


def test_hair_curves(scene) -> None:
    data = bpy.data.hair_curves.new("hair")
    data.add_curves([3])
    data.points.foreach_set("position", [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 3.0])
    data.points.foreach_set("radius", [0.0] * 3)
    scene.collection.objects.link(bpy.data.objects.new("hair", data))
    assert bounds() == box([0, 0, 0], [0, 2, 3])


def test_vertices_that_are_no_numbers(scene) -> None:
    item = cube()
    item.data.vertices[0].co.x = float("nan")
    item.data.vertices[1].co.y = float("inf")
    assert np.isfinite(bounds()).all()
    vertices, triangles = geometry.triangles_of(bpy.context.evaluated_depsgraph_get(), "scene")
    assert np.isfinite(vertices[triangles]).all()
    assert 0 < len(triangles) < 12


def test_nothing_to_render(scene) -> None:
    with pytest.raises(BadInput, match="nothing to render"):
        bounds()
    cube()
    with pytest.raises(BadInput, match="no collection is chosen"):
        bounds("collection")
    with pytest.raises(BadInput, match="choose another Subject"):
        bounds("collection", bpy.data.collections.new("empty"))
    bpy.ops.object.select_all(action="DESELECT")
    with pytest.raises(BadInput, match="nothing is selected"):
        bounds("selection")


def test_results_of_an_earlier_run_are_no_subject(scene) -> None:
    cube()
    results = bpy.data.collections.new("Neural Fields")
    results[RESULT_MARK] = "run"
    scene.collection.children.link(results)
    old = cube((5.0, 0.0, 0.0))
    scene.collection.objects.unlink(old)
    results.objects.link(old)
    assert bounds() == box([-1] * 3, [1] * 3)
    assert viewport_bounds() == box([-1] * 3, [1] * 3)


def test_a_result_in_another_collection_is_no_subject(scene) -> None:
    cube()
    cube((5.0, 0.0, 0.0))[RESULT_MARK] = "run"
    own = bpy.data.collections.new("Neural Fields")  # the person's, unmarked
    scene.collection.children.link(own)
    moved = cube((0.0, 5.0, 0.0))
    moved[RESULT_MARK] = "run"
    scene.collection.objects.unlink(moved)
    own.objects.link(moved)
    assert bounds() == box([-1] * 3, [1] * 3)
    assert moved.name in scene.objects
    assert len(scene.collection.objects) == 2


def piece(name: str, low, high) -> geometry.Piece:
    return geometry.Piece(name, True, np.array([low, high], dtype=float))


def test_an_enormous_plane_is_left_out() -> None:
    small = piece("small", [0, 0, 0], [1, 1, 1])
    other = piece("other", [2, 0, 0], [3, 1, 1])
    ground = piece("ground", [-50, -50, 0], [50, 50, 0])
    table = piece("table", [-5, -5, 0], [5, 5, 0])
    house = piece("house", [-50, -50, 0], [50, 50, 40])
    assert geometry.without_enormous((ground, small, other)) == ((small, other), ("ground",))
    assert geometry.without_enormous((table, small))[1] == ()
    assert geometry.without_enormous((house, small))[1] == ()
    assert geometry.without_enormous((ground,))[1] == ()


def test_support_reaches_as_far_as_all_points() -> None:
    points = np.random.default_rng(0).normal(size=(50_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    support = geometry.support_of(points)
    assert len(support) < 2000
    assert support.min(0) == pytest.approx(points.min(0))
    assert support.max(0) == pytest.approx(points.max(0))
    directions = geometry.fibonacci(97)
    assert ((points @ directions.T).max(0) - (support @ directions.T).max(0)).max() < 0.003


def test_triangles_keep_facing_outwards(scene) -> None:
    item = cube((3.0, 0.0, 0.0))
    item.scale = -1.0, 1.0, 2.0
    bpy.ops.object.text_add()  # has faces, on one side
    bpy.context.object.hide_render = True
    vertices, triangles = geometry.triangles_of(bpy.context.evaluated_depsgraph_get(), "scene")
    corners = vertices[triangles] - [3.0, 0.0, 0.0]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert len(triangles) == 12
    assert ((normals * corners.mean(1)).sum(1) > 0).all()
    # by the divergence theorem
    assert np.einsum("ij,ij->i", corners[:, 0], normals).sum() / 6 == pytest.approx(16.0)


def test_a_ground_that_dwarfs_the_rest_is_no_part_of_a_scene_s_mesh(scene) -> None:
    cube()
    bpy.ops.mesh.primitive_plane_add(size=100.0)  # selected
    depsgraph = bpy.context.evaluated_depsgraph_get()
    assert len(geometry.triangles_of(depsgraph, "scene")[1]) == 12
    assert len(geometry.triangles_of(depsgraph, "selection")[1]) == 2


def test_a_text_s_triangles_come_once(scene) -> None:
    bpy.ops.object.text_add()
    text = bpy.context.object
    depsgraph = bpy.context.evaluated_depsgraph_get()
    _, triangles = geometry.triangles_of(depsgraph, "scene")
    mesh = text.evaluated_get(depsgraph).to_mesh()
    mesh.calc_loop_triangles()
    assert len(triangles) == len(mesh.loop_triangles)


def test_mesh_file(scene, tmp_path: pathlib.Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    cube((1.0, 2.0, 3.0)).modifiers.new("array", "ARRAY").show_viewport = False
    file = tmp_path / "geometry.ply"

    def write(depsgraph, path=file) -> None:
        geometry.write_mesh(depsgraph, "scene", None, path)

    with Scratch(scene, bpy.context.view_layer) as scratch:
        geometry.evaluated(scratch, write)
    mesh = trimesh.load(file)
    assert mesh.bounds == box([0, 1, 2], [4, 3, 4])
    assert mesh.volume == pytest.approx(16.0)
    write(bpy.context.evaluated_depsgraph_get())
    assert trimesh.load(file).volume == pytest.approx(8.0)
    with pytest.raises(BadInput, match="cannot be written"):
        write(bpy.context.evaluated_depsgraph_get(), tmp_path / "no folder" / "mesh.ply")


def test_a_survey_tells_changes_apart(scene) -> None:
    item = cube()

    def digest() -> str:
        bpy.context.view_layer.update()
        return geometry.survey(bpy.context.evaluated_depsgraph_get(), None).digest

    first = digest()
    assert digest() == first
    item.location.x = 1.0
    moved = digest()
    item.location.x = 0.0
    assert digest() == first
    item.data.vertices[0].co.x += 0.1
    reshaped = digest()
    item.data.color_attributes.new("Color", "FLOAT_COLOR", "POINT")
    item.data.update()
    assert len({first, moved, reshaped, digest()}) == 4


def test_looking_leaves_nothing_behind(scene) -> None:
    cube()
    before = {name: len(getattr(bpy.data, name)) for name in ("scenes", "objects", "cameras")}
    engine = scene.render.engine
    bounds()
    assert {name: len(getattr(bpy.data, name)) for name in before} == before
    assert scene.render.engine == engine
    assert not hasattr(bpy.types, "NEURAL_FIELDS_survey")
    with pytest.raises(ZeroDivisionError), Scratch(scene, bpy.context.view_layer) as scratch:
        geometry.evaluated(scratch, lambda graph: 1 / 0)
    assert {name: len(getattr(bpy.data, name)) for name in before} == before


def test_mesh_of_the_selection(scene) -> None:
    cube((5.0, 0.0, 0.0))
    cube()
    bpy.ops.object.select_all(action="DESELECT")
    scene.objects[0].select_set(True)

    def look(depsgraph) -> np.ndarray:
        return geometry.triangles_of(depsgraph, "selection")[0]

    with Scratch(scene, bpy.context.view_layer) as scratch:
        assert geometry.evaluated(scratch, look).min(0) == pytest.approx([4.0, -1.0, -1.0])
