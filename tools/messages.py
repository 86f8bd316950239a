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
_LOOKS_UP = re.compile(r"pgettext_\w+")


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


def in_source(tree: ast.AST) -> Iterator[str]:
    """What is given to a layout as it stands, and what is looked up before something is put in."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        texts = [word.value for word in node.keywords if word.arg == "text"]
        if _LOOKS_UP.fullmatch(name):
            texts += node.args[:1]
        yield from (
            text.value
            for text in texts
            if isinstance(text, ast.Constant) and isinstance(text.value, str)
        )


def _of_class(cls: Any) -> Iterator[str]:
    struct = cls.bl_rna
    if issubclass(cls, bpy.types.Operator):
        module, _, function = cls.bl_idname.partition(".")
        struct = getattr(getattr(bpy.ops, module), function).get_rna_type()
        yield struct.description
    yield getattr(cls, "bl_label", "")
    for name in getattr(cls, "__annotations__", ()):
        item = struct.properties.get(name)
        if item is None:
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
