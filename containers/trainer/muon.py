"""Muon in 32-bit arithmetic: momentum orthogonalised by Newton-Schulz, for the matrices of small models on a CPU.

``torch.optim.Muon`` computes in bfloat16, which crawls on processors without native bfloat16 instructions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Approximate the nearest orthogonal matrices (singular values near 1) by five Newton-Schulz iterations.

    Coefficients and iteration: Keller Jordan, Muon (2024).

    Args:
        matrices: Shape (number, rows, columns).

    Returns:
        The same shape.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised steps, for two-dimensional parameters only.

    Args:
        parameters: Matrices; those of one shape are handled together.
        lr: Learning rate; a step's singular values are about this large.
        momentum: Decay of the running gradient (Nesterov).
        weight_decay: Decoupled decay, times ``lr``.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter once, by its gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                directions = orthogonalised(torch.stack([self._nesterov(one, group["momentum"]) for one in parameters]))
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-scale)

    def _nesterov(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "running" not in state:
            state["running"] = torch.zeros_like(gradient)
        running = state["running"].mul_(momentum).add_(gradient)
        return gradient + momentum * (running - gradient)
