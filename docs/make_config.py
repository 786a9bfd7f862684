"""Prints docs/config.md from the config schema: `make docs` writes it, a test compares it."""

from __future__ import annotations

from attune.config_words import describe_kind, setting_fields

HEAD = """# Settings

Made by `make docs` from `src/attune/config.py`. On the command line: `--train.steps 50` or `train.steps=50`; in a
config file: `train:` and below it `steps: 50` (YAML), or `[train]` and `steps = 50` (TOML). The command line wins over
the file. `attune train ... --dry-run` prints what `auto` becomes, with its reason; what depends on the loaded model
(attention, kernels, compiling, shared beginnings) is said when a run starts.
"""


def config_page() -> str:
    """The page: a table for each group of settings."""
    lines = [HEAD]
    group = None
    for name, field in setting_fields().items():
        if name.rpartition(".")[0] != group:
            group = name.rpartition(".")[0]
            lines += [f"\n## {group or 'run'}\n", "| setting | takes | default | what it is |", "|---|---|---|---|"]
        default = field.get_default(call_default_factory=True)
        shown = f"`{default}`" if default not in ("", {}, []) else ""
        lines.append(f"| `{name}` | {describe_kind(name)} | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(config_page(), end="")
