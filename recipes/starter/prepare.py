"""Cleans the general text and writes train.jsonl, valid.jsonl and heldout.jsonl, each row {"title", "source", "text"}.

python recipes/starter/prepare.py --source ../shared/data/text --out work/starter
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# WikiText-2's test articles must stay unseen. "Nero" is one of them; the others share passages of 12 words or more
# with test articles (Domitian with Nerva, Armour and Battleship with Ironclad warship, and so on).
LEFT_OUT = frozenset(
    {
        "Nero",
        "Domitian",
        "Armour",
        "Battleship",
        "History of painting",
        "When Harry Met Sally...",
        "Saving Private Ryan",
        "Budapest",
        "Free verse",
    }
)
SHORTEST = 200  # characters: what is shorter after cleaning is a list's title or a stub
HELD_OUT_OF = 60  # one title in 60 is held out for measuring, another for validation: about 200 articles each

DROPPED_SECTIONS = frozenset(
    [
        "references",
        "external links",
        "further reading",
        "bibliography",
        "see also",
        "notes",
        "footnotes",
        "citations",
        "sources",
        "gallery",
        "notes and references",
        "references and notes",
        "works cited",
        "literature",
        "external link",
    ]
)
PLACEHOLDER = re.compile(r"(?:formula|codice)_\d+|\{\{|\}\}|\[\[|\]\]|#if|\|\||^\s*[|!]|align=|style=|\ufffd")
REFERENCE = re.compile(r"<ref[^<>]*/>|<ref\b.*?</ref>|</?ref\b[^<>]*>?", re.IGNORECASE | re.DOTALL)
TAG = re.compile(
    r"</?(?:dl|dd|dt|br|hr|p|poem|onlyinclude|includeonly|noinclude|small|big|sub|sup|div|center|references|gallery|"
    r"nowiki|math|pre|i|b|u|s|tt|em|strong|table|tr|td|th|ul|ol|li|span|font|timeline|imagemap|section|blockquote|cite|"
    r"code|source|abbr|score|hiero|chem)\b[^<>\n]{0,200}/?>",
    re.IGNORECASE,
)
UPDATE_NOTE = re.compile(r"\[ \[[a-z ?]+\]\]")
LOST_AS_OF = re.compile(r"(^|(?<=[.,;:(] )|(?<=\())s of (?=[A-Z0-9])", re.MULTILINE)
GROUP = re.compile(r"(\s?)\(([^()\n]{0,300})\)")
LONE_BRACKET = re.compile(r"(?<![\w\]])\](?=[\s),;.]|$)")
REPEATED_MARK = re.compile(r"([,;:])(?:\s*[,;:])+")
EMPTY_QUOTE = re.compile(r'(?<![\w"])"" ?(?!\w)')
DOUBLED_QUOTE = re.compile(r'""+')
SPACE_BEFORE_MARK = re.compile(r" +([,.;:!?])(?=\s|$)")
SPACES = re.compile(r"[^\S\n]+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u00ad\ufeff\u2028\u2029]")
BLANK_LINES = re.compile(r"\n{3,}")
NOTHING_LEFT = frozenset({"", "or", "and", "or and", "pronounced", "also", "listen", "see", "help·info"})


def clean_group(match: re.Match[str]) -> str:
    """Return a parenthesis without what the extraction left of pronunciations; nothing if that was all of it."""
    before, inside = match.groups()
    damaged = not inside.strip() or inside[0] in " ,;:" or inside[-1] in " ,;:" or LONE_BRACKET.search(inside)
    if not damaged and inside not in NOTHING_LEFT:
        return match.group(0)
    if not before and not inside.strip(" ,;:"):
        return match.group(0)  # `close()` is code, not an emptied parenthesis
    if "[" not in inside:
        inside = LONE_BRACKET.sub("", inside)
    inside = REPEATED_MARK.sub(r"\1", inside).strip(" ,;:")
    return "" if inside in NOTHING_LEFT else f"{before}({inside})"


def clean_line(line: str) -> str:
    """Return a line of an article without extraction damage; empty if a placeholder stands for part of its meaning."""
    if PLACEHOLDER.search(line):
        return ""
    line = GROUP.sub(clean_group, line)
    if "[" not in line:
        line = LONE_BRACKET.sub("", line)
    line = DOUBLED_QUOTE.sub('"', EMPTY_QUOTE.sub("", line))
    return SPACES.sub(" ", SPACE_BEFORE_MARK.sub(r"\1", line)).strip()


def is_heading(line: str) -> bool:
    """Say whether a line is a section's title: short, and its only full stop is its last character."""
    return len(line) <= 80 and line.endswith(".") and line.count(".") == 1 and len(line.split()) <= 8


def clean_article(text: str) -> str:
    """Return a Wikipedia article as paragraphs and headings, without tags, placeholders and empty brackets."""
    text = SPACES.sub(" ", CONTROL.sub("", text))
    text = UPDATE_NOTE.sub("", TAG.sub("", REFERENCE.sub("", text)))
    text = LOST_AS_OF.sub(r"\1As of ", text)
    kept: list[str] = []
    dropping = False
    for raw in text.split("\n"):
        line = clean_line(raw)
        if is_heading(line) or line.lower() in DROPPED_SECTIONS:
            dropping = line.rstrip(".").lower() in DROPPED_SECTIONS
            if kept and is_heading(kept[-1]) and not dropping and len(kept[-1].split()) <= 3:
                kept.pop()  # a heading whose section is empty
        if line and not dropping:
            kept.append(line)
    while kept and is_heading(kept[-1]):
        kept.pop()
    return "\n".join(kept)


def tidy(line: str) -> str:
    """Return a line with single spaces, and none at its ends or before a punctuation mark."""
    return SPACE_BEFORE_MARK.sub(r"\1", SPACES.sub(" ", line).strip())


def clean_novel(text: str) -> str:
    """Return a novel with hard-wrapped prose joined to paragraphs; verse keeps its lines. A cut-off end is left out."""
    text = CONTROL.sub(" ", text)
    paragraphs = []
    for block in re.split(r"\n\s*\n", text)[:-1]:
        lines = [tidy(line) for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        is_prose = len(lines) > 1 and sum(map(len, lines[:-1])) / (len(lines) - 1) > 50
        paragraphs.append((" " if is_prose else "\n").join(lines))
    return BLANK_LINES.sub("\n\n", "\n\n".join(paragraphs)).strip()


def share(title: str) -> str:
    """Return where a row goes: train, valid or heldout. It depends on the title alone, so it never changes."""
    place = int.from_bytes(hashlib.sha256(title.encode()).digest()[:8], "big") % HELD_OUT_OF
    return {0: "heldout", 1: "valid"}.get(place, "train")


def clean_row(line: bytes) -> tuple[str, dict[str, str]]:
    """Return the share of a raw row ("" if it is left out) and the cleaned row."""
    row: dict[str, Any] = json.loads(line)
    title, source = row["title"], row["source"]
    text = clean_article(row["text"]) if source == "wiki" else clean_novel(row["text"])
    is_left_out = title in LEFT_OUT or len(text) < SHORTEST
    return "" if is_left_out else share(title), {"title": title, "source": source, "text": text}


def raw_rows(folder: Path) -> Iterator[bytes]:
    """Yield the lines of the compressed files, in the files' order."""
    files = sorted(folder.glob("general_text_*.jsonl.xz"))
    if not files:
        raise SystemExit(f"{folder}: no general_text_*.jsonl.xz here. Name the folder with --source.")
    for file in files:
        with lzma.open(file) as lines:
            yield from lines


def prepare(source: Path, out: Path, *, processes: int) -> dict[str, int]:
    """Write the three files into `out`; return the rows and bytes of text of each."""
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    files = {name: (out / f"{name}.jsonl").open("w", encoding="utf-8") for name in ("train", "valid", "heldout")}
    with ProcessPoolExecutor(processes) as pool:
        for name, row in pool.map(clean_row, raw_rows(source), chunksize=64):
            counts[f"{name or 'left_out'}_rows"] += 1
            counts[f"{name or 'left_out'}_bytes"] += len(row["text"].encode())
            if name:
                files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()
    return dict(sorted(counts.items()))


def main() -> None:
    """Read the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with general_text_*.jsonl.xz")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.jsonl, valid.jsonl and heldout.jsonl")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(prepare(arguments.source, arguments.out, processes=arguments.processes), indent=1))


if __name__ == "__main__":
    main()
