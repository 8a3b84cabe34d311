"""Recurrent networks whose products are layers of their own, so that each of them can hold codes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import _check
from ._library import evaluated
from .attention import MakeLayer, linear_of

__all__ = ["GRU", "LSTM"]

_State = tuple[Tensor, ...]  # h, and c of an LSTM


class _Recurrent(nn.Module):
    """What LSTM and GRU share.

    The input's product is one of the whole sequence, that of the state one for each step.

    Parameters
    ----------
    layers : mapping of str to Module
        Linear layers: ``ih_l0`` of the input and ``hh_l0`` of the state, ``hr_l0`` that projects h, where there is one;
        with the number of the layer, and ``_reverse`` for the other direction.
    input_size, hidden_size : int
    num_layers : int, default 1
    bidirectional : bool, default False
    batch_first : bool, default False
    proj_size : int, default 0
        The length of h where it is projected.
    """

    states: ClassVar[int]

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.num_layers, self.bidirectional, self.batch_first = num_layers, bidirectional, batch_first
        self.dropout = 0.0
        self.training = False

    @classmethod
    def from_float(cls, module: Any, layer: MakeLayer | None = None) -> Self:
        """Return the module that does in evaluation what one of PyTorch does.

        Parameters
        ----------
        module : torch.nn.LSTM or torch.nn.GRU
            The one of the same name.
        layer : callable, optional
            ``layer(name, weight, bias)`` returns the layer with a weight (outputs, inputs); name is as in `layers`. By
            default it returns a torch.nn.Linear with these very weights.
        """
        make = linear_of if layer is None else layer
        layers: dict[str, nn.Module] = {}
        for parameter, w in module.named_parameters():
            if parameter.startswith("weight_"):
                name = parameter.removeprefix("weight_")
                layers[name] = make(name, w, getattr(module, f"bias_{name}", None))
        sizes = {"input_size": module.input_size, "hidden_size": module.hidden_size, "proj_size": module.proj_size}
        return cls(
            layers,
            num_layers=module.num_layers,
            bidirectional=module.bidirectional,
            batch_first=module.batch_first,
            **sizes,
        )

    def step(self, from_input: Tensor, state: _State, place: str) -> _State:
        """Return the state after one step; h is its first part."""
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        packed = isinstance(input, PackedSequence)
        x: Tensor = input.data if packed else input
        if not packed and x.dim() not in (2, 3):
            raise ValueError(
                _check.must(type(self).__name__, "input", "of 2 or 3 axes or packed", f"shape {tuple(x.shape)}")
            )
        if x.shape[-1] != self.input_size:
            wanted = f"of {self.input_size} features"
            raise ValueError(_check.must(type(self).__name__, "input", wanted, f"shape {tuple(x.shape)}"))
        batched = packed or x.dim() == 3
        if packed:
            sizes = input.batch_sizes.tolist()
        else:
            x = x.unsqueeze(1) if not batched else x.transpose(0, 1) if self.batch_first else x
            sizes = [x.shape[1]] * x.shape[0]
        if not sizes:
            wanted = "a sequence of at least one step"
            raise ValueError(_check.must(type(self).__name__, "input", wanted, f"shape {tuple(x.shape)}"))
        state = self._first_state(hx, x, sizes[0], batched)
        if packed and input.sorted_indices is not None and hx is not None:
            state = tuple(part.index_select(1, input.sorted_indices) for part in state)
        y, state = self._layers(x.reshape(-1, x.shape[-1]), sizes, state)
        if packed:
            if input.unsorted_indices is not None:
                state = tuple(part.index_select(1, input.unsorted_indices) for part in state)
            result: Any = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        else:
            result = y.reshape(len(sizes), sizes[0], y.shape[-1])
            result = result.squeeze(1) if not batched else result.transpose(0, 1) if self.batch_first else result
        state = state if batched else tuple(part.squeeze(1) for part in state)
        return result, state if self.states > 1 else state[0]

    def _first_state(self, hx: Any, x: Tensor, batch: int, batched: bool) -> _State:
        """Return the parts of the state, (layers of both directions, batch, length)."""
        layers = self.num_layers * (2 if self.bidirectional else 1)
        shapes = [(layers, batch, self.proj_size or self.hidden_size), (layers, batch, self.hidden_size)][: self.states]
        if hx is None:
            return tuple(x.new_zeros(shape) for shape in shapes)
        given = hx if self.states > 1 else (hx,)
        state = tuple(part if batched else part.unsqueeze(1) for part in given)
        for part, shape in zip(state, shapes, strict=True):
            if part.shape != shape:
                raise ValueError(
                    _check.must(type(self).__name__, "hx", f"of shape {shape}", f"shape {tuple(part.shape)}")
                )
        return state

    def _layers(self, x: Tensor, sizes: Sequence[int], state: _State) -> tuple[Tensor, _State]:
        """Run the layers over rows of x, as many as `sizes` of each step."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        last: list[_State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in directions:
                first = tuple(part[len(last)] for part in state)
                y, end = self._sequence(x, sizes, first, f"l{layer}{direction}", bool(direction))
                outputs.append(y)
                last.append(end)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _sequence(
        self, x: Tensor, sizes: Sequence[int], first: _State, place: str, reverse: bool
    ) -> tuple[Tensor, _State]:
        """Run one layer in one direction; sequences that are shorter end, or begin, between the steps."""
        steps = self.get_submodule(f"ih_{place}")(x).split(list(sizes))
        order = range(len(sizes))[::-1] if reverse else range(len(sizes))
        outputs: list[Tensor] = [x] * len(sizes)
        state = tuple(part[: sizes[order[0]]] for part in first)
        ended: list[_State] = []
        for t in order:
            size, before = sizes[t], len(state[0])
            if size < before:
                ended.append(tuple(part[size:] for part in state))
                state = tuple(part[:size] for part in state)
            elif size > before:
                state = tuple(torch.cat([part, start[before:size]]) for part, start in zip(state, first, strict=True))
            state = self.step(steps[t], state, place)
            outputs[t] = state[0]
        whole = [state, *reversed(ended)]
        return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(*whole, strict=True))

    def train(self, mode: bool = True) -> Self:
        """Refuse to train; ``train(False)`` changes nothing."""
        evaluated(type(self).__name__, mode)
        return super().train(mode)

    def flatten_parameters(self) -> None:
        """Do nothing: callers of PyTorch's modules call it."""

    def extra_repr(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        defaults = {"proj_size": 0, "num_layers": 1, "batch_first": False, "bidirectional": False}
        parts += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(parts)


class LSTM(_Recurrent):
    """torch.nn.LSTM in evaluation, with layers for its products; see `from_float`.

    ``i, f, g, o = ih(x) + hh(h)``, ``c = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``, projected by
    ``hr`` where proj_size is given. The products of x are those of the whole sequence at once. `forward` takes what
    torch.nn.LSTM takes, packed sequences too.

    Examples
    --------
    >>> import torch
    >>> lstm = torch.nn.LSTM(4, 8, batch_first=True)
    >>> split = LSTM.from_float(lstm)
    >>> x = torch.ones(2, 5, 4)
    >>> bool(torch.isclose(split(x)[0], lstm(x)[0], atol=1e-6).all())
    True
    """

    states = 2

    def step(self, from_input: Tensor, state: _State, place: str) -> _State:
        h, c = state
        i, f, g, o = (from_input + self.get_submodule(f"hh_{place}")(h)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return self.get_submodule(f"hr_{place}")(h) if self.proj_size else h, c


class GRU(_Recurrent):
    """torch.nn.GRU in evaluation, with layers for its products; see `from_float`.

    ``r, z = sigmoid(ih(x) + hh(h))``, ``n = tanh(ih(x) + r hh(h))``, ``h = (1 - z) n + z h``. The products of x are
    those of the whole sequence at once. `forward` takes what torch.nn.GRU takes, packed sequences too.
    """

    states = 1

    def step(self, from_input: Tensor, state: _State, place: str) -> _State:
        (h,) = state
        r, z, n = from_input.chunk(3, dim=-1)
        hr, hz, hn = self.get_submodule(f"hh_{place}")(h).chunk(3, dim=-1)
        r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
        n = (n + r * hn).tanh()
        return ((1 - z) * n + z * h,)
