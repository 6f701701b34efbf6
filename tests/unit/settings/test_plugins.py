import subprocess
import sys
from pathlib import Path

import pytest

from airlora.errors import SettingsError
from airlora.settings.plugins import load_named_class


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module in the current directory, which no test has imported."""
    (tmp_path / "pack").mkdir()
    text = "value = 3\nclass Box:\n    def open(self): ...\n"
    for name in ("here", "pack/__init__", "pack/inner"):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "broken.py").write_text("raise RuntimeError('no luck')\n")
    (tmp_path / "script.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return "here"


@pytest.mark.usefixtures("module")
def test_a_class_is_found_in_the_current_directory_and_in_packages() -> None:
    assert load_named_class("here:Box", "setting", ["open"]).__name__ == "Box"
    assert load_named_class("pack:Box", "setting").__module__ == "pack"
    assert load_named_class("pack.inner:Box", "setting").__module__ == "pack.inner"
    assert load_named_class("fractions:Fraction", "setting").__name__ == "Fraction"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("here", "allowed is package.module:Class"),
        ("here:", "allowed is package.module:Class"),
        (":Box", "allowed is package.module:Class"),
        ("here.Box", "allowed is package.module:Class"),
        ("../here:Box", "allowed is package.module:Class"),
        ("here:Box()", "allowed is package.module:Class"),
        ("gone:Box", "importing gone failed: ModuleNotFoundError"),
        ("broken:Box", "importing broken failed: RuntimeError.*no luck"),
        ("script:Box", "importing script failed: SystemExit"),
        ("here:Gone", "allowed is a class of here, which has none of the name Gone"),
        ("here:value", "allowed is a class of here, which has none of the name value"),
        ("here:Box", "allowed is a class with the method close"),
    ],
)
def test_errors_name_the_setting_the_class_and_the_cause(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_named_class(name, "channel.process", ["open", "close"])
    assert str(caught.value).startswith(f"channel.process = {name!r}: ")


def test_a_script_that_is_not_run_from_the_current_directory_finds_the_class(module: str) -> None:
    code = "from airlora.settings.plugins import load_named_class; print(load_named_class('here:Box', 'x').__name__)"
    # With -I the current directory is not on the path, as for an installed command.
    source = str(Path(__file__).parents[3] / "src")
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "Box"
