"""Progress where nobody watches: plain lines, no bars."""

import io
import sys

from neural_backend import progress, protocol


class Console(io.StringIO):
    def isatty(self):
        return True


def test_without_a_console_there_are_no_bars(capsys):
    with progress.CountingBar("evaluating") as counting:
        for done in range(1, 4):
            counting(done, 3)
    assert list(progress.over([1, 2, 3], 3, "rendering")) == [1, 2, 3]
    with progress.StagesBar() as stages:
        stages("extracting", 1, 2)
        stages("baking", 1, 2)
    assert capsys.readouterr().err == ""


def test_without_a_console_what_takes_long_is_told_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.over(range(7), 7, "rendering")) == list(range(7))
    assert capsys.readouterr().err.splitlines() == [
        "rendering: 3 of 7, 16 s left",
        "rendering: 6 of 7, 4 s left",
    ]


def test_stages_are_shown_one_after_the_other(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Console())
    with progress.StagesBar() as bar:
        for what in ("extracting", "baking"):
            for done in (1, 2):
                bar(what, done, 2)
    shown = sys.stderr.getvalue()
    assert shown.count("extracting: 100%") == shown.count("baking: 100%") == 1
    assert shown.index("extracting: 100%") < shown.index("baking:")


def test_without_a_console_a_training_tells_its_warnings_and_its_end(capsys):
    with progress.TrainingBar() as bar:
        bar(protocol.Started("nerf", "cpu", "cpu", 10))
        bar(protocol.Progress(5, 10, 1.0, 2.0, 0.5, 1.0, psnr=20.0))
        bar(protocol.Warning("doubtful"))
        bar(protocol.Done(10, 2.0, psnr=21.0, ssim=0.9))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: doubtful", "finished: step 10, 2.0 s, 21.00 dB, SSIM 0.900"]


def test_a_training_goes_on_where_nothing_can_be_told(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Console())
    monkeypatch.setattr(sys.stderr, "write", full)
    with progress.TrainingBar() as bar:
        bar(protocol.Started("nerf", "cpu", "cpu", 10))
        bar(protocol.Warning("doubtful"))
        bar(protocol.Done(10, 2.0))


def test_without_a_console_a_line_now_and_then_says_how_far_it_is(capsys):
    with progress.TrainingBar() as bar:
        bar(protocol.Started("nerf", "cpu", "cpu", 10))
        for seconds in range(0, 26, 5):
            bar(protocol.Progress(seconds, 0, seconds, 50.0, 0.5, 50.0 - seconds, psnr=20.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "20%, 40 s left, step 10, loss 0.5, 20.0 dB",
        "40%, 30 s left, step 20, loss 0.5, 20.0 dB",
    ]


def test_the_bar_says_how_long_it_will_take(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Console())
    with progress.TrainingBar() as bar:
        bar(protocol.Started("nerf", "cpu", "cpu", 10, eta=130.0))
        bar(protocol.Progress(5, 0, 30.0, 120.0, 0.5, 96.0, psnr=20.0))
        lines = sys.stderr.getvalue().split("\r")
    assert "2 min 10 s left" in lines[-2]
    assert "25%" in lines[-1]
    assert "1 min 36 s left, step 5, loss 0.5, 20.0 dB" in lines[-1]
