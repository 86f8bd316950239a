"""The list of runs: what is drawn of it, and the buttons that a run's state allows."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace

import bpy
import pytest
from neural_fields.neural_backend import protocol
from neural_fields.operators import job, runs
from neural_fields.ui import panels, runs_panel

pytestmark = pytest.mark.usefixtures("registered")

PROGRESS = protocol.Progress(5, 0, 60.0, 120.0, 0.1, 60.0, 1e6, 25.5)
ICONS = bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items


class Layout:
    """Writes down what is drawn, and which buttons can be pressed."""

    def __init__(self, drawn: list[str], parent: Layout | None = None):
        self.drawn, self.enabled, self._parent = drawn, True, parent

    def _inner(self, **_) -> Layout:
        return Layout(self.drawn, self)

    row = column = box = split = _inner

    def separator(self) -> None:
        pass

    def template_list(self, kind: str, *_, **__) -> None:
        assert hasattr(bpy.types, kind)

    def prop(self, data, name: str, **_) -> None:
        assert name in data.bl_rna.properties

    def operator(self, name: str, icon: str = "NONE", **_) -> SimpleNamespace:
        short = name.removeprefix("neural_fields.")
        assert short in dir(bpy.ops.neural_fields), name
        assert icon in ICONS
        if self.enabled:
            self.drawn.append(f"[{short}]")
        return SimpleNamespace()

    def label(self, *, text: str, icon: str = "NONE", translate: bool = True) -> None:
        assert icon in ICONS
        self.drawn.append(text)


def row(state: str, **more: object) -> runs.Row:
    folder = pathlib.Path("/some/a rün/run")
    can = state in (runs.PAUSED, runs.FINISHED, runs.FAILED, runs.INTERRUPTED)
    run = runs.Run(state, "sdf", 125.0, 27.34, can_resume=can, can_bring_back=can, **more)
    return runs.Row(str(folder), "a rün", folder, run, bpy.data.filepath)


@pytest.fixture
def context(monkeypatch) -> SimpleNamespace:
    bpy.ops.wm.read_factory_settings()
    job.owner.forget()
    monkeypatch.setattr(runs, "look", lambda seconds: [])
    yield SimpleNamespace(
        scene=bpy.context.scene,
        window_manager=bpy.context.window_manager,
        preferences=SimpleNamespace(system=SimpleNamespace(ui_scale=1.0)),
        region=SimpleNamespace(width=400),
    )
    runs.unregister()


def drawn(cls: type, context: SimpleNamespace, *rows: runs.Row) -> list[str]:
    runs.look = lambda seconds: list(rows)
    runs.refresh(context)
    layout = Layout([])
    methods = {
        name: getattr(cls, name).__get__(SimpleNamespace(layout=layout))
        for name in ("_draw_buttons", "_draw_details", "_draw_bar")
        if hasattr(cls, name)
    }
    cls.draw(SimpleNamespace(layout=layout, **methods), context)
    return layout.drawn


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        (runs.WAITING, {"cancel_run"}),
        (runs.RENDERING, {"cancel_run"}),
        (runs.TRAINING, {"pause_run", "cancel_run"}),
        (runs.PAUSED, {"resume", "bring_back", "duplicate_settings", "delete_run"}),
        (runs.FINISHED, {"more_time", "bring_back", "duplicate_settings", "delete_run"}),
        (runs.FAILED, {"resume", "bring_back", "duplicate_settings", "delete_run"}),
        (runs.INTERRUPTED, {"resume", "bring_back", "duplicate_settings", "delete_run"}),
    ],
)
def test_the_buttons_are_those_that_the_state_allows(context, state, buttons) -> None:
    lines = drawn(runs_panel.NEURAL_FIELDS_PT_runs, context, row(state))
    pressed = {line[1:-1] for line in lines if line.startswith("[")}
    assert pressed == buttons | {"open_run", "show_log"}


def test_what_a_run_is_stands_below(context) -> None:
    lines = drawn(runs_panel.NEURAL_FIELDS_PT_runs, context, row(runs.FAILED, error="disk full"))
    assert "SDF, Failed, 2 min 5 s, 27.3 dB" in lines
    assert "disk full" in lines
    assert "/some/a rün/run" in lines
    lines = drawn(runs_panel.NEURAL_FIELDS_PT_runs, context, row(runs.INTERRUPTED))
    assert "Resume goes on from its checkpoint" in " ".join(lines)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (row(runs.FINISHED), ["a rün", "2 min 5 s", "27.3 dB"]),
        (row(runs.TRAINING, progress=PROGRESS), ["a rün", "50%", "27.3 dB"]),
        (row(runs.PAUSED), ["a rün", "Paused", "27.3 dB"]),
    ],
)
def test_a_line_of_the_list(context, given, shown) -> None:
    runs.look = lambda seconds: [given]
    runs.refresh(context)
    layout = Layout([])
    item = context.window_manager.neural_fields.rows[0]
    draw = runs_panel.NEURAL_FIELDS_UL_runs.draw_item
    draw(SimpleNamespace(), context, layout, None, item, 0, None, "")
    assert layout.drawn == shown


def test_every_state_has_an_icon_and_a_name() -> None:
    states = {getattr(runs, name) for name in ("WAITING", "RENDERING", "TRAINING", "PAUSED")}
    states |= {runs.FINISHED, runs.FAILED, runs.INTERRUPTED}
    assert set(runs_panel._ICONS) == set(runs_panel._STATES) == states
    assert set(runs_panel._ICONS.values()) <= set(ICONS.keys())


def test_the_list_is_there_once_there_is_something_in_it(context) -> None:
    assert not runs_panel.NEURAL_FIELDS_PT_runs.poll(context)
    drawn(runs_panel.NEURAL_FIELDS_PT_runs, context, row(runs.PAUSED))
    assert runs_panel.NEURAL_FIELDS_PT_runs.poll(context)


def test_a_training_that_was_found_again_shows_its_progress(context) -> None:
    lines: list[str] = []
    given = row(runs.TRAINING, progress=PROGRESS)
    runs.look = lambda seconds: [given]
    runs.refresh(context)
    assert panels.NEURAL_FIELDS_PT_job.poll(context)
    layout = Layout(lines)
    bars = []
    fake = SimpleNamespace(layout=layout, _draw_bar=lambda *given: bars.append(given[1:]))
    panels.NEURAL_FIELDS_PT_job.draw(fake, context)
    assert bars[0][0] == "a rün"
    assert bars[0][1].fraction == 0.5
    assert lines[:2] == ["[pause_run]", "[cancel_run]"]
    assert " ".join(lines[2:]) == "Training: 25.5 dB, 1 min left, 1 M samples/s"


@pytest.mark.parametrize("error", ["", "killed"])
def test_what_can_go_on_is_offered_beside_the_message(context, error) -> None:
    given = row(runs.PAUSED)
    runs.look = lambda seconds: [given]
    runs.refresh(context)
    ended = job.Job("Train", iter(()), run=given.folder, error=error, cancelled=not error)
    ended.message = "" if error else "Train: paused"
    job.owner.last = ended
    lines = drawn(panels.NEURAL_FIELDS_PT_message, context, given)
    job.owner.forget()
    assert lines == [error or "Train: paused", "[resume]"]


def test_results_that_are_ready_are_offered(context) -> None:
    drawn(runs_panel.NEURAL_FIELDS_PT_runs, context, row(runs.TRAINING, progress=PROGRESS))
    lines = drawn(runs_panel.NEURAL_FIELDS_PT_runs, context, row(runs.FINISHED))
    assert "Its results are ready" in lines
    assert panels.NEURAL_FIELDS_PT_message.poll(context)
    lines = drawn(panels.NEURAL_FIELDS_PT_message, context, row(runs.FINISHED))
    assert lines == ["a rün is trained: its results are ready", "[bring_back]"]
