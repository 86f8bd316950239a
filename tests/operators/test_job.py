"""One job at a time; whatever ends it, its ``finally`` runs and one line says why."""

from __future__ import annotations

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
    owner.error = "old"
    owner.start("Count", counting([]))
    assert owner.error == ""


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
