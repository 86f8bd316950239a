"""In the real Blender, which brings languages, the add-on speaks them."""

from __future__ import annotations

import json
import pathlib

import pytest
from blender_process import ROOT, Blender

LANGUAGES = sorted((ROOT / "ui" / "languages").glob("*.json"))
ASK = """
import importlib
import bpy
locale = next((name for name in bpy.app.translations.locales if name.startswith({code!r})), "")
print("LOCALE", locale)
if locale:
    view = bpy.context.preferences.view
    view.language = locale
    view.use_translate_interface = view.use_translate_tooltips = view.use_translate_reports = True
    for context in ("*", "Operator"):
        print("SAID", bpy.app.translations.pgettext_iface({message!r}, context))
    tooltip = bpy.ops.neural_fields.train.get_rna_type().description
    print("TOOLTIP", bpy.app.translations.pgettext_tip(tooltip))
    bpy.ops.neural_fields.load_example()
    job = importlib.import_module("bl_ext.user_default.neural_fields.operators.job")
    try:
        bpy.ops.wm.open_mainfile(filepath="/no such file")
    except RuntimeError as error:
        print("ERROR", job.one_line(error))
"""


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_a_language_is_spoken(blender: Blender, file: pathlib.Path) -> None:
    message = "Train Neural Field"
    done = blender.python(ASK.format(code=file.stem, message=message))
    lines = done.stdout.splitlines()
    if "LOCALE" in (line.strip() for line in lines):
        pytest.skip(f"this Blender was built without the language {file.stem}")
    table = json.loads(file.read_text(encoding="utf-8"))
    assert lines.count(f"SAID {table[message]}") == 2
    (tooltip,) = (said for said in table if said.startswith("Render the scene from the rig"))
    assert f"TOOLTIP {table[tooltip]}" in lines
    report = table["{scene}: click Train Neural Field to begin"]
    assert report.format(scene="Neural Fields Example") in done.stdout
    (error,) = (line for line in lines if line.startswith("ERROR "))
    assert error.startswith("ERROR Cannot read file"), "without the word for an error before it"
