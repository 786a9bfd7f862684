"""A cleaned copy of data files and a ledger of what was done to which line; what needs a person's eye stays."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import orjson

from attune.data.cleaning.decide import REPAIRED_FOR
from attune.data.cleaning.fix_plan import Origin, Plan
from attune.data.cleaning.rewrite import Key, Order, Written, copied_form, rewrite
from attune.data.cleaning.seen import Seen
from attune.data.lint.characters import mend
from attune.data.lint.waivers import Waivers
from attune.data.reading.hub import is_hub
from attune.data.reading.unpack import ENDINGS, plain_name
from attune.errors import ConfigError, DataError, RefusedError, ResourceError
from attune.types import Place

MOST_ROUNDS = 5  # what a repair or a removal brings to light is fixed too, but not without end
TABLES = (".csv", ".tsv")
NOTHING_WAIVED = Waivers()

Look = Callable[[Sequence[str]], Seen]  # surveys these files instead of the ones that are fixed


@dataclass(frozen=True, slots=True)
class FixedFile:
    """One file and its cleaned copy; `target` is empty where no row was left to write."""

    source: str
    target: str
    rows: int
    kept: int
    dropped: int
    repaired: int


@dataclass(frozen=True, slots=True)
class FixLedger:
    """What a fix did: every input row is kept, dropped or repaired, and has a line in the file `path`."""

    path: Path
    out: Path
    files: tuple[FixedFile, ...]
    reasons: Mapping[str, int]  # "dropped: duplicate" -> rows
    left: Mapping[str, int]  # rule -> rows that stay although it found something in them
    rounds: int
    settled: bool  # nothing is left to fix; False when there still was after the last round

    @property
    def rows(self) -> int:
        """How many rows came in."""
        return sum(file.rows for file in self.files)

    @property
    def kept(self) -> int:
        """How many rows were copied as they are."""
        return sum(file.kept for file in self.files)

    @property
    def dropped(self) -> int:
        """How many rows are not in the copy."""
        return sum(file.dropped for file in self.files)

    @property
    def repaired(self) -> int:
        """How many rows were copied with something mended."""
        return sum(file.repaired for file in self.files)

    @property
    def stated(self) -> str:
        """What was done, in one sentence."""
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in self.reasons.items()) or "nothing to fix"
        left = ", ".join(f"{rows} {rule}" for rule, rows in self.left.items())
        text = f"{self.out}: {self.kept + self.repaired} of {self.rows} rows; {reasons}"
        return text + (f"; left as they are: {left}." if left else ".")

    def check(self) -> None:
        """Raise AssertionError if a row is unaccounted for."""
        for file in self.files:
            assert file.kept + file.dropped + file.repaired == file.rows, f"fix ledger: {file} does not add up"
        done = self.dropped + self.repaired
        assert sum(self.reasons.values()) == done, f"fix ledger: {dict(self.reasons)} are not {done} rows"


def fix(
    files: Sequence[str],
    out: Path,
    look: Look,
    *,
    seen: Seen,
    max_row_bytes: int,
    waivers: Waivers = NOTHING_WAIVED,
) -> FixLedger:
    """Write a cleaned copy of data files, look at it again until nothing is left to fix, and return what was done.

    One file becomes the file `out`, several become a folder of files. `seen` is the survey of `files`; `look` surveys
    the written ones in their place, with the same held-out rows. The ledger OUT.ledger.jsonl has a line for each row:
    file, line, done (kept, dropped, repaired), rule, why, out_line (null where dropped). What `waivers` let pass is
    not touched.

    Raises: RefusedError when `out` or its ledger exists; ConfigError when `out` cannot hold such rows; DataError when
    no usable row would be left; ResourceError when it cannot be written. Nothing is written then.
    """
    files = list(dict.fromkeys(files))
    check_fix_out(files, out)
    plan = Plan(files, waivers)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            return _fix_in(beside, out, plan, seen=seen, look=look, max_row_bytes=max_row_bytes)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise ResourceError(f"{error.filename or out}: {error.strerror}. Nothing was written to {out}.") from error


def check_fix_out(files: Sequence[str], out: Path) -> None:
    """Raise RefusedError or ConfigError unless the cleaned copy of `files` can be written to `out`."""
    for path in (out, ledger_path(out)):
        if any(not is_hub(file) and Path(file).exists() and _is_same(Path(file), path) for file in files):
            raise RefusedError(f"{path} is the file to be cleaned; attune never changes it. Name another for the copy.")
        if os.path.lexists(path):
            raise RefusedError(f"{path} exists already and is never overwritten. Name another file for the copy.")
    if len(files) != 1 or not (is_hub(files[0]) or Path(files[0]).is_file()):
        return
    ending = out.suffix.lower()
    if ending in ENDINGS or ending == ".parquet":
        raise ConfigError(f"{out}: the cleaned copy is plain text. Leave out the ending {ending}.")
    own = _table_ending(files[0])
    if own and ending != own:
        raise ConfigError(f"{out}: the copy of {files[0]} is written as it is read. Let its name end in {own}.")
    if not own and ending in TABLES:
        raise ConfigError(f"{out}: the copy of {files[0]} is JSON. Let its name end in .jsonl or .json.")


def ledger_path(out: Path) -> Path:
    """Return where the ledger of a cleaned copy stands."""
    return out.with_name(f"{out.name}.ledger.jsonl")


def _is_same(first: Path, second: Path) -> bool:
    return second.exists() and first.samefile(second)


def _table_ending(file: str) -> str:
    """Return ".csv" or ".tsv" for a table, "" for other files."""
    return Path(plain_name(file)).suffix if copied_form(file) == "CSV" else ""


def _fix_in(beside: Path, out: Path, plan: Plan, *, seen: Seen, look: Look, max_row_bytes: int) -> FixLedger:
    """Write the copy into the folder `beside` round by round, then move it and its ledger to their places."""
    names = [out.name] if len(plan.files) == 1 else [f"{out.name}/{name}" for name in target_names(plan.files)]
    has_new, rounds = plan.add(seen, lambda place: place), 0
    written: list[Written] = []
    while rounds == 0 or (has_new and rounds < MOST_ROUNDS):
        rounds += 1
        stage = beside / str(rounds)
        written = []
        for file, name in zip(plan.files, names, strict=True):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            orders = plan.orders[file]
            written.append(rewrite(file, stage / name, orders, mend=mend, max_row_bytes=max_row_bytes))
        _refuse_empty(written, plan)
        if rounds > 1:
            shutil.rmtree(beside / str(rounds - 1))
        look_at = [copy for copy in written if copy.kept]
        has_new = plan.add(look([str(copy.target) for copy in look_at]), _origin(look_at))
    ledger, tally = beside / "ledger.jsonl", _Tally()
    with ledger.open("xb") as lines:
        fixed = tuple(_write_ledger(copy, plan, lines, tally) for copy in written)
    fixed = tuple(
        replace(file, target=str(out.parent / name)) if file.target else file
        for file, name in zip(fixed, names, strict=True)
    )
    done = FixLedger(ledger_path(out), out, fixed, tally.reasons, tally.left, rounds, not has_new)
    done.check()
    for path in (ledger, *(copy.target for copy in written if copy.kept)):
        with path.open("rb") as whole:
            os.fsync(whole.fileno())
    check_fix_out(plan.files, out)
    ledger.rename(done.path)
    try:
        (beside / str(rounds) / out.name).rename(out)
    except OSError:
        done.path.unlink()
        raise
    return done


def _origin(copies: Sequence[Written]) -> Origin:
    """Return the function from a place in a copy to that of the row it is a copy of; other places stay."""
    by_target = {str(copy.target): (copy.source, copy.origins()) for copy in copies}

    def origin(place: Place) -> Place:
        if place.file not in by_target:
            return place
        source, key_of = by_target[place.file]
        return Place(source, *key_of(place.line, place.offset))

    return origin


def _refuse_empty(written: Sequence[Written], plan: Plan) -> None:
    """Raise DataError when a file would be left without a row to learn from."""
    for copy in written:
        orders, bad = plan.orders[copy.source], plan.bad[copy.source]
        useless = sum(key not in copy.repaired and (key not in orders or orders[key].do != "drop") for key in bad)
        if useless and copy.kept == useless:
            text = f"{copy.source}: the {useless} rows left would all be bad ones ({next(iter(bad.values()))})"
            raise DataError(f"{text}.\nMend or remove them first; attune check lists them.")
    if not any(copy.kept for copy in written):
        rows = sum(len(copy.lines) for copy in written)
        reasons = Counter(order.rule for orders in plan.orders.values() for order in orders.values())
        named = ", ".join(f"{count} {rule}" for rule, count in reasons.most_common())
        raise DataError(f"No row would be left of {rows}: {named}.\nNothing was written.")


@dataclass
class _Tally:
    """Rows by what was done to them and why, and by what was found in rows that stay."""

    reasons: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def _write_ledger(copy: Written, plan: Plan, file: BinaryIO, tally: _Tally) -> FixedFile:
    """Write a line for each row of one file and return the file's totals."""
    orders, left = plan.orders[copy.source], plan.left[copy.source]
    counts = Counter[str]()
    for line, offset, new_line in zip(copy.lines, copy.offsets, copy.new_lines, strict=True):
        key = (line, offset)
        stays = left.get(key, ())
        done, rule, why = _fate(copy, orders.get(key), key, is_kept=bool(new_line))
        if done != "dropped" and stays:
            tally.left.update(stays)
            rule = rule or stays[0]
            why = f"{why}; left: {', '.join(stays)}" if why else f"left: {', '.join(stays)}"
        if done != "kept":
            tally.reasons[f"{done}: {rule}"] += 1
        counts[done] += 1
        entry = {
            "file": copy.source,
            "line": line,
            "done": done,
            "rule": rule,
            "why": why,
            "out_line": new_line or None,
        }
        file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
    target = str(copy.target) if copy.kept else ""
    return FixedFile(copy.source, target, len(copy.lines), counts["kept"], counts["dropped"], counts["repaired"])


def _fate(copy: Written, order: Order | None, key: Key, *, is_kept: bool) -> tuple[str, str, str]:
    """Return what was done to a row, the rule that said so, and why."""
    if not is_kept:
        return ("dropped", order.rule, order.why) if order else ("dropped", "bad-row", copy.lost[key])
    if key in copy.repaired:
        return "repaired", order.rule if order else REPAIRED_FOR, copy.repaired[key]
    return "kept", "", ""


def target_names(files: Sequence[str]) -> list[str]:
    """Return the names of several cleaned copies inside their folder: each once, as the files stand to each other.

    Copies are unpacked, so the ending of a packed file goes; what is no text becomes JSONL.
    """
    paths = {file: Path(os.path.normpath(Path.cwd() / file)) for file in files if not is_hub(file)}
    top = os.path.commonpath([path.parent for path in paths.values()]) if paths else ""
    names: list[str] = []
    for file in files:
        own = os.path.relpath(paths[file], top) if file in paths else re.sub(r"[^A-Za-z0-9.]+", "-", file)
        path = Path(own[: len(plain_name(own))])
        if file not in paths:
            path = Path(f"{own}.jsonl")
        elif not copied_form(file):
            path = path.with_suffix(".jsonl")
        name, number = path, 1
        while name.as_posix() in names:
            number += 1
            name = path.with_name(f"{path.stem}-{number}{path.suffix}")
        names.append(name.as_posix())
    return names
