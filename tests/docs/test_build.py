"""`make docs` refuses pages that readers could not follow."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DEAD_LINKS = {
    "[page](gone.md)": "'gone.md', but the target is not found",
    "[anchor](other.md#gone)": "does not contain an anchor '#gone'",
    "[anchor](#absent)": "'#absent', but there is no such anchor",
    "[absolute](/other.md)": "an absolute link '/other.md'",
    "[folder](pages)": "an unrecognized relative link 'pages'",
    "[airlora.gone][]": "Could not find cross-reference target 'airlora.gone'",
}


def build(folder: Path, page: str, nav: str = "[index.md, other.md]") -> "subprocess.CompletedProcess[str]":
    """Build two pages with the project's own configuration and the options that `make docs` gives to mkdocs."""
    options = re.search(r"mkdocs (build.*)", (ROOT / "Makefile").read_text())
    assert options
    pages = folder / "pages"
    pages.mkdir()
    (pages / "index.md").write_text(page)
    (pages / "other.md").write_text("# Other\n")
    config = folder / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: pages\nsite_dir: site\nnav: {nav}\n")
    command = [sys.executable, "-m", "mkdocs", *shlex.split(options[1]), "--config-file", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_pages_whose_links_and_references_resolve_are_built(tmp_path: Path) -> None:
    result = build(tmp_path, "# Title\n\n[here](#title), [there](other.md#other)\n\n::: airlora.version\n")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_dead_links_and_anchors_fail_the_build(tmp_path: Path) -> None:
    result = build(tmp_path, "# Title\n\n" + "\n\n".join(DEAD_LINKS))
    assert result.returncode != 0
    assert [complaint for complaint in DEAD_LINKS.values() if complaint not in result.stderr] == []


def test_a_reference_to_a_missing_object_fails_the_build(tmp_path: Path) -> None:
    result = build(tmp_path, "# Title\n\n::: airlora.gone\n")
    assert result.returncode != 0
    assert "Could not collect 'airlora.gone'" in result.stderr


@pytest.mark.parametrize("page", sorted(page.name for page in ROOT.glob("*.md")))
def test_links_of_pages_outside_of_the_docs_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", (ROOT / page).read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("nav", ["[index.md]", "[index.md, other.md, gone.md]"])
def test_a_page_missing_from_the_navigation_or_the_folder_fails_the_build(nav: str, tmp_path: Path) -> None:
    result = build(tmp_path, "# Title\n", nav)
    assert result.returncode != 0
    assert "nav" in result.stderr
