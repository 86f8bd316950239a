"""The panels draw whatever the settings are, and name nothing that does not exist."""

from __future__ import annotations

import itertools
import pathlib
import sys
from types import SimpleNamespace

import bpy
import pytest
from neural_fields.neural_backend import config
from neural_fields.operators import environment, folders, install, job
from neural_fields.ui import panels, preferences, result_panel

pytestmark = pytest.mark.usefixtures("registered")


class Layout:
    """Writes down what is drawn; refuses properties and operators that do not exist."""

    def __init__(self, drawn: list[str] | None = None):
        self.drawn: list[str] = [] if drawn is None else drawn
        self.rows: list[Layout] = []

    def _inner(self, **_) -> Layout:
        self.rows.append(Layout(self.drawn))
        return self.rows[-1]

    row = column = box = split = _inner

    def prop(self, data, name: str, **_) -> None:
        assert name in data.bl_rna.properties, name
        self.drawn.append(name)

    def operator(self, name: str, **_) -> SimpleNamespace:
        module, _, function = name.partition(".")
        assert function in dir(getattr(bpy.ops, module)), name
        self.drawn.append(name)
        return SimpleNamespace()

    def operator_menu_enum(self, name: str, property: str, **_) -> SimpleNamespace:
        operator = getattr(bpy.ops.neural_fields, name.removeprefix("neural_fields."))
        assert property in operator.get_rna_type().properties, property
        return self.operator(name)

    def label(self, *, text: str, icon: str = "NONE", translate: bool = True) -> None:
        icons = bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items
        assert icon in icons
        self.drawn.append(text)

    def progress(self, *, factor: float, text: str) -> None:
        self.drawn.append(f"{text} ({factor:.2f})")


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setenv("NEURAL_FIELDS_PYTHON", sys.executable)
    bpy.ops.wm.read_factory_settings()
    return SimpleNamespace(
        scene=bpy.context.scene,
        # in the background the window's scale is 0
        preferences=SimpleNamespace(system=SimpleNamespace(ui_scale=1.0)),
        region=SimpleNamespace(width=320),
    )


def drawn(cls: type, context: SimpleNamespace) -> list[str]:
    layout = Layout()
    fake = SimpleNamespace(layout=layout)
    fake._column = lambda: panels.SidebarPanel._column(fake)
    fake._draw_bar = lambda *given: panels.NEURAL_FIELDS_PT_job._draw_bar(fake, *given)
    cls.draw(fake, context)
    return layout.drawn


def test_every_knob_is_shown_somewhere(context) -> None:
    shown: set[str] = set()
    settings = context.scene.neural_fields
    for kind, subject in itertools.product(
        config.knobs(config.RigSettings)[0].choices, ("scene", "collection")
    ):
        settings.rig.kind, settings.rig.subject = kind, subject
        settings.result.mesh_texture = 1024
        for cls in (*panels.FIRST, *panels.CLASSES, *result_panel.CLASSES):
            shown.update(drawn(cls, context))
    for group in config.GROUPS.values():
        assert {knob.name for knob in config.knobs(group)} <= shown
    assert {"collection", "output", "show_rig"} <= shown


def test_the_button_and_the_presets_come_first(context) -> None:
    assert panels.FIRST[0] is panels.NEURAL_FIELDS_PT_main
    assert drawn(panels.NEURAL_FIELDS_PT_main, context)[:2] == ["neural_fields.train", "preset"]
    training = drawn(panels.NEURAL_FIELDS_PT_training, context)
    assert training[0] == "max_seconds"
    assert "preset" not in training + drawn(panels.NEURAL_FIELDS_PT_training_advanced, context)


def test_a_time_of_one_s_own_greys_the_presets(context) -> None:
    for seconds, active in ((0.0, True), (45.0, False)):
        context.scene.neural_fields.training.max_seconds = seconds
        layout = Layout()
        panels.NEURAL_FIELDS_PT_main.draw(SimpleNamespace(layout=layout), context)
        assert layout.rows[1].active is active


def test_a_job_shows_its_progress_and_a_way_out(context) -> None:
    def steps():
        yield job.Status("Training: 27.3 dB, 1 min 20 s left", 0.375)

    job.owner.start("Train", steps())
    job.owner.advance()
    try:
        lines = drawn(panels.NEURAL_FIELDS_PT_job, context)
        assert not panels.NEURAL_FIELDS_PT_message.poll(context)
    finally:
        job.owner.close()
    assert lines[0] == "38% (0.38)"
    assert lines[1] == "neural_fields.cancel", "only a training can be paused"
    assert " ".join(lines[2:]) == "Training: 27.3 dB, 1 min 20 s left"


def test_a_training_can_be_paused_and_shows_who_waits(context) -> None:
    def steps():
        yield job.Status("Training", 0.5, training=True)

    work = job.Job("Train", steps(), run=pathlib.Path("run"))
    job.owner.begin(work)
    job.owner.advance()
    job.owner.queue.append(job.Job("Train", steps()))
    try:
        lines = drawn(panels.NEURAL_FIELDS_PT_job, context)
        button = drawn(panels.NEURAL_FIELDS_PT_main, context)[0]
    finally:
        job.owner.close()
    assert lines[1:3] == ["neural_fields.pause", "neural_fields.cancel"]
    assert lines[-2:] == ["1 waiting", "keep_running"]
    assert button == "neural_fields.train"


def test_an_error_is_shown_whole_in_lines_that_fit(context) -> None:
    error = "/a/folder: cannot be written to (Permission denied); choose another folder"
    job.owner.last = job.Job("Train", iter(()), error=error)
    assert panels.NEURAL_FIELDS_PT_message.poll(context)
    lines = drawn(panels.NEURAL_FIELDS_PT_message, context)
    job.owner.forget()
    assert not panels.NEURAL_FIELDS_PT_message.poll(context)
    assert len(lines) > 1
    assert " ".join(lines).startswith("/a/folder: cannot be written to")
    assert all(len(line) <= 45 for line in lines)


def test_results_of_a_run_are_offered_when_there_is_one(context, tmp_path) -> None:
    context.scene.neural_fields.output = str(tmp_path)
    before = drawn(panels.NEURAL_FIELDS_PT_training, context).count("neural_fields.train")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    after = drawn(panels.NEURAL_FIELDS_PT_training, context).count("neural_fields.train")
    assert (before, after) == (0, 1)


def test_a_trained_field_gives_more(context, tmp_path) -> None:
    again = result_panel.NEURAL_FIELDS_PT_result_again
    context.scene.neural_fields.output = str(tmp_path)
    assert not again.poll(context)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    assert again.poll(context)
    for there in (False, True):
        if there:
            (tmp_path / "sequence_cameras.json").write_text("{}")
        layout = Layout()
        again.draw(SimpleNamespace(layout=layout, _column=lambda used=layout: used), context)
        assert "neural_fields.compare" in layout.drawn
        assert layout.rows[0].rows[0].enabled is there


def test_colours_are_on_vertices_or_in_a_texture(context) -> None:
    result = context.scene.neural_fields.result
    for colours, size, faces in (("VERTICES", 0, "300,000"), ("TEXTURE", 1024, "50,000")):
        result.mesh_colours = colours
        assert (result.mesh_texture, result.mesh_colours) == (size, colours)
        lines = drawn(result_panel.NEURAL_FIELDS_PT_result, context)
        assert f"0: at most {faces}" in lines
        assert ("mesh_texture" in lines) == (size > 0)
    result.mesh_texture = 512
    result.mesh_colours = "TEXTURE"
    assert result.mesh_texture == 512, "a size of one's own stays"
    result.mesh_faces = 1000
    assert "0: at most" not in " ".join(drawn(result_panel.NEURAL_FIELDS_PT_result, context))


@pytest.fixture
def no_backend(tmp_path, monkeypatch) -> pathlib.Path:
    """Nothing is installed; returns where it would be."""
    monkeypatch.delenv("NEURAL_FIELDS_PYTHON", raising=False)
    monkeypatch.setattr(folders, "own_folder", lambda name, create=True: tmp_path / name)
    monkeypatch.setattr(environment, "build_of", lambda _: environment.builds("linux")["cpu"])
    job.owner.forget()
    return tmp_path / "backend"


def installed(folder: pathlib.Path) -> None:
    program = environment.program_of(folder / "cpu-1")
    program.parent.mkdir(parents=True)
    program.write_text("")
    build = environment.builds()["cpu"]
    environment.make_current(
        environment.Installed(
            folder / "cpu-1", "cpu", build.name, environment.fingerprint(build), "torch", "3.11.7"
        )
    )


def of_preferences(context) -> str:
    fake = SimpleNamespace(layout=Layout(), python="", variant="auto")
    fake.bl_rna = preferences.NEURAL_FIELDS_AP_preferences.bl_rna
    preferences.NEURAL_FIELDS_AP_preferences.draw(fake, context)
    assert "python" in fake.layout.drawn
    return " ".join(fake.layout.drawn)


def test_the_panel_offers_to_install_the_backend_once(context, no_backend) -> None:
    assert drawn(panels.NEURAL_FIELDS_PT_main, context)[-4:] == [
        *("neural_fields.install_backend", "preferences.addon_show"),
        *("neural_fields.train", "preset"),
    ]
    installed(no_backend)
    assert drawn(panels.NEURAL_FIELDS_PT_main, context)[0] == "neural_fields.train"
    environment.program_of(no_backend / "cpu-1").unlink()
    lines = " ".join(drawn(panels.NEURAL_FIELDS_PT_main, context))
    assert "press Repair in the add-on's preferences" in lines


def test_the_preferences_lead_from_nothing_to_an_installed_backend(
    context, no_backend, monkeypatch
) -> None:
    said = of_preferences(context)
    assert "Not installed" in said
    assert "neural_fields.install_backend neural_fields.check_backend" in said
    assert "tick Preferences > System > Network > Allow Online Access. These commands" in said
    assert "--require-hashes" in said
    assert "neural_fields.copy_backend_commands" in said
    monkeypatch.setattr(install, "offline_reason", lambda: "")
    assert "require-hashes" not in of_preferences(context)
    installed(no_backend)
    said = of_preferences(context)
    assert "CPU: torch , Python 3.11.7" in said
    assert "neural_fields.remove_backend" in said
    assert "other versions" not in said
    changed = no_backend / "changed.lock"
    changed.write_text(environment.LOCK.read_text() + "# newer")
    monkeypatch.setattr(environment, "LOCK", changed)
    assert "asks for other versions: press Update" in of_preferences(context)
    environment.program_of(no_backend / "cpu-1").unlink()
    assert "press Repair" in of_preferences(context)


def test_the_preferences_name_the_python_that_wins(context, no_backend, monkeypatch) -> None:
    monkeypatch.setenv("NEURAL_FIELDS_PYTHON", "/some/python")
    assert "NEURAL_FIELDS_PYTHON is used: /some/python" in of_preferences(context)


def test_the_preferences_show_the_installation(context, no_backend) -> None:
    def steps():
        yield job.Status("Downloading torch: 12 of 192 MB", 0.25)

    job.owner.start("Install Backend", steps())
    job.owner.advance()
    try:
        said = of_preferences(context)
    finally:
        job.owner.close()
        job.owner.forget()
    assert "Downloading torch: 12 of 192 MB" in said
    assert "25% (0.25) neural_fields.cancel" in said
