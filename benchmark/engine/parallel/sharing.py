"""Shares the work of a training step between processes, without a change of the numbers.

Every process computes the loss of the whole batch, as one process would. Only the networks inside
it, where the time goes, see a share of the rows: the outermost modules whose rows do not depend on
each other are called with the own rows, and the rows of all processes are gathered behind them.
Whatever relates samples, such as a Gram matrix, a projection of gradients or what a method mines,
therefore has the whole batch by construction, whichever method it is.

    parameters --- copies --+
                            v
    batch ------- own ---> module on own rows ---> gathered ---> loss of the whole batch

In the backward pass the gradient of a gathered output is the same in all processes, and each takes
its own rows of it. The gradients of the inputs are gathered, those of the parameters are added up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from benchmark.engine.parallel import alike, exchange, processes
from benchmark.engine.parallel.batches import OwnRows
from benchmark.engine.parallel.draws import Draws
from benchmark.engine.parallel.norms import Synchronised
from benchmark.errors import UserError
from benchmark.method import Batch, Method


class _Enter(Function):
    """The own rows of a tensor; the gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        begin, end, ctx.total = exchange.own(len(x))
        return x[begin:end].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return exchange.gather(gradients[0], ctx.total)


class _Leave(Function):
    """The rows of all processes; the gradient is that of the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: int) -> Tensor:
        ctx.total = total
        return exchange.gather(x, total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        begin, end, _ = exchange.own(ctx.total)
        return gradients[0][begin:end], None


class _Copies(Function):
    """Tensors that every process has; their gradients are added up, all in one exchange."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        # A parameter that gets no gradient must keep none: optimisers pass over it then.
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        sums = iter(exchange.add(*(g for g in gradients if g is not None)))
        return tuple(None if g is None else next(sums) for g in gradients)


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns tensors for a computation on own rows; those without a gradient as they are."""
    wanted = [k for k, x in enumerate(tensors) if x.requires_grad and torch.is_grad_enabled()]
    found = list(tensors)
    if wanted:
        for k, copy in zip(wanted, _Copies.apply(*(tensors[k] for k in wanted)), strict=True):
            found[k] = copy
    return found


@contextlib.contextmanager
def replaced(module: nn.Module) -> Iterator[None]:
    """Puts copies of its parameters into a module, by which their gradients are added up."""
    places = [(m, name) for m in module.modules() for name in m._parameters]
    held: list[Any] = [m._parameters[name] for m, name in places]
    # Modules may share a parameter, which gets one copy.
    single = {id(p): p for p in held if p is not None}
    made = dict(zip(single, copies(list(single.values())), strict=True))
    for copy in made.values():
        copy._is_param = True  # by this mark PyTorch takes a tensor for a parameter
    try:
        for (m, name), p in zip(places, held, strict=True):
            m._parameters[name] = None if p is None else cast(nn.Parameter, made[id(p)])
        yield
    finally:
        for (m, name), p in zip(places, held, strict=True):
            m._parameters[name] = p


class Verdict(NamedTuple):
    """What was found out about a module with arguments of some form.

    Attributes:
        shared: Whether its rows do not depend on each other, so that it may see some alone.
        draws: Whether it draws random numbers.
    """

    shared: bool
    draws: bool = False


class Shares:
    """Makes the modules of a method compute on own rows while it trains.

    Whether the rows of a module depend on each other is tried out when the module is first called
    with arguments of a form (`alike.rows_alone`); if so, the modules inside it are asked in turn.

    Args:
        method: The method; its teacher's modules are shared, too.
        batch: Number of samples of a training batch.

    Attributes:
        verdicts: Module and form of its arguments -> what was found out.
    """

    def __init__(self, method: Method, batch: int) -> None:
        self.method, self.batch = method, batch
        self.verdicts: dict[tuple[Any, ...], Verdict] = {}
        self._inside = False
        self._modules: list[nn.Module] = []

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Shares the method's modules until the block ends, and lets each process load its rows."""
        networks = [self.method, *self.method._teacher]
        inner = [m for network in networks for m in network.modules() if m not in networks]
        has = [m for m in inner if next(m.parameters(), None) is not None]
        self._modules = list(dict.fromkeys(m for m in has if m is not None))
        try:
            for module in self._modules:
                # An attribute of the object, which enters no state, hides that of the class.
                module.forward = _Shared(self, module)
            self.method.data_preprocessor.forward = _Whole(self.method, self.batch)
            yield
        finally:
            for module in (*self._modules, self.method.data_preprocessor):
                vars(module).pop('forward', None)

    def call(self, module: nn.Module, plain: Any, args: Any, kwargs: Any) -> Any:
        """Calls a module, on own rows where that gives the same."""
        if self._inside or not self.method.training:
            return plain(*args, **kwargs)
        leaves, form = pytree.tree_flatten((args, kwargs))
        total = alike.rows_of(leaves)
        if total < processes.world():
            return plain(*args, **kwargs)
        key = (
            id(module),
            total,
            str(form),
            *map(alike.form_of, leaves),
            torch.is_autocast_enabled(),
        )
        if key not in self.verdicts:
            self._inside = True
            try:
                self.verdicts[key] = Verdict(*alike.rows_alone(module, plain, leaves, form, total))
            finally:
                self._inside = False
        verdict = self.verdicts[key]
        if not verdict.shared:
            return plain(*args, **kwargs)
        return self._on_own_rows(module, plain, leaves, form, total, verdict.draws)

    def _on_own_rows(
        self, module: nn.Module, plain: Any, leaves: list[Any], form: Any, total: int, draws: bool
    ) -> Any:
        rows = exchange.own(total)
        whole = [k for k, x in enumerate(leaves) if alike.is_whole(x, total)]
        given = list(leaves)
        for k, copy in zip(whole, copies([leaves[k] for k in whole]), strict=True):
            given[k] = copy
        given = [_entered(x) if alike.is_batch(x, total) else x for x in given]
        args, kwargs = pytree.tree_unflatten(given, form)
        before = alike.generators(leaves)
        self._inside = True
        try:
            with (
                replaced(module),
                Synchronised(rows),
                Draws(rows) if draws else contextlib.nullcontext(),
            ):
                found = plain(*args, **kwargs)
        finally:
            self._inside = False
        if not draws and not alike.same(before, alike.generators(leaves)):
            raise UserError(
                f'{type(module).__name__}: draws random numbers in some steps only, which several '
                'processes cannot share; run this method without torchrun'
            )
        return pytree.tree_map_only(Tensor, lambda y: _left(y, total), found)


def _entered(x: Tensor) -> Tensor:
    """Returns the own rows of a batch, without a detour if a shared module has just made them."""
    kept, version = getattr(x, '_own_rows', (None, -1))
    if kept is not None and x._version == version:
        return kept
    return _Enter.apply(x)


def _left(y: Tensor, total: int) -> Tensor:
    found = _Leave.apply(y, total)
    # The next module goes on from the own rows, if nothing has changed them on the way.
    found._own_rows = y, found._version
    return found


@contextlib.contextmanager
def shared_modules(method: Method, loader: DataLoader) -> Iterator[None]:
    """Shares the modules of a method that trains in the block, if there are several processes.

    Args:
        method: The method.
        loader: Loads the own rows of the training's batches.
    """
    if processes.world() == 1:
        yield
        return
    with Shares(method, cast(OwnRows, loader.batch_sampler).size).on():
        yield


class _Shared:
    """Stands for the `forward` of a module."""

    def __init__(self, shares: Shares, module: nn.Module) -> None:
        self.shares, self.module, self.plain = shares, module, module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.shares.call(self.module, self.plain, args, kwargs)


class _Whole:
    """Stands for the `forward` of a method's preprocessor: it gathers what the processes loaded."""

    def __init__(self, method: Method, batch: int) -> None:
        self.plain = method.data_preprocessor.forward
        self.cast = method.data_preprocessor.cast_data
        self.batch = batch

    def __call__(self, data: Batch, training: bool = False) -> Batch:
        """Returns the whole batch on the device, augmented as one process does it."""
        if training:
            data = gathered(self.cast(data), self.batch)
        return self.plain(data, training)


def gathered(batch: Batch, total: int) -> Batch:
    """Returns the batch of `total` samples of which each process has loaded its own."""
    return pytree.tree_map_only(Tensor, lambda x: exchange.gather(x, total), batch)
