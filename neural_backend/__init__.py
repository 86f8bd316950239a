"""Neural Fields' backend: the program that trains. Run it with ``python -m neural_backend``.

Importing this package, and its contract modules ``config``, ``protocol`` and
``dataset.transforms``, needs nothing but the standard library and numpy.
"""

__version__ = "0.1.0"
