"""Every error a user can meet, as one tree; each names what, where and the next step, and carries its exit code."""

from __future__ import annotations


class UserError(Exception):
    """A fault the user can mend: the command line prints the text alone, without a traceback.

    The text says what is wrong, where (file:line, field or step) and what to do next, in at most six lines.
    """

    exit_code = 1


class ConfigError(UserError):
    """A wrong flag, key or value, found before anything is loaded."""

    exit_code = 2


class DataError(UserError):
    """Rows that cannot be read, understood or learned from."""

    exit_code = 3


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or used."""

    exit_code = 4


class TemplateError(ModelError):
    """A chat template that is missing, breaks, or does not teach what the rows say."""


class TrainingError(UserError):
    """A number that went wrong: NaN, infinity or divergence. Nothing was updated with it."""

    exit_code = 5


class ResourceError(UserError):
    """The machine ran out of disk or memory."""

    exit_code = 6


class OutOfMemoryError(ResourceError):
    """Memory too small for the run as it is set: a resumed one would meet it again, so a new one must be started."""


class RefusedError(UserError):
    """Something attune will not do: overwrite a run, resume with changed data, trust a failed proof."""

    exit_code = 7


class CheckpointError(RefusedError):
    """A checkpoint that is damaged, missing or belongs to another run."""


class Interrupted(UserError):  # noqa: N818 - it is not a fault
    """The run was asked to stop (75: SIGTERM, 130: Ctrl-C); everything up to the last step is saved."""

    exit_code = 75

    def __init__(self, text: str, *, exit_code: int = 75) -> None:
        super().__init__(text)
        self.exit_code = exit_code
