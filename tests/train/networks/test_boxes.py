"""Anchors, offsets and back, what each anchor is to find, and the detector's two forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgedl.train.networks import build
from edgedl.train.networks.boxes import anchors_of, decode, encode, match, multibox
from edgedl.train.networks.deploy import deployed
from edgedl.train.networks.ssd import SSD
from edgedl.train.shapes import TensorShape

IMAGE = {"image": TensorShape((1, 24, 40))}
SETTINGS = {"width": 8, "levels": 2, "blocks": 1}


def test_anchors_by_hand() -> None:
    found = anchors_of((8, 16), (8, 16), (((4.0, 2.0), (6.0, 6.0)), ((10.0, 8.0),)))
    assert found.tolist() == [
        [4, 4, 4, 2],
        [4, 4, 6, 6],
        [12, 4, 4, 2],
        [12, 4, 6, 6],
        [8, 8, 10, 8],
    ]


def test_offsets_by_hand() -> None:
    anchors = torch.tensor([[10.0, 20, 4, 8]])
    # Centre (12, 20), 4 wide and 8 e high: moved by half a width, 2 / 4 / 0.1 = 5.
    high = 4 * np.e
    box = torch.tensor([[10.0, 20 - high, 14, 20 + high]])
    torch.testing.assert_close(encode(box, anchors), torch.tensor([[5.0, 0, 0, 5]]))
    torch.testing.assert_close(decode(torch.tensor([[5.0, 0, 0, 5]]), anchors), box)


@given(st.integers(0, 10**6))
def test_offsets_and_back(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    anchors = torch.rand(6, 4, generator=random) * 50 + 5
    corner = torch.rand(3, 6, 2, generator=random) * 60
    boxes = torch.cat([corner, corner + 1 + torch.rand(3, 6, 2, generator=random) * 40], 2)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-4)


def test_what_each_anchor_is_to_find() -> None:
    anchors = torch.tensor([[5.0, 5, 10, 10], [15, 5, 10, 10], [25, 5, 10, 10], [6, 5, 10, 10]])
    truth = torch.tensor(
        [
            # The first box is the first anchor itself; the fourth overlaps it by 90 / 110. The
            # second is so small that no anchor overlaps it by half, and its best one is the third.
            [[0.0, 0, 10, 10, 1], [24, 4, 26, 6, 0], [0, 0, 0, 0, -1]],
            [[0.0, 0, 0, 0, -1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -1]],
        ]
    )
    classes, offsets = match(anchors, truth, background=2)
    assert classes.tolist() == [[1, 2, 0, 1], [2, 2, 2, 2]]
    found = decode(offsets, anchors)
    torch.testing.assert_close(found[0, 0], truth[0, 0, :4])
    torch.testing.assert_close(found[0, 2], truth[0, 1, :4])
    torch.testing.assert_close(found[0, 3], truth[0, 0, :4])


def test_two_boxes_of_one_anchor_find_two() -> None:
    anchors = torch.tensor([[5.0, 5, 10, 10], [5, 5, 8, 8]])
    same = torch.tensor([[[0.0, 0, 10, 10, 0], [0, 0, 10, 10, 1]]])
    classes, _ = match(anchors, same, background=2)
    assert sorted(classes[0].tolist()) == [0, 1]
    classes, _ = match(anchors, torch.zeros(2, 0, 5), background=2)
    assert classes.tolist() == [[2, 2], [2, 2]]


def test_the_loss_by_hand() -> None:
    # One anchor finds a box, four nothing: three of those count, all alike but one that is worse.
    anchors = torch.tensor([[5.0, 5, 10, 10], *[[50.0 + 20 * i, 50, 10, 10] for i in range(4)]])
    truth = torch.tensor([[[0.0, 0, 10, 10, 0]]])
    offsets = torch.zeros(1, 5, 4)
    offsets[0, 0, 0], offsets[0, 0, 1] = 2.0, 0.5  # smooth L1: 1.5 and 0.125
    logits = torch.zeros(1, 5, 2)
    logits[0, 4, 0] = 3.0
    half, worse = np.log(2), np.log(1 + np.e**3)
    loss = multibox(offsets, logits, anchors, truth)
    assert loss.tolist() == [pytest.approx(1.5 + 0.125 + half + worse + 2 * half, rel=1e-5)]
    # Without boxes the three worst of the background count.
    nothing = multibox(offsets, logits, anchors, torch.full((1, 1, 5), -1.0))
    assert nothing.tolist() == [pytest.approx(worse + 2 * half, rel=1e-5)]


def built(**settings: Any) -> SSD:
    torch.manual_seed(0)
    network = build("ssd", IMAGE, 3, {**SETTINGS, **settings})
    assert isinstance(network, SSD)
    with torch.no_grad():
        for head in network.scores:
            head.weight.normal_(0, 0.3)
            head.bias.zero_()
    return network.eval()


def test_it_begins_by_seeing_nothing() -> None:
    network = build("ssd", IMAGE, 3, SETTINGS).eval()
    with torch.no_grad():
        found = network(torch.rand(2, 1, 24, 40))["scores"].softmax(-1)
    assert found[..., :3].sum(-1).mean().item() == pytest.approx(0.01, rel=0.2)


def test_the_bundles_boxes_are_the_detectors() -> None:
    network = built()
    # 3 x 5 cells of 8 pixels, 2 x 3 of 16, four anchors each.
    assert network.anchors.shape == (4 * (15 + 6), 4)
    with torch.no_grad():
        answers = network(torch.rand(1, 1, 24, 40))
    said = network.boxes
    raw = {name: value.numpy() for name, value in answers.items()}
    decoded, inputs = deployed(built(decoded=True), IMAGE)
    assert dict(inputs) == IMAGE
    found: dict[str, Tensor] = decoded.decoder(answers["boxes"], answers["scores"])
    kept = decoded.boxes.decode({n: v.numpy() for n, v in found.items()})
    # Above one half a box has one class, and so both forms say the same.
    one = replace(said, threshold=0.5).decode(raw)
    two = replace(decoded.boxes, threshold=0.5).decode({n: v.numpy() for n, v in found.items()})
    assert len(kept.boxes) >= len(one.boxes) > 3
    np.testing.assert_allclose(one.boxes, two.boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-4)
    assert one.classes.tolist() == two.classes.tolist()
    assert set(one.classes.tolist()) <= {0, 1, 2}


def test_it_learns_where_a_square_is() -> None:
    torch.manual_seed(0)
    network = build("ssd", IMAGE, 2, {**SETTINGS, "smallest": 0.3}).train()
    assert isinstance(network, SSD)
    images, truth = torch.zeros(8, 1, 24, 40), torch.full((8, 2, 5), -1.0)
    for row in range(8):
        x, y, kind = 4 * row, row, row % 2
        images[row, 0, y : y + 8, x : x + 8] = 1.0 if kind else 0.4
        truth[row, 0] = torch.tensor([x, y, x + 8, y + 8, kind])
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(120):
        loss = network.loss(network(images), truth)
        assert loss.shape == (8,)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        answers = network.train()(images)
    for row in range(8):
        found = network.boxes.decode({n: v[row : row + 1].numpy() for n, v in answers.items()})
        assert found.classes[0] == truth[row, 0, 4]
        np.testing.assert_allclose(found.boxes[0], truth[row, 0, :4].numpy(), atol=2)
