"""Losses, worked out by hand, and that their mean is torch's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.errors import BadOption, BadSamples, BadValue
from edgedl.train.data.dataset import IGNORED
from edgedl.train.losses import check_labels, chosen, loss_of
from edgedl.train.settings import Bce, CrossEntropy, Ctc, Focal, Loss, Mse, OfNetwork, OwnLoss

CPU = torch.device("cpu")


def made(
    settings: Loss, outputs: object, targets: Tensor, labels: np.ndarray | None = None
) -> Tensor:
    return loss_of(settings, labels, CPU)(outputs, targets)


def test_cross_entropy_by_hand() -> None:
    outputs = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    found = made(CrossEntropy(), outputs, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([math.log(2), math.log(4)])
    smoothed = made(CrossEntropy(label_smoothing=0.2), outputs, torch.tensor([0, 1]))
    by_hand = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
    assert smoothed.tolist() == pytest.approx([math.log(2), by_hand])


def test_balanced_weights_have_a_mean_of_one_over_the_samples() -> None:
    """Three of one class and one of another: 4 / (2 * 3) and 4 / (2 * 1)."""
    labels = np.array([0, 0, 0, 1])
    outputs = torch.zeros(4, 2)
    for settings in (CrossEntropy(balanced=True), Focal(gamma=0, balanced=True)):
        found = made(settings, outputs, torch.from_numpy(labels), labels) / math.log(2)
        assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
        assert float(found.mean()) == pytest.approx(1)
        # a third class that no training row has
        behind = made(settings, torch.zeros(4, 3), torch.from_numpy(labels + 1), labels)
        weighed = (behind / math.log(3)).tolist()
        assert weighed == pytest.approx([2, 2, 2, 1])


def test_places_of_maps_are_averaged_but_for_those_ignored() -> None:
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    targets[0, :2] = IGNORED
    targets[1] = IGNORED
    found = made(CrossEntropy(), outputs, targets)
    assert float(found[0]) == pytest.approx(
        float(functional.cross_entropy(outputs[:1], targets[:1])), rel=1e-5
    )
    assert float(found[1]) == 0


def test_focal_counts_less_what_is_known() -> None:
    """p of the right class is 3/4: (1/4)^2 * log(4/3), and so for one sigmoid."""
    by_hand = (1 / 4) ** 2 * math.log(4 / 3)
    two = made(Focal(), torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]))
    one = made(Focal(), torch.tensor([[math.log(3)]]), torch.tensor([1]))
    assert [float(two), float(one)] == pytest.approx([by_hand, by_hand])


def test_binary_and_squares_stand_beside_labels_of_one_axis_less() -> None:
    outputs = torch.tensor([[0.0], [math.log(3)]])
    found = made(Bce(positive_weight=2), outputs, torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([2 * math.log(2), math.log(4)])
    squares = made(Mse(), torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))
    assert squares.tolist() == [1, 4]
    with pytest.raises(BadSamples, match=r"a label has shape \(\), the network's output \(2,\)"):
        made(Mse(), torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(BadSamples, match="a label has shape"):
        made(Mse(), torch.zeros(4, 1), torch.zeros(2, 2))


def test_ctc_by_hand_and_by_torch() -> None:
    """Two steps, blank and one symbol, all equally likely: 3 of 4 paths spell it."""
    found = made(Ctc(), torch.zeros(1, 2, 2), torch.tensor([[1, -1]]))
    assert float(found) == pytest.approx(-math.log(3 / 4))
    scores = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, 3], [4, -1, -1], [2, 2, -1]])
    wanted = functional.ctc_loss(
        scores.log_softmax(-1).transpose(0, 1), targets.clamp_min(0), (9, 9, 9), (3, 1, 2)
    )
    assert float(made(Ctc(), scores, targets).mean()) == pytest.approx(float(wanted))


def test_half_precision_and_several_outputs_are_taken() -> None:
    outputs = {"scores": torch.zeros(1, 4, dtype=torch.bfloat16), "more": torch.zeros(3)}
    found = made(CrossEntropy(), outputs, torch.tensor([2]))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(math.log(4))
    assert float(made(CrossEntropy(), (outputs["scores"],), torch.tensor([2]))) == float(found)


def whole_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def shapeless(outputs: Tensor, targets: Tensor) -> float:
    return 0.0


def test_the_users_own_may_be_a_mean_or_one_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OwnLoss(name="tests.train.test_losses:whole_mean")
    found = made(own, torch.tensor([1.0, 5.0]), torch.tensor([0.0, 0.0]))
    assert found.tolist() == [3, 3]
    with pytest.raises(BadOption, match="gave float"):
        made(OwnLoss(name="tests.train.test_losses:shapeless"), torch.zeros(2), torch.zeros(2))
    (tmp_path / "lying_here.py").write_text("def each(outputs, targets):\n    return outputs * 2\n")
    (tmp_path / "broken_here.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    assert made(OwnLoss(name="lying_here:each"), torch.ones(2), torch.ones(2)).tolist() == [2, 2]
    with pytest.raises(BadOption, match="ZeroDivisionError"):
        loss_of(OwnLoss(name="broken_here:each"), None, CPU)


@pytest.mark.parametrize(
    ("settings", "shape", "labels", "says"),
    [
        (CrossEntropy(), (2, 3), np.array([0, 3]), "label 3 is outside the network's 3 outputs"),
        (CrossEntropy(), (2, 3), np.array([0, -1]), "label -1 is outside"),
        (CrossEntropy(), (2, 1), np.array([[0, 3], [0, 1]]), "label 3 is outside"),
        (CrossEntropy(), (2, 3), np.array([0.0, 1.0]), "labels are float64 of shape"),
        (CrossEntropy(), (2, 3), None, "`cross_entropy` needs labels"),
        (Ctc(), (2, 9, 5), np.array([[1, 5], [2, -1]]), "label 5 is outside the network's 5"),
        (Ctc(), (2, 5), np.array([1, 2]), "rows of symbols"),
        (Ctc(), (2, 9, 5), np.array([[1, 0], [2, -1]]), "row 0 has the symbol 0, which is the bla"),
        (Ctc(), (2, 3, 5), np.array([[1, 2, 3], [2, 2, 1]]), "1 of 2 labels need .* row 1 with 4"),
        (CrossEntropy(), (2, 1), np.array([[0.5], [2.0]]), "there is one output"),
        (CrossEntropy(), (2, 2), np.array([[0.5, 2.0]] * 2), "labels are not between 0 and 1"),
        (Focal(), (2, 1), np.array([[0.5], [2.0]]), "labels are not between 0 and 1"),
        (Bce(), (2, 1), np.array([[-1.0], [1.0]]), "labels are not between 0 and 1"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be(
    settings: Loss, shape: tuple[int, ...], labels: np.ndarray | None, says: str
) -> None:
    with pytest.raises(BadSamples, match=says):
        check_labels(settings, torch.zeros(shape), labels, "here")


@pytest.mark.parametrize(
    ("settings", "shape", "labels"),
    [
        (CrossEntropy(), (2, 3), np.array([0, 2])),
        (CrossEntropy(), (2, 3), np.full((2, 3), 1 / 3)),
        (CrossEntropy(), (2, 3, 2, 2), np.full((2, 2, 2), IGNORED)),
        (Focal(), (2, 1), np.array([0, 1])),
        (Ctc(), (2, 9, 5), np.array([[1, -1]])),
        (Mse(), (2, 3), None),
    ],
)
def test_labels_that_can(settings: Loss, shape: tuple[int, ...], labels: np.ndarray | None) -> None:
    check_labels(settings, torch.zeros(shape), labels, "here")


def test_weights_of_other_classes_are_told_by_their_keys() -> None:
    with pytest.raises(BadValue, match="2 class weights for 3 outputs") as caught:
        check_labels(Focal(class_weights=(1, 2)), torch.zeros(2, 3), np.array([0, 1]), "here")
    assert caught.value.keys == ("loss", "class_weights")


def test_what_is_not_named_is_the_networks_own_or_what_labels_suggest() -> None:
    class Judge(torch.nn.Module):
        def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (outputs - labels).abs().sum(dim=1)

    plain, classes, values = torch.nn.Identity(), np.arange(3), np.zeros((3, 1), np.float32)
    assert isinstance(chosen(None, plain, classes), CrossEntropy)
    assert isinstance(chosen(None, plain, values), Mse)
    assert isinstance(chosen(None, plain, None), Mse)
    assert isinstance(chosen(None, Judge(), classes), OfNetwork)
    assert chosen(Focal(), Judge(), classes) == Focal()
    own = loss_of(OfNetwork(), None, CPU, Judge())
    assert own(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [3.0, 3.0]
    with pytest.raises(BadOption, match="no `loss` of its own"):
        loss_of(OfNetwork(), None, CPU, plain)


def test_dice_by_hand() -> None:
    """Two pixels of one picture, each class of one, both told with 3/4: of each class the overlap
    is 2 * 3/4 over a size of 1 + 1; a pixel that counts nowhere changes nothing."""
    scores = torch.tensor([[[[math.log(3), 0, 5.0]], [[0, math.log(3), 0.0]]]])
    targets = torch.tensor([[[0, 1, IGNORED]]])
    entropy = made(CrossEntropy(), scores, targets)
    assert entropy.tolist() == pytest.approx([math.log(4 / 3)])
    assert made(CrossEntropy(dice=1.0), scores, targets).tolist() == pytest.approx([1 / 4])
    half = made(CrossEntropy(dice=0.5), scores, targets)
    assert half.tolist() == pytest.approx([(math.log(4 / 3) + 1 / 4) / 2])
    assert made(CrossEntropy(dice=1.0), scores, torch.full((1, 1, 3), IGNORED)).tolist() == [0.0]


def test_dice_counts_the_classes_that_a_mask_holds() -> None:
    """All of class 0, told with 1/2: 2 * 1 over 2 + 1 for two pixels."""
    scores = torch.zeros(1, 2, 1, 2)
    found = made(CrossEntropy(dice=1.0), scores, torch.zeros(1, 1, 2, dtype=torch.int64))
    assert found.tolist() == pytest.approx([1 - 2 / 3])


def test_masks_suggest_cross_entropy_and_their_places_are_checked() -> None:
    masks = np.zeros((4, 6, 8), np.int16)
    masks[0, 0, 0] = IGNORED
    network = torch.nn.Identity()
    assert chosen(None, network, masks) == CrossEntropy()
    assert chosen(None, network, masks.astype(np.float32)) == Mse()
    maps = torch.zeros(2, 3, 6, 8)
    check_labels(CrossEntropy(dice=0.5, class_weights=(1, 2, 3)), maps, masks, "here")
    for outputs in (torch.zeros(2, 3), torch.zeros(2, 3, 3, 4)):
        with pytest.raises(BadSamples, match=r"a label has shape \(6, 8\)"):
            check_labels(CrossEntropy(), outputs, masks, "here")
    with pytest.raises(BadSamples, match="label 3 is outside the network's 3 outputs"):
        check_labels(CrossEntropy(), maps, masks + 3, "here")
    with pytest.raises(BadValue, match="2 class weights for 3 outputs"):
        check_labels(CrossEntropy(class_weights=(1, 2)), maps, masks, "here")
    with pytest.raises(BadSamples, match="`dice` is of masks"):
        check_labels(CrossEntropy(dice=1), torch.zeros(2, 3), np.zeros(4, np.int64), "here")
