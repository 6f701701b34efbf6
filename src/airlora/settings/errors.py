"""Error messages for values that pydantic refuses."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

__all__ = ["explain"]


def explain(error: ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """Return the first problem as `key = value: allowed is ...`, and the number of further problems.

    Args:
        error: The error of validating `root`.
        root: Class whose validation failed. Its sections give the known keys.
        prefix: Dotted key of `root` among all settings. Empty for the root of all settings.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    parts = [*filter(None, [prefix]), *map(str, first["loc"])]
    key = ".".join(parts)
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        where = ".".join(parts[:-1]) or "the settings"
        text = f"{key}: no such setting; {where} has {', '.join(_section(root, first['loc'][:-1]).model_fields)}"
    elif first["type"] == "missing":
        text = f"{key}: a value is required"
    else:
        allowed = first["msg"].removeprefix("Input should be ").removeprefix("List should have ")
        text = f"{key} = {first['input']!r}: allowed is {allowed}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return text + more


def _section(root: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    model = root
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model
