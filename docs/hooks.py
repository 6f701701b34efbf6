"""What MkDocs calls while it builds the pages."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

MARK = "<!-- settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables of settings where a page asks for them, from the classes themselves: they cannot drift apart."""
    return markdown.replace(MARK, settings_tables()) if MARK in markdown else markdown


def settings_tables() -> str:
    """Return one Markdown table of settings per section."""
    from airlora.training import Settings

    sections: dict[str, type[BaseModel]] = {"": Settings}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections[name] = field.annotation
    lines = []
    for section, model in sections.items():
        lines += ["", f"## {section or 'At the top'}", "", "| setting | default | what |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if section or name not in sections:
                key = f"{section}.{name}" if section else name
                lines.append(f"| `{key}` | `{field.default!r}` | {field.description or ''} |")
    return "\n".join(lines)
