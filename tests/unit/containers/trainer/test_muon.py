"""The optimiser's step, computed in the training environment."""

from __future__ import annotations

import json
import subprocess

from tollgate.settings import PROJECT

STEP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from trainer.muon import Muon, orthogonalised
torch.manual_seed(0)
wide, tall = orthogonalised(torch.randn(3, 24, 60)), orthogonalised(torch.randn(2, 60, 24))
values = torch.linalg.svdvals(torch.cat([wide, tall.mT]))
weights = [torch.nn.Parameter(torch.randn(8, 8)) for _ in range(2)]
target = [torch.randn(8, 8) for _ in range(2)]
def loss():
    return sum(((w - t) ** 2).sum() for w, t in zip(weights, target))
before, optimizer = loss().item(), Muon(weights, lr=0.05, weight_decay=0.0)
for _ in range(200):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
print(json.dumps({"least": values.min().item(), "greatest": values.max().item(), "ratio": loss().item() / before}))
"""


def test_steps_are_nearly_orthogonal_and_lead_down(ml_python):
    command = [ml_python, "-c", STEP, PROJECT / "containers"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    facts = json.loads(done.stdout)
    assert facts["least"] > 0.5  # five iterations with these coefficients end between about 0.7 and 1.2
    assert facts["greatest"] < 1.3
    assert facts["ratio"] < 0.05
