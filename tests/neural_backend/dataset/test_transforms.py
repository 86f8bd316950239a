import dataclasses
import json
import math

import numpy as np
import pytest

from neural_backend.dataset import transforms
from neural_backend.dataset.transforms import Dataset, Intrinsics, View
from neural_backend.protocol import BadInput

POSE = [[1, 0, 0, 0.5], [0, 1, 0, -0.25], [0, 0, 1, 4], [0, 0, 0, 1]]
SQUARE = Intrinsics(100, 80, 120.0, 120.0, 50.0, 40.0)


def frame(name="a.png", **more):
    return {"file_path": name, "transform_matrix": POSE} | more


def folder_with(tmp_path, content, images=("a.png",), name="transforms.json"):
    for image in images:
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).touch()
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def read(tmp_path, content, **options):
    return transforms.read(folder_with(tmp_path, content), **options)


def size_of_images(path):
    return 800, 600


# --- round trip


def dataset(tmp_path, intrinsics=(SQUARE, SQUARE, SQUARE)):
    views = []
    for index, each in enumerate(intrinsics):
        pose = np.eye(4)
        pose[:3, 3] = index, 2.0, -3.5
        name = f"images/{index:04d}.png"
        views.append(View(name, pose, each, transforms.SPLITS[index]))
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / name).touch()
    bounds = np.array([[-1.0, 2.0, 0.5], [1.0, 3.0, 0.75]])
    return Dataset(tmp_path, tuple(views), bounds)


LENS = dataclasses.replace(SQUARE, fl_y=119.0, cx=48.5, k1=0.1, k2=-0.2, k3=0.3, p1=0.01, p2=0.02)


@pytest.mark.parametrize("intrinsics", [(SQUARE,) * 3, (LENS,) * 3, (SQUARE, LENS, SQUARE)])
def test_what_is_written_is_read(tmp_path, intrinsics):
    written = dataset(tmp_path, intrinsics)
    transforms.write(written)
    found = transforms.read(tmp_path)
    assert found.missing == ()
    np.testing.assert_allclose(found.bounds, written.bounds)
    for mine, theirs in zip(found.views, written.views, strict=True):
        assert (mine.file, mine.split) == (theirs.file, theirs.split)
        np.testing.assert_allclose(mine.world_from_camera, theirs.world_from_camera)
        for field in dataclasses.fields(Intrinsics):
            assert getattr(mine.intrinsics, field.name) == pytest.approx(
                getattr(theirs.intrinsics, field.name)
            ), field.name


def test_how_it_was_displayed_is_passed_on(tmp_path):
    display = {"view_transform": "AgX", "exposure": 1.0}
    transforms.write(dataclasses.replace(dataset(tmp_path), display=display))
    assert transforms.read(tmp_path).display == display
    transforms.write(dataset(tmp_path))
    assert transforms.read(tmp_path).display is None
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["neural_fields"]["display"] = "AgX"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert transforms.read(tmp_path).display is None


def test_the_synthetic_form_has_the_same_views(tmp_path):
    written = dataset(tmp_path)
    transforms.write(written)
    found = transforms.read(tmp_path / "nerf_synthetic", size_of_images)
    assert [view.split for view in found.views] == ["train", "val", "test"]
    assert [(found.folder / view.file).resolve() for view in found.views] == [
        (tmp_path / view.file).resolve() for view in written.views
    ]
    assert found.views[0].intrinsics.angle_x == pytest.approx(SQUARE.angle_x)
    np.testing.assert_allclose(found.bounds, [[-1.5] * 3, [1.5] * 3], err_msg="the form's own")


def test_what_is_ours_says_so(tmp_path):
    transforms.write(dataset(tmp_path))
    transforms.write_cameras(tmp_path / "cameras.json", dataset(tmp_path).views)
    written = [*tmp_path.glob("*.json"), *transforms.synthetic_files(tmp_path).values()]
    assert len(written) == 5
    assert all(map(transforms.is_ours, written))
    other = tmp_path / "other.json"
    for content in ("", "[" * 100_000, '["neural_fields"]', '{"frames": []}', "3"):
        other.write_text(content)
        assert not transforms.is_ours(other)
    assert not transforms.is_ours(tmp_path / "gone.json")


def test_no_synthetic_form_where_it_would_lie(tmp_path):
    transforms.write(dataset(tmp_path))
    transforms.write(dataset(tmp_path, (LENS,) * 3))
    assert not list(tmp_path.glob("nerf_synthetic/*.json"))
    transforms.write(dataset(tmp_path))
    written = dataset(tmp_path)
    views = tuple(dataclasses.replace(view, file="images/0.exr") for view in written.views)
    transforms.write(dataclasses.replace(written, views=views))
    assert not list(tmp_path.glob("nerf_synthetic/*.json")), "its readers want PNG"


def test_for_instant_ngp_the_box_is_its_unit_cube(tmp_path):
    transforms.write(dataset(tmp_path))
    content = json.loads((tmp_path / "transforms.json").read_text())
    del content["neural_fields"]
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    found = transforms.read(tmp_path)
    # the cube that instant-ngp trains in, of which the bounds take nine tenths
    matrix = dataset(tmp_path).field_from_world
    corners = (np.array([[0.0] * 3, [1.0] * 3]) - matrix[:3, 3]) / matrix[0, 0]
    np.testing.assert_allclose(found.bounds, corners)


def test_cameras_alone(tmp_path):
    views = dataset(tmp_path).views
    transforms.write_cameras(tmp_path / "cameras.json", views)
    found = transforms.read(tmp_path / "cameras.json", images=False)
    assert len(found.views) == 3
    np.testing.assert_allclose(
        found.views[2].world_from_camera, views[2].world_from_camera, atol=1e-12
    )


# --- field space and splits


def test_a_byte_order_mark_is_passed_over(tmp_path):
    folder_with(tmp_path, GOOD | {"frames": [frame()]})
    path = tmp_path / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(transforms.read(tmp_path).views) == 1


def test_cameras_alone_need_their_size(tmp_path):
    def absent(path):
        raise AssertionError(path)

    folder_with(tmp_path, {"camera_angle_x": 0.7, "frames": [frame()]}, images=())
    with pytest.raises(BadInput, match="w, h: absent; give the image's size"):
        transforms.read(tmp_path / "transforms.json", absent, images=False)


def test_field_from_bounds_by_hand():
    matrix = transforms.field_from_bounds(np.array([[1.0, 0.0, -1.0], [5.0, 2.0, 1.0]]))
    # the longest side, 4, takes 0.9
    assert matrix[0, 0] == matrix[1, 1] == matrix[2, 2] == pytest.approx(0.225)
    np.testing.assert_allclose(matrix @ [3.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 1.0])
    np.testing.assert_allclose((matrix @ [5.0, 1.0, 0.0, 1.0])[0], 0.95)


@pytest.mark.parametrize(
    ("count", "validation", "test"), [(60, 0.05, 0.1), (3, 0.05, 0.1), (40, 0.2, 0.6)]
)
def test_splits_have_their_numbers(count, validation, test):
    names = [transforms.split_of(index, count, validation, test) for index in range(count)]
    assert names.count("test") == math.ceil(test * count)
    assert names.count("val") == math.ceil(validation * count)
    assert names.count("train") >= 1


def test_splits_leave_one_to_train_and_spread():
    names = [transforms.split_of(index, 60, 0.5, 0.5) for index in range(60)]
    assert [names.count(name) for name in ("test", "val", "train")] == [30, 29, 1]
    assert [transforms.split_of(0, 1, 0.5, 0.5)] == ["train"]
    names = [transforms.split_of(index, 100, 0.0, 0.1) for index in range(100)]
    held = [index for index, name in enumerate(names) if name == "test"]
    assert np.diff(held).tolist() == [10] * 9


def many(tmp_path, count, **more):
    files = [f"{index}.png" for index in range(count)]
    return folder_with(tmp_path, GOOD | {"frames": [frame(file) for file in files]} | more, files)


def test_every_eighth_view_is_held_out_where_the_json_does_not_say(tmp_path):
    views = transforms.read(many(tmp_path, 50)).views
    held = [index for index, view in enumerate(views) if view.split == "test"]
    assert len(held) == 7
    assert set(np.diff(held)) <= {7, 8}
    assert {view.split for view in views} == {"train", "test"}
    assert held[0] > 0, "a camera at the end of a path would have neighbours on one side only"


@pytest.mark.parametrize(
    ("count", "more"), [(15, {}), (50, {"train_filenames": ["0.png"]}), (50, {"images": False})]
)
def test_no_view_is_held_out_of_few_or_where_the_json_says(tmp_path, count, more):
    images = more.pop("images", True)
    views = transforms.read(many(tmp_path, count, **more), images=images).views
    assert [view.split for view in views] == ["train"] * count


def test_no_view_is_held_out_of_a_training_split(tmp_path):
    source = many(tmp_path, 50)
    (source / "transforms.json").rename(source / "transforms_train.json")
    assert {view.split for view in transforms.read(source).views} == {"train"}


# --- dialects


def test_nerf_synthetic(tmp_path):
    for name in transforms.SPLITS:
        content = {"camera_angle_x": 0.8, "frames": [frame(f"./{name}/r_0")]}
        folder_with(tmp_path, content, [f"{name}/r_0.png"], f"transforms_{name}.json")
    found = transforms.read(tmp_path, size_of_images)
    assert [view.split for view in found.views] == ["train", "val", "test"]
    assert found.views[0].file == "./train/r_0.png"
    assert found.views[0].intrinsics == Intrinsics(
        800, 600, 400 / math.tan(0.4), 400 / math.tan(0.4), 400.0, 300.0
    )
    np.testing.assert_allclose(found.bounds, [[-1.5] * 3, [1.5] * 3])


def test_instant_ngp(tmp_path):
    content = {
        "fl_x": 900.0, "fl_y": 880.0, "cx": 410.0, "cy": 290.0, "w": 800.0, "h": 600.0,
        "k1": 0.05, "p2": -0.01, "aabb_scale": 4, "frames": [frame(), frame("gone.png")],
    }  # fmt: skip
    found = read(tmp_path, content)
    assert found.missing == ("gone.png",)
    assert found.views[0].intrinsics == Intrinsics(
        800, 600, 900.0, 880.0, 410.0, 290.0, k1=0.05, p2=-0.01
    )
    # its unit cube times four, at a scale of 0.33 around the origin
    np.testing.assert_allclose(found.bounds, [[-2 / 0.33] * 3, [2 / 0.33] * 3])
    # more than the cube: there are surroundings, and what the cameras look at deserves the detail
    np.testing.assert_allclose(found.focus, transforms.bounds_of_cameras(found.views))
    middle = found.field_from_surroundings @ [*found.focus.mean(axis=0), 1.0]
    np.testing.assert_allclose(middle[:3], 0.5, atol=1e-9)
    edges = found.field_from_surroundings[0, 0] * np.ptp(found.focus, axis=0)
    np.testing.assert_allclose(edges, transforms.FILL * transforms.INNER)
    assert read(tmp_path, content | {"aabb_scale": 1}).focus is None


def test_a_long_lens_may_have_large_coefficients(tmp_path):
    """What a coefficient means depends on how far from the middle the image goes."""
    content = {"w": 800, "h": 600, "fl_x": 20000.0, "k1": 12.0, "k2": -9e3, "frames": [frame()]}
    assert read(tmp_path, content).views[0].intrinsics.k2 == -9e3


def test_nerfstudio_has_intrinsics_a_frame_and_lists_of_splits(tmp_path):
    content = {
        "camera_model": "OPENCV",
        "test_filenames": ["a.png"],
        "frames": [frame(w=10, h=20, fl_x=30.0)],
    }
    (view,) = read(tmp_path, content).views
    assert view.split == "test"
    assert view.intrinsics == Intrinsics(10, 20, 30.0, 30.0, 5.0, 10.0)


def test_passes_of_others_are_taken_where_the_json_says_what_they_hold(tmp_path):
    """nerfstudio's depth may be a phone's, a quarter of the image's size and off by centimetres."""
    passes = {"depth_file_path": "d.png", "mask_path": "m.png", "normal_file_path": "n.png"}
    frames = [frame(**passes), frame("b.png", depth_file_path="gone.png", mask_path=None)]
    files = ["a.png", "b.png", "d.png", "m.png", "n.png"]
    folder_with(tmp_path, GOOD | {"frames": frames}, files)
    first, second = transforms.read(tmp_path).views
    assert (first.depth, first.mask, first.normal) == (None, "m.png", None)
    assert (second.depth, second.mask) == (None, None)
    told = {"depth": {"distance": "planar", "unit": 0.001}, "normal": {"space": "world"}}
    folder_with(tmp_path, GOOD | {"frames": frames, "neural_fields": told}, files)
    found = transforms.read(tmp_path)
    assert found.depth_unit == 0.001
    first, second = found.views
    assert (first.depth, first.normal) == ("d.png", "n.png")
    assert second.depth is None


def test_without_bounds_the_cameras_say_where_the_object_is(tmp_path):
    views = []
    for angle in np.linspace(0, 2 * math.pi, 8, endpoint=False):
        z = np.array([math.cos(angle), math.sin(angle), 0.0])
        x = np.array([-math.sin(angle), math.cos(angle), 0.0])
        pose = np.eye(4)
        pose[:3] = np.stack([x, np.cross(z, x), z, [7.0, 8.0, 9.0] + 4.0 * z], 1)
        views.append(View("a.png", pose, SQUARE))
    bounds = transforms.bounds_of_cameras(views)
    np.testing.assert_allclose(bounds, [[5.0, 6.0, 7.0], [9.0, 10.0, 11.0]], atol=1e-4)


def test_parallel_cameras_have_bounds_too():
    views = [View("a.png", np.eye(4), SQUARE)] * 2
    bounds = transforms.bounds_of_cameras(views)
    assert np.isfinite(bounds).all()
    assert (np.ptp(bounds, axis=0) > 0).all()


def test_poses_lose_their_scale(tmp_path):
    pose = np.array(POSE, dtype=float)
    pose[:3, :3] *= 3.0
    content = {"w": 10, "h": 10, "fl_x": 9.0, "frames": [frame(transform_matrix=pose.tolist())]}
    np.testing.assert_allclose(read(tmp_path, content).views[0].world_from_camera, POSE)


def test_a_pose_of_three_rows(tmp_path):
    content = {"w": 10, "h": 10, "fl_x": 9.0, "frames": [frame(transform_matrix=POSE[:3])]}
    np.testing.assert_allclose(read(tmp_path, content).views[0].world_from_camera, POSE)


# --- broken and hostile jsons

GOOD = {"w": 10, "h": 10, "fl_x": 9.0}
FAR_POSE = [[1, 0, 0, 1e300], *POSE[1:]]
TOLD = {"neural_fields": {"depth": {"distance": "planar"}}}
NAN_POSE = [[math.nan, 0, 0, 0], *POSE[1:]]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "not valid json"),
        ("{", "not valid json"),
        ("[" * 100_000, "not valid json"),
        ("[]", "frames"),
        ("{}", "frames"),
        ({"frames": {}}, "frames"),
        ({"frames": []}, "it lists no frames"),
        ({"frames": [3]}, r"frames\[0\]"),
        (GOOD | {"frames": [{}]}, r"frames\[0\]\.file_path"),
        (GOOD | {"frames": [frame(["a.png"])]}, r"frames\[0\]\.file_path"),
        (GOOD | {"frames": [frame("http://host/a.png")]}, r"frames\[0\]\.file_path"),
        (GOOD | {"frames": [frame("a\0.png")]}, r"frames\[0\]\.file_path"),
        (GOOD | {"frames": [frame("x" * 10_000)]}, "none of its 1 images exists"),
        (GOOD | {"frames": [frame("gone.png")]}, "none of its 1 images exists"),
        (GOOD | {"frames": [{"file_path": "a.png"}]}, r"frames\[0\]\.transform_matrix"),
        (GOOD | {"frames": [frame(transform_matrix="no")]}, "not a 4x4 matrix"),
        (GOOD | {"frames": [frame(transform_matrix=[[1, 2], [3]])]}, "not a 4x4 matrix"),
        (GOOD | {"frames": [frame(transform_matrix=NAN_POSE)]}, "NaN"),
        (GOOD | {"frames": [frame(transform_matrix=FAR_POSE)]}, "a camera beyond"),
        (GOOD | {"frames": [frame(transform_matrix=[[0] * 4] * 4)]}, "span no space"),
        ({"w": 10, "h": 10, "frames": [frame()]}, "no focal length"),
        (GOOD | {"fl_x": -3, "frames": [frame()]}, "no focal length"),
        (GOOD | {"fl_x": "wide", "frames": [frame()]}, r"frames\[0\]\.fl_x"),
        (GOOD | {"k1": True, "frames": [frame()]}, r"frames\[0\]\.k1"),
        (GOOD | {"k1": 1e9, "frames": [frame()]}, r"frames\[0\]\.k1: 1e\+09 moves"),
        (GOOD | {"k3": -1e9, "fl_x": 1e-300, "frames": [frame()]}, r"frames\[0\]\.k3"),
        (GOOD | {"cx": math.inf, "frames": [frame()]}, r"frames\[0\]\.cx"),
        (GOOD | {"w": 1e9, "frames": [frame()]}, r"frames\[0\]\.w, h"),
        (GOOD | {"w": 0, "frames": [frame()]}, r"frames\[0\]\.w, h"),
        ({"fl_x": 9, "frames": [frame()]}, r"frames\[0\]\.w, h: absent"),
        (GOOD | {"camera_model": "FISHEYE", "frames": [frame()]}, "camera_model"),
        (GOOD | {"aabb": [[1, 1, 1], [0, 0, 0]], "frames": [frame()]}, "aabb"),
        (GOOD | {"aabb": "big", "frames": [frame()]}, "aabb"),
        (GOOD | {"neural_fields": {"bounds": [[0] * 3] * 2}, "frames": [frame()]}, "bounds"),
        (GOOD | {"aabb": [[0] * 3, [1e10] * 3], "frames": [frame()]}, "aabb: a box beyond 1e"),
        (GOOD | {"aabb": [[0] * 3, [1e-30] * 3], "frames": [frame()]}, "aabb: a box below 1e-"),
        (GOOD | {"aabb": [[0, 1, 2]] * 2, "frames": [frame()]}, "aabb: a box below 1e-"),
        (GOOD | {"aabb_scale": 1e9, "frames": [frame()]}, "aabb_scale: a box beyond 1e"),
        (GOOD | {"aabb_scale": 1e30, "frames": [frame()]}, r": aabb_scale: 1e\+30; give a number"),
        (GOOD | {"aabb_scale": 1e30, "scale": 1e30, "frames": [frame()]}, r": scale: 1e\+30; give"),
        (GOOD | {"scale": 1e30, "frames": [frame()]}, r": scale: 1e\+30; give a number from 1e-09"),
        (GOOD | {"scale": 1e-30, "frames": [frame()]}, ": scale: 1e-30; give a number"),
        (GOOD | {"scale": 0, "frames": [frame()]}, ": scale: 0; give a number"),
        (GOOD | {"aabb_scale": -1, "frames": [frame()]}, ": aabb_scale: -1; give a number"),
        (GOOD | {"scale": "x", "frames": [frame()]}, ": scale: 'x' is not a number"),
        (GOOD | {"frames": [frame(depth_file_path=3)], **TOLD}, r"frames\[0\]\.depth_file_path"),
        (GOOD | {"frames": [frame(mask_path="a\0.png")]}, r"frames\[0\]\.mask_path"),
        (GOOD | {"neural_fields": {"depth": {"distance": "ray"}}, "frames": [frame()]}, "planar"),
        (GOOD | {"neural_fields": {"depth": {"unit": 0}}, "frames": [frame()]}, "depth.unit: 0"),
        (GOOD | {"neural_fields": {"depth": {"unit": 1e30}}, "frames": [frame()]}, "unit: 1e"),
        (GOOD | {"neural_fields": {"depth": {"unit": "m"}}, "frames": [frame()]}, "depth.unit"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, content, named):
    with pytest.raises(BadInput, match=named) as caught:
        read(tmp_path, content)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(tmp_path / "transforms.json"))
    assert len(text) < 12_000


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "transforms.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(BadInput, match="not valid json"):
        transforms.read(tmp_path)


def test_no_json_and_no_folder(tmp_path):
    with pytest.raises(BadInput, match=r"no transforms\.json in this folder"):
        transforms.read(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        transforms.read(tmp_path / "gone" / "transforms.json")


def test_passes_that_are_absent_are_counted(tmp_path):
    listed = frame(depth_file_path="depth/a.exr", normal_file_path="normal/a.exr")
    own = {"depth": {"distance": "planar", "unit": 1.0}, "normal": {"space": "world"}}
    read_back = read(tmp_path, GOOD | {"neural_fields": own, "frames": [listed]})
    assert read_back.views[0].depth is None
    assert read_back.missing_passes == ("depth/a.exr", "normal/a.exr")
