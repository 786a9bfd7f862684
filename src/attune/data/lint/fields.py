"""The fields that JSON answers of one kind have, inferred from the answers, and those that break with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attune.data.lint.thresholds import Thresholds

MOST_SHAPES = 20_000  # answers whose keys are data ({"Alice": 3}) would fill the memory and have no common fields
MOST_FIELDS = 100
DEEPEST = 4
ALIKE = 0.5  # of two shapes' outer keys together, so many must be shared to be of one kind
_NAMES = {
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    type(None): "null",
    dict: "object",
    list: "list",
}

Shape = tuple[tuple[str, str], ...]  # the path of each field and the type of its value, in the order written


class Misfit(NamedTuple):
    """How a shape differs from the others of its kind, in words, and the share of them that agree, 0 to 1."""

    text: str
    share: float


def shape_of(value: dict[str, Any] | list[Any]) -> Shape:
    """Return the paths and types of a JSON value's fields; in lists of objects those of all items together."""
    fields: list[tuple[str, str]] = []
    items = value if type(value) is list else [value]
    prefix = "[]." if type(value) is list else ""
    _add_objects([item for item in items[:50] if type(item) is dict], prefix, fields)
    return tuple(fields)


def _add_objects(objects: Sequence[Mapping[str, Any]], prefix: str, fields: list[tuple[str, str]]) -> None:
    """Add the fields of objects that stand at the same place; a field that some of them lack is also "missing"."""
    if not objects:
        return
    if len(objects) == 1:
        seen = {key: [cell] for key, cell in objects[0].items()}
    else:
        seen = {}
        for thing in objects:
            for key, cell in thing.items():
                seen.setdefault(key, []).append(cell)
    for key, cells in seen.items():
        if len(fields) >= MOST_FIELDS:
            return
        path = prefix + key
        fields.append((path, _types(cells, missing=len(cells) < len(objects))))
        if path.count(".") < DEEPEST:
            _add_objects([cell for cell in cells if type(cell) is dict], path + ".", fields)
            inner = [item for cell in cells if type(cell) is list for item in cell[:50] if type(item) is dict]
            _add_objects(inner, path + "[].", fields)


def _types(cells: Sequence[Any], *, missing: bool) -> str:
    if len(cells) == 1 and not missing:
        return _NAMES[type(cells[0])]
    names = {_NAMES[type(cell)] for cell in cells} | ({"missing"} if missing else set())
    return "|".join(sorted(names))


def find_misfits(counts: Mapping[int, int], shapes: Sequence[Shape], thresholds: Thresholds) -> dict[int, Misfit]:
    """Return the shapes that break with the others of their kind; `counts` says how many answers have each."""
    misfits: dict[int, Misfit] = {}
    for kind in _kinds(counts, shapes):
        total = sum(counts[shape] for shape in kind)
        if total >= thresholds.task_rows and len(kind) > 1:
            _judge_kind({shape: counts[shape] for shape in kind}, shapes, thresholds, misfits)
    return misfits


def _kinds(counts: Mapping[int, int], shapes: Sequence[Shape]) -> Iterator[list[int]]:
    """Yield the shapes in groups that share most of their outer keys, each led by its commonest shape."""
    leaders: list[tuple[frozenset[str], list[int]]] = []
    for shape in sorted(counts, key=lambda at: (-counts[at], at)):
        paths = (path.removeprefix("[].") for path, _ in shapes[shape])
        keys = frozenset(path for path in paths if "." not in path)
        home = next((kind for lead, kind in leaders if _is_alike(lead, keys)), None)
        if home is not None:
            home.append(shape)
        elif len(leaders) < 200:
            leaders.append((keys, [shape]))
    for _, kind in leaders:
        yield kind


def _is_alike(one: frozenset[str], other: frozenset[str]) -> bool:
    shared = len(one & other)
    return shared > 0 and (shared >= ALIKE * len(one | other) or (shared == len(other) and shared >= ALIKE * len(one)))


def _judge_kind(
    counts: Mapping[int, int], shapes: Sequence[Shape], thresholds: Thresholds, misfits: dict[int, Misfit]
) -> None:
    """Add the shapes of one kind in which a field is absent or of another type than nearly everywhere else."""
    types: dict[str, Counter[str]] = {}
    have: dict[int, dict[str, str]] = {shape: dict(shapes[shape]) for shape in counts}
    for shape, fields in have.items():
        for path, type_name in fields.items():
            types.setdefault(path, Counter())[type_name] += counts[shape]
    total = sum(counts.values())
    objects = sum(number for shape, number in counts.items() if not _is_list(shapes[shape]))
    if max(objects, total - objects) >= thresholds.field_type_share * total:
        odd = objects < total - objects
        texts = ("one object, not a list", "a list, not one object")
        for shape in counts:
            if _is_list(shapes[shape]) != odd:
                misfits.setdefault(shape, Misfit(texts[not odd], max(objects, total - objects) / total))
    parents = {path: _parent(path) for path in types}
    rows_of = {"": total} | {
        path: sum(n for name, n in seen.items() if "object" in name or "list" in name) for path, seen in types.items()
    }
    for path, seen in types.items():
        parent = parents[path]
        possible = sum(counts[s] for s, f in have.items() if _is_open(f, parent)) if parent else rows_of[""]
        if possible < thresholds.task_rows:
            continue
        present = sum(seen.values())
        whole = sum(n for name, n in seen.items() if "missing" not in name)
        typed = Counter({name: n for name, n in seen.items() if name != "null"})
        common, most = typed.most_common(1)[0] if typed else ("null", seen["null"])
        plain = {common, "null", *(name for name in seen if set(name.split("|")) <= {*common.split("|"), "null"})}
        sure = sum(typed.values()) >= thresholds.task_rows and most >= thresholds.field_type_share * sum(typed.values())
        for shape, fields in have.items():
            name = fields.get(path)
            if name is None or "missing" in name:
                if whole >= thresholds.field_present_share * possible and (_is_open(fields, parent) or not parent):
                    share = whole / possible
                    misfits.setdefault(shape, Misfit(f'the field "{path}" is missing', share))
            elif sure and present and name not in plain:
                share = most / sum(typed.values())
                misfits.setdefault(
                    shape, Misfit(f'the field "{path}" is {name.replace("|", " or ")}, not {common}', share)
                )


def _is_list(shape: Shape) -> bool:
    return shape[:1] != () and shape[0][0].startswith("[].")


def _parent(path: str) -> str:
    """Return the path of the object or list that a field stands in; empty for the outermost."""
    return path.rpartition(".")[0].removesuffix("[]")


def _is_open(fields: Mapping[str, str], parent: str) -> bool:
    """Return whether a shape has an object (or a list that holds objects) at a path."""
    kind = fields.get(parent, "")
    if "object" in kind:
        return True
    return "list" in kind and any(path.startswith(parent + "[].") for path in fields)
