"""Events, whole files, and a reader that follows a writer."""

import contextlib
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from neural_backend import protocol
from neural_backend.protocol import (
    BadInput,
    Checkpoint,
    Done,
    Error,
    EventReader,
    EventWriter,
    Live,
    Preview,
    Progress,
    Started,
    Warning,
    decode_event,
    encode_event,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVENTS = [
    Started("nerf", "cpu", "reference", 1234, views=9),
    Progress(3, 10, 1.5, 60.0, 0.25, 2.0, 1e6, psnr=27.5),
    Preview(3),
    Live(3, 192, 108, 0.1, "eye-7"),
    Checkpoint(3),
    Warning("odd"),
    Error("wrong", "mend it"),
    Done(10, 60.0, "cancelled"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_events_there_and_back(event):
    line = encode_event(event)
    assert line.endswith("\n")
    assert json.loads(line)["type"] == event.type
    assert decode_event(line) == event


def test_what_is_not_finite_becomes_null():
    line = encode_event(Progress(1, 0, 1.0, 2.0, math.nan, math.inf))
    assert json.loads(line)["loss"] is None
    assert json.loads(line)["eta"] is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "3",
        "[]",
        '{"type": "song"}',
        '{"type": 3}',
        '{"type": []}',
        '{"type": "preview"}',
        '{"type": "preview", "step": "four"}',
        '{"type": "preview", "step": null}',
        '{"type": "warning", "message": 3}',
        '{"type": "done", "step": 3, "seconds": "long"}',
        '{"type": "done", "step": 3, "seconds": Infinity}',
        '{"type": "done", "step": 3, "seconds": 1.0, "psnr": NaN}',
        '{"type": "done", "step": 3, "seconds": null}',
        "[" * 100_000,
    ],
)
def test_damaged_lines_are_no_events(line):
    assert decode_event(line) is None


def test_unknown_names_are_passed_over():
    assert decode_event('{"type": "preview", "step": 4, "mood": "good"}') == Preview(4)


def test_the_reader_follows_the_writer(tmp_path):
    path = tmp_path / "events.jsonl"
    reader, writer = EventReader(path), EventWriter(path)
    assert reader.poll() == []
    for event in EVENTS[:3]:
        writer(event)
    assert reader.poll() == EVENTS[:3]
    assert reader.poll() == []
    line = encode_event(EVENTS[3]).encode()
    with open(path, "ab") as file:
        file.write(line[:5])
        file.flush()
        assert reader.poll() == []
        file.write(line[5:] + b"\xff\xfe damaged\n")
    writer(EVENTS[4])
    assert reader.poll() == EVENTS[3:5]


def test_a_long_file_is_read_in_parts(tmp_path):
    path = tmp_path / "events.jsonl"
    writer, reader = EventWriter(path), EventReader(path)
    for event in EVENTS:
        writer(event)
    parts = [reader.poll(100) for _ in range(20)]
    assert [event for part in parts for event in part] == EVENTS
    assert len(parts[0]) < 3


def test_a_reader_from_the_end_skips_an_earlier_start(tmp_path):
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    writer(EVENTS[0])
    reader = EventReader(path, from_end=True)
    assert reader.poll() == []
    writer(EVENTS[1])
    assert reader.poll() == [EVENTS[1]]


def test_a_reader_notices_a_new_file(tmp_path):
    path = tmp_path / "events.jsonl"
    EventWriter(path)(EVENTS[1])
    reader = EventReader(path, from_end=True)
    path.rename(tmp_path / "old.jsonl")
    EventWriter(path)(EVENTS[2])
    assert reader.poll() == [EVENTS[2]]


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"

    def broken(beside):
        assert beside.suffix == ".txt"
        beside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protocol.write_whole(path, broken)
    assert list(tmp_path.iterdir()) == []
    protocol.write_whole(path, lambda beside: beside.write_text("whole") and None)
    assert path.read_text() == "whole"
    with pytest.raises(ValueError, match="JSON compliant"):
        protocol.write_json(path, {"a": math.nan})
    assert path.read_text() == "whole"


def test_a_file_open_elsewhere_is_renamed_a_little_later(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "_RENAME_WAITS", (0.0, 0.0))
    replace, failures = os.replace, [PermissionError("in use")] * 2

    def busy(old, new):
        if failures:
            raise failures.pop()
        replace(old, new)

    monkeypatch.setattr(protocol.os, "replace", busy)
    protocol.write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").read_text() == "1\n"
    failures.extend([PermissionError("in use")] * 3)
    with pytest.raises(PermissionError):
        protocol.write_json(tmp_path / "a.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_waits_for_a_file_that_cannot_be_opened(tmp_path):
    path = tmp_path / "events.jsonl"
    path.mkdir()
    reader = EventReader(path)
    assert reader.poll() == []
    path.rmdir()
    EventWriter(path)(EVENTS[0])
    assert reader.poll() == [EVENTS[0]]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (-3.0, "0 s"),
        (44.6, "45 s"),
        (60.0, "1 min"),
        (80.0, "1 min 20 s"),
        (599.0, "9 min 59 s"),
        (700.0, "12 min"),
        (3590.0, "1 h"),
        (7500.0, "2 h 5 min"),
        (360_000.0, "100 h"),
    ],
)
def test_times_as_people_say_them(seconds, words):
    assert protocol.in_words(seconds) == words


def test_the_budget_that_is_closer_to_its_end_counts():
    assert protocol.Progress(1, 0, 30.0, 120.0, 0.1, 90.0).spent == 0.25
    assert protocol.Progress(50, 100, 30.0, 120.0, 0.1, 30.0).spent == 0.5
    assert protocol.Progress(5, 100, 121.0, 120.0, 0.1, 0.0).spent == 1.0


def test_another_suffix_and_a_bad_folder_are_refused(tmp_path):
    assert protocol.output_file(tmp_path / "new" / "a.PLY", (".glb", ".ply")).parent.is_dir()
    for suffixes, said in (((".npz",), ".npz"), ((".a", ".b", ".c"), ".a, .b or .c")):
        with pytest.raises(BadInput, match=f"end it in {said}$"):
            protocol.output_file(tmp_path / "volume.vdb", suffixes)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        protocol.output_file(tmp_path / "file" / "volume.npz", (".npz",))


HOLDER = """
import pathlib, sys, time
from neural_backend import protocol
with protocol.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder ``run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_for_one_and_ends_with_its_process(tmp_path, holder):
    run = tmp_path / "run"
    assert protocol.is_held(run)
    with pytest.raises(BlockingIOError), protocol.held(run):
        pass
    holder.kill()
    holder.wait()
    assert not protocol.is_held(run)
    with protocol.held(run):
        assert protocol.is_held(run)
    assert not protocol.is_held(run)


def test_nobody_holds_what_is_not_there(tmp_path):
    assert not protocol.is_held(tmp_path / "gone")
    assert not protocol.is_held(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_what_fails_leaves_neither_a_lock_nor_a_folder(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("")
    with protocol.held(tmp_path / "used"):
        pass
    for folder in (tmp_path / "new" / "er", mine, tmp_path / "used"):
        with contextlib.suppress(ZeroDivisionError), protocol.held(folder):
            assert protocol.is_held(folder)
            raise ZeroDivisionError
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"mine", "mine/file", "used", "used/.lock"}


def test_who_waits_for_a_lock_that_is_removed_takes_the_next_one(tmp_path, monkeypatch):
    taken = []

    def lock(file):
        if not taken:
            (tmp_path / ".lock").unlink()  # whoever held it has failed, and is gone
        taken.append(file)
        return True

    monkeypatch.setattr(protocol, "_lock", lock)
    with protocol.held(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert len(taken) == 2


OURS = ('{"settings": {}, "field_from_world": []}', '{"type": "checkpoint", "step": 3}\n')


@pytest.mark.parametrize(
    ("files", "stranger"),
    [
        ({}, None),
        ({"log.txt": "a", "notes.txt": "b", ".lock": "c"}, None),
        ({"cancel": "", "keep": "", "events.jsonl": ""}, None),
        ({"config.json": OURS[0], "preview.png": "x"}, None),
        ({"config.json": "{", "events.jsonl": OURS[1]}, None),
        ({"config.json": "[" * 100_000}, "config.json"),
        ({"config.json": '{"settings": {}}', "preview.png": "x"}, "config.json"),
        ({"events.jsonl": '{"type": "mine"}\n'}, "events.jsonl"),
        ({"metrics.json": "{}"}, "metrics.json"),
        ({"keep": "this"}, "keep"),
    ],
)
def test_a_stranger_s_files_are_told_from_a_run_s(tmp_path, files, stranger):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = protocol.RunFolder(tmp_path).stranger()
    assert (found and found.name) == stranger


def test_who_only_looks_is_waited_for(tmp_path, monkeypatch):
    taken = iter([False, False, True])
    monkeypatch.setattr(protocol, "_lock", lambda file: next(taken))
    with protocol.held(tmp_path):
        pass
    assert next(taken, None) is None
