import sys
from pathlib import Path

import pytest

from airlora.errors import PolicyError
from airlora.policy.registry import Registry


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[int]:
    """A registry over a package with two files, each of which registers a part."""
    package = tmp_path / "shapes_for_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from airlora.policy.registry import Registry\nSHAPES = Registry('shape', __name__)\n"
    )
    for name, corners in (("square", 4), ("triangle", 3)):
        (package / f"{name}.py").write_text(
            f"from shapes_for_test import SHAPES\nSHAPES.register({name!r})({corners})\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    import shapes_for_test  # type: ignore[import-not-found]

    yield shapes_for_test.SHAPES
    for module in [name for name in sys.modules if name.startswith("shapes_for_test")]:
        del sys.modules[module]


def test_a_new_file_is_found_without_touching_another(shapes: Registry[int]) -> None:
    assert shapes["square"] == 4
    assert shapes.names() == ("square", "triangle")


def test_names_what_there_is(shapes: Registry[int]) -> None:
    with pytest.raises(PolicyError, match="shape = 'circle': allowed is one of square, triangle"):
        shapes["circle"]


def test_no_name_is_given_twice(shapes: Registry[int]) -> None:
    with pytest.raises(PolicyError, match="registered twice"):
        shapes.register("square")(5) if shapes.names() else None
