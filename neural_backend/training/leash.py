"""Standard input as the leash on which Blender holds the backend."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable

from .. import protocol


class Leash:
    """Tells when whoever started this process wants it to end.

    A line ``cancel`` on standard input, or its end, pulls the leash. Only a pipe is one: a shell's
    terminal, ``/dev/null`` or a closed standard input have nobody at the other end.

    Args:
        on_pull: called from another thread when it is pulled.
        watch: whether standard input is this process's to read.
    """

    def __init__(self, on_pull: Callable[[], None] | None = None, watch: bool = True) -> None:
        self._pulled = threading.Event()
        self._on_pull = on_pull
        if watch and _is_pipe():
            # a thread, because Windows cannot poll a pipe
            threading.Thread(target=self._watch, name="leash", daemon=True).start()

    def _watch(self) -> None:
        try:
            for line in sys.stdin:
                if line.strip() == protocol.CANCEL:
                    break
        except (OSError, ValueError):
            pass
        self.pull()

    def pull(self) -> None:
        """Pull it from this side, as an interrupt from the keyboard does."""
        self._pulled.set()
        if self._on_pull:
            self._on_pull()

    @property
    def pulled(self) -> bool:
        return self._pulled.is_set()


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False
