"""What a recipe says under `train:`, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgedl.core.errors import BadValue
from edgedl.train.augmentations import Augment, Cutmix, Mixup
from edgedl.train.bounds import above, least, within


def _rates(settings: Any) -> None:
    above(settings, 0, "lr")
    least(settings, 0, "weight_decay")


def _weights(settings: Any) -> None:
    if settings.balanced and settings.class_weights:
        raise BadValue(
            "weights are given, and also to be found", keys=("balanced",), hint="leave one out"
        )
    if any(weight < 0 for weight in settings.class_weights):
        raise BadValue("a weight is negative", keys=("class_weights",), hint="0 or more")


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Softmax and cross-entropy against class indices, or against probabilities of classes.

    Attributes:
        label_smoothing: the share of each label that is spread over all classes (Szegedy et al.,
            Rethinking the Inception Architecture, CVPR 2016).
        class_weights: one a class; none, and `balanced`, from how often each class occurs, so that
            their mean over the training samples is 1.
        dice: of masks, the share of the loss that soft Dice makes (Milletari et al., V-Net, 3DV
            2016; Sudre et al., DLMIA 2017), which small classes count in as much as large ones.
    """

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    balanced: bool = False
    dice: float = 0.0

    def __post_init__(self) -> None:
        within(self, 0, 1, "label_smoothing", "dice")
        _weights(self)


@dataclass(frozen=True, kw_only=True)
class Focal:
    """Cross-entropy that counts less what is already told well: times (1 - p)^gamma.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017. Softmax where labels are class
    indices, a sigmoid each where they are as many as the outputs.
    """

    name: Literal["focal"] = "focal"
    gamma: float = 2.0
    class_weights: tuple[float, ...] = ()
    balanced: bool = False

    def __post_init__(self) -> None:
        least(self, 0, "gamma")
        _weights(self)


@dataclass(frozen=True, kw_only=True)
class Bce:
    """A sigmoid and binary cross-entropy for each output; `positive_weight` counts the ones."""

    name: Literal["bce"] = "bce"
    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        above(self, 0, "positive_weight")


@dataclass(frozen=True, kw_only=True)
class Mse:
    """The mean square of what outputs differ by from values, or from the input itself."""

    name: Literal["mse"] = "mse"


@dataclass(frozen=True, kw_only=True)
class Ctc:
    """Graves et al., Connectionist Temporal Classification, ICML 2006.

    Outputs are [batch, steps, symbols], labels rows of symbols that are filled up with -1.
    """

    name: Literal["ctc"] = "ctc"
    blank: int = 0

    def __post_init__(self) -> None:
        least(self, 0, "blank")


@dataclass(frozen=True, kw_only=True)
class OfNetwork:
    """The network's own, as a detector has: its `loss(outputs, labels)`."""

    name: Literal["network"] = "network"


@dataclass(frozen=True, kw_only=True)
class OwnLoss:
    """The user's own, `module:callable`: (outputs, labels) to one loss a sample, or their mean."""

    name: str


Loss = CrossEntropy | Focal | Bce | Mse | Ctc | OfNetwork | OwnLoss


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent. `decay_norms`: weight decay also on norms and biases."""

    name: Literal["sgd"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_norms: bool = True

    def __post_init__(self) -> None:
        _rates(self)
        within(self, 0, 1, "momentum")
        if self.nesterov and not self.momentum:
            raise BadValue("`nesterov` needs momentum", keys=("nesterov",), hint="momentum: 0.9")


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Kingma and Ba, ICLR 2015; weight decay is added to the gradients."""

    name: Literal["adam"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_norms: bool = True

    def __post_init__(self) -> None:
        _rates(self)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Loshchilov and Hutter, Decoupled Weight Decay, ICLR 2019; none on norms and biases."""

    name: Literal["adamw"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    decay_norms: bool = False

    def __post_init__(self) -> None:
        _rates(self)


Optimizer = Sgd | Adam | AdamW


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear from 0, then half a cosine down to a share `final` (Loshchilov and Hutter, SGDR)."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        least(self, 0, "warmup_epochs")
        within(self, 0, 1, "final")


@dataclass(frozen=True, kw_only=True)
class Step:
    """Times `factor` after each of these epochs."""

    name: Literal["step"] = "step"
    at: tuple[int, ...]
    factor: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        least(self, 0, "warmup_epochs")
        above(self, 0, "factor")


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Up by a half cosine over the share `rise` of all steps, then down by one.

    Smith and Topin, Super-Convergence, 2018; `start` and `final` are shares of the rate. The
    momentum stays.
    """

    name: Literal["one_cycle"] = "one_cycle"
    rise: float = 0.3
    start: float = 0.04
    final: float = 4e-6

    def __post_init__(self) -> None:
        within(self, 0, 1, "rise", "start", "final")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate throughout, after a linear warm-up."""

    name: Literal["constant"] = "constant"
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        least(self, 0, "warmup_epochs")


Schedule = Cosine | Step | OneCycle | Constant


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a network is trained.

    Attributes:
        epochs: the most; 0 takes the network as it is made, with the weights that it comes with.
        batch: samples that make one step, of all processes together; a last group of fewer is left
            out of an epoch, unless it is the only one.
        loss: None: the network's own where it has one, else cross-entropy where labels are
            classes, and the mean square where they are values.
        target: what the network should answer: labels, or its first input; None: labels where
            there are any.
        augment: what is done to a batch of the first input, in this order.
        balance: draw each class equally often.
        precision: what the network computes in while it learns; its weights are float32.
        ema: how much of an average of past weights stays in a step; the average is what is kept.
        clip: the most that the norm of all gradients may be.
        accumulate: parts that each process goes through its batch in, for less memory; the step
            is that of the whole.
        compile: by `torch.compile`.
        divide: what processes that train together divide: the samples of each batch, each holding
            the whole network; or the weights, too, with their gradients and what the optimizer
            remembers, for networks that one device cannot hold.
        channels_last: images in memory as their channels lie together.
        patience: stop after so many epochs that were no better.
        metric: the name of what is better or worse, for whoever calls `fit`; None: the loss.
        checkpoint_seconds: write one at least so often; there is one at each epoch's end.
        track: also tell `tensorboard` or `mlflow`.
        memory: the share of free memory that prepared samples may take; prepared anew each epoch
            where they do not fit.
        threads: that prepare samples ahead; None: one a core.
    """

    epochs: int = 10
    batch: int = 64
    loss: Loss | None = None
    target: Literal["labels", "input"] | None = None
    optimizer: Optimizer = field(default=AdamW())
    schedule: Schedule = field(default=Cosine())
    augment: tuple[Augment, ...] = ()
    balance: bool = False
    precision: Literal["float32", "bf16", "float16"] = "float32"
    ema: float | None = None
    clip: float | None = None
    accumulate: int = 1
    compile: bool = False
    divide: Literal["samples", "weights"] = "samples"
    channels_last: bool = True
    patience: int | None = None
    metric: str | None = None
    checkpoint_seconds: float = 600.0
    track: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    memory: float = 0.5
    threads: int | None = None

    def __post_init__(self) -> None:
        least(self, 0, "epochs")
        least(self, 1, "batch", "accumulate")
        above(self, 0, "checkpoint_seconds")
        within(self, 0, 1, "memory")
        if self.accumulate > self.batch:
            hint = f"accumulate: {self.batch} at most"
            raise BadValue("there are more parts than samples", keys=("accumulate",), hint=hint)
        if self.ema is not None:
            within(self, 0, 1, "ema")
        for name in ("clip", "patience", "threads"):
            if getattr(self, name) is not None:
                above(self, 0, name)
        mixing = [i for i, one in enumerate(self.augment) if isinstance(one, (Mixup, Cutmix))]
        if mixing and mixing != [len(self.augment) - 1]:
            raise BadValue(
                "`mixup` or `cutmix` comes once, and last",
                keys=("augment", mixing[0]),
                hint="leave one of them out, or move it to the end",
            )
