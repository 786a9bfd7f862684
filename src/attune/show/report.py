"""One HTML file with everything a run has to say, made from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attune.errors import ConfigError
from attune.record import RunFolder
from attune.show import sections, words
from attune.show.answers import Sample, eval_samples, training_samples
from attune.show.charts import loss_chart, small_charts
from attune.show.facts import Facts, mapping, number, read_facts
from attune.show.funnel import rows_funnel, tokens_funnel
from attune.show.page import MAX_ROWS_BYTES, Shown, cap, fit, preview_row, render_page

MAX_ANSWERS_BYTES = 900_000
FIRST_ANSWERS = 3


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path; whatever the folder lacks is said on the page.

    Raises ConfigError when there is no such folder, ResourceError when the page cannot be written.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: there is no such folder. See which runs there are: ls runs")
    RunFolder(run).write_text("report.html", render_report(read_facts(run)))
    return run / "report.html"


def render_report(facts: Facts) -> str:
    """Return the report as HTML."""
    loss, small = loss_chart(facts), small_charts(facts)
    funnels = [chart for chart in (rows_funnel(facts.ledger), tokens_funnel(facts.ledger)) if chart]
    headline, sentences = words.verdict(facts)
    return render_page(
        "report.html",
        (loss, *small, *funnels),
        facts=facts,
        headline=headline,
        sentences=sentences,
        warnings=sections.count_warnings(facts),
        key_figures=sections.key_figures(facts),
        comparisons=[sections.comparison(one) for one in facts.evals],
        loss=loss,
        small=small,
        funnels=funnels,
        reasons=cap(_reasons(facts)),
        rows=fit((preview_row(row) for row in facts.preview), len(facts.preview), MAX_ROWS_BYTES),
        answers=_answers(facts),
        first_answers=FIRST_ANSWERS,
        findings=cap(facts.findings),
        alarms=cap(facts.result.get("alarms") or ()),
        events=cap(facts.events),
        settings=cap(sections.settings(facts)),
        machine=cap(sections.machine(facts)),
        next_command=sections.next_command(facts),
    )


def _reasons(facts: Facts) -> list[tuple[str, Any]]:
    """Return why rows were not used whole, the most frequent reason first."""
    return sorted(mapping(facts.ledger.get("reasons")).items(), key=lambda item: -(number(item[1]) or 0))


def _answers(facts: Facts) -> Shown:
    """Return the sample answers: of the newest evaluation, else of the prompts followed during training."""
    samples: list[Sample] = eval_samples(facts.evals[0]) if facts.evals else []
    samples = samples or training_samples(facts)
    return fit(samples, len(samples), MAX_ANSWERS_BYTES)
