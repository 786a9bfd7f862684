"""Prints docs/guards.md from the guards and their numbers: `make docs` writes it, a test compares it."""

from __future__ import annotations

import runpy
from pathlib import Path

from attune.evals.guards.catalog import GUARDS, Guard
from attune.evals.guards.thresholds import DEFAULT

HEAD = """# Guards

Made by `make docs` from `src/attune/evals/guards/catalog.py` and `thresholds.py`.

Guards look at what a run records, and raise an alarm with a figure, its threshold, what it means and the setting that
helps. Alarms are in `alarms.jsonl` and `result.json` of the run folder, on the console, in the report and in
`attune watch`. An alarm is raised once, and again only when it gets worse; spikes and steps that are not finite are
told one by one up to `spike_most`, the rest by their number at the end.

A guard changes nothing by itself. Which alarms stop a run is chosen with `guards.stop_on`, by id or name; what chooses
the best step, and when to stop or to lower the learning rate, with `early_stop`. Validation loss that rises is a
warning, and an error only where the chosen task metric falls with it: answers can get better while their loss rises
(Zhou et al. 2023, arXiv 2305.11206).

What is measured with the model (probes on training, validation and general text, answers to validation prompts) is
sized by `guards.cost`. With `guards.enabled: false` the guards of steps and of validation loss still look.

Severity is the worst that a guard gives.
"""

NUMBERS_HEAD = """
## Numbers

Every threshold. These numbers are no settings. How often each guard speaks in sick and in sound runs is measured in
`docs/calibration.md`.
"""


def guards_page() -> str:
    """The page: every guard and every number."""
    number_lines = runpy.run_path(str(Path(__file__).with_name("make_rules.py")))["number_lines"]
    lines = [HEAD, "| id | name | severity | looks | what it sees | by which figure |", "|---|---|---|---|---|---|"]
    lines += [_guard_line(guard) for guard in GUARDS.values()]
    return "\n".join([*lines, NUMBERS_HEAD, *number_lines(DEFAULT)]) + "\n"


def _guard_line(guard: Guard) -> str:
    return f"| {guard.id} | `{guard.name}` | {guard.severity} | {guard.moment} | {guard.watches} | {guard.formula} |"


if __name__ == "__main__":
    print(guards_page(), end="")
