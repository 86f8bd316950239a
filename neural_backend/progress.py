"""Progress bars for people at a console, on standard error. Programs read a run's events."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

import tqdm

from . import protocol

Item = TypeVar("Item")
_LINE_EVERY = 10.0  # seconds


def _options() -> dict[str, Any]:
    # not every console can show tqdm's blocks; without a console, None, there is no bar at all
    return {"ascii": True, "disable": None, "file": sys.stderr}


def over(items: Iterable[Item], count: int, what: str) -> Iterator[Item]:
    """Pass items on with a bar that counts them."""
    with CountingBar(what) as bar:
        for done, item in enumerate(items, 1):
            bar(done, count)
            yield item


class CountingBar:
    """Shows how many of how many are done; call it with both.

    Where there is no console it says so in a line now and then.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar = tqdm.tqdm(desc=what, **_options())
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.close()

    def __call__(self, done: int, of: int) -> None:
        self._bar.total = of
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and done < of and now >= self._told + _LINE_EVERY:
            self._told = now
            left = protocol.in_words((now - self._began) * (of - done) / max(done, 1))
            print(f"{self._what}: {done} of {of}, {left} left", file=sys.stderr, flush=True)


class StagesBar:
    """Shows the stages of a work one after the other; call it with what is done, how many are, and
    of how many."""

    def __init__(self) -> None:
        self._stage = contextlib.ExitStack()
        self._what = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stage.close()

    def __call__(self, what: str, done: int, of: int) -> None:
        if what != self._what:
            self._stage.close()
            self._what = what
            self._bar = self._stage.enter_context(CountingBar(what))
        self._bar(done, of)


class TrainingBar:
    """Shows a training's events; call it with each. The bar appears when the training starts.

    Where there is no console it says how far the training is in a line now and then; where that
    cannot be written either, on a full disk, the training goes on without.
    """

    def __init__(self) -> None:
        self._bar: tqdm.tqdm | None = None
        self._told = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.close()

    def __call__(self, event: protocol.Event) -> None:
        try:
            self._show(event)
        except BrokenPipeError:
            raise
        except OSError:
            pass

    def _show(self, event: protocol.Event) -> None:
        if isinstance(event, protocol.Started):
            form = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
            what = f"training on {event.device}"
            self._bar = tqdm.tqdm(total=1.0, desc=what, bar_format=form, leave=False, **_options())
            if event.eta is not None:
                self._bar.set_postfix_str(f"{protocol.in_words(event.eta)} left")
        elif isinstance(event, protocol.Progress) and self._bar is not None:
            self._bar.n = event.spent
            said = f"{protocol.in_words(event.eta)} left, step {event.step}, loss {event.loss:.3g}"
            if event.psnr is not None:
                said += f", {event.psnr:.1f} dB"
            self._bar.set_postfix_str(said, refresh=False)
            self._bar.refresh()
            # into a file, or another program, there goes no bar
            if self._bar.disable and event.seconds >= self._told + _LINE_EVERY:
                self._told = event.seconds
                print(f"{event.spent:.0%}, {said}", file=sys.stderr, flush=True)
        elif isinstance(event, protocol.Warning):
            tqdm.tqdm.write(f"warning: {event.message}", file=sys.stderr)
        elif isinstance(event, protocol.Done):
            said = f"{event.reason}: step {event.step}, {event.seconds:.1f} s"
            if event.psnr is not None:
                said += f", {event.psnr:.2f} dB"
            if event.ssim is not None:
                said += f", SSIM {event.ssim:.3f}"
            tqdm.tqdm.write(said, file=sys.stderr)
