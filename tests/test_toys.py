"""What only a chapter computes: a function of a notebook, taken out of it and held to its equation."""

import ast
import json
import math

import torch
from torch.autograd.functional import jacobian

from tools import ROOT


def taken(chapter, name, **given):
    """The function that a chapter defines, with what it needs of the chapter's variables."""
    cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text())["cells"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    (node,) = [node for tree in trees for node in tree.body if getattr(node, "name", None) == name]
    space = {"torch": torch, **given}
    exec(compile(ast.Module([node], []), chapter, "exec"), space)
    return space[name]


def test_the_exact_map_carries_the_density_to_the_normal():
    """log p(x) = log N(z; 0, I) + log |det dz/dx|, and the map is triangular: eq-rosenblatt."""
    means, std = torch.tensor([[2.0, 2.0], [-2.0, -1.0]]).double(), 0.7
    exact = taken("04-maf-2d", "rosenblatt", STD=std)
    for x in torch.tensor([[2.0, 1.0], [0.1, 0.3], [-1.5, -2.0], [0.0, 1.0]]).double():
        J = jacobian(lambda x: exact(means, x[None])[0], x)
        assert J[0, 1] == 0
        normal = torch.distributions.Normal(0, 1).log_prob(exact(means, x[None])[0]).sum()
        each = -((x - means) / std).square().sum(-1) / 2 - math.log(2 * math.pi * std**2)
        torch.testing.assert_close(normal + torch.linalg.slogdet(J).logabsdet, each.logsumexp(0) - math.log(2))
