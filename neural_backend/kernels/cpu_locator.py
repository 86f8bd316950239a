"""Where numba, from 0.62, keeps a compiled loop: named in numba's configuration, imported by it."""

from __future__ import annotations

from numba.core.caching import UserProvidedCacheLocator


class Locator(UserProvidedCacheLocator):
    """In one place wherever the sources lie and whenever they were written.

    The folder that it is in is named after their content: what one installation has compiled, the
    next one and an update that has the same loops need not compile again.
    """

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        return "loops"

    def get_source_stamp(self) -> int:
        return 0
