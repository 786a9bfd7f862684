"""One HTML file with everything a run has to say, made from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attune.errors import ConfigError
from attune.record import RunFolder
from attune.show import alarms, sections, verdict
from attune.show.answers import eval_samples
from attune.show.breakdown import break_down
from attune.show.charts import Chart, loss_chart, small_charts
from attune.show.extremes import heated_rows
from attune.show.facts import Facts, Record, mapping, number, read_facts
from attune.show.followed import followed_prompts
from attune.show.funnel import rows_funnel, tokens_funnel
from attune.show.guard_charts import answer_charts, forgetting_charts, memorising_charts
from attune.show.page import Shown, cap, fit, preview_row, render_page

MAX_PART_BYTES = 400_000  # of the page for each kind of rows; Plotly takes 4.8 of the 8 MB that a page may have
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
    charts: dict[str, list[Chart]] = {
        "small": small_charts(facts),
        "funnels": [one for one in (rows_funnel(facts.ledger), tokens_funnel(facts.ledger)) if one],
        "forgetting": forgetting_charts(facts),
        "memorising": memorising_charts(facts),
        "answering": answer_charts(facts),
    }
    loss = loss_chart(facts)
    headline, sentences = verdict.verdict(facts)
    return render_page(
        "report.html",
        (loss, *(chart for some in charts.values() for chart in some)),
        facts=facts,
        headline=headline,
        sentences=sentences,
        alarm_sentence=verdict.alarm_sentence(facts),
        pressing=alarms.pressing_alarms(facts),
        num_findings=sections.count_findings(facts),
        key_figures=sections.key_figures(facts),
        comparisons=[sections.comparison(one) for one in facts.evals],
        loss=loss,
        **charts,
        **_alarms(facts),
        openers=sections.openers(facts),
        guard_seconds=sum(number(record.get("seconds")) or 0 for record in facts.probes),
        breakdown=break_down(facts),
        **_rows(facts),
        first_answers=FIRST_ANSWERS,
        reasons=cap(_reasons(facts)),
        findings=cap(facts.findings),
        events=cap(facts.events),
        settings=cap(sections.settings(facts)),
        machine=cap(sections.machine(facts)),
        next_command=sections.next_command(facts),
    )


def _alarms(facts: Facts) -> Record:
    """Return the alarms, and the steps whose rows were recorded."""
    spikes = alarms.spikes(facts)
    return {
        "alarms": cap(alarms.sorted_alarms(facts)),
        "spikes": cap(spikes),
        "repeated": alarms.repeated_rows(spikes),
    }


def _rows(facts: Facts) -> dict[str, Shown]:
    """Return the rows and answers that stand on the page, each kind within its share of the bytes."""
    answers = eval_samples(facts.evals[0]) if facts.evals else []
    heated, followed = heated_rows(facts), followed_prompts(facts)
    return {
        "rows": fit((preview_row(row) for row in facts.preview), len(facts.preview), MAX_PART_BYTES),
        "answers": fit(answers, len(answers), MAX_PART_BYTES),
        "heated": fit(heated, len(heated), MAX_PART_BYTES),
        "followed": fit(followed, len(followed), MAX_PART_BYTES),
    }


def _reasons(facts: Facts) -> list[tuple[str, Any]]:
    """Return why rows were not used whole, the most frequent reason first."""
    return sorted(mapping(facts.ledger.get("reasons")).items(), key=lambda item: -(number(item[1]) or 0))
