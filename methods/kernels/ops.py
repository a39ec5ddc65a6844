"""How a kernel becomes an op of torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PLAIN = (Tensor, torch.nn.Parameter)


class Op:
    """A function that launches a kernel: a plain call in eager mode, else an op ``fieldbook::<name>``.

    The op's way through torch's dispatcher costs some tens of microseconds, as much as a small kernel. It is for
    tensors that only stand for values, as ``torch.compile`` has them, and for gradients of gradients, which it refuses
    where a plain call would give none without a word.

    Args:
        name: Of the op.
        launch: Annotated function of tensors and numbers to new tensors.
        fake: The same outputs, as to shape and type, without values.
        gradient: ``(backward, setup_context)`` as ``torch.library.register_autograd`` has them; None if the op has no
            gradient.
    """

    def __init__(self, name: str, launch: Callable, fake: Callable, gradient: tuple[Callable, Callable] | None = None):
        self._op = torch.library.custom_op(f"fieldbook::{name}", launch, mutates_args=())
        self._op.register_fake(fake)
        self._has_gradient = gradient is not None
        self._call = launch
        if gradient is not None:
            backward, setup_context = gradient
            self._op.register_autograd(backward, setup_context=setup_context)

            # Not as two methods: torch would look up the signature at every call, which takes longer than the rest.
            def forward(ctx, *args):
                out = launch(*args)
                setup_context(ctx, args, out)
                return out

            methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
            self._call = type(name, (torch.autograd.Function,), methods).apply

    def __call__(self, *args):
        """Launch the kernel."""
        second = torch.is_grad_enabled() and not self._has_gradient
        if torch.compiler.is_compiling() or second or not _are_plain(args):
            return self._op(*args)
        return self._call(*args)


def _are_plain(args) -> bool:
    for value in args:
        if isinstance(value, list):
            if not _are_plain(value):
                return False
        elif isinstance(value, Tensor) and type(value) not in PLAIN:
            return False
    return True
