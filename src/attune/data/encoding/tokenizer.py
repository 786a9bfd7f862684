"""The model's tokenizer without the model: fast to load, and able to keep words from becoming control tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash
from tokenizers import Tokenizer as Backend

from attune.errors import ModelError

ANCHOR = "a"  # decoded in front of a piece of text, so that decoders which strip a leading space strip it here


@dataclass(frozen=True)
class Control:
    """A control token: its text, its id, and whether it swallows the white space beside it."""

    text: str
    id: int
    lstrip: bool
    rstrip: bool


class Tokenizer:
    """Text to token ids and back, as transformers does it with the same folder; nothing here imports torch.

    Special tokens in `encode(text)` are recognised, none are added: templates write what they want.
    """

    def __init__(self, folder: Path, backend: Backend, settings: Mapping[str, Any], stop_ids: Sequence[int]) -> None:
        self.folder = folder
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.bos_token, self.bos_id = self._named(settings, "bos_token")
        self.eos_token, self.eos_id = self._named(settings, "eos_token")
        self.chat_template: str | None = settings.get("chat_template")
        own = () if self.eos_id is None else (self.eos_id,)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((*own, *stop_ids)))
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.controls: tuple[Control, ...] = tuple(
            Control(token.content, number, token.lstrip, token.rstrip)
            for number, token in sorted(backend.get_added_tokens_decoder().items())
            if token.special
        )
        self.special_tokens: dict[str, int] = {control.text: control.id for control in self.controls}
        self.control_ids = frozenset(self.special_tokens.values())
        # a text without any of these two-letter beginnings holds no control token: one quick look for most rows
        self._stems = tuple(sorted({control.text[:2] for control in self.controls}))
        added = backend.encode("a", add_special_tokens=True).ids
        self.adds_bos: bool = self.bos_id is not None and len(added) > 1 and added[0] == self.bos_id

    def _named(self, settings: Mapping[str, Any], key: str) -> tuple[str | None, int | None]:
        """Return text and id of a token that tokenizer_config.json names; (None, None) if absent."""
        value = settings.get(key)
        text = value.get("content") if isinstance(value, Mapping) else value
        number = self.backend.token_to_id(text) if isinstance(text, str) else None
        return (text, number) if number is not None else (None, None)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; special tokens written in it are recognised, none are added."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=False)
        return text

    def decode_after(self, ids: Sequence[int]) -> str:
        """Return the text of ids as it reads when other text stands before it (a leading space is kept)."""
        text: str = self.backend.decode([*self._anchor_ids, *ids], skip_special_tokens=False)
        return text[self._anchor_length :]

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return self.encode(ANCHOR)

    @cached_property
    def _anchor_length(self) -> int:
        return len(self.decode(self._anchor_ids))

    def holds_control(self, text: str) -> bool:
        """Return whether a text holds the string of a control token."""
        for stem in self._stems:
            if stem in text:
                return any(control.text in text for control in self.controls)
        return False

    def encode_parts(
        self, text: str, markup: Sequence[tuple[int, int]], cuts: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Return the ids of a text encoded in parts, and how many ids stand before each cut.

        Control tokens are recognised only inside the `markup` spans; elsewhere their strings stay plain text.
        At a cut (sorted character positions) a new part begins that continues the text before it: no token
        straddles it, and no tokenizer puts a space in front of it.
        """
        ids: list[int] = []
        counts: list[int] = []
        controls = self._controls_in(text, markup)
        bounds = [*((start, end, number) for start, end, number in controls), *((cut, cut, -1) for cut in cuts)]
        position, starts_fresh = 0, True
        for start, end, number in [*sorted(bounds), (len(text), len(text), -2)]:
            if start > position:
                backend = self._plain if starts_fresh else self._continued
                ids.extend(backend.encode(text[position:start], add_special_tokens=False).ids)
                starts_fresh = False
            if number == -1:
                counts.append(len(ids))
            elif number >= 0:
                ids.append(number)
                starts_fresh = self._prefixes_each_part
            position = max(position, end)
        return ids, counts

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of plain text that continues other text."""
        ids: list[int] = self._continued.encode(text, add_special_tokens=False).ids
        return ids

    def _controls_in(self, text: str, markup: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Return (start, end, id) of the control tokens written in the markup, with the white space they swallow."""
        found: list[tuple[int, int, int]] = []
        longest_first = sorted(self.controls, key=lambda control: -len(control.text))
        for start, end in markup:
            position = start
            while position < end:
                hit = next((c for c in longest_first if text.startswith(c.text, position, end)), None)
                if hit is None:
                    position += 1
                    continue
                left, right = position, position + len(hit.text)
                while hit.lstrip and left > 0 and text[left - 1].isspace():
                    left -= 1
                while hit.rstrip and right < len(text) and text[right].isspace():
                    right += 1
                found.append((left, right, hit.id))
                position = max(right, position + 1)
        return found

    @cached_property
    def _plain(self) -> Backend:
        """The same tokenizer, blind to the strings of control tokens."""
        twin = Backend.from_str(self.backend.to_str())
        twin.encode_special_tokens = True
        return twin

    @cached_property
    def _continued(self) -> Backend:
        """The plain tokenizer without the space that some tokenizers put before a text."""
        rules = json.loads(self.backend.to_str())
        changed = {key: _without_prefix(rules[key]) for key in ("normalizer", "pre_tokenizer")}
        if all(changed[key] == rules[key] for key in changed):
            return self._plain
        twin = Backend.from_str(json.dumps({**rules, **changed}))
        twin.encode_special_tokens = True
        return twin

    @cached_property
    def _prefixes_each_part(self) -> bool:
        """Whether text after a control token gets the prefix space too (all tokenizers but Metaspace's `first`)."""
        return '"prepend_scheme": "first"' not in json.dumps(json.loads(self.backend.to_str())["pre_tokenizer"])

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which ids a text gets."""
        return self._hash_of_rules

    @cached_property
    def _hash_of_rules(self) -> str:
        return xxhash.xxh3_128_hexdigest(self.backend.to_str().encode())


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a model folder.

    Raises: ModelError when tokenizer.json is missing or broken.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json.\n"
            "Save the tokenizer in the fast format: AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise ModelError(
            f"{path} is not a usable tokenizer: {str(error)[:200]}\nFetch the model's files again."
        ) from error
    settings = dict(_read_json(folder / "tokenizer_config.json"))
    template_file = folder / "chat_template.jinja"
    if template_file.is_file():
        settings["chat_template"] = template_file.read_text(encoding="utf-8")
    settings["chat_template"] = _default_template(settings.get("chat_template"))
    stops = [_read_json(folder / name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
    stop_ids = [
        number for stop in stops for number in (stop if isinstance(stop, list) else [stop]) if isinstance(number, int)
    ]
    return Tokenizer(folder, backend, settings, stop_ids)


def _read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file, {} if there is no such file. Raises: ModelError when it is broken."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}\nFetch the model's files again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, found {type(value).__name__}.")
    return value


def _default_template(value: Any) -> str | None:
    """Return the template to use where tokenizer_config.json names several."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, Mapping)}
        value = named.get("default")
    return value if isinstance(value, str) and value else None


def _without_prefix(rule: Any) -> Any:
    """Return a normalizer or pre-tokenizer rule that adds no space before a text."""
    if not isinstance(rule, dict):
        return rule
    kind = rule.get("type")
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return {**rule, "prepend_scheme": "never"}
    if kind == "ByteLevel":
        return {**rule, "add_prefix_space": False}
    if kind == "Sequence":
        key = "normalizers" if "normalizers" in rule else "pretokenizers"
        return {**rule, key: [part for part in map(_without_prefix, rule[key]) if part is not None]}
    return rule
