"""The attentive probe against its equations written out; what it sees; its choice; ranks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.evaluation.attentive import AttentiveHead
from ssl_core.networks.layers import Want
from tests.gloo import Ranks
from tests.ssl_core.evaluation.probing import evaluator_of, figures, with_others_labels

SMALL = {"kind": "attentive", "max_train": 120, "max_val": 60, "epochs": 2, "batch": 32, "rates": [1e-4, 1e-2]}


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (96, 1)])
def test_a_query_attends_to_tokens(width: int, heads: int):
    torch.manual_seed(0)
    head = AttentiveHead(width, 5)
    for p in head.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    x = torch.randn(3, 7, width)
    pool, found = head.pool, []
    for tokens in x:
        query = pool.latent[0, 0] @ pool.q.weight.T + pool.q.bias
        keys, values = (tokens @ pool.kv.weight.T + pool.kv.bias).chunk(2, dim=1)
        parts = []
        for columns in torch.arange(width).chunk(heads):
            scores = [(query[columns] @ key[columns] / (width / heads) ** 0.5).exp() for key in keys]
            seen: list[Tensor] = [s / sum(scores) * value[columns] for s, value in zip(scores, values, strict=True)]
            parts.append(torch.stack(seen).sum(0))
        y = torch.cat(parts) @ pool.proj.weight.T + pool.proj.bias
        z = F.layer_norm(y, (width,), pool.norm.weight, pool.norm.bias)
        y = y + F.gelu(z @ pool.mlp.fc1.weight.T + pool.mlp.fc1.bias) @ pool.mlp.fc2.weight.T + pool.mlp.fc2.bias
        found.append(y @ head.linear.weight.T + head.linear.bias)
    torch.testing.assert_close(head(x), torch.stack(found), rtol=1e-4, atol=1e-4)


def test_val_chooses_nothing_and_patch_tokens_are_what_it_sees():
    section = {**SMALL, "max_train": 400, "max_val": 300, "epochs": 4}
    one, other = evaluator_of(section), evaluator_of(section, images=with_others_labels())
    assert one.want() == Want(patches=(3,))
    assert one.chosen == other.chosen
    found, others = one.measure(2), other.measure(2)
    assert found["attentive"] > 0.2
    assert abs(others["attentive"] - 0.1) < 0.07
    assert found["attentive_rate"] == 1e-2, "the other learns too slowly"


def test_stages_have_tokens_too():
    backbone = {"name": "resnet10t", "image_size": 32, "patch_size": None, "kwargs": {}}
    found = evaluator_of({**SMALL, "max_train": 40, "max_val": 20, "epochs": 1}, backbone=backbone)
    assert 0 <= found.measure(3)["attentive"] <= 1
    assert 0 <= found.measure(3)["attentive_per_class"] <= 1


def test_two_ranks_measure_what_one_does(two_ranks: Ranks):
    section = {**SMALL, "layers": "all", "batch": 21}
    alone = figures(section)
    first, second = two_ranks(figures, section, 2)
    assert first | second == {layer: pytest.approx(values, abs=0.05) for layer, values in alone.items()}
