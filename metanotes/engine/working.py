"""While functions of one task are applied to all, in some way: `working`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch

from metanotes.engine.normalizations import Differentiable
from metanotes.theta import How, in_force


@contextmanager
def working(
    how: How, *, plain_attention: bool = False, differentiable: bool = False
) -> Iterator[None]:
    """Functions of one task are applied to all in this way.

    Args:
        how: at once or one by one.
        plain_attention: attention by ordinary products, which alone can be differentiated twice.
        differentiable: normalisations that can be differentiated more often than that.
    """
    if not (plain_attention or differentiable):
        with in_force(how):
            yield
        return
    with ExitStack() as stack:
        if plain_attention:
            stack.enter_context(plain_attention_only())
        if differentiable:
            stack.enter_context(Differentiable())
        stack.enter_context(in_force(how))
        yield


class _Attention:
    """How many want attention by ordinary products at present, and what torch did before."""

    lock = Lock()
    inside = 0
    before: tuple[bool, ...] = ()


@contextmanager
def plain_attention_only() -> Iterator[None]:
    """Attention by ordinary products, which alone can be differentiated twice.

    torch keeps the choice for the whole process, and others may be at work: the last one out puts
    back what the first one saw.

    >>> with plain_attention_only():
    ...     torch.backends.cuda.flash_sdp_enabled()
    False
    """
    cuda, mha = torch.backends.cuda, torch.backends.mha
    setters: tuple[Callable[[bool], Any], ...] = (
        cuda.enable_flash_sdp,
        cuda.enable_mem_efficient_sdp,
        cuda.enable_cudnn_sdp,
        cuda.enable_math_sdp,
        mha.set_fastpath_enabled,
    )
    with _Attention.lock:
        if _Attention.inside == 0:
            _Attention.before = (
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.cudnn_sdp_enabled(),
                cuda.math_sdp_enabled(),
                mha.get_fastpath_enabled(),
            )
            for setter in setters:
                setter(setter is cuda.enable_math_sdp)
        _Attention.inside += 1
    try:
        yield
    finally:
        with _Attention.lock:
            _Attention.inside -= 1
            if _Attention.inside == 0:
                for setter, enabled in zip(setters, _Attention.before, strict=True):
                    setter(enabled)


def attention_at_present() -> Callable[[], AbstractContextManager[None]]:
    """What puts the present choice of attention in force again, when work is done anew.

    >>> with working(How(), plain_attention=True):
    ...     again = attention_at_present()
    >>> with again():
    ...     torch.backends.cuda.flash_sdp_enabled()
    False
    """
    return plain_attention_only if _Attention.inside else nullcontext
