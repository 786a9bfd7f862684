"""Every setting, once: its name, type, default and one sentence that becomes help, JSON Schema and documentation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

NO_CLIP = 1e6  # a train.clip from here on is none


class Section(BaseModel):
    """A group of settings: strict types, no unknown keys, never changed after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SourceConfig(Section):
    """One of several sources of training rows."""

    path: str = Field(description="A file, a folder, a glob or hub:owner/name.")
    weight: PositiveFloat = Field(default=1.0, description="How often each of its rows comes in an epoch: 2 is twice, 0.5 in every second epoch.")
    name: str = Field(default="", description="What its rows are called in breakdowns; empty: the file's name.")


class DataConfig(Section):
    """What is learned from, and which of its tokens."""

    train: str | list[str | SourceConfig] = Field(default="", description="Training rows: a file (JSONL, JSON, CSV, Parquet; also gzip, zstd, xz), a folder, a glob, hub:owner/name, or a list of these, each as a path or as {path, weight, name}.")
    valid: str = Field(default="", description="File with validation rows; empty: a seeded share of the training rows is held out.")
    valid_share: Share = Field(default=0.05, description="Share of the training rows held out when data.valid is empty; 0 for none.")
    valid_rows: Positive = Field(default=200, description="Most rows held out by data.valid_share.")
    columns: dict[str, str] = Field(default_factory=dict, description='Names of columns that are not the usual ones, such as data.columns.prompt = "question".')
    template: str = Field(default="auto", description="Chat template: auto (the tokenizer's own, else plain), a named one (plain, chatml, none), or a Jinja file.")
    mask: Literal["completion", "assistant", "last", "all"] = Field(default="completion", description="Which tokens are learned: the answers, all assistant turns, the last turn, or every token.")
    max_length: Positive | Auto = Field(default="auto", description="Longest row in tokens; auto: what the model can attend to, at most 4096.")
    overlong: Literal["drop", "cut", "split", "error"] = Field(default="drop", description="What happens to rows over data.max_length; cut and split pieces carry no false end token.")
    on_empty: Literal["drop", "keep", "error"] = Field(default="drop", description="What happens to rows with an empty answer.")
    skip_bad_rows: Annotated[int, Field(ge=0)] = Field(default=0, description="How many unreadable or malformed rows may be dropped (and listed in the ledger) before the run refuses to start.")
    allow: list[str] = Field(default_factory=list, description="Rules of the check that may be broken, by id or name, such as D05,secret: their findings stay, as infos.")
    ignore: str = Field(default="", description="File of findings to pass over, one a line: RULE, RULE FILE or RULE FILE:LINE (or FILE:FIRST-LAST); # begins a comment.")
    duplicates: Literal["keep", "drop"] = Field(default="keep", description="What happens to rows that repeat an earlier one in every word: keep trains them again, drop does not.")
    test: list[str] = Field(default_factory=list, description="Files of test sets and benchmarks that training rows must not repeat; never trained on.")
    answer_schema: str = Field(default="", description="File with a JSON Schema that every answer must meet.")
    share_prefixes: Auto | bool = Field(default="auto", description="Compute the beginning that rows of one step have in common once; never changes the result. auto: where it saves tokens and dropout is off.")
    augment: Annotated[int, Field(ge=0)] = Field(default=0, description="Reworded variants made of each training row, for small sets: the instruction is put in other words, the answer stays. They name their parent in the ledger; held-out rows get none.")
    cache: str = Field(default="auto", description="Folder in which prepared tokens are kept between runs, by content; auto: attune in the user's cache folder; off: nothing is kept.")
    workers: Positive | Auto = Field(default="auto", description="Processes that prepare the rows; auto: by the number of processors and rows.")
    max_row_bytes: Positive = Field(default=16 * 1024 * 1024, description="Largest row in bytes; longer ones are bad rows.")


class AdapterConfig(Section):
    """Which weights change."""

    kind: Literal["full", "lora", "qlora"] = Field(default="full", description="full: all weights; lora: small matrices beside frozen weights; qlora: the same beside frozen weights of 4 bits (NF4).")
    rank: Positive = Field(default=16, description="Rank of the LoRA matrices.")
    alpha: PositiveFloat = Field(default=32.0, description="LoRA scale: updates are multiplied by alpha / rank.")
    dropout: BelowOne = Field(default=0.0, description="Dropout on the input of the LoRA matrices.")
    rslora: bool = Field(default=False, description="Rank-stabilised LoRA: the scale is alpha / sqrt(rank).")
    dora: bool = Field(default=False, description="DoRA: the adapter also learns the length of each weight's columns; slower, on plain layers.")
    targets: str = Field(default="all-linear", description="Modules that get LoRA matrices: all-linear, or names separated by commas.")


class TrainConfig(Section):
    """How the weights change."""

    steps: Positive | Auto = Field(default="auto", description="Optimizer steps; auto: train.epochs passes over the rows.")
    epochs: PositiveFloat = Field(default=3.0, description="Passes over the training rows when train.steps is auto.")
    batch_rows: Positive = Field(default=16, description="Rows of one optimizer step.")
    batch_tokens: Annotated[int, Field(ge=0)] = Field(default=0, description="If above 0, a step takes rows until it holds this many tokens, instead of train.batch_rows.")
    micro_tokens: Positive | Auto = Field(default="auto", description="Tokens computed at once; never changes the result, only memory and speed.")
    learning_rate: PositiveFloat | Auto = Field(default="auto", description="Peak learning rate; auto: by adapter kind and model size.")
    schedule: Literal["linear", "cosine", "constant", "wsd"] = Field(default="cosine", description="How the learning rate falls after warm-up; wsd: constant, then linear to zero over the last fifth.")
    warmup: NonNegative = Field(default=0.05, description="Warm-up: below 1 a share of all steps, else a number of steps.")
    weight_decay: NonNegative = Field(default=0.0, description="Decoupled weight decay, on matrices only.")
    clip: PositiveFloat = Field(default=1.0, description="Largest gradient norm; longer gradients are scaled down.")
    loss: Literal["nll", "dft"] = Field(default="nll", description="nll: negative log-likelihood; dft: each token's loss times its own probability, held constant (dynamic fine-tuning).")
    label_smoothing: BelowOne = Field(default=0.0, description="Share of each target that is spread evenly over the vocabulary.")
    z_loss: NonNegative = Field(default=0.0, description="Weight of the squared logarithm of the softmax's denominator, which keeps logits small.")
    neftune_alpha: NonNegative = Field(default=0.0, description="NEFTune: uniform noise on the embeddings in training, alpha / sqrt(tokens x width) of each row; 5 is usual, 0 is none.")
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = Field(default="adamw", description="adamw: float32 moments; adamw_8bit: moments in 8 bits, by blocks; muon: orthogonalised momentum for matrices, adamw for the rest.")
    rounding: Literal["master", "stochastic"] = Field(default="master", description="How bfloat16 weights keep small updates: master (16 more bits beside each weight, exactly float32) or stochastic rounding.")
    gradient_release: bool = Field(default=False, description="Update each weight as soon as its gradient is known and free it; needs one micro-batch a step (train.micro_tokens auto sees to it) and train.clip 1e6, which is none.")
    checkpointing: Auto | Literal["none", "full"] | Annotated[int, Field(ge=0)] = Field(default="auto", description="Layers whose activations are computed again in the backward pass instead of stored: none, full, or a number of layers; auto: none (`attune plan` says what a run needs).")
    offload: bool = Field(default=False, description="Keep what checkpointed layers store in host memory.")
    kernels: Literal["auto", "fused", "plain"] = Field(default="auto", description="fused: attune's own layers and loss kernels; plain: those of transformers and torch; auto: fused on cuda where they are proven equal.")
    fp8: bool = Field(default=False, description="Multiply in 8-bit floats: the frozen weights under LoRA, or all linear layers; needs a GPU with 8-bit matrix units.")
    compile: Auto | bool = Field(default="auto", description="Compile the model's layers with torch.compile: faster after a start of up to a minute; needs a C++ compiler. auto: on cuda in runs of over 200 steps whose layers have no fused form.")
    beta1: BelowOne = Field(default=0.9, description="AdamW: decay of the mean of gradients.")
    beta2: BelowOne = Field(default=0.95, description="AdamW: decay of the mean of squared gradients.")


class ValidConfig(Section):
    """When the model is measured on held-out rows."""

    every: Positive | Auto = Field(default="auto", description="Steps between validations; auto: about eight in a run.")


class CheckpointConfig(Section):
    """When the run is saved so that it can be resumed."""

    every: Positive | Auto = Field(default="auto", description="Steps between checkpoints; auto: at each validation.")
    keep: Positive = Field(default=2, description="How many checkpoints stay on disk, beside the best.")


class EarlyStopConfig(Section):
    """Which step is the best one, and when to stop before the last; never unless patience is set."""

    metric: Auto | Literal["val_loss", "val_accuracy", "val_exact_match", "exact_match", "label_accuracy", "numeric_match", "json_valid", "schema_valid", "field_accuracy", "rouge_l", "stop_rate"] = Field(default="auto", description="What chooses the best checkpoint and stops the run. val_exact_match: share of validation answers predicted right from first to last token; from exact_match on: of answers that the model writes to guards.prompts. auto: val_exact_match where answers are labels, numbers or JSON, else val_loss.")
    patience: Annotated[int, Field(ge=0)] = Field(default=0, description="Act after this many validations without improvement; 0: never.")
    reduce: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="When patience is used up, multiply the learning rate by this and go on, early_stop.reductions times, before stopping; 1: stop at once.")
    reductions: Annotated[int, Field(ge=0)] = Field(default=2, description="How often early_stop.reduce lowers the learning rate before the run stops.")


class GuardsConfig(Section):
    """What watches over the run, and what it may do."""

    enabled: bool = Field(default=True, description="Measure at each validation what the guards judge (memorising, forgetting, collapse, end tokens) and write sample answers.")
    general: str = Field(default="", description="File of general text on which forgetting is measured (rows or plain text); empty: texts that the model writes before training.")
    rows: Positive | Auto = Field(default="auto", description="Rows of each kind (training, validation, general) that the guards measure; auto: by guards.cost, at least 16 of validation and half as many of the others.")
    prompts: Annotated[int, Field(ge=0)] | Auto = Field(default="auto", description="Validation prompts that the model answers at each validation; auto: by guards.cost, at least 8.")
    max_new_tokens: Positive | Auto = Field(default="auto", description="Longest such answer in tokens; auto: by the references.")
    cost: Share = Field(default=0.05, description="Share of the compute of training that the guards may take, where an auto above decides.")
    stop_on: list[str] = Field(default=["G6"], description="Guards whose alarm stops the run, by id or name, such as G6,divergence. Without G6 (not finite), a step with a loss or gradient that is not finite is skipped, three in a row stop the run.")


class ReplayConfig(Section):
    """General text trained on beside the rows, so that the model forgets less."""

    source: str = Field(default="", description="A file of general rows or plain text, or self: texts that the model itself writes before training; empty: no replay.")
    share: Annotated[float, Field(gt=0, le=4)] = Field(default=0.5, description="Tokens of replay in a step, as a share of the step's tokens.")
    weight: NonNegative | Auto = Field(default="auto", description="Weight of the mean loss of replayed tokens beside that of the rows; auto: 0 for self, whose texts say what the model knew and nothing new, 1 for a file.")
    kl: NonNegative | Auto = Field(default="auto", description="Weight of the mean divergence KL(base || tuned) on replayed tokens; auto: 1 for self, 0 for a file.")
    rows: Positive = Field(default=512, description="Texts that the model writes for self; most rows that are taken from a file.")
    max_tokens: Positive = Field(default=256, description="Longest replayed text in tokens; longer ones are cut into several.")


class LogConfig(Section):
    """What is printed, and who else hears of it."""

    every: Positive | Auto = Field(default="auto", description="Steps between printed lines; auto: about eight lines in a run. Every step is recorded all the same.")
    to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(default=[], description="Trackers that get every recorded number, such as tensorboard,wandb; each needs its extra.")


class Config(Section):
    """A complete run."""

    model: str = Field(default="", description="The model: a local folder or a Hub id.")
    out: str = Field(default="auto", description="The run folder; must not hold a run yet. auto: a new folder under runs/.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of everything random: order, split, dropout, adapter start.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to compute; auto: cuda if there is one.")
    precision: Literal["auto", "float32", "bfloat16", "float64", "mixed"] = Field(default="auto", description="Number format; mixed: float32 weights, bfloat16 arithmetic. auto: float32 on cpu, bfloat16 on cuda.")
    attention: Literal["auto", "exact", "varlen", "flash4"] = Field(default="auto", description="Attention: exact (any device), varlen (cuda, 16-bit), flash4 (the same with the extra flash); auto: the fastest that runs.")
    trust_remote_code: bool = Field(default=False, description="Let the model run Python code of its own. Only for sources you trust.")
    data: DataConfig = Field(default_factory=DataConfig)
    adapter: AdapterConfig = Field(default_factory=AdapterConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    valid: ValidConfig = Field(default_factory=ValidConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    early_stop: EarlyStopConfig = Field(default_factory=EarlyStopConfig)
    guards: GuardsConfig = Field(default_factory=GuardsConfig)
    replay: ReplayConfig = Field(default_factory=ReplayConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @model_validator(mode="after")
    def _cross_checks(self) -> Config:
        if (
            self.train.batch_tokens
            and self.data.max_length != "auto"
            and self.data.max_length > self.train.batch_tokens
        ):
            raise ValueError(
                f"train.batch_tokens ({self.train.batch_tokens}) is smaller than data.max_length ({self.data.max_length}): one row would not fit in a step"
            )
        if self.replay.source and self.replay.source == self.guards.general:
            raise ValueError(
                f"guards.general: {self.replay.source} is replayed, so forgetting would be measured on text that is trained. Give another file"
            )
        if self.early_stop.reduce < 1 and not self.early_stop.patience:
            raise ValueError(
                f"early_stop.reduce is {self.early_stop.reduce:g}, but early_stop.patience is 0, so it would never be used.\n"
                "Set early_stop.patience to a number of validations, or leave early_stop.reduce at 1"
            )
        if conflict := self._engine_conflict():
            raise ValueError(conflict)
        return self

    def _engine_conflict(self) -> str:
        """Say which two wishes exclude each other on any model and device; empty if none do."""
        train = self.train
        if self.adapter.kind == "full" and (form := next((f for f in ("rslora", "dora") if getattr(self.adapter, f)), "")):
            return (
                f"adapter.{form}: it is a form of LoRA, and adapter.kind is full.\n"
                f"Set adapter.kind lora, or leave adapter.{form} off."
            )
        if train.gradient_release and train.clip < NO_CLIP:
            return (
                "train.gradient_release: each weight is updated before the norm of all gradients is known, so they\n"
                f"cannot be clipped (train.clip is {train.clip:g}).\n"
                f"Switch clipping off with --train.clip {NO_CLIP:g}, or leave train.gradient_release off."
            )
        if train.offload and train.compile is True:
            return (
                "train.offload: compiled layers cannot keep their inputs in host memory. Leave train.compile or it off."
            )
        if train.fp8 and self.adapter.kind == "qlora":
            return (
                "train.fp8: weights that are held in 4 bits are not multiplied in 8.\n"
                "Use adapter.kind lora in place of qlora, or leave train.fp8 off."
            )
        return ""

    def with_values(self, values: dict[str, Any]) -> Config:
        """Return a copy with dotted settings replaced, such as {"train.steps": 50}; validated again."""
        tree = self.model_dump()
        for dotted, value in values.items():
            *path, last = dotted.split(".")
            node = tree
            for key in path:
                node = node[key]
            node[last] = value
        return Config.model_validate(tree)
