"""Docstrings name their subject: no entry is an ellipsis that only the code explains."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import airlora

ROOT = Path(airlora.__file__).parent
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Examples):$")
ENTRY = re.compile(r"^    \*{0,2}\w+: (Of|Likewise|Its|Whose|Theirs|How|What|Who|Which|Where|When)\b")
SENTENCE = re.compile(r"(?:^|[.!?] +)(What is|What came|Who|In which|Whose)\b")


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_entries_and_sentences_name_their_subject(path: Path) -> None:
    for text in docstrings(path):
        section = None
        for line in text.splitlines():
            if match := SECTION.match(line):
                section = match[1]
            elif line and not line.startswith(" "):
                section = None
            assert not (section in ("Args", "Attributes") and ENTRY.match(line)), line
            assert not SENTENCE.search(line.strip()), line
