"""One run from its config to a tuned model on disk: assemble, train, watch, save. Reads top to bottom."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.config import Config
from attune.config_file import load_run_config
from attune.data.encoding.tokenizer import Tokenizer, load_tokenizer
from attune.data.prepare import Prepared, prepare
from attune.errors import CheckpointError, ConfigError, Interrupted, OutOfMemoryError, RefusedError, ResourceError
from attune.model.folder import check_vocabulary, count_parameters, locate, model_length
from attune.record import RunFolder
from attune.train.data_files import free_folder, refuse_changes
from attune.train.defaults import SELF, Facts, Resolved, resolve, step_tokens, stream_of
from attune.train.manifest import find_differences, write_start
from attune.train.stop import EXIT_CODES, StopRequest, stopping_guards
from attune.train.trackers import check_trackers
from attune.types import StepRecord

if TYPE_CHECKING:  # torch and transformers are imported only after the data were found good
    from attune.train.session import Session
    from attune.train.watch import Watch

Listener = Callable[[str, Any], None]
METRICS = ("loss", "accuracy", "perplexity", "learning_rate", "epoch", "train_flos")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder and its result, the JSON document of `attune train`."""

    folder: Path
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run starts from, found good before anything heavy is loaded."""

    config: Config
    resolved: Resolved
    base: Path
    tokenizer: Tokenizer
    prepared: Prepared


def gather(config: Config, tell: Listener) -> Inputs:
    """Find the model folder, read and check all data, and settle every `auto`. Imports torch only to look for a GPU.

    Raises ConfigError, DataError, TemplateError or ModelError; nothing was written yet.
    """
    check_trackers(config)
    stopping_guards(config.guards.stop_on)
    if not config.data.train:
        raise ConfigError("data.train: which rows? Give a file: attune train DATA --model MODEL")
    base = locate(config.model)
    tokenizer = load_tokenizer(base)
    prepared = prepare(config, tokenizer, model_length=model_length(base))
    check_vocabulary(base, prepared.largest_id)
    prepared.refuse_errors()
    tell("data", prepared)
    for note in prepared.notes:
        tell("note", note)
    from attune.world import resolve_device

    stream, steps = stream_of(prepared.train, config), config.train.steps
    in_epochs = stream.steps_in(config.train.epochs)
    from attune.train.begin import structure_of_answers

    releases = config.train.gradient_release
    facts = Facts(
        parameters=count_parameters(base),
        device=resolve_device(config.device),
        steps=in_epochs,
        steps_per_epoch=stream.steps_per_epoch(0),
        has_valid=prepared.valid is not None,
        max_length=prepared.max_length,
        max_length_reason=prepared.max_length_reason,
        largest_step=int(step_tokens(stream, in_epochs if steps == "auto" else steps).max()) if releases else 0,
        structured=structure_of_answers(prepared.valid_examples),
    )
    config, resolved = resolve(config, facts)
    tell("resolved", resolved)
    return Inputs(config, resolved, base, tokenizer, prepared)


def finetune(config: Config, *, command: str = "", on_event: Listener | None = None) -> Run:
    """Tune a model as `config` says and return the run. `on_event(kind, payload)` hears what happens as it happens.

    Raises the UserError that stops the run; Interrupted when it was asked to stop and can be resumed.
    """
    tell = on_event or _deaf
    config = config.with_values({"out": config.out if config.out != "auto" else str(free_folder(config))})
    run = RunFolder.create(config.out)
    with _locked(run):
        try:
            inputs = gather(config, tell)
            session = _start(run, inputs, tell)
            watch = _watch(run, inputs, session, tell, resumed=False)
        except BaseException:
            run.discard()  # a fault in data, model or device leaves nothing behind
            raise
        write_start(run, inputs, session, command)
        run.write_json("result.json", _result(run, session, status="running"))
        return _go(run, inputs, session, watch)


def resume(path: str | Path, *, on_event: Listener | None = None) -> Run:
    """Go on with a stopped or killed run from its newest intact checkpoint; on a CPU the result is the same to the bit.

    Raises RefusedError when data or config changed or the run is finished, CheckpointError when no checkpoint is
    intact.
    """
    tell = on_event or _deaf
    run = RunFolder.open(path)
    with _locked(run):
        manifest = run.read_json("manifest.json")
        result = run.read_json("result.json")
        if result["status"] == "done":
            raise RefusedError(f"{run.path} is finished ({result['steps']} steps). Next: attune eval {run.path}")
        config = load_run_config(run.path, run.find)
        refuse_changes(run, manifest, config)
        inputs = gather(config, tell)
        session = _start(run, inputs, tell)
        for text in find_differences(manifest, session):
            run.event("note", text)
            tell("note", text)
        _take_up(run, session, tell)
        watch = _watch(run, inputs, session, tell, resumed=True)
        return _go(run, inputs, session, watch)


def _watch(run: RunFolder, inputs: Inputs, session: Session, tell: Listener, *, resumed: bool) -> Watch:
    """Return what watches over the run."""
    from attune.train.watch import Watch

    return Watch(run, inputs, session, tell, resumed=resumed)


def _start(run: RunFolder, inputs: Inputs, tell: Listener) -> Session:
    """Load the model and everything that lives on the device."""
    from attune.train.release import refuse_pieces
    from attune.train.replay import prepare_replay
    from attune.train.session import Session
    from attune.world import open_world

    session = Session(inputs.config, inputs.prepared, base=inputs.base, world=open_world(str(inputs.config.device)))
    refuse_pieces(inputs.config, session.corpus, session.stream, share=session.shares)
    if inputs.config.replay.source == SELF and not (run.path / "replay").exists():
        tell("note", f"replay: the model writes {inputs.config.replay.rows:,} texts before it is trained")
    session.take_replay(prepare_replay(inputs.config, inputs.prepared, session.model, run))
    size = session.parameters
    attention = session.attention
    tell(
        "model",
        f"{Path(inputs.config.model).name}: {size.total:,} parameters, "
        f"{size.trainable:,} train ({inputs.config.adapter.kind})",
    )
    tell(
        "plan",
        {
            "steps": session.total_steps,
            "epochs": session.stream.epoch(session.total_steps),
            "rows": session.corpus.num_rows,
            "batch_rows": inputs.config.train.batch_rows,
            "batch_tokens": inputs.config.train.batch_tokens,
            "micro_tokens": inputs.config.train.micro_tokens,
            "learning_rate": inputs.config.train.learning_rate,
            "log_every": inputs.config.log.every,
            "metric": inputs.config.early_stop.metric,
            "device": inputs.config.device,
            "precision": inputs.config.precision,
            "attention": attention.name,
            "attention_reason": attention.reason,
            "run": inputs.config.out,
        },
    )
    return session


def _go(run: RunFolder, inputs: Inputs, session: Session, watch: Watch) -> Run:
    """Train to the end, then write the model and the result; whatever happens, the run folder says so."""
    try:
        with StopRequest() as stop:
            stopped_early = _train(run, session, watch, stop)
    except Exception as error:
        watch.tell_notes()
        status = "stopped" if isinstance(error, Interrupted) else "failed"
        run.event("stop" if status == "stopped" else "error", str(error))
        result = _result(run, session, status=status)
        watch.close(result)
        run.write_json("result.json", result)
        watch.tell("recorded", run.path)
        if isinstance(error, ResourceError) and not isinstance(error, OutOfMemoryError):
            raise ResourceError(f"{error} Then go on: attune resume {run.path}") from error
        raise
    from attune.train.handoff import write_model, write_trainer_state

    session.take_best_weights(run.path / "checkpoints")
    watch.sum_up()
    result = _result(run, session, status="done", stopped_early=stopped_early)
    write_model(
        run, session.model, config=inputs.config, prepared=inputs.prepared, tokenizer=inputs.tokenizer, result=result
    )
    run.write_json("result.json", result)
    write_trainer_state(run, result=result, config=inputs.config)
    run.event("end", f"{result['steps']} steps, best step {result['best_step']}")
    watch.close(result)
    watch.tell("done", result)
    return Run(run.path, result)


def _train(run: RunFolder, session: Session, watch: Watch, stop: StopRequest) -> bool:
    """Run the loop with validation and saving at their steps; return whether it stopped early for lack of progress."""
    config = session.config
    watch.tell_notes()
    if session.progress.step == 0:
        watch.begin()
        _note_result(run, session, watch)

    def is_due(step: int, every: int | str) -> bool:
        return step == session.total_steps or step % int(every) == 0

    def rests(step: int) -> bool:
        asked_to_stop = watch.stop is not None or stop.signal is not None
        return asked_to_stop or is_due(step, config.valid.every) or is_due(step, config.checkpoint.every)

    for record in _recorded(session, watch, rests):
        if session.is_ahead:
            continue
        last = record.step == session.total_steps
        if is_due(record.step, config.valid.every):
            watch.validate()
            _note_result(run, session, watch)
        is_over = watch.check_stop()
        improved = session.progress.best_step == record.step
        if improved or is_over or stop.signal or is_due(record.step, config.checkpoint.every):
            path = session.save(run.path / "checkpoints", seconds=run.seconds())
            run.event("checkpoint", f"step {record.step} saved", step=record.step)
            watch.tell("saved", path)
        if last:
            return False
        is_late, done = (False, "") if is_over else session.act_on_patience()
        if done:
            watch.say("stop" if is_late else "note", done)
        if is_over or is_late:
            return True
        if stop.signal:
            done = f"{record.step} of {session.total_steps} steps are done and saved"
            raise Interrupted(f"Stopped: {done}. Go on: attune resume {run.path}", exit_code=EXIT_CODES[stop.signal])
    return False


def _recorded(session: Session, watch: Watch, rests: Callable[[int], bool]) -> Iterator[StepRecord]:
    """Yield the steps as they are done and recorded, the one that ends the run for its numbers recorded too."""
    from attune.train.loop import NotFiniteError

    try:
        for record in session.train(skips=watch.skips, rests=rests):
            watch.step(record)
            yield record
    except NotFiniteError as error:
        watch.step(error.record)
        raise


def _note_result(run: RunFolder, session: Session, watch: Watch) -> None:
    """Write what the run has come to, so that a killed one can be read."""
    from attune.train.handoff import write_trainer_state

    result = _result(run, session, status="running")
    run.write_json("result.json", result)
    write_trainer_state(run, result=result, config=session.config)
    watch.tell("recorded", run.path)


def _result(run: RunFolder, session: Session, *, status: str, stopped_early: bool = False) -> dict[str, Any]:
    """Return the document of `attune train`: training metrics of the last step, validation metrics of the best one."""
    records = run.read_lines("metrics.jsonl")
    nothing: dict[str, Any] = {}
    last = next((r for r in reversed(records) if isinstance(r.get("loss"), float)), nothing)  # not one that is NaN
    best_step = session.progress.best_step or session.progress.step
    best = next((r for r in reversed(records) if "val_loss" in r and r["step"] == best_step), nothing)
    return {
        "run": str(run.path),
        "status": status,
        "steps": session.progress.step,
        "total_steps": session.total_steps,
        "best_step": best_step,
        "stopped_early": stopped_early,
        "epochs": last.get("epoch", 0.0),
        "seconds": round(run.seconds(), 3),
        "metrics": {
            **{name: last.get(name) for name in METRICS},
            **{name: best.get(name) for name in ("val_loss", "val_accuracy", "val_perplexity")},
        },
        "alarms": run.read_lines("alarms.jsonl"),
    }


def _take_up(run: RunFolder, session: Session, tell: Listener) -> None:
    """Restore the newest checkpoint and drop the records of steps that will be done again."""
    from attune.train.checkpoint import find_newest
    from attune.train.watch import drop_after

    try:
        found = find_newest(run.path / "checkpoints")
    except CheckpointError as error:
        run.event("error", str(error))
        raise
    if found is not None:
        session.restore(found)
        run.continue_clock(session.progress.seconds)
    step = session.progress.step
    drop_after(run, step or -1)  # before the first checkpoint all begins anew
    text = f"resumed at step {step} of {session.total_steps}" if found else "no checkpoint yet: starting at step 0"
    run.event("note", text, step=step)
    tell("note", text)


@contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Hold the run's lock, which the system frees even when the process is killed."""
    with (run.path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RefusedError(f"{run.path} is in use by another process. Wait for it, or stop it first.") from None
        yield


def _deaf(kind: str, payload: Any) -> None:
    """Hear nothing."""
