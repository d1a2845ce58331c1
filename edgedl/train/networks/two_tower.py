"""A two-tower recommender: how well a user and an item go together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.networks.inputs import ids, positive, share
from edgedl.train.networks.layers import begin_dense
from edgedl.train.shapes import TensorShape


def two_tower(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    users: int = 0,
    items: int = 0,
    width: int = 32,
    hidden: tuple[int, ...] = (64,),
    dropout: float = 0.0,
) -> nn.Module:
    """Two towers of embeddings and dense layers, and the product of what they end in (Covington et
    al., Deep Neural Networks for YouTube Recommendations, 2016; Yi et al., Sampling-Bias-Corrected
    Neural Modeling, 2019), with biases as in Koren et al., Matrix Factorization Techniques (2009).
    Without `hidden` it is matrix factorization.

    A user's id and an item's, int64 [batch] or [batch, 1], to a score [batch, 1].

    Args:
        inputs: the users, then the items.
        outputs: 1.
        users: different users; as the data says where 0.
        items: different items; as the data says where 0.
        width: values that a tower begins and ends with.
        hidden: values of the layers between.
        dropout: share of an embedding left out while training.

    Raises:
        BadValue: the inputs are not two ids, nobody says how many there are, or a setting is out of
            range.
    """
    if len(inputs) != 2 or any(not s.whole or s.shape not in ((), (1,)) for s in inputs.values()):
        given = ", ".join(f"`{name}` ({shape})" for name, shape in inputs.items()) or "nothing"
        message = f"it takes a user's id and an item's, and the data has {given}"
        raise BadValue(
            message,
            hint="`data: {table: r.csv, ids: [user, item], label: stars}`; or two inputs, int64 of"
            " one number: np.savez('r.npz', user=u, item=i, labels=stars), and `arrays: r.npz`",
        )
    if outputs != 1:
        message = f"it gives one score, and this data wants {outputs} answers"
        raise BadValue(message, hint="let the labels be one number: a rating, or 0 and 1")
    user, item = inputs
    many, kinds = ids(inputs, user, users, "users"), ids(inputs, item, items, "items")
    positive(width=width)
    share(dropout=dropout)
    for wide in hidden:
        positive(hidden=wide)
    return TwoTower(Tower(many, width, hidden, dropout), Tower(kinds, width, hidden, dropout))


class Tower(nn.Module):
    """An id's embedding and what dense layers make of it, and its bias."""

    def __init__(self, count: int, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, width)
        self.bias = nn.Embedding(count, 1)
        self.layers = nn.Sequential(nn.Dropout(dropout))
        inside = width
        for wide in hidden:
            self.layers.extend([nn.Linear(inside, wide), nn.ReLU()])
            inside = wide
        if hidden:
            self.layers.append(nn.Linear(inside, width))
        begin_dense(self)
        nn.init.normal_(self.embedding.weight, 0, width**-0.5)
        nn.init.zeros_(self.bias.weight)

    def forward(self, one: Tensor) -> tuple[Tensor, Tensor]:
        """The ids' values [batch, width], for an index of neighbours, and their biases [batch,
        1]."""
        one = one.reshape(-1)
        return self.layers(self.embedding(one)), self.bias(one)


class TwoTower(nn.Module):
    """The product of a user's values and an item's, and the biases of both and of all.

    `user` and `item` are the towers, which can be exported alone.
    """

    def __init__(self, user: Tower, item: Tower) -> None:
        super().__init__()
        self.user, self.item = user, item
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores [batch, 1]."""
        left, more = self.user(user)
        right, still = self.item(item)
        score: Tensor = (left * right).sum(1, keepdim=True) + more + still + self.bias
        return score
