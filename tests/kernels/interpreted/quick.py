"""Triton's interpreter, without computing over and over what depends on types alone.

It works out types in Python for every operation of every program, most of all the shapes of blocks
that are equal as a rule. What is computed is the same. This is of the release that `make kernels`
installs; another one's interpreter is left as it is.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import triton
import triton.language as tl
from triton.language import core, semantic
from triton.runtime import interpreter

RELEASE = "3.9.0"
SEMANTIC = semantic.TritonSemantic
#: what two of a kind are computed in, whatever the operation
PROMOTED = {"int32", "int64", "fp32", "fp64"}


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone."""
    if triton.__version__ != RELEASE:
        return
    patch.setattr(interpreter, "_get_np_dtype", _by_name(interpreter._get_np_dtype))
    patch.setattr(core, "_unwrap_if_constexpr", _ints_as_they_are(core._unwrap_if_constexpr))
    for kind in (tl.dtype, tl.block_type):
        patch.setattr(kind, "__eq__", _the_same_is_equal(kind.__eq__))
    patch.setattr(tl.block_type, "with_element_ty", lambda self, kind: _block(kind, self.shape))
    builder = type(interpreter.interpreter_builder)
    patch.setattr(builder, "get_block_ty", lambda self, kind, shape: _block(kind, shape))
    to_ir = tl.block_type.to_ir
    patch.setattr(
        tl.block_type, "to_ir",
        lambda self, builder: to_ir(self, builder) if self.element_ty.is_ptr() else self,
    )  # fmt: skip
    patch.setattr(tl.tensor, "__init__", _tensor)
    for name, around in (
        ("broadcast_impl_value", _equal_shapes_are_compatible),
        ("binary_op_type_checking_impl", _equal_types_are_promoted),
        ("cast", _cast_already),
    ):
        patch.setattr(SEMANTIC, name, around(getattr(SEMANTIC, name)))
    patch.setattr(interpreter, "_patch_attr", _patch_attr)


def _by_name(function: Any) -> Any:
    known: dict[str, Any] = {}

    def found(kind: tl.dtype) -> Any:
        if kind.name not in known:
            known[kind.name] = function(kind)
        return known[kind.name]

    return found


def _ints_as_they_are(function: Any) -> Any:
    return lambda value: value if value.__class__ is int else function(value)


def _the_same_is_equal(function: Any) -> Any:
    return lambda self, other: self is other or function(self, other)


#: blocks by what they hold and their shape; addresses have none, since they differ in more
_blocks: dict[Any, tl.block_type] = {}


def _block(element_ty: tl.dtype, shape: Any) -> tl.block_type:
    if element_ty.is_ptr():
        return tl.block_type(element_ty, shape)
    key = element_ty.name, *shape
    if key not in _blocks:
        _blocks[key] = tl.block_type(element_ty, shape)
    return _blocks[key]


def _tensor(self: tl.tensor, handle: Any, type: tl.dtype) -> None:
    """As `tensor.__init__`, but that tensors of a type share their shape."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    if "_of_tensors" not in type.__dict__:
        shape = [tl.constexpr(size) for size in type.shape] if type.is_block() else []
        numel = tl.constexpr(math.prod(size.value for size in shape))
        type._of_tensors = core.tuple(shape), numel
    self.shape, self.numel = type._of_tensors


def _equal_shapes_are_compatible(function: Any) -> Any:
    def broadcast(self: Any, lhs: tl.tensor, rhs: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
        ours, theirs = lhs.type, rhs.type
        if ours.is_block() and theirs.is_block() and ours.shape.values == theirs.shape.values:
            return lhs, rhs
        return function(self, lhs, rhs)

    return broadcast


def _equal_types_are_promoted(function: Any) -> Any:
    def check(self: Any, lhs: Any, rhs: Any, *options: Any, **named: Any) -> Any:
        kind = getattr(lhs, "dtype", None)
        if kind is not None and kind is getattr(rhs, "dtype", None) and kind.name in PROMOTED:
            return self.broadcast_impl_value(lhs, rhs)
        return function(self, lhs, rhs, *options, **named)

    return check


def _cast_already(function: Any) -> Any:
    def cast(self: Any, input: tl.tensor, dst_ty: tl.dtype, *rounding: Any, **named: Any) -> Any:
        return input if input.dtype is dst_ty else function(self, input, dst_ty, *rounding, **named)

    return cast


def _patch_attr(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    """Give a function of the language its semantics, which it need not look for."""
    function = getattr(member, "__wrapped__", member)

    def interpreted(*args: Any, **named: Any) -> Any:
        named["_semantic"] = interpreter.interpreter_semantic
        return function(*args, **named)

    scope.set_attr(obj, name, interpreted)
