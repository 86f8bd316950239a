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
ROOT = TOOL.parent.parent
_SHOWN = {"label", "operator", "prop", "menu", "popover", "progress", "operator_menu_enum"}
_SAID = {"Status": 0, "draw_lines": 2, "report": 1, "poll_message_set": 0}
"""What shows a text as it is given, and which of its arguments that is."""

_UNITS = r"\b(dB|PSNR|SSIM)\b"


@pytest.fixture(scope="module")
def messages():
    spec = importlib.util.spec_from_file_location("messages", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def has_words(text: object) -> bool:
    """Numbers, names and units may stand alone."""
    return isinstance(text, str) and bool(re.search("[A-Za-z]{2}", re.sub(_UNITS, "", text)))


class Lint:
    """Finds in a module's syntax the texts that are shown without having been looked up.

    Args:
        tool: ``tools/messages.py``.
    """

    def __init__(self, tool, tree: ast.AST):
        self._tool, self._tree = tool, tree
        self._look_ups = tool.look_ups(tree)

    def wrong(self) -> list[ast.expr]:
        found = []
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                found += self._in_call(node)
            elif isinstance(node, ast.FunctionDef):
                found += self._in_function(node)
        return found

    def _in_call(self, call: ast.Call) -> list[ast.expr]:
        name = self._tool.name_of(call)
        texts = []
        if name in self._look_ups:
            texts += call.args[:1]
        elif name in _SHOWN or name.startswith("invoke_"):
            texts += self._tool.translated_by_blender(call)
        # a text as it stands in the source is what these look up
        texts = [text for text in texts if not isinstance(text, ast.Constant)]
        if isinstance(call.func, ast.Attribute) and name in _SHOWN:
            texts = [
                part
                for text in texts
                for part in ([text.body, text.orelse] if isinstance(text, ast.IfExp) else [text])
                if not isinstance(part, ast.Constant)
            ]
        return [text for text in texts if self.is_wrong(text)]

    def _in_function(self, function: ast.FunctionDef) -> list[ast.expr]:
        """What is said by a function, or returned to be said."""
        says: list[ast.expr] = []
        steps = ast.unparse(function.returns) if function.returns else ""
        returns = steps in ("Steps[str]", "Steps[Any]") or function.name == "act"
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and self._tool.name_of(node) in _SAID:
                says += node.args[_SAID[self._tool.name_of(node)] :][:1]
            elif isinstance(node, ast.Return) and node.value is not None and returns:
                says.append(node.value)
        names = {text.id for text in says if isinstance(text, ast.Name)}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                targets = [node.target.id]
            else:
                continue
            if names.intersection(targets):
                says.append(node.value)
        return [text for text in says if self.is_wrong(text)]

    def is_wrong(self, text: ast.expr) -> bool:
        """Whether words of a text are not looked up, or only when something is in them."""
        if isinstance(text, ast.Constant):
            return has_words(text.value)
        if isinstance(text, ast.JoinedStr):
            return any(self.is_wrong(part) for part in text.values)
        if isinstance(text, ast.FormattedValue):
            return self.is_wrong(text.value)
        if isinstance(text, ast.IfExp):
            return self.is_wrong(text.body) or self.is_wrong(text.orelse)
        if isinstance(text, ast.BinOp):
            return self.is_wrong(text.left) or self.is_wrong(text.right)
        if isinstance(text, ast.BoolOp):
            return any(self.is_wrong(part) for part in text.values)
        if isinstance(text, ast.Call):
            name = self._tool.name_of(text)
            if name in self._look_ups:
                return False  # its own argument is looked at by itself
            if name in ("format", "join") and isinstance(text.func, ast.Attribute):
                return self.is_wrong(text.func.value)
        return False


def test_no_text_is_put_together_before_it_is_looked_up(messages) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{text.lineno}: {ast.unparse(text)}"
        for file, tree in messages.trees().items()
        for text in Lint(messages, tree).wrong()
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('layout.label(text="Frames")', 0),
        ("layout.label(text=name)", 0),
        ('layout.label(text=f"{count:,}")', 0),
        ('layout.label(text=f"{psnr:.1f} dB")', 0),
        ('layout.label(text=f"{count} frames")', 1),
        ('layout.label(text="Frames: " + count)', 1),
        ('layout.label(text="{} frames".format(count))', 1),
        ('layout.label(text="Frames" if many else f"{count} frames")', 1),
        ('layout.label(text=iface("{count} frames").format(count=count))', 0),
        ('iface(f"{count} frames")', 1),
        ('iface("{count} frames".format(count=3))', 1),
        ('manager.invoke_confirm(self, event, title="Delete")', 0),
        ('manager.invoke_confirm(self, event, title=f"Delete {name}")', 1),
        ('def f():\n Status("Waiting")', 1),
        ('def f():\n Status(iface("Waiting"), 0.5)', 0),
        ('def f():\n draw_lines(box, context, str(error), "ERROR")', 0),
        ('def f():\n draw_lines(box, context, f"Made by {name}", "ERROR")', 1),
        ('def f():\n self.report({"INFO"}, "Copied")', 1),
        ('def f():\n cls.poll_message_set(name + " runs")', 1),
        ('def f():\n text = "Ready"\n text += more\n Status(text)', 1),
        ('def f():\n text = iface("Ready")\n text += f"; {more}"\n Status(text)', 0),
        ('def f() -> Steps[str]:\n return f"{count} views"', 1),
        ('def act(self):\n return iface("Done")', 0),
    ],
)
def test_the_search_finds_what_is_wrong(messages, source: str, count: int) -> None:
    begin = "from bpy.app.translations import pgettext_iface as iface\n"
    assert len(Lint(messages, ast.parse(begin + source)).wrong()) == count


def test_all_kinds_of_texts_are_collected(messages) -> None:
    found = messages.collect()
    assert "Train Neural Field" in found  # an operator's label
    assert "End the running job. A training keeps its checkpoint; views that are rendered stay" in (
        found  # its tooltip
    )
    assert "Lowest Elevation" in found  # a property
    assert "Images alone" in found  # a choice's tooltip
    assert "Continue Training" in found  # in a panel's source
    assert "Delete" in found  # in a dialog
    assert "Waiting" in found  # marked, and looked up later
    assert "Trained for {seconds} s" in found  # a job's message
    assert "What a trained field can give without being trained again." in found  # a panel's header
    assert "Show the panel on all tabs" not in found  # Blender's own


def test_tables_translate_what_is_said(messages) -> None:
    found = messages.collect()
    assert translations.languages()
    for code, table in translations.languages().items():
        assert set(table) - found == set(), f"{code}: nobody says this any more"
        assert all(table.values()), code
        for said, translated in table.items():
            holes = re.compile(r"\{[^}]*\}")
            assert sorted(holes.findall(said)) == sorted(holes.findall(translated)), said


def test_german_is_complete(messages) -> None:
    missing = messages.collect() - translations.languages()["de"].keys()
    assert not missing, (
        f"ui/languages/de.json lacks {len(missing)} messages, which tools/messages.py de prints: "
        f"{sorted(missing)}"
    )
