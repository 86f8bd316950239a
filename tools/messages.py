"""Lists what the add-on says to people, and what of it a language lacks.

.venv/bin/python tools/messages.py [CODE]    such as de: only what ui/languages/de.json lacks
"""

from __future__ import annotations

import ast
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import bpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("operators", "ui")
_LAST = (bpy.types.AddonPreferences, bpy.types.UIList, bpy.types.Menu)
_LOOKS_UP = re.compile(r"pgettext(_\w+)?")
_DIALOGS = ("invoke_confirm", "invoke_props_dialog")
_DIALOG_WORDS = ("title", "message", "confirm_text")


def collect() -> set[str]:
    """Every message: of registered classes and of the sources. The add-on must be registered."""
    found = {text for tree in trees().values() for text in in_source(tree)}
    for base in (bpy.types.Operator, bpy.types.Panel, bpy.types.PropertyGroup, *_LAST):
        for cls in base.__subclasses__():
            if cls.__name__.startswith("NEURAL_FIELDS") and cls.is_registered:
                found.update(_of_class(cls))
    return {text for text in found if re.search(r"[A-Za-z]{2}", text)}


def trees() -> dict[pathlib.Path, ast.Module]:
    """The sources' syntax, by file."""
    files = [file for folder in SOURCES for file in sorted((ROOT / folder).glob("*.py"))]
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}


def name_of(call: ast.Call) -> str:
    """The name of what is called, without what stands before a dot."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def look_ups(tree: ast.AST) -> set[str]:
    """The names that a module has for Blender's look-ups, and for the mark of a later one."""
    return {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "bpy.app.translations"
        for name in node.names
        if _LOOKS_UP.fullmatch(name.name)
    }


def translated_by_blender(call: ast.Call) -> list[ast.expr]:
    """The arguments of a call that Blender looks up by itself."""
    words = ("text", *_DIALOG_WORDS) if name_of(call) in _DIALOGS else ("text",)
    return [word.value for word in call.keywords if word.arg in words]


def in_source(tree: ast.AST) -> Iterator[str]:
    """What Blender looks up as it stands, and what is looked up before something is put in."""
    known = look_ups(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        texts = translated_by_blender(node)
        if name_of(node) in known:
            texts += node.args[:1]
        while texts:
            text = texts.pop()
            if isinstance(text, ast.IfExp):
                texts += [text.body, text.orelse]
            elif isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value


def _of_class(cls: Any) -> Iterator[str]:
    struct = cls.bl_rna
    if issubclass(cls, bpy.types.Operator):
        module, _, function = cls.bl_idname.partition(".")
        struct = getattr(getattr(bpy.ops, module), function).get_rna_type()
        yield struct.description
    yield getattr(cls, "bl_label", "")
    if issubclass(cls, bpy.types.Panel) and "HIDE_HEADER" not in getattr(cls, "bl_options", ()):
        yield cls.__doc__ or ""  # the tooltip of its header
    for name in getattr(cls, "__annotations__", ()):
        item = struct.properties.get(name)
        # a group of properties is shown as its members
        if item is None or item.name == item.identifier:
            continue
        yield item.name
        yield item.description
        if item.type == "ENUM":
            for choice in item.enum_items:
                yield from (choice.name, choice.description)


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    import conftest

    package = sys.modules[conftest.PACKAGE]
    package.register()
    messages = collect()
    package.unregister()
    if sys.argv[1:]:
        file = ROOT / "ui" / "languages" / f"{sys.argv[1]}.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        messages -= known.keys()
    print(json.dumps(dict.fromkeys(sorted(messages), ""), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
