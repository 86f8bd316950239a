"""The languages that the add-on's own texts are there in, given to Blender's translation.

A language is a json object in ``languages``, named by its code (``de.json``): what the sources say
to what it is in that language. Blender looks up labels and tooltips by itself; a text with
something in it is looked up before that is put in. ``tools/messages.py`` lists what is missing.
"""

from __future__ import annotations

import functools
import json
import pathlib

import bpy

FOLDER = pathlib.Path(__file__).with_name("languages")
_CONTEXTS = ("*", "Operator")  # labels of buttons are looked up in the latter


@functools.cache
def languages() -> dict[str, dict[str, str]]:
    """By code, such as ``de``: message to translation."""
    files = sorted(FOLDER.glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def register() -> None:
    tables = {}
    for locale in bpy.app.translations.locales:  # such as de_DE
        messages = languages().get(locale) or languages().get(locale.partition("_")[0])
        if messages:
            tables[locale] = {
                (context, message): said
                for message, said in messages.items()
                for context in _CONTEXTS
            }
    bpy.app.translations.register(__name__, tables)


def unregister() -> None:
    bpy.app.translations.unregister(__name__)
