"""The trackers that can be told of a run: TensorBoard, Weights & Biases, MLflow and Trackio, each behind one face.

None sends anything anywhere unless the user's own settings for it say so, and their own telemetry is off.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from attune.types import Alarm

PROJECT = "attune"  # the project or experiment that runs go to, unless the tracker's own variable names one
MLFLOW_EVERY = 2.0  # seconds between two requests
MLFLOW_METRICS = 1000  # most of one request; MLflow's own limit
MLFLOW_PARAMS = 100  # likewise
FINISH_SECONDS = 60.0  # that a tracker may take at the end for what is not sent yet

Setting = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Subject:
    """A run as a tracker knows it. `known_as` is the tracker's own name of a run that is resumed, else empty."""

    folder: Path
    settings: Mapping[str, Setting]
    known_as: str = ""


class Sink(Protocol):
    """One open tracker; what fails raises, and the caller drops it."""

    known_as: str  # the tracker's own name of the run, for resuming
    where: str  # in words: where the numbers go and how to see them

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the numbers of a step."""

    def warn(self, alarm: Alarm) -> None:
        """Send an alarm."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Send what is left, and how the run ended."""


class TensorBoard:
    """Event files in the run folder, written with TensorBoard's own records; neither TensorFlow nor torch is needed."""

    def __init__(self, subject: Subject) -> None:
        folder = subject.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.known_as = "tensorboard"
        self.where = f"TensorBoard: see it with tensorboard --logdir {folder}"
        self._proto = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summary = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._text = importlib.import_module("tensorboard.plugins.text.summary_v2").text_pb
        records = importlib.import_module("tensorboard.summary.writer.record_writer")
        seconds, rest = divmod(time.time_ns(), 10**9)  # files are read in the order of their names
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}"
        self._file = (folder / name).open("xb")
        self._records = records.RecordWriter(self._file)
        self._redoes = bool(subject.known_as)
        self._write(file_version="brain.Event:2")
        if not subject.known_as:
            hparams = importlib.import_module("tensorboard.plugins.hparams.summary_v2")
            self._write(summary=hparams.hparams_pb(dict(subject.settings)))
            table = "\n".join(f"| {name} | {value} |" for name, value in subject.settings.items())
            self._write(summary=self._text("config", f"| setting | value |\n|---|---|\n{table}"))

    def _write(self, **content: Any) -> None:
        self._records.write(self._proto.Event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the numbers; after a resume, the first ones take the place of those of the same step and later."""
        if self._redoes:
            start = self._proto.SessionLog(status=self._proto.SessionLog.START)
            self._write(step=step, session_log=start)
            self._redoes = False
        content = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summary.Summary(value=content))

    def warn(self, alarm: Alarm) -> None:
        """Write the alarm as a text of its step."""
        text = self._text(f"alarms/{_title(alarm)}", f"{alarm.severity}: {_words(alarm)}")
        self._write(step=alarm.step, summary=text)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write how the run ended as a text, and close the file."""
        ending = f"{result['status']}, {result['steps']} steps, best step {result['best_step']}"
        self._write(step=result["steps"], summary=self._text("result", ending))
        self._file.close()


class WandB:
    """Weights & Biases: online where the user is logged in or WANDB_MODE says so, else offline in the run folder."""

    def __init__(self, subject: Subject) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        self._wandb = importlib.import_module("wandb")
        environment = os.environ
        online = "WANDB_MODE" in environment or self._wandb.login(prompt=False, verify=False)
        folder = environment.get("WANDB_DIR", str(subject.folder))
        self._run = self._wandb.init(
            project=environment.get("WANDB_PROJECT", PROJECT),
            name=environment.get("WANDB_NAME", subject.folder.name),
            id=subject.known_as or None,
            resume="allow" if subject.known_as else None,
            dir=folder,
            config=dict(subject.settings),
            mode=None if online else "offline",
            reinit="create_new",  # a run that the calling program has open goes on
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self.known_as = str(self._run.id)
        if self._run.offline:  # asked for its url, it would warn
            self.where = f"wandb: offline; send it with: wandb sync {Path(self._run.dir).parent}"
        else:
            self.where = f"wandb: {self._run.url or 'switched off by its own settings'}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hand the numbers to wandb's own process; steps that its server has already are left as they are."""
        self._run.log(dict(values), step=step)

    def warn(self, alarm: Alarm) -> None:
        """Send an alert, which reaches the user as their wandb settings say."""
        level = {"error": "ERROR", "warning": "WARN", "info": "INFO"}[alarm.severity]
        self._run.alert(title=_title(alarm), text=_words(alarm), level=level)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note how the run ended, and wait until everything is sent."""
        self._run.summary.update({name: result[name] for name in ("status", "best_step")})
        self._run.finish(exit_code=0 if result["status"] == "done" else 1)


class MLflow:
    """MLflow: the server of MLFLOW_TRACKING_URI, else a database in the run folder; requests run on a thread."""

    def __init__(self, subject: Subject) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        self._mlflow = importlib.import_module("mlflow")
        self._kinds = importlib.import_module("mlflow.entities")
        folder = subject.folder.resolve()
        database = f"sqlite:///{folder / 'mlflow.db'}"  # MLflow 3 refuses to start a store of plain files
        uri = os.environ.get("MLFLOW_TRACKING_URI", database)
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        self._metrics: list[Any] = []  # waiting to be sent
        self._tags: list[Any] = []  # likewise
        self._sending: Future[None] = Future()
        self._sending.set_result(None)
        self._sent = time.monotonic()
        see = f"see it with mlflow server --backend-store-uri {database}"
        self.where = f"MLflow: {see if uri == database else uri}"
        self.known_as = subject.known_as
        if subject.known_as:
            self._client.update_run(subject.known_as, status="RUNNING")
            return
        files = (folder / "mlruns").as_uri() if uri == database else None
        self.known_as = self._client.create_run(self._experiment(files), run_name=folder.name).info.run_id
        params = [self._kinds.Param(name, str(value)[:6000]) for name, value in subject.settings.items()]
        for first in range(0, len(params), MLFLOW_PARAMS):
            self._client.log_batch(self.known_as, params=params[first : first + MLFLOW_PARAMS])

    def _experiment(self, files: str | None) -> str:
        """Return the id of the experiment, which is made where it is not there; `files`: where it keeps artifacts."""
        if "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name, artifact_location=files))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Put the numbers with those to send; a slow server makes the next request larger, never the step longer."""
        now = int(time.time() * 1000)
        self._metrics += [self._kinds.Metric(name, value, now, step) for name, value in values.items()]
        if self._sending.done() and time.monotonic() - self._sent >= MLFLOW_EVERY:
            self._send()

    def warn(self, alarm: Alarm) -> None:
        """Make the alarm a tag of the run, sent with the next numbers."""
        text = f"{alarm.severity} at step {alarm.step}: {_words(alarm)}"
        self._tags.append(self._kinds.RunTag(f"alarm.{alarm.id}", text))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Send what is left and how the run ended."""
        self._tags.append(self._kinds.RunTag("best_step", str(result["best_step"])))
        self._send()
        self._sending.result(FINISH_SECONDS)
        status = {"done": "FINISHED", "stopped": "KILLED"}.get(result["status"], "FAILED")
        self._client.set_terminated(self.known_as, status)

    def _send(self) -> None:
        """Raise what the last request ended with, and start one with all that waits."""
        self._sending.result(FINISH_SECONDS)
        waiting, self._metrics, self._tags = (self._metrics, self._tags), [], []
        self._sending, self._sent = Future(), time.monotonic()
        # A daemon, unlike an executor's threads: a server that is gone cannot keep the program from ending.
        threading.Thread(target=self._request, args=(*waiting, self._sending), daemon=True).start()

    def _request(self, metrics: list[Any], tags: list[Any], answer: Future[None]) -> None:
        try:
            for first in range(0, len(metrics), MLFLOW_METRICS):
                self._client.log_batch(self.known_as, metrics=metrics[first : first + MLFLOW_METRICS])
            self._client.log_batch(self.known_as, tags=tags)
            answer.set_result(None)
        except Exception as error:
            answer.set_exception(error)


class Trackio:
    """Trackio: its own folder on this machine (TRACKIO_DIR), or where its own variables say."""

    def __init__(self, subject: Subject) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the document of --json
            self._trackio = importlib.import_module("trackio")
            # Trackio finds a run by its name alone, and two folders may bear the same one.
            name = subject.known_as or f"{subject.folder.name}-{secrets.token_hex(3)}"
            self._project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            self._run = self._trackio.init(
                project=self._project,
                name=name,
                config=dict(subject.settings),
                resume="must" if subject.known_as else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.known_as = name
        self.where = f"Trackio: see run {name} with trackio show --project {self._project}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hand the numbers to Trackio's own thread."""
        self._run.log(dict(values), step=step)

    def warn(self, alarm: Alarm) -> None:
        """Send an alert, which goes to the webhook that the user has set, if any."""
        level = {"error": "ERROR", "warning": "WARN", "info": "INFO"}[alarm.severity]
        with contextlib.redirect_stdout(sys.stderr):
            self._run.alert(_title(alarm), _words(alarm), self._trackio.AlertLevel[level], step=alarm.step)

    def finish(self, result: Mapping[str, Any]) -> None:  # noqa: ARG002 - Trackio has no place for how a run ended
        """Wait until everything is written."""
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()  # not the run's own: Trackio would finish it again as the program ends


SINKS: Mapping[str, type[TensorBoard | WandB | MLflow | Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def _title(alarm: Alarm) -> str:
    return f"{alarm.id} {alarm.name}"


def _words(alarm: Alarm) -> str:
    """Return what an alarm means and what to do, in one line."""
    return f"{alarm.message} {alarm.fix}"
