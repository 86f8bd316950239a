"""Every text of the panels goes through Blender's translation, and the tables fit the texts."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re

import pytest
from neural_fields.ui import translations

pytestmark = pytest.mark.usefixtures("registered")
TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "messages.py"
_SHOWN = {"label", "operator", "prop", "menu", "popover", "progress", "operator_menu_enum"}


@pytest.fixture(scope="module")
def messages():
    spec = importlib.util.spec_from_file_location("messages", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def computed(node: ast.expr) -> bool:
    """Whether a text is put together without a look-up of what is constant in it."""
    if isinstance(node, ast.IfExp):
        return computed(node.body) or computed(node.orelse)
    if isinstance(node, ast.BinOp):
        return True
    if isinstance(node, ast.JoinedStr):
        # numbers and names may stand alone
        said = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        return re.search("[A-Za-z]{2}", said) is not None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "format" and isinstance(node.func.value, ast.Constant)
    return False


def test_no_text_is_put_together_before_it_is_looked_up(messages) -> None:
    seen, wrong = 0, []
    for file, tree in messages.trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in _SHOWN:
                continue
            for word in node.keywords:
                if word.arg == "text":
                    seen += 1
                    if computed(word.value):
                        wrong.append(f"{file.name}:{node.lineno}: {ast.unparse(word.value)}")
    assert seen > 5
    assert wrong == []


def test_all_kinds_of_texts_are_collected(messages) -> None:
    found = messages.collect()
    assert "Train Neural Field" in found  # an operator's label
    assert "End the running job. A training keeps its checkpoint; views that are rendered stay" in (
        found  # its tooltip
    )
    assert "Lowest Elevation" in found  # a property
    assert "Images alone" in found  # a choice's tooltip
    assert "Continue Training" in found  # in a panel's source
    assert "Show the panel on all tabs" not in found  # Blender's own


def test_tables_translate_what_is_said(messages) -> None:
    found = messages.collect()
    assert translations.languages()
    for code, table in translations.languages().items():
        assert set(table) - found == set(), f"{code}: nobody says this any more"
        assert all(table.values()), code
        for said, translated in table.items():
            holes = re.compile(r"\{\w*[^}]*\}")
            assert sorted(holes.findall(said)) == sorted(holes.findall(translated)), said
