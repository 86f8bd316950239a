"""All that a run's settings ask for, extracted and brought into the scene."""

from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend.config import ResultSettings
from ..neural_backend.dataset.transforms import View
from . import colour, results, sequence, volume
from .folders import Results
from .job import Steps
from .place import Place


def bring_steps(
    place: Place, program: str, found: Results, settings: ResultSettings, views: tuple[View, ...]
) -> Steps[list[str]]:
    """Extract a run's results anew and bring them into the scene.

    Args:
        program: the backend's Python.
        settings: which results, and how large.
        views: the cameras of the sequence, where one is asked for (``sequence.views_steps``).

    Returns:
        What was brought, in words.

    Raises:
        BadInput: one of them cannot be extracted.
    """
    brought = []
    display = colour.of_run(found.run)
    if settings.mesh:
        yield from results.mesh_steps(program, found, settings)
        mesh = results.import_mesh(place.scene, found.mesh, found.name, display)
        brought.append(rpt("mesh {name}").format(name=mesh.name))
    if settings.sequence:
        yield from sequence.sequence_steps(program, found, views)
        image = sequence.import_sequence(found)
        brought.append(rpt("sequence {name}").format(name=image.name))
    if settings.volume:
        yield from volume.volume_steps(program, found, settings)
        voxels = volume.import_volume(place.scene, found.voxels, found.name, display)
        brought.append(voxels.name)
    return brought
