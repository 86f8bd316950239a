"""The rig's preview: its lines, and when they are computed anew."""

from __future__ import annotations

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")

from neural_fields.neural_backend.dataset.transforms import Intrinsics, View  # noqa: E402
from neural_fields.ui import rig_preview  # noqa: E402


@pytest.fixture
def preview(scene, monkeypatch):
    """The preview's module with nothing drawn yet, and no rest between computations."""
    monkeypatch.setattr(rig_preview, "_REST", 0.0)
    monkeypatch.setattr(rig_preview, "_rest_until", 0.0)
    monkeypatch.setattr(rig_preview, "_changed", True)
    bpy.ops.mesh.primitive_cube_add()
    scene.neural_fields.rig.views = 20
    yield rig_preview
    rig_preview._clear()


def test_frustum_worked_by_hand() -> None:
    """90 degrees, 2 x 2 pixels, principal point in the left upper corner, seen from x = 5."""
    pose = np.eye(4)
    pose[0, 3] = 5.0
    view = View("", pose, Intrinsics(2, 2, 1.0, 1.0, 0.0, 0.0))
    lines = rig_preview.frustum_lines((view,), 3.0)
    assert lines.shape == (20, 3)
    assert (lines[0] == [5.0, 0.0, 0.0]).all()
    corners = {tuple(point) for point in lines[1:16:4].tolist()}
    assert corners == {(5, 0, -3), (11, 0, -3), (5, -6, -3), (11, -6, -3)}
    assert lines[17, 1] > 0  # the mark stands above
    assert rig_preview.frustum_lines((), 1.0).shape == (0, 3)


def test_nothing_is_computed_while_it_is_off(preview, monkeypatch) -> None:
    monkeypatch.setattr(preview.rig, "preview_views", lambda *a: 1 / 0)
    assert not preview.refresh(bpy.context)


def test_lines_by_split(preview, scene) -> None:
    scene.neural_fields.show_rig = True
    assert preview.refresh(bpy.context)
    counts = {split: len(lines) // 20 for split, lines in preview._lines.items()}
    assert counts == {"train": 17, "val": 1, "test": 2}
    scene.neural_fields.show_rig = False
    assert preview.refresh(bpy.context)
    assert not preview._lines


def test_computed_only_after_a_change(preview, scene) -> None:
    scene.neural_fields.show_rig = True
    assert preview.refresh(bpy.context)
    assert not preview.refresh(bpy.context)
    scene.neural_fields.rig.views = 30
    assert preview.refresh(bpy.context)
    assert not preview.refresh(bpy.context)
    bpy.context.object.location.x = 9.0
    bpy.app.handlers.depsgraph_update_post.append(preview._on_change)
    bpy.context.view_layer.update()
    bpy.app.handlers.depsgraph_update_post.remove(preview._on_change)
    before = preview._lines["train"].copy()
    assert preview.refresh(bpy.context)
    moved = preview._lines["train"] - before
    assert np.allclose(moved, [9.0, 0.0, 0.0], atol=1e-4)


def test_the_shape_of_the_render_is_a_change(preview, scene) -> None:
    bpy.ops.object.camera_add(location=(0.0, 0.0, 5.0))
    scene.neural_fields.rig.kind = "cameras"
    scene.neural_fields.show_rig = True
    assert preview.refresh(bpy.context)
    for name, value in (("resolution_x", 500), ("resolution_y", 900), ("pixel_aspect_y", 2.0)):
        setattr(scene.render, name, value)
        before = preview._lines["train"]
        assert preview.refresh(bpy.context)
        assert not np.allclose(preview._lines["train"], before), name
        assert not preview.refresh(bpy.context)


def test_a_slow_scene_is_looked_at_less_often(preview, scene, monkeypatch) -> None:
    monkeypatch.setattr(preview, "_REST", 1e9)
    scene.neural_fields.show_rig = True
    assert preview.refresh(bpy.context)
    scene.neural_fields.rig.views = 30
    assert not preview.refresh(bpy.context)


def test_nothing_to_frame_draws_nothing(preview, scene) -> None:
    bpy.data.objects.remove(bpy.context.object)
    scene.neural_fields.show_rig = True
    assert preview.refresh(bpy.context)
    assert not any(len(lines) for lines in preview._lines.values())


def test_many_views_are_thinned(preview, scene) -> None:
    scene.neural_fields.rig.views = 9000
    scene.neural_fields.show_rig = True
    assert preview.refresh(bpy.context)
    assert sum(map(len, preview._lines.values())) <= 20 * 2000
