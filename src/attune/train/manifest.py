"""What a run folder holds before the first step, and what a resumed run finds changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attune
from attune.config_file import dump_yaml
from attune.record import RunFolder
from attune.train.data_files import fingerprints

if TYPE_CHECKING:
    from attune.train.run import Inputs
    from attune.train.session import Session


def write_start(run: RunFolder, inputs: Inputs, session: Session, command: str) -> None:
    """Write what is known before the first step: config, manifest, ledger, findings and coloured rows."""
    from attune.train.handoff import describe_extras
    from attune.train.session import peek_environment

    config, prepared = inputs.config, inputs.prepared
    run.write_text("config.yaml", dump_yaml(config))
    run.write_lines(
        "ledger.jsonl",
        [{"summary": prepared.ledger}, *prepared.ledger_lines()],
    )
    run.write_json("findings.json", list(prepared.findings))
    run.write_lines("preview.jsonl", prepared.preview)
    run.write_json(
        "manifest.json",
        {
            "format": 1,
            "attune": attune.__version__,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command,
            "cwd": str(Path.cwd()),
            "model": {
                "name": Path(config.model).name,
                "folder": config.model,
                "parameters": session.parameters.total,
                "trainable": session.parameters.trainable,
            },
            "data": {"files": fingerprints(config)},
            "template": {
                "name": prepared.template.name,
                "sha256": hashlib.sha256(prepared.template.source.encode()).hexdigest(),
            },
            "tokenizer": inputs.tokenizer.fingerprint(),
            "seed": config.seed,
            "device": config.device,
            "precision": config.precision,
            "attention": session.attention.name,
            "attention_reason": session.attention.reason,
            "kernels": list(session.kernels),
            "shares_prefixes": session.shares,
            "beside": describe_extras(config),
            "resolved": {key: {"value": value, "reason": reason} for key, (value, reason) in inputs.resolved.items()},
            **peek_environment(session.world),
        },
    )
    run.event("start", f"{session.total_steps} steps on {config.device} in {config.precision}")


def find_differences(manifest: Mapping[str, Any], session: Session) -> Iterator[str]:
    """Yield in words where the machine differs from that of the manifest in something the bits depend on."""
    from attune.train.session import peek_environment

    now = peek_environment(session.world) | {
        "attention": session.attention.name,
        "kernels": list(session.kernels),
        "shares_prefixes": session.shares,
    }
    for name, value in now.items():
        if name in manifest and manifest[name] != value:
            yield f"{name} was {manifest.get(name)}, is {value}: the run goes on, but not in the same bits."
