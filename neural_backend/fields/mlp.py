"""A multilayer perceptron with the activations that coordinate networks use."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import Activation

_BLOCK = 2048  # samples


def _gaussian(x: Tensor) -> Tensor:
    return torch.exp(-4.0 * x * x)


@functools.cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether a kind of device multiplies bfloat16 faster than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # without the processor's own instructions it is many times slower
    return device == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def _in_full_blocks(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[M, F] the rows of [N, F] and some zeros, converted.

    oneDNN compiles each multiplication for its exact shape, which takes longer than the
    multiplication; the number of samples is another in every step.
    """
    count, width = x.shape
    rows = torch.empty(-(-count // _BLOCK) * _BLOCK, width, dtype=dtype, device=x.device)
    rows[:count] = x
    rows[count:] = 0.0
    return rows


class _ReluLayers(torch.autograd.Function):
    """Linear layers with ReLUs between them, multiplied in ``dtype``.

    Autograd would do the same with twice as many passes over the samples, most of which only
    convert numbers.
    """

    @staticmethod
    def forward(ctx, x: Tensor, dtype: torch.dtype, *parameters: Tensor) -> Tensor:
        count, full = len(x), x.dtype
        layers = len(parameters) // 2
        weights = [weight.to(dtype) for weight in parameters[:layers]]
        biases = [bias.to(dtype) for bias in parameters[layers:]]
        inputs = [_in_full_blocks(x, dtype)]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(torch.nn.functional.linear(inputs[-1], weight, bias).relu_())
        ctx.save_for_backward(*inputs, *weights)
        out = torch.nn.functional.linear(inputs[-1], weights[-1], biases[-1])
        return out[:count].to(full)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        count, full = len(grad), grad.dtype
        grad = _in_full_blocks(grad, inputs[0].dtype)
        # a sum over bfloat16 rows is several times slower than this product
        ones = torch.ones(1, len(grad), dtype=grad.dtype, device=grad.device)
        of_weights: list[Tensor] = []
        of_biases: list[Tensor] = []
        for layer in reversed(range(layers)):
            of_weights.insert(0, (grad.t() @ inputs[layer]).to(full))
            of_biases.insert(0, (ones @ grad)[0].to(full))
            if layer == 0 and not ctx.needs_input_grad[0]:
                break
            grad = grad @ weights[layer]
            if layer:
                grad = torch.ops.aten.threshold_backward(grad, inputs[layer], 0)
        of_x = grad[:count].to(full) if ctx.needs_input_grad[0] else None
        return of_x, None, *of_weights, *of_biases


class MLP(torch.nn.Module):
    """[N, inputs] -> [N, outputs]; the last layer is linear.

    ``sine`` is SIREN (Sitzmann et al. 2020): ``sin(frequency * x)`` with its own initialisation.
    The others start from He's uniform one.

    Args:
        hidden_layers, width: of the hidden layers; none makes a linear map.
        generator: where the first weights come from.
        frequency: of ``sine``; 30 for plain coordinates, less for encoded ones.
        half: multiply in bfloat16 where the processor is made for it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden_layers: int,
        width: int,
        activation: Activation,
        generator: torch.Generator,
        frequency: float = 30.0,
        half: bool = False,
    ):
        super().__init__()
        self.frequency = frequency
        self._half = half
        self._activation: Callable[[Tensor], Tensor] = {
            "relu": torch.relu,
            "sigmoid": torch.sigmoid,
            "sine": self._sine,
            "gaussian": _gaussian,
        }[activation]
        sizes = [inputs] + [width] * hidden_layers + [outputs]
        self.weights = torch.nn.ParameterList()
        self.biases = torch.nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            if activation != "sine":
                bound = math.sqrt((6.0 if layer < hidden_layers else 3.0) / fan_in)
            else:
                bound = 1.0 / fan_in if layer == 0 else math.sqrt(6.0 / fan_in) / frequency
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
            bias = torch.zeros(fan_out)
            if activation == "sine":
                bias.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            self.weights.append(weight)
            self.biases.append(bias)

    def _sine(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)

    def forward(self, x: Tensor) -> Tensor:
        if self._half and x.dtype == torch.float32 and multiplies_bfloat16(x.device.type):
            if self._activation is torch.relu:
                return _ReluLayers.apply(x, torch.bfloat16, *self.weights, *self.biases)
            with torch.autocast(x.device.type, torch.bfloat16):
                return self._layers(x).float()
        return self._layers(x)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights [outputs, inputs] and biases [outputs], from the first layer to the last."""
        return list(zip(self.weights, self.biases, strict=True))

    def _layers(self, x: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.nn.functional.linear(x, weight, bias)
            if layer < last:
                x = self._activation(x)
        return x
