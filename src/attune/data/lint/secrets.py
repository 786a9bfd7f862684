"""D15, first half: keys, tokens and passwords. What is shown is masked."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

from attune.data.lint.thresholds import DEFAULT, Thresholds

# kind, a text that every one of them holds, and its shape; sources: the makers' own pages and token prefixes
_KEYS = (
    ("AWS access key", "AKIA", r"\bAKIA[0-9A-Z]{16}\b"),
    ("AWS access key", "ASIA", r"\bASIA[0-9A-Z]{16}\b"),
    *(("GitHub token", f"gh{kind}_", rf"\bgh{kind}_[A-Za-z0-9]{{36,255}}\b") for kind in "pousr"),
    ("GitHub token", "github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{22,255}\b"),
    ("GitLab token", "glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("Anthropic key", "sk-ant-", r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    ("OpenAI key", "sk-", r"(?<![\w-])sk-(?!ant-)(?=[\w-]*\d)(?:proj-|svcacct-|or-v1-)?[A-Za-z0-9_-]{20,}"),
    ("Stripe key", "k_live_", r"\b[rs]k_live_[A-Za-z0-9]{16,}\b"),
    ("Slack token", "xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("Slack webhook", "hooks.slack.com/", r"hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}"),
    ("Google API key", "AIza", r"\bAIza[0-9A-Za-z_-]{35}"),
    ("Hugging Face token", "hf_", r"\bhf_[A-Za-z0-9]{30,}\b"),
    ("npm token", "npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("PyPI token", "pypi-", r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{20,}"),
    ("SendGrid key", "SG.", r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("DigitalOcean token", "dop_v1_", r"\bdop_v1_[a-f0-9]{64}\b"),
    ("private key", "PRIVATE KEY", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s*[A-Za-z0-9+/=\s\\]{24,}"),
    ("JSON web token", "eyJ", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{16,}"),
    (
        "password in an address",
        "://",
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@<>\"']{1,60}:(?P<value>[^\s/@<>\"']{6,80})@[\w.-]+",
    ),
)
_PATTERNS = tuple((kind, sign, re.compile(pattern)) for kind, sign, pattern in _KEYS)
# an address may hold no run of ten characters, a private key none longer; every other key holds one of fifteen
_WITHOUT_RUN = tuple(known for known in _PATTERNS if known[1] == "://")
_SHORT = tuple(known for known in _PATTERNS if known[1] in ("PRIVATE KEY", "://"))
_NAMES = (b"passw", b"pwd", b"secret", b"token", b"bearer")
_KEY_NAMES = tuple(
    f"{whose}key".encode()
    for whose in ("api", "access", "auth", "private", "client", "account", "encryption", "master")
)
_ASSIGNED = re.compile(
    r"""(?ix) (?=[abcempst])  # the first letters: most places are passed over
    (?:passwords?|passwd|pwd|secrets?|token|bearer
        |(?:api|access|auth|private|client|account|encryption|master|secret)[ _-]?(?:key|token|secret))
    (?:[ ]is:?|["']?\s{0,3}(?:[:=]|=>|:=)|(?=[ ]\S{20})) \s{0,3} ["'`]?
    (?P<value>[A-Za-z0-9_\-/+=.!@\#$%^&*~]{10,200})"""
)
# keys of manuals and of text books
_SAMPLES = re.compile(
    r"(?i)ex[a4]mpl|sample|dummy|fake|your|xxxx|placeholder|change|insert|redacted|\*\*\*|\.\.\.|<|\$\{|\$\(|test|demo|"
    r"pass|secret|token|12345|i2e4s|abcdef|qwerty|env\b|process\.|environ|config|getenv|request|response|"
    r"self\.|this\.|eyJzdWIiOiIxMjM0NTY3ODkwI|"
    r"4eC39HqLyjWDarjtT1zdp7dc"
)
# a cheap first look: the characters of keys become x, and a key is a long run of them
_RUNS = (
    bytes(0x78 if chr(byte).isalnum() or chr(byte) in "_-+/=.!@#$%^&*~:" else 0x20 for byte in range(128)) + b" " * 128
)
_SHORT_RUN, _KEY_RUN, _LONG_RUN = b"x" * 10, b"x" * 15, b"x" * 16
_LEET = str.maketrans("@03$1", "aoesi")  # "p@ssw0rd" is a sample too
# words and names in a row, attributes and calls: no random text
_WORDS = re.compile(r"(?:\b|_)[A-Z]?[a-z]{2,}[+./_-][A-Z]?[a-z]{2,}(?![A-Z0-9])|^[a-z_]{3,}\.")


class Suspicion(NamedTuple):
    """A first look at a text: its runs of such characters as keys are made of, and which keys it may hold."""

    runs: bytes
    patterns: tuple[tuple[str, str, re.Pattern[str]], ...]


def suspect(text: str, raw: bytes) -> Suspicion:
    """Return a first look at a text for keys. `raw` is the text as UTF-8."""
    runs = raw.translate(_RUNS)
    patterns = _PATTERNS if _KEY_RUN in runs else _SHORT if _SHORT_RUN in runs else _WITHOUT_RUN
    return Suspicion(runs, tuple([known for known in patterns if known[1] in text]))


def find_secret(text: str, raw: bytes, thresholds: Thresholds = DEFAULT, seen: Suspicion | None = None) -> str | None:
    """Return a key or password in a text, masked, with its kind; None if there is none. `seen`: a first look at it."""
    runs, patterns = seen or suspect(text, raw)
    if _SHORT_RUN not in runs:
        return None
    if _LONG_RUN in runs:
        for kind, _, pattern in patterns:
            for found in pattern.finditer(text):
                if not _is_sample(kind, found):
                    return f"{kind}: {mask(found['value'] if 'value' in pattern.groupindex else found[0])}"
    if _names_secret(raw):
        for found in _ASSIGNED.finditer(text):
            if _is_random(found["value"], thresholds):
                return f"{found[0].split(found['value'])[0].strip()[:40]} {mask(found['value'])}"
    return None


def find_sample_key(text: str, seen: Suspicion) -> str | None:
    """Return a key in a text that manuals and text books show, masked; None if there is none."""
    for kind, _, pattern in seen.patterns:
        for found in pattern.finditer(text):
            if _is_sample(kind, found):
                return f"{kind}: {mask(found['value'] if 'value' in pattern.groupindex else found[0])}"
    return None


def _names_secret(raw: bytes) -> bool:
    """Return whether a text speaks of passwords or keys; "API key" and "api_key" read alike here."""
    lower = raw.lower()
    if any(map(lower.__contains__, _NAMES)):
        return True
    return b"key" in lower and any(map(lower.translate(None, b" _-").__contains__, _KEY_NAMES))


def mask(secret: str) -> str:
    """Return the first four characters of a secret, and how long it is."""
    return f"{' '.join(secret[:4].split())}*** ({len(secret)} characters)"


def _is_sample(kind: str, found: re.Match[str]) -> bool:
    """Return whether a key is one of a manual, or made up: it says so itself, or repeats few characters."""
    text = found[0]
    if kind == "private key":
        return len(set(text.split("-----")[2])) < 12 or "..." in text
    if kind == "password in an address":
        return bool(_SAMPLES.search(text)) or found["value"].lower() in ("pass", "passwd", "pwd", "postgres", "root")
    body = text[8:] if len(text) > 16 else text
    return bool(_SAMPLES.search(body)) or entropy(body) < 2.5


def _is_random(value: str, thresholds: Thresholds) -> bool:
    """Return whether a value that was given to a password or key is likely a real one.

    It mixes three kinds of characters, or two (as a hexadecimal number does) over a longer stretch.
    """
    value = value.rstrip(".!")
    if _SAMPLES.search(value.translate(_LEET)) or _WORDS.search(value):
        return False
    kinds = sum(bool(re.search(kind, value)) for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9_.]"))
    is_long = (
        len(value) >= thresholds.secret_long and bool(re.search("[0-9]", value)) and bool(re.search("[a-zA-Z]", value))
    )
    return (kinds >= 3 or is_long) and entropy(value) >= thresholds.secret_entropy


def entropy(text: str) -> float:
    """Return the entropy of a text's characters, in bits per character."""
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values()) if total else 0.0
