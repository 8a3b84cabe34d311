"""Training with rounding: a copy of a model whose layers compute with fake-quantized weights and inputs."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import _check
from ..arrays.quantized import quantize
from ..dtypes import INTEGER_TYPES
from ..granularity import PerChannel, PerGroup, PerRow
from ..reports.scores import finite_decibels, signal_and_noise
from . import conv, embedding, modules
from ._copies import disable_fast_paths
from ._folds import find_folds
from ._kinds import find_layers
from ._library import array_of
from ._quantizers import FakeQuantize, LearnedScale, OwnRange, Quantizer, Resumable, straight_through
from .config import Config, codes_in_bytes
from .prepare import check_model

__all__ = ["CONVERSIONS", "prepare_qat", "quantizers"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


# ---- layers ----


class TrainedLayer(nn.Module):
    """What layers with fake-quantization have beside those of PyTorch, whose parameters keep their names.

    Attributes
    ----------
    weight_quantizer : Quantizer
    input_quantizer : Quantizer or None
    norm : BatchNorm1d or BatchNorm2d, or None
        The batch normalisation after the layer, which scales the weight before it is quantized.
    """

    weight: Any
    bias: Any
    weight_quantizer: Quantizer
    input_quantizer: Quantizer | None
    config: Config
    _norm: tuple[Any] | None = None  # in a tuple it is no submodule, and keeps its name in the model

    @property
    def norm(self) -> Any:
        return None if self._norm is None else self._norm[0]

    def compute(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the layer of PyTorch computes."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self._norm is None:
            return self.compute(*self._rounded(x, self.weight), self.bias)
        # The normalisation that follows divides by the deviation of the batch, so the factor is taken out again.
        factor = self.norm.factor()
        factor = torch.where(factor == 0, 1, factor)
        y = self.compute(*self._rounded(x, self.scaled_weight(factor)), None)
        y = y / self._beside_y(factor).to(y.dtype)
        return y if self.bias is None else y + self._beside_y(self.bias)

    def _rounded(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input and the weight, fake-quantized; together where both are observed."""
        held: Any = self._modules  # faster than the attributes of a module
        of_x, of_w = held["input_quantizer"], held["weight_quantizer"]
        if type(of_x) is FakeQuantize and type(of_w) is FakeQuantize and of_x.joins(x) and of_w.joins(w):
            return straight_through([of_x.scheme, of_w.scheme], (x, w), [of_x.held(), of_w.held()])  # type: ignore[no-any-return]
        return x if of_x is None else of_x(x), of_w(w)

    def scaled_weight(self, factor: Tensor) -> Any:
        return self.weight * factor.reshape(-1, *[1] * (self.weight.ndim - 1)).to(self.weight.dtype)

    def _beside_y(self, v: Tensor) -> Tensor:
        return v.reshape(-1, *[1] * (self.weight.ndim - 2))

    def folded(self) -> tuple[Any, Tensor | None]:
        """Return the codes of the weight and the bias, with the normalisation in both."""
        with torch.no_grad():
            w, bias = self.weight, self.bias
            if self._norm is not None:
                norm, factor = self.norm, self.norm.factor(torch.float64)
                w = self.scaled_weight(self.norm.factor())
                mean = -norm.running_mean.double() if bias is None else bias - norm.running_mean.double()
                bias = mean * factor if norm.bias is None else mean * factor + norm.bias
                bias = bias.to(self.weight.dtype)
            quantizer = deepcopy(self.weight_quantizer).eval()
            quantizer(w)  # the range of the weight as it is now
        return quantize(array_of(w.detach()), quantizer.qparams()), bias

    def sqnr_db(self, converted: Any) -> float | None:
        """Return what rounding leaves of the weight in a layer of codes, with the normalisation in both."""
        w = self.weight if self._norm is None else self.scaled_weight(self.norm.factor())
        signal = array_of(w.detach().float())
        return finite_decibels(*signal_and_noise(signal, array_of(converted.dequantize()).reshape(signal.shape)))

    def options_of_x(self) -> dict[str, Any]:
        """Return the options of PackedWeight for x."""
        quantizer = self.input_quantizer
        if isinstance(quantizer, OwnRange):
            bits = quantizer.code.bits
            return {"x_granularity": quantizer.granularity, "symmetric": quantizer.symmetric, "activation_bits": bits}
        return self.config.options_of_x() if quantizer is None else {"x_qparams": codes_in_bytes(quantizer.qparams())}


class Linear(TrainedLayer, nn.Linear):
    """torch.nn.Linear with fake-quantization."""

    def compute(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, w, bias)

    def converted(self) -> nn.Module:
        """Return the layer of codes."""
        w, bias = self.folded()
        return modules.Linear(w, None if bias is None else array_of(bias.detach()), **self.options_of_x())


class _Convolution(TrainedLayer):
    kind: type[conv.Conv1d] | type[conv.Conv2d]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < self.weight.ndim:  # one image, whose range is that of a batch of one
            return super().forward(x.unsqueeze(0)).squeeze(0)
        return super().forward(x)

    def compute(self: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = self._conv_forward(x, w, bias)
        return y

    def converted(self: Any) -> nn.Module:
        """Return the layer of codes."""
        w, bias = self.folded()
        return self.kind(  # type: ignore[no-any-return]
            w, None if bias is None else array_of(bias.detach()), stride=self.stride, padding=self.padding,
            dilation=self.dilation, groups=self.groups, x_qparams=self.options_of_x().get("x_qparams"),
        )  # fmt: skip


class Conv1d(_Convolution, nn.Conv1d):
    """torch.nn.Conv1d with fake-quantization."""

    kind = conv.Conv1d


class Conv2d(_Convolution, nn.Conv2d):
    """torch.nn.Conv2d with fake-quantization."""

    kind = conv.Conv2d


class Embedding(TrainedLayer, nn.Embedding):
    """torch.nn.Embedding with a fake-quantized table."""

    bias = None

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight_quantizer(self.weight)
        return functional.embedding(x, w, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def converted(self) -> nn.Module:
        """Return the layer of codes."""
        return embedding.Embedding(self.folded()[0], padding_idx=self.padding_idx, dtype=self.weight.dtype)


class _Norm(Resumable):
    """A batch normalisation that is folded into the layer before it; it still has the statistics of the batches."""

    frozen: bool = False
    _resumed = ("frozen",)

    def factor(self: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return ``gamma / sqrt(variance + eps)`` of the running variance."""
        deviation = (self.running_var.to(dtype) + self.eps).sqrt()
        return 1 / deviation if self.weight is None else self.weight.to(dtype) / deviation

    def freeze(self) -> None:
        """Keep the statistics as they are, in training too."""
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def converted(self) -> nn.Module:
        """Return nothing to do: the layer before has it in its weight."""
        return nn.Identity()


class BatchNorm1d(_Norm, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d that is folded."""


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d that is folded."""


_LAYERS: dict[type[nn.Module], type[TrainedLayer]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Embedding: Embedding,
}
_NORMS: dict[type[nn.Module], type[_Norm]] = {nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d}


# ---- models ----


def prepare_qat(model: nn.Module, config: Config | None = None, *, delay: int = 0) -> nn.Module:
    """Return a copy of a model that trains with rounding: its layers fake-quantize their weights and inputs.

    `convert` turns the trained copy into a model of codes, whose results are those of the copy in evaluation within the
    rounding of float32, but where a code of x lies between two steps.

    Parameters
    ----------
    model : Module
        Its parameters are float32, float16 or bfloat16. Linear, Conv1d, Conv2d and Embedding are quantized.
    config : Config, optional
        By default ``Config(mode="static")``. Weights have the range of their extremes, inputs that of a moving average
        in the mode "static", in the others that of each array. ``Config(qat="lsq")`` trains the scales of weights and
        of static inputs in place of both.
    delay : int, default 0
        As many calls of a layer in training do not round; ranges are observed.

    Returns
    -------
    Module
        In training mode. Layers are of subclasses with the same names of parameters, so a state_dict of the model
        loads. A state_dict of the copy holds the ranges too.

    Raises
    ------
    TypeError
        model is no Module, or config no Config.
    ValueError
        model is prepared; a pattern of config matches no module.
    TypeError
        delay is no integer.
    ValueError
        delay is negative; model has quantized layers; config selects no layer.
    TypeError
        The weight of a layer is not float32, float16 or bfloat16.
    ValueError
        config asks for what training does not have.

    Notes
    -----
    Gradients pass as if nothing were rounded, but not where a code saturates (the straight-through estimator). A batch
    normalisation after a layer is folded: the weight is rounded as it will be, scaled by gamma and the running
    variance, while the batch is normalised by its own statistics until `freeze`. A `qnumpy.qat.Schedule` lowers the
    bits of `quantizers` and freezes them.

    R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, section 3.2.

    Examples
    --------
    >>> import torch
    >>> model = prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    >>> adam = torch.optim.Adam(model.parameters())
    >>> model(torch.ones(3, 4)).square().sum().backward()
    >>> adam.step()
    >>> model[0]
    Linear(
      in_features=4, out_features=8, bias=True
      (weight_quantizer): FakeQuantize(int8, per channel 0, symmetric)
      (input_quantizer): FakeQuantize(uint8, per tensor, affine)
    )
    """
    owner = "prepare_qat"
    config = check_model(owner, model, Config(mode="static") if config is None else config)
    delay = _check.count(owner, "delay", delay)
    for name, module in model.named_modules():
        if isinstance(module, TrainedLayer | modules.Quantized):
            raise ValueError(_check.must(owner, "model", "a float model", f"{type(module).__name__} at {name!r}"))
    copy = deepcopy(model).train()
    chosen = {
        layer.name: layer
        for layer in find_layers(copy, config)
        if layer.converts and type(layer.module) in _LAYERS and not getattr(layer.module, "max_norm", None)
    }
    if not chosen:
        wanted = f"one with layers that config selects: {', '.join(kind.__name__ for kind in _LAYERS)}"
        raise ValueError(_check.must(owner, "model", wanted, type(model).__name__))
    for name, layer in chosen.items():
        _check_layer(owner, name, layer.module, layer.config)
    for name, norm in find_folds(copy).batch_norms.items():
        normed = copy.get_submodule(norm)
        if name in chosen and type(normed) in _NORMS:
            normed.__class__ = _NORMS[type(normed)]
            chosen[name].module._norm = (normed,)  # type: ignore[assignment]
    for layer in chosen.values():
        _simulate(layer.module, layer.config, delay)
    disable_fast_paths(copy)
    return copy


def trains(model: nn.Module) -> bool:
    """Return whether a model is one of `prepare_qat`."""
    return any(isinstance(module, TrainedLayer) for module in model.modules())


def _check_layer(owner: str, name: str, module: Any, config: Config) -> None:
    if module.weight.dtype not in _FLOATS:
        got = f"{str(module.weight.dtype).removeprefix('torch.')} at {name!r}"
        raise TypeError(_check.must(owner, "model", "of float32, float16 or bfloat16", got))
    refused = {
        "dtype": (config.dtype in INTEGER_TYPES, "a type of integers"),
        "method": (config.method in ("minmax", "mse"), "'minmax', the range that weights have in training"),
        "observer": (config.observer in ("minmax", "moving_average"), "'moving_average'"),
        "smooth": (not config.smooth, "False in training"),
        "hadamard": (not config.hadamard, "left out in training"),
    }
    for field, (fits, wanted) in refused.items():
        if not fits:
            raise ValueError(_check.must(owner, f"config.{field}", wanted, _check.typed(getattr(config, field))))


def _simulate(module: Any, config: Config, delay: int) -> None:
    """Make a layer one with quantizers, in its place: hooks, names and references stay."""
    module.__class__ = _LAYERS[type(module)]
    module.config = config
    learned = config.qat == "lsq"
    granularity: Any = config.granularity
    if module.weight.ndim > 2 and isinstance(granularity, PerGroup):  # filters have no groups
        granularity = PerChannel(0)
    shape = granularity.params_shape(tuple(module.weight.shape))
    scheme: Any = {"granularity": granularity, "shape": shape, "delay": delay}
    if learned:
        symmetric: Any = "full" if config.symmetric is True else config.symmetric
        module.weight_quantizer = LearnedScale(config.dtype, symmetric=symmetric, **scheme)
        module.weight_quantizer.begin(module.weight)
    else:
        module.weight_quantizer = FakeQuantize(
            config.dtype, symmetric=config.symmetric is not False, averaging_constant=1, always=True, **scheme
        )
    images = isinstance(module, _Convolution)
    of_x = None if isinstance(module, Embedding) else _quantizer_of_x(config, images, learned, delay)
    module.register_module("input_quantizer", of_x)


def _quantizer_of_x(config: Config, images: bool, learned: bool, delay: int) -> Quantizer | None:
    if config.mode == "weights":
        return None
    dtype = config.dtype_of_x
    if config.mode == "dynamic":
        if images:
            return OwnRange("uint8", PerChannel(0), delay=delay)
        granularity = PerRow() if config.x_granularity is None else config.x_granularity
        return OwnRange(dtype, granularity, symmetric=config.x_symmetric, delay=delay)
    kind = LearnedScale if learned else FakeQuantize
    return kind(dtype, symmetric=config.x_symmetric, delay=delay)


def quantizers(model: nn.Module) -> Iterator[Quantizer | _Norm]:
    """Yield what a `qnumpy.qat.Schedule` changes: quantizers, and batch normalisations that are folded.

    Examples
    --------
    >>> import torch
    >>> from qnumpy import qat
    >>> model = prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 8)))
    >>> qat.Schedule({0: "int8", 3: "int4"}, freeze=5).begin_epoch(4, quantizers(model))
    >>> model[0].weight_quantizer.dtype, model[0].input_quantizer.dtype
    ('int4', 'uint4')
    """
    for module in model.modules():
        if isinstance(module, Quantizer | _Norm):
            yield module


def _converted(module: Any) -> nn.Module:
    layer: nn.Module = module.converted()
    return layer


# What `convert` makes of the modules.
CONVERSIONS: dict[type[nn.Module], Callable[[Any], nn.Module]] = dict.fromkeys(
    [*_LAYERS.values(), *_NORMS.values()], _converted
)
