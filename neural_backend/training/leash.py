"""The leash on which Blender holds the backend: standard input, and files of the run."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from .. import protocol

_LOOK = 0.3  # seconds between two looks at the files
_PATIENCE = 2.0

# files that were there before have asked an earlier process
_began = time.time()


class Leash:
    """Tells when whoever started this process wants it to end.

    A line ``cancel`` on standard input, or its end, pulls the leash. Only a pipe is one: a shell's
    terminal, ``/dev/null`` or a closed standard input have nobody at the other end.

    As a context manager it removes a run's files ``cancel`` and ``keep`` in the end.

    Args:
        on_pull: called from another thread when it is pulled.
        watch: whether standard input is this process's to read.
        run: whose file ``cancel`` pulls it too, and whose file ``keep`` makes the end of standard
            input mean nothing.
    """

    def __init__(
        self,
        on_pull: Callable[[], None] | None = None,
        watch: bool = True,
        run: protocol.RunFolder | None = None,
    ) -> None:
        self._pulled = threading.Event()
        self._let_go = threading.Event()
        self._on_pull = on_pull
        self._run = run if watch else None
        if self._run is not None:
            self._remove_files(before=_began)
            threading.Thread(target=self._look, name="leash's files", daemon=True).start()
        if watch and _is_pipe():
            # a thread, because Windows cannot poll a pipe
            threading.Thread(target=self._watch, name="leash", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go.set()
        self._remove_files()

    def _watch(self) -> None:
        try:
            for line in sys.stdin:
                if line.strip() == protocol.CANCEL:
                    self.pull()
                    return
        except (OSError, ValueError):
            pass
        if self._run is None or not self._run.keep.exists():
            self.pull()

    def _look(self) -> None:
        assert self._run is not None
        while not (self._let_go.wait(_LOOK) or self.pulled):
            if self._run.cancel.exists():
                self.pull()

    def _remove_files(self, before: float | None = None) -> None:
        for file in (self._run.cancel, self._run.keep) if self._run else ():
            with contextlib.suppress(OSError):
                if before is None or file.stat().st_mtime < before:
                    file.unlink()

    def pull(self) -> None:
        """Pull it from this side, as an interrupt from the keyboard does."""
        self._pulled.set()
        if self._on_pull:
            self._on_pull()

    @property
    def pulled(self) -> bool:
        return self._pulled.is_set()


@contextlib.contextmanager
def preparing(leash: Leash) -> Iterator[None]:
    """Do what cannot look at the leash: soon after it is pulled the process ends, without more.

    Nothing is lost by it: there is nothing yet to save.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            if leash.pulled and not done.wait(_PATIENCE):
                print("cancelled before the training began", file=sys.stderr, flush=True)
                os._exit(protocol.EXIT_FAILED)

    threading.Thread(target=watch, name="preparing", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False
