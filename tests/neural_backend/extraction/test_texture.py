"""Atlases, and textures baked on them, of surfaces whose colours and normals are known."""

import numpy as np
import pytest
import trimesh

from neural_backend.extraction import atlas, surface, texture


def sphere(subdivisions=3):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.3)
    vertices = np.asarray(mesh.vertices) + 0.5
    return vertices, np.asarray(mesh.faces, np.int64), (vertices - 0.5) / 0.3


def sampled(picture, uv):
    """[N, C] bilinear, as a renderer looks it up; uv from the lower left."""
    size = len(picture)
    at = uv * [size, -size] + [-0.5, size - 0.5]
    low = np.floor(at).astype(int)
    part = at - low
    total = 0.0
    for x in (0, 1):
        for y in (0, 1):
            weight = np.abs(1 - x - part[:, 0]) * np.abs(1 - y - part[:, 1])
            column, row = (low + np.array([x, y])).clip(0, size - 1).T
            total = total + weight[:, None] * picture[row, column]
    return total


def points_on(faces, rng, count=4000):
    weights = rng.dirichlet([1.0, 1.0, 1.0], count)
    # corners and edges as well, where seams are
    weights[: count // 3, 0] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return rng.integers(len(faces), size=count), weights


def at(values, faces, face, weights):
    return (values[faces[face]] * weights[..., None]).sum(axis=1)


def bumpy(points, _):
    away = points - 0.5 + 0.02 * np.sin(40.0 * points)
    return (away / np.linalg.norm(away, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def baked():
    vertices, faces, normals = sphere()

    def colors(points, _):
        return points.astype(np.float32)  # what is asked for tells where it is

    return texture.baked(vertices, faces, normals, 512, bumpy, colors)


def test_the_atlas_lies_in_the_square_and_wastes_little(baked):
    uv, faces = baked.atlas.uv, baked.atlas.faces
    assert uv.min() >= 0.0
    assert uv.max() <= 1.0
    corner = uv[faces]
    area = 0.5 * np.abs(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    assert area.sum() > 0.5
    assert area.min() > 0.0


def test_no_texel_shows_two_places():
    """Charts do not overlap: what a texel was baked for is what is looked up there."""
    vertices, faces, normals = sphere()
    found = atlas.unwrapped(vertices, faces, normals, 256)
    texels = atlas.texels(found, 256)
    points = texels.interpolated(vertices, faces)
    assert np.abs(np.linalg.norm(points - 0.5, axis=1) - 0.3).max() < 0.02
    corner = found.uv[found.faces] * 256
    area = 0.5 * np.abs(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    covered = np.zeros(256 * 256, bool)
    covered[texels.index] = True
    assert covered.sum() > 0.99 * area.sum()


def test_colours_are_right_everywhere_also_at_seams(baked):
    vertices, faces, _ = sphere()
    face, weights = points_on(faces, np.random.default_rng(0))
    wanted = at(vertices, faces, face, weights)
    uv = at(baked.atlas.uv, baked.atlas.faces, face, weights)
    seen = sampled(baked.color, uv) / 255.0
    assert np.abs(seen - wanted).max() < 0.006, "one texel is about .003 wide"


def test_texels_are_asked_for_at_their_middles():
    """In a small picture half a texel is seen."""
    vertices, faces, normals = sphere()
    small = texture.baked(vertices, faces, normals, 64, bumpy, lambda points, _: points)
    face, weights = points_on(faces, np.random.default_rng(0))
    uv = at(small.atlas.uv, small.atlas.faces, face, weights)
    error = sampled(small.color, uv) / 255.0 - at(vertices, faces, face, weights)
    assert np.abs(error).mean() < 0.002, "one texel is about .025 wide"


def test_a_smaller_picture_shows_no_background(baked):
    """Each texel of a mipmap is a mean: what lies between the charts must be like them."""
    smaller = baked.color.reshape(64, 8, 64, 8, 3).mean(axis=(1, 3)) / 255.0
    vertices, faces, _ = sphere()
    face, weights = points_on(faces, np.random.default_rng(0))
    uv = at(baked.atlas.uv, baked.atlas.faces, face, weights)
    error = sampled(smaller, uv) - at(vertices, faces, face, weights)
    assert np.abs(error).mean() < 0.02


def test_the_normal_map_gives_back_the_field_s_normals(baked):
    """Decoded as a renderer does, with tangents made from positions and uv alone."""
    from neural_backend.extraction import tangents

    vertices, faces, normals = sphere()
    face, weights = points_on(faces, np.random.default_rng(1))
    tangent, sign = tangents.tangents(vertices, faces, normals, baked.atlas)
    normal = at(normals, faces, face, weights)
    along = at(tangent, baked.atlas.faces, face, weights)
    bitangent = sign[face][:, None] * np.cross(normal, along)
    uv = at(baked.atlas.uv, baked.atlas.faces, face, weights)
    local = sampled(baked.normal, uv) / 127.5 - 1.0
    seen = local[:, :1] * along + local[:, 1:2] * bitangent + local[:, 2:] * normal
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    wanted = bumpy(at(vertices, faces, face, weights), None)
    angle = np.degrees(np.arccos((seen * wanted).sum(axis=1).clip(-1, 1)))
    flat = np.degrees(np.arccos((normal * wanted).sum(axis=1).clip(-1, 1)))
    assert angle.mean() < 0.15 * flat.mean()
    assert np.percentile(angle, 99) < 3.0


def test_tangents_point_along_u():
    """A plane, laid on the picture as it is: u is x, and the tangent is too."""
    from neural_backend.extraction import tangents

    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    normals = np.tile([0.0, 0.0, 1.0], (4, 1))
    for mirrored in (1.0, -1.0):
        laid = atlas.Atlas(vertices[:, :2] * [mirrored, 1.0], faces, np.arange(4))
        tangent, sign = tangents.tangents(vertices, faces, normals, laid)
        assert tangent == pytest.approx(np.tile([mirrored, 0.0, 0.0], (4, 1)))
        assert (sign == mirrored).all()


def test_tangents_of_faces_count_as_much_as_their_angles():
    """As renderers do it: by another mean the normal map would be bent."""
    from neural_backend.extraction import tangents

    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, -1, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    # along u the first face goes along x, the second along (1, -1)
    uv = np.array([[0.0, 0], [1, 0], [0, 1], [-1, -2]])
    laid = atlas.Atlas(uv, faces, np.arange(4))
    tangent, _ = tangents.tangents(vertices, faces, np.tile([0.0, 0.0, 1.0], (4, 1)), laid)
    wanted = 90.0 * np.array([1.0, 0.0, 0.0]) + 135.0 * np.array([1.0, -1.0, 0.0]) / np.sqrt(2.0)
    assert tangent[0] == pytest.approx(wanted / np.linalg.norm(wanted))


def test_the_field_is_asked_along_unit_normals():
    asked = []

    def note(points, normals):
        asked.append(np.linalg.norm(normals, axis=1))
        return normals

    texture.baked(*sphere(0), 32, note, lambda points, normals: note(points, normals)[:, :3])
    assert len(asked) == 2
    for lengths in asked:
        assert lengths == pytest.approx(1.0, abs=1e-5)


def test_without_colours_only_the_normals_are_baked():
    vertices, faces, normals = sphere(1)
    found = texture.baked(vertices, faces, normals, 64, lambda _, rough: rough, None)
    assert found.color is None
    assert np.abs(found.normal.astype(int) - [128, 128, 255]).max() <= 3


def test_normals_that_face_away_are_the_mesh_s():
    import torch

    volume = surface.from_signed_distance(
        lambda points: (points - 0.5).norm(dim=1) - 0.3, torch.device("cpu")
    )
    points = np.array([[0.8, 0.5, 0.5], [0.8, 0.5, 0.5]])
    rough = np.array([[0.9, 0.1, 0.0], [-1.0, 0.0, 0.0]])
    found = surface.normals(volume, points, rough, 0.01)
    assert found == pytest.approx(np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), abs=1e-3)
