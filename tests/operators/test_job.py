"""One job at a time; whatever ends it, its ``finally`` runs and one line says why."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import job

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def owner() -> job.Owner:
    return job.Owner()


def drive(owner: job.Owner) -> None:
    while owner.advance():
        pass


def counting(log: list[str], last: Exception | None = None):
    try:
        for index in range(3):
            yield job.Status(f"Step {index}", index / 3)
        if last is not None:
            raise last
        return "counted"
    finally:
        log.append("restored")


def test_advances_step_by_step_to_its_message(owner: job.Owner) -> None:
    log: list[str] = []
    owner.start("Count", counting(log))
    shown = []
    while owner.advance():
        shown.append((owner.status.text, owner.status.fraction))
    assert shown == [("Step 0", 0.0), ("Step 1", 1 / 3), ("Step 2", 2 / 3)]
    assert (owner.running, owner.message, owner.error, log) == (False, "counted", "", ["restored"])


def test_a_second_job_is_refused(owner: job.Owner) -> None:
    owner.start("Count", counting([]))
    with pytest.raises(BadInput, match="Count is still running"):
        owner.start("Other", counting([]))


def test_bad_input_is_kept_as_its_line(owner: job.Owner) -> None:
    log: list[str] = []
    owner.start("Count", counting(log, BadInput("file: field: broken; mend it")))
    with pytest.raises(BadInput):
        drive(owner)
    assert owner.error == "file: field: broken; mend it"
    assert log == ["restored"]


def test_an_unexpected_exception_is_named_and_traced(owner: job.Owner, capsys) -> None:
    owner.start("Count", counting([], KeyError("no\nsuch")))
    with pytest.raises(KeyError):
        drive(owner)
    assert "\n" not in owner.error
    assert owner.error.startswith("KeyError: ")
    assert "Traceback" in capsys.readouterr().err


def test_the_next_job_clears_the_last_one_s_error(owner: job.Owner) -> None:
    owner.start("Count", counting([], BadInput("old")))
    with pytest.raises(BadInput):
        drive(owner)
    assert owner.error == "old"
    owner.start("Count", counting([]))
    assert owner.error == ""
    owner.close()
    assert owner.message == "Count: cancelled"
    owner.forget()
    assert (owner.error, owner.message, owner.cancelled) == ("", "", False)


def test_who_waits_begins_in_turn(owner: job.Owner) -> None:
    owner.start("First", counting([]))
    waiting = [job.Job(name, counting([])) for name in ("Second", "Third", "Fourth")]
    owner.queue += waiting
    owner.take_turn(waiting[0])
    assert owner.label == "First", "it still runs"
    drive(owner)
    owner.take_turn(waiting[1])
    assert not owner.running, "it is not its turn"
    owner.withdraw(waiting[0])
    assert (waiting[0].cancelled, "queue" in waiting[0].message) == (True, True)
    owner.take_turn(waiting[1])
    assert (owner.label, owner.queue) == ("Third", [waiting[2]])
    owner.cancel()
    assert owner.queue == [waiting[2]], "only the running one is cancelled"
    owner.take_turn(waiting[2])
    owner.close()
    assert waiting[2].cancelled


def test_closing_ends_those_that_wait_too(owner: job.Owner) -> None:
    owner.start("First", counting([]))
    owner.queue.append(job.Job("Second", counting([])))
    owner.close()
    assert (owner.running, owner.queue) == (False, [])


def test_a_training_is_paused(owner: job.Owner) -> None:
    def steps():
        yield job.Status("Rendering")
        yield job.Status("Training", training=True)

    paused = owner.start("Train", steps())
    owner.advance()
    assert not paused.begun
    owner.advance()
    assert paused.begun
    owner.cancel(pause=True)
    assert (owner.message, owner.cancelled) == ("Train: paused", True)


def test_cancel_before_and_within(owner: job.Owner) -> None:
    log: list[str] = []
    owner.start("Count", counting(log))
    owner.advance()
    owner.cancel()
    assert log == ["restored"]
    assert (owner.running, owner.cancelled, owner.message) == (False, True, "Count: cancelled")
    owner.start("Count", counting(log))
    owner.cancel()
    assert not owner.running


def slow_to_end(log: list[str]):
    try:
        while True:
            yield job.Status("Working")
    except job.Cancelled:
        for _ in range(2):
            yield job.Status("Winding down")
        log.append("wound down")
        raise
    finally:
        log.append("restored")


def test_a_cancelled_job_may_wind_down(owner: job.Owner) -> None:
    log: list[str] = []
    owner.start("Slow", slow_to_end(log))
    owner.advance()
    owner.cancel()
    assert owner.running
    assert owner.status.text == "Winding down"
    assert owner.advance()
    with pytest.raises(job.Cancelled):
        owner.advance()
    assert log == ["wound down", "restored"]
    assert owner.cancelled
    assert owner.error == ""


def test_cancelled_twice_ends_now(owner: job.Owner) -> None:
    log: list[str] = []
    owner.start("Slow", slow_to_end(log))
    owner.advance()
    owner.cancel()
    owner.cancel()
    assert log == ["restored"]
    assert not owner.running


def test_a_step_cannot_enter_itself(owner: job.Owner) -> None:
    def steps():
        assert owner.advance()  # what an event handled within the step would do
        owner.cancel()
        owner.close()
        yield job.Status("Alive")

    owner.start("Nested", steps())
    assert owner.advance()
    assert owner.status.text == "Alive"
    owner.close()


def test_loading_a_file_ends_the_job() -> None:
    log: list[str] = []
    job.owner.start("Count", counting(log))
    job.owner.advance()
    bpy.ops.wm.read_factory_settings()
    assert log == ["restored"]
    assert not job.owner.running


class Window:
    """What a modal operator needs of a window; its events are sent by the test."""

    def __init__(self) -> None:
        self.timers: list[object] = []
        self.workspace = SimpleNamespace(status_text_set=lambda text: None)
        self.window_manager = SimpleNamespace(
            windows=[],
            event_timer_add=self._add,
            event_timer_remove=self.timers.remove,
            modal_handler_add=lambda operator: None,
        )
        self.window = None

    def _add(self, step: float, window: object) -> object:
        self.timers.append(object())
        return self.timers[-1]


class Operator(job.JobOperator):
    """A job operator outside of Blender."""

    bl_label = "Count"
    queues = True

    def __init__(self, log: list[str], error: Exception | None = None):
        self._log, self._error = log, error
        self.reports: list[tuple[str, str]] = []

    def report(self, kind: set[str], text: str) -> None:
        self.reports.append((*kind, text))

    def steps(self, context):
        return counting(self._log, self._error)


TIMER = SimpleNamespace(type="TIMER", value="NOTHING")
ESCAPE = SimpleNamespace(type="ESC", value="PRESS")


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "bpy", SimpleNamespace(app=SimpleNamespace(background=False)))
    yield Window()
    job.owner.close()


def test_in_the_window_jobs_wait_for_their_turn(window) -> None:
    logs: list[list[str]] = [[], [], []]
    first, second, third = (Operator(log) for log in logs)
    for operator in (first, second, third):
        assert operator.execute(window) == {"RUNNING_MODAL"}
    assert len(window.timers) == len(job._timers) == 3
    assert len(job.owner.queue) == 2
    for _ in range(5):
        assert second.modal(window, TIMER) == {"PASS_THROUGH"}
    assert logs[1] == [], "it waits"
    assert second.modal(window, ESCAPE) == {"PASS_THROUGH"}, "what waits is not cancelled"
    assert first.modal(window, ESCAPE) == {"CANCELLED"}
    assert (first.reports, logs[0]) == ([("INFO", "Count: cancelled")], [])
    assert third.modal(window, TIMER) == {"PASS_THROUGH"}, "not before its turn"
    assert not job.owner.running
    results = [second.modal(window, TIMER) for _ in range(5)]
    assert results[-1] == {"FINISHED"}
    assert second.reports == [("INFO", "counted")]
    third._error = None
    job.owner.withdraw(third._job)
    assert third.modal(window, TIMER) == {"CANCELLED"}
    assert window.timers == job._timers == []


def test_an_error_of_one_does_not_stop_the_next(window) -> None:
    first, second = Operator([], BadInput("broken; mend it")), Operator([])
    first.execute(window)
    second.execute(window)
    while first.modal(window, TIMER) == {"PASS_THROUGH"}:
        pass
    assert first.reports == [("ERROR", "broken; mend it")]
    while (result := second.modal(window, TIMER)) == {"PASS_THROUGH"}:
        pass
    assert result == {"FINISHED"}


def test_a_window_that_closes_ends_its_jobs_alone(window) -> None:
    log: list[str] = []
    first, second = Operator(log), Operator([])
    first.execute(window)
    second.execute(window)
    first.modal(window, TIMER)
    first.cancel(window)
    assert log == ["restored"]
    assert job.owner.queue == [second._job]
    second.cancel(window)
    assert (job.owner.queue, window.timers) == ([], [])


def test_a_timer_that_an_operator_leaves_is_removed(window, monkeypatch) -> None:
    Operator([]).execute(window)
    job.bpy.context = window
    job.bpy.data = SimpleNamespace(workspaces=[])
    monkeypatch.setattr(job, "_HANDLERS", [])
    job.unregister()
    assert window.timers == job._timers == []


@pytest.fixture
def operator():
    class NEURAL_FIELDS_OT_test(job.JobOperator, bpy.types.Operator):
        bl_idname = "neural_fields.test"
        bl_label = "Test"
        fault: bpy.props.StringProperty()

        def steps(self, context):
            error = BadInput(self.fault) if self.fault else None
            for index in range(12):
                yield job.Status(f"View {index + 1} of 12", index / 12)
            yield from counting([], error)
            return "all is well"

    bpy.utils.register_class(NEURAL_FIELDS_OT_test)
    yield bpy.ops.neural_fields.test
    bpy.utils.unregister_class(NEURAL_FIELDS_OT_test)


def test_the_background_drains_and_prints(operator, capsys) -> None:
    assert operator() == {"FINISHED"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Test: [........................]   0%  View 1 of 12"
    assert any("View 12 of 12" in line for line in lines), "a phase's last line is printed"
    assert any("Step 2" in line for line in lines)
    assert "all is well" in lines
    assert len(lines) == len(set(lines)) < 9, "not every step is worth a line"


def test_the_background_raises_one_line(operator) -> None:
    with pytest.raises(RuntimeError) as caught:
        operator(fault="thing: broken; mend it")
    assert str(caught.value).strip() == "Error: thing: broken; mend it"
    assert not job.owner.running


def test_cancel_has_nothing_to_do_when_nothing_runs() -> None:
    assert not bpy.ops.neural_fields.cancel.poll()


@pytest.mark.parametrize(
    ("operator", "said"), [("cancel", "Nothing is running"), ("pause", "No training is running")]
)
def test_with_nothing_running_a_line_says_so(operator: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=rf"poll\(\) {said}"):
        getattr(bpy.ops.neural_fields, operator)()
