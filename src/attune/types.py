"""The words that travel between rooms, from a row in a file to an alarm; all are values and never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

NOT_LEARNED = -100  # the target of a position that carries no loss, as in torch's cross entropy

RowState = Literal["used", "cut", "dropped", "duplicate", "held_out"]
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: the file as the user named it, the line (from 1) and the byte offset of its first byte."""

    file: str
    line: int
    offset: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `train` overrides the mask for this turn (None: the mask mode decides). `weight` scales the loss of its tokens.
    """

    role: str  # system, user, assistant or tool
    content: str
    train: bool | None = None
    weight: float = 1.0
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None  # of a tool's result: the call that it answers


@dataclass(frozen=True, slots=True)
class Example:
    """A row understood: a conversation (`messages`) or plain text (`text`), never both."""

    place: Place
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens. `learned[i]` says that token i is learned, that is predicted from the tokens before it.

    tokens: int32 [length]; learned: bool [length]; weights: float32 [length], the loss weight of each token, None if
    all are 1; state `cut` means its end was cut off and carries no terminator.
    """

    place: Place
    tokens: np.ndarray
    learned: np.ndarray
    state: RowState = "used"
    source: str = ""
    weights: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one micro-batch laid end to end, none padded: positions restart with each row (document).

    T tokens, D documents. `targets[t]` is the token that position t must predict, or NOT_LEARNED.
    Document d asks with tokens `q_offsets[d]:q_offsets[d+1]`; its keys are `kv_offsets[d]:kv_offsets[d+1]`
    of the gathered sequence `kv_index` (None: keys are the tokens themselves, so both offsets agree).
    """

    tokens: torch.Tensor  # int64 [T]
    positions: torch.Tensor  # int64 [T]
    targets: torch.Tensor  # int64 [T]
    q_offsets: torch.Tensor  # int32 [D + 1]
    kv_offsets: torch.Tensor  # int32 [D + 1]
    max_q: int
    max_kv: int
    lengths: tuple[int, ...]  # of each document, on the host: no device sync is needed to plan attention
    rows: tuple[int, ...]  # the rows of the corpus in it
    weights: torch.Tensor | None = None  # float32 [T], the loss weight of each position
    kv_index: torch.Tensor | None = None  # int64 [K], K the sum of key lengths
    kv_order: torch.Tensor | None = None  # int64 [K], places of the gathered sequence sorted by the token they hold
    kv_starts: torch.Tensor | None = None  # int32 [T + 1], token t is held at kv_order[kv_starts[t]:kv_starts[t + 1]]
    kv_lengths: tuple[int, ...] | None = None  # keys of each document, on the host; None: as `lengths`
    row_tokens: int = 0  # tokens of its rows, counted before beginnings were shared
    learned_tokens: int = 0  # learned tokens of its rows, likewise
    learned: torch.Tensor | None = None  # int64, the positions that are learned; None: to be found in `targets`
    padding: int = 0  # tokens at the end, documents of their own, that belong to no row


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one optimizer step did. Loss is in nats per learned token, over the whole step."""

    step: int  # from 1
    loss: float
    accuracy: float  # share of learned tokens whose most likely prediction is right
    perplexity: float
    learning_rate: float
    epoch: float  # passes over the training rows so far, with fraction
    train_flos: float  # floating point operations so far, cumulative
    grad_norm: float  # before clipping
    learned_tokens: int  # of this step
    tokens: int  # tokens of its rows
    tokens_per_s: float
    memory_gb: float  # peak since the start of the run
    mfu: float | None = None  # share of the device's peak; None where the peak is not known
    computed_tokens: int = 0  # positions computed: fewer than `tokens` where rows share a beginning
    replay_loss: float | None = None  # mean over the replayed tokens of the step; None without replay


@dataclass(frozen=True, slots=True)
class ValidRecord:
    """A validation: the same names as training with `val_`. Step 0 is the model before training."""

    step: int
    val_loss: float
    val_accuracy: float
    val_perplexity: float
    val_rows: int
    val_tokens: int  # learned tokens
    val_exact_match: float = 0.0  # share of rows whose every learned token is ranked first, as greedy decoding takes it


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What the guards measured at a validation; step 0 is the model before training. None: not measured.

    Losses and divergences are in nats per token. Answers are greedy; a field that begins with `reference_` says the
    same of the references.
    """

    step: int
    probe_loss: float  # on training rows, without dropout or noise
    probe_accuracy: float
    general_loss: float | None = None
    kl_general: float | None = None  # KL(base || model) on general text
    kl_task: float | None = None  # on the answers of validation rows
    stop_recall: float | None = None  # share of validation answers after which the stop token is ranked first
    stop_leak: float | None = None  # mean probability of a stop token at learned places where none is due
    answers: int = 0  # prompts that were answered
    finish_rate: float | None = None  # share of answers that ended by themselves
    answer_tokens: float | None = None  # mean length
    reference_tokens: float | None = None
    openings: int = 0  # beginnings of answers sampled at temperature 1, of which the following says how alike they are
    opener: str | None = None  # the most frequent beginning of three tokens, as text
    opener_share: float | None = None
    reference_opener_share: float | None = None  # of the references' own most frequent one
    distinct_2: float | None = None
    reference_distinct_2: float | None = None
    compression: float | None = None  # bytes over compressed bytes
    reference_compression: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)  # mean of each metric that suits the references
    seconds: float = 0.0  # that measuring took


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing noticed in the data, with its count, what to do and the first places it was seen."""

    id: str  # stable, such as D03
    name: str  # in words, such as role-order
    severity: Severity
    rows: int
    share: float  # of all rows, 0 to 1
    message: str
    fix: str
    examples: tuple[Mapping[str, Any], ...] = ()  # {"file": str, "line": int, "text": str}


@dataclass(frozen=True, slots=True)
class Alarm:
    """A guard's warning, an entry of `alarms` in result.json: its figure, the threshold, what it means, what to do."""

    id: str  # G1 to G12
    name: str  # in words, such as overfit
    step: int
    severity: Severity
    figure: float
    threshold: float
    message: str
    fix: str  # names the setting that helps
    rows: tuple[str, ...] = ()  # places of the rows that caused it, as file:line


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The one state in which an input row ended, and why."""

    place: Place
    state: RowState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """All input rows, each in exactly one state, and all tokens of the training rows.

    `tokens_in` + `tokens_augmented` = learned + context + lost; held-out rows are neither learned nor lost, so their
    tokens are not in it.
    """

    rows: int
    counts: Mapping[str, int]  # used, cut, dropped, duplicate, held_out
    reasons: Mapping[str, int] = field(default_factory=dict)  # "dropped: empty reply" -> rows
    tokens_in: int = 0
    tokens_learned: int = 0
    tokens_context: int = 0  # seen but not learned: prompts and markup
    tokens_lost: int = 0  # of rows cut or dropped for length
    learned_in: int = 0  # tokens that the training files would teach, rows held out of them included
    learned_lost: int = 0  # those of them that data.overlong takes away
    augmented: int = 0  # rows made of training rows, beyond the input rows
    tokens_augmented: int = 0  # all tokens of these

    def check(self) -> None:
        """Raise AssertionError if a row or token is unaccounted for."""
        assert sum(self.counts.values()) == self.rows, f"ledger: {dict(self.counts)} do not add up to {self.rows} rows"
        parts = self.tokens_learned + self.tokens_context + self.tokens_lost
        came = self.tokens_in + self.tokens_augmented
        assert parts == came, f"ledger: {parts} tokens accounted for, {came} came in or were made"
