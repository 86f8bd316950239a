"""In the real Blender, which brings languages, the add-on speaks them."""

from __future__ import annotations

import json
import pathlib

import pytest
from blender_process import ROOT, Blender

LANGUAGES = sorted((ROOT / "ui" / "languages").glob("*.json"))
ASK = """
import bpy
locale = next((name for name in bpy.app.translations.locales if name.startswith({code!r})), "")
print("LOCALE", locale)
if locale:
    bpy.context.preferences.view.language = locale
    bpy.context.preferences.view.use_translate_interface = True
    for context in ("*", "Operator"):
        print("SAID", bpy.app.translations.pgettext_iface({message!r}, context))
"""


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_a_language_is_spoken(blender: Blender, file: pathlib.Path) -> None:
    message = "Train Neural Field"
    done = blender.python(ASK.format(code=file.stem, message=message))
    lines = done.stdout.splitlines()
    if "LOCALE" in (line.strip() for line in lines):
        pytest.skip(f"this Blender was built without the language {file.stem}")
    wanted = json.loads(file.read_text(encoding="utf-8"))[message]
    assert lines.count(f"SAID {wanted}") == 2
