"""The pages on results: what they quote is what their script prints; the paper's numbers are the tables'."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/measurements/results.md").read_text("utf-8")
NUMBERS = (ROOT / "docs/measurements/paper_numbers.md").read_text("utf-8")
SCRIPT = ROOT / "scripts/recompute_paper.py"
QUOTED = re.findall(r"```text\n\$ python scripts/recompute_paper.py (\w+)\n(.*?)```", NUMBERS, re.DOTALL)

sys.path.insert(0, str(SCRIPT.parent))
import recompute_paper as paper  # noqa: E402


@pytest.mark.parametrize(("section", "quoted"), QUOTED, ids=[section for section, _ in QUOTED])
def test_the_page_quotes_what_the_script_prints(section, quoted):
    assert "".join(f"{line}\n" for line in paper.SECTIONS[section]()) == quoted


def test_every_section_of_the_script_is_quoted():
    assert [section for section, _ in QUOTED] == list(paper.SECTIONS)


def test_the_script_runs_as_quoted():
    done = subprocess.run([sys.executable, SCRIPT, "meld"], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == dict(QUOTED)["meld"]


def test_a_numerator_is_found_by_search():
    wanted = {n: next((k for k in range(n + 1) if f"{100 * k / n:.2f}" == "70.53"), None) for n in range(1400, 1700)}
    assert {n: paper.numerator(70.53, n) for n in wanted} == wanted


def test_chance_is_that_of_drawn_numbers():
    """About one number in 10,000 / n of two decimals is k / n."""
    assert paper.chance(paper.FIFTH) == pytest.approx(paper.FIFTH / 10_000, rel=0.01)


def test_the_best_of_equals_is_what_simulation_gives():
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(200_000, 7))
    deviates = (draws.max(1) - draws.mean(1)) / draws.std(1, ddof=1)
    assert paper.best_of_equals(1.73, 7) == pytest.approx(float((deviates >= 1.73).mean()), abs=0.005)


def test_disagreements_are_those_of_the_exact_mcnemar_test():
    from scipy import stats

    most = paper.disagreements(9)
    p = [stats.binomtest((m + 9) // 2, m).pvalue for m in (most, most + 2)]
    assert p[0] < 0.05 <= p[1]


def test_every_number_of_the_papers_tables_on_the_page_is_the_one_in_the_repository():
    rows = re.findall(r"^\| ([1-6][^|]*)\| ([^|]*)\| \*\*not measured here\*\* \|$", PAGE, re.MULTILINE)
    named = {float(number) for _, numbers in rows for number in re.findall(r"\d\d\.\d\d", numbers)}
    stated = {number for name in "123456" for row in paper.read(name).rows for number in row.stated.values()}
    assert len(rows) == 6 and named <= stated
