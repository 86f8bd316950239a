"""The field beside the renders comes back as one image, which the next one replaces."""

from __future__ import annotations

import bpy
import pytest
from neural_fields.operators import job


def test_the_comparison_arrives_as_one_image(fake, start_scene, output, counts) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(output.parent / "scene.blend"))
    assert bpy.ops.neural_fields.compare(output=str(output), views=2) == {"FINISHED"}
    assert job.owner.message == "the run compared: 2 views, 27.3 dB"
    before = counts()
    image = bpy.data.images["the run compared"]
    assert image.filepath == "//the run/compare.png"
    assert tuple(image.size) == (1, 1)
    assert image.pixels[:3] == pytest.approx((1.0, 0.0, 0.0))
    (output / "compare.png").write_bytes(fake.picture([[(0, 0, 255)] * 2]))
    bpy.ops.neural_fields.compare(output=str(output))
    assert counts() == before
    assert image.pixels[:3] == pytest.approx((1.0, 0.0, 0.0)), "it was read again"
    flags = ["--output", str(output / "compare.png"), "--views", "3", "--json"]
    assert fake.calls[-1] == ["compare", str(output / "run"), *flags]


def test_the_dataset_beside_the_run_is_compared_with(fake, start_scene, output) -> None:
    (output / "dataset").mkdir()
    (output / "dataset" / "transforms.json").write_text("{}")
    earlier = output / "run.1"
    (output / "run").rename(earlier)
    bpy.ops.neural_fields.compare(run=str(earlier))
    assert fake.calls[-1][1] == str(earlier)
    assert fake.calls[-1][-2:] == ["--source", str(output / "dataset")]
    assert (output / "compare.1.png").is_file()
    assert "the run.1 compared" in bpy.data.images


def test_it_is_no_sequence(fake, start_scene, output, no_renders) -> None:
    bpy.ops.neural_fields.compare(output=str(output))
    bpy.ops.neural_fields.render_sequence(output=str(output))
    assert bpy.data.images["the run compared"].source == "FILE"
    assert bpy.data.images["the run"].source == "SEQUENCE"


@pytest.mark.parametrize(
    ("fault", "said"), [("sdf", "no views to compare with"), ("garbage", "no readable answer")]
)
def test_what_fails_is_said_and_leaves_nothing(
    fake, start_scene, output, counts, fault, said
) -> None:
    before = counts()
    fake.fails(fault)
    with pytest.raises(RuntimeError, match=said) as caught:
        bpy.ops.neural_fields.compare(output=str(output))
    assert str(caught.value).strip().count("\n") == 0
    with pytest.raises(RuntimeError, match="views is -5: give at least 1"):
        bpy.ops.neural_fields.compare(output=str(output), views=-5)
    with pytest.raises(RuntimeError, match="no trained field is there yet"):
        bpy.ops.neural_fields.compare(output=str(output.parent / "none"))
    assert counts() == before
