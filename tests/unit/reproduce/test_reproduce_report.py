import html
import io
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from rich.console import Console

from airlora.errors import StorageError
from airlora.reproduce.figures import PAGE_INCHES, Series, line_figure
from airlora.reproduce.report import summary_table, write_report
from airlora.reproduce.result import ExperimentResult, write_result
from airlora.reproduce.statistics import Estimate
from airlora.reproduce.tables import Column, ResultTable
from airlora.reproduce.verdicts import DOES_NOT_HOLD, HOLDS, NOT_DECIDABLE, Verdict

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

COLUMNS = [
    Column("method", "method"),
    *(Column(f"{snr}", f"{snr} dB", "%") for snr in range(12)),
    Column("paper", "paper", "%"),
]
TABLE = ResultTable(
    "table3",
    "Table III: <accuracy>",
    COLUMNS,
    [{"method": "airllm", "paper": 0.953, **{f"{snr}": Estimate(0.94, (0.93, 0.95)) for snr in range(12)}}],
    ["Mean over 3 seeds."],
)
VERDICTS = [
    Verdict("AirLLM [U-Net] is better than AdaLoRA.", 0.0012, 0.004, (0.001, 0.007), HOLDS, "Reason one."),
    Verdict("PPO is worse.", 0.008, -0.001, (-0.002, -0.0005), DOES_NOT_HOLD, "Reason two."),
    Verdict("AirLLM needs fewer steps.", None, 3400, None, NOT_DECIDABLE, "Reason three.", "steps"),
]
OWN = Verdict("allocate beats AirLLM.", None, 0.2, (0.1, 0.3), HOLDS, "Reason four.", "", source="airlora")
INFO = {"scale": "tiny", "command": "airlora reproduce all --seeds 3 --out runs/reproduce", "minutes": "12.4"}


@pytest.fixture(scope="module")
def results() -> list[ExperimentResult]:
    figure = line_figure({"": [Series("airllm", [0, 1], [0.1, 0.2])]}, xlabel="SNR, dB", ylabel="y", width=PAGE_INCHES)
    return [
        ExperimentResult("table3", TABLE.title, [{"method": "airllm", "seed": 0}], [*VERDICTS[:2], OWN], table=TABLE),
        ExperimentResult("fig4", "Fig. 4", [{"method": "airllm", "seed": 0}], VERDICTS[2:], figure=figure),
    ]


def test_the_page_has_verdicts_tables_and_figures(tmp_path: Path, results: list[ExperimentResult]) -> None:
    page = html.unescape(write_report(tmp_path, results, info=INFO).read_text())
    for text in (*INFO, *INFO.values(), "94.00 ± 1.00", "95.30", "Mean over 3 seeds."):
        assert text in page
    for verdict in (*VERDICTS, OWN):
        assert verdict.claim in page
        assert verdict.reason in page
    assert "+0.40 points" in page
    assert "+0.10 to +0.70 points" in page
    assert "+3,400 steps" in page
    assert re.search(r'class="mark holds">✓ 1 holds<.*class="mark fails">✗ 1 does not hold<', page)
    assert page.count("<svg") == 1
    assert page.index('id="table3"') < page.index('id="fig4"')


def test_claims_of_the_paper_and_others_are_counted_apart(tmp_path: Path, results: list[ExperimentResult]) -> None:
    page = html.unescape(write_report(tmp_path, results, info=INFO).read_text())
    paper, own = (page.index(f"<h2>{title}</h2>") for title in ("Claims of the paper", "Claims beyond the paper"))
    assert paper < own < page.index('id="table3"')
    counts = ["✓ 1 holds", "✗ 1 does not hold", "? 1 not decidable here"]
    assert re.findall(r">(. \d [a-z ]+)<", page[paper:own]) == counts
    assert re.findall(r">(. \d [a-z ]+)<", page[own : page.index('id="table3"')]) == counts[:1]
    assert OWN.claim not in page[paper:own]


def test_titles_are_escaped(tmp_path: Path, results: list[ExperimentResult]) -> None:
    assert "Table III: &lt;accuracy&gt;" in write_report(tmp_path, results, info=INFO).read_text()


def test_the_page_links_only_files_that_are_written(tmp_path: Path, results: list[ExperimentResult]) -> None:
    both = ExperimentResult("table3", TABLE.title, results[0].rows, VERDICTS, table=TABLE, figure=results[1].figure)
    shown = [both, results[1]]
    paths = [path for result in shown for path in write_result(tmp_path, result)]
    page = write_report(tmp_path, shown, info=INFO).read_text()
    linked = set(re.findall(r'href="([^"#]+)"', page))
    assert linked == {path.name for path in paths}
    assert all((tmp_path / link).is_file() for link in linked)
    assert (tmp_path / "table3.csv").read_text().startswith("method,seed")
    assert (tmp_path / "table3-figure.csv").read_text().startswith("panel,series")
    assert (tmp_path / "fig4.csv").read_text().startswith("panel,series")


def test_differences_in_loss_are_drawn_with_their_verdicts(tmp_path: Path) -> None:
    verdicts = [
        Verdict("A beats B: lower loss", None, 0.02, (0.01, 0.03), HOLDS, "", "nats"),
        Verdict("C beats D (paper: a lot): lower loss", None, -0.5, (-0.7, -0.3), DOES_NOT_HOLD, "", "nats"),
        Verdict("One seed: lower loss", None, 0.04, None, NOT_DECIDABLE, "", "nats"),
        *VERDICTS,
    ]
    page = write_report(tmp_path, [ExperimentResult("table3", "T", [], verdicts, table=TABLE)], info=INFO).read_text()
    assert page.count("<svg") == 1
    drawn = page[page.index("<svg") : page.index("</svg>")]
    for text in ("table3: A beats B", "table3: C beats D", HOLDS, DOES_NOT_HOLD):
        assert f">{text}<" in drawn
    assert NOT_DECIDABLE not in drawn
    lines = (tmp_path / "verdicts.csv").read_text().splitlines()
    assert lines[1:] == ["table3: A beats B,holds,0.02,0.01,0.03", "table3: C beats D,does not hold,-0.5,-0.7,-0.3"]
    assert (tmp_path / "verdicts.pdf").is_file()
    assert 'href="verdicts.svg"' in page


def test_a_page_without_differences_leaves_none_of_an_earlier_one(tmp_path: Path) -> None:
    verdict = Verdict("A beats B: lower loss", None, 0.02, (0.01, 0.03), HOLDS, "", "nats")
    files = [tmp_path / f"verdicts.{suffix}" for suffix in ("svg", "pdf", "csv")]
    for verdicts, is_drawn in (([verdict], True), ([], False)):
        page = write_report(tmp_path, [ExperimentResult("table3", "T", [], verdicts, table=TABLE)], info=INFO)
        assert [path.exists() for path in files] == [is_drawn] * 3
        assert ("verdicts.svg" in page.read_text()) == is_drawn
    files[0].mkdir()
    with pytest.raises(StorageError, match=r"cannot remove .*verdicts\.svg"):
        write_report(tmp_path, [ExperimentResult("table3", "T", [], table=TABLE)], info=INFO)


def test_a_page_without_claims_has_no_table_of_them(tmp_path: Path) -> None:
    result = ExperimentResult("table3", "T", [], table=TABLE)
    assert "<h2>Claims" not in write_report(tmp_path, [result], info={}).read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_no_part_of_the_page_is_wider_than_a_phone_or_a_screen(tmp_path: Path, results: list[ExperimentResult]) -> None:
    path = write_report(tmp_path, results, info=INFO)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(path.as_uri())
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        browser.close()


def summary(verdicts: dict[str, list[Verdict]]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(summary_table(verdicts))
    return console.export_text()


def test_the_summary_has_a_line_per_claim() -> None:
    text = summary({"table3": VERDICTS[:2], "fig4": VERDICTS[2:]})
    for part in ("AirLLM [U-Net] is better", "✓ holds", "✗ does not hold", "? not decidable here", "+0.80 points"):
        assert part in text
    assert "beyond" not in text


def test_the_summary_counts_claims_of_the_paper_and_others_apart() -> None:
    text = summary({"table3": [OWN, *VERDICTS[:2]], "fig4": VERDICTS[2:]})
    paper, own = text.split("Claims beyond the paper: ")
    assert "Claims of the paper: ✓ 1 holds, ✗ 1 does not hold, ? 1 not decidable here" in paper
    assert re.match(r"✓ 1 holds *\n", own)
    assert OWN.claim in own
    assert OWN.claim not in paper
