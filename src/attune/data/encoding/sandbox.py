"""Jinja chat templates rendered in a sandbox: no access to Python, and no way to run for ever or fill the memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_WORK = 200_000  # loop rounds and calls of one render, plus WORK_PER_TURN for each message
WORK_PER_TURN = 2_000
MAX_TEXT = 64 * 1024 * 1024  # characters that one operation may take in
MAX_NUMBER = 10_000  # largest number that a filter or method may be given (a width, a repetition)


class TemplateRunawayError(jinja2.TemplateRuntimeError):
    """A template that works or grows without end."""


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment like the one that transformers renders chat templates in, with budgets for work and size."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlock, loopcontrols],
            undefined=jinja2.Undefined,
        )
        self.budget = MAX_WORK
        self.filters = {name: self._guarded(function) for name, function in self.filters.items()}
        self.filters["tojson"] = _to_json
        self.filters["_counted"] = self._counted
        self.filters["_sized"] = self._sized
        self.globals["raise_exception"] = _raise_exception

    def open(self, source: str) -> jinja2.Template:
        """Return a template compiled with its loops and joins counted. Raises: jinja2.TemplateSyntaxError."""
        tree = self.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [
                nodes.Filter(part, "_sized", [], [], None, None, lineno=joined.lineno) for part in joined.nodes
            ]
        tree.set_environment(self)
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def spend(self, amount: int = 1) -> None:
        """Take from the render's budget. Raises: TemplateRunawayError when it is used up."""
        self.budget -= amount
        if self.budget < 0:
            raise TemplateRunawayError("the template loops without end")

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - jinja2's own
        self.spend()
        _refuse_numbers((*args, *kwargs.values()), within=100_000 if obj is self.globals["range"] else MAX_NUMBER)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: D102 - jinja2's own
        self._sized(left)
        self._sized(right)
        if operator in ("*", "**"):
            for one, other in ((left, right), (right, left)):
                if (
                    isinstance(one, (str, list, tuple))
                    and isinstance(other, int)
                    and len(one) * max(other, 0) > MAX_TEXT
                ):
                    raise TemplateRunawayError("the template makes a text too large")
            if operator == "**":
                _refuse_numbers((right,), within=64)
        return super().call_binop(context, operator, left, right)

    def _counted(self, items: Iterable[Any]) -> Any:
        """Return what a loop goes over, with each round taken from the budget."""
        if isinstance(items, jinja2.Undefined):
            return items
        if isinstance(items, (Sequence, Mapping)):
            self.spend(len(items))
            return items
        return self._counting(items)

    def _counting(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend()
            yield item

    def _sized(self, value: Any) -> Any:
        """Return a value that is about to be joined to others. Raises: TemplateRunawayError when it is too long."""
        if isinstance(value, (str, list, tuple)) and len(value) > MAX_TEXT:
            raise TemplateRunawayError("the template makes a text too large")
        return value

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that refuses huge numbers and texts; marks such as pass_context stay on it."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.spend()
            _refuse_numbers((*args[1:], *kwargs.values()), within=MAX_NUMBER)
            for value in args:
                self._sized(value)
            return function(*args, **kwargs)

        guarded.__dict__.update(getattr(function, "__dict__", {}))
        return guarded


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks answers for other trainers: rendered as its content."""

    tags = {"generation"}  # noqa: RUF012 - the name and form that jinja2 wants

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse_numbers(values: Sequence[Any], *, within: int) -> None:
    for value in values:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) > within:
            raise TemplateRunawayError(f"the template asks for {value:g} of something")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, *, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Return JSON without HTML escapes, as transformers does."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
