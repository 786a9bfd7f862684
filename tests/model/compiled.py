"""Triton kernels made for a GPU without one, so that what the compiler refuses is found anywhere."""

from __future__ import annotations

import importlib
from collections.abc import Mapping


def ptx_of(module: str, kernel: str, *, constants: Mapping[str, object], types: Mapping[str, str], warps: int) -> str:
    """Return the code of a kernel for compute capability 9.0; arguments that are in neither are rows in bfloat16.

    Addresses are multiples of 16 and so are numbers of the type "i32", as those of a model are; others are "odd".
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(module), kernel)
    names = function.arg_names
    kinds = {name: "constexpr" if name in constants else types.get(name, "*bf16") for name in names}
    aligned = {
        (number,): [["tt.divisibility", 16]]
        for number, kind in enumerate(kinds.values())
        if kind == "i32" or kind.startswith("*")
    }
    signature = {name: "i32" if kind == "odd" else kind for name, kind in kinds.items()}
    fixed = {(names.index(name),): value for name, value in constants.items() if name in names}
    source = ASTSource(fn=function, signature=signature, constexprs=fixed, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    return str(made.asm["ptx"])
