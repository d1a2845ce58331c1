"""What a recipe says under `distil:`, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgedl.core.errors import BadValue
from edgedl.train.bounds import above, least, within

Kind = Literal["classes", "flags", "values"]
Origin = Literal["itself", "recipe", "onnx", "own"]

ITSELF = "itself"
FORM = "a recipe `teacher.yaml`, a model `teacher.onnx`, `module:callable`, or `itself`"


@dataclass(frozen=True, kw_only=True)
class Match:
    """A layer, or an output, of the network and that of the teacher which it is to be like.

    Attributes:
        student: a layer by its dotted name, as `named_modules` has it; or an output's name.
        teacher: the teacher's; None: of the same name.
        weight: of its part of the loss.
        axis: that the channels, or an output's classes, lie along, the batch's being 0; None: 1,
            and of three axes that one in which the two differ, the last where none does.
    """

    student: str
    teacher: str | None = None
    weight: float = 1.0
    axis: int | None = None

    def __post_init__(self) -> None:
        above(self, 0, "weight")
        if self.axis is not None:
            least(self, 1, "axis")

    @property
    def theirs(self) -> str:
        """The name at the teacher."""
        return self.student if self.teacher is None else self.teacher


@dataclass(frozen=True, kw_only=True)
class Relations:
    """How samples of a batch lie to one another: Park et al., Relational Knowledge Distillation,
    CVPR 2019.

    Attributes:
        distance, angle: weights of distances between two samples and of angles among three.
        student, teacher: layers whose answers are looked at; None: the first output.
    """

    distance: float = 25.0
    angle: float = 50.0
    student: str | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        least(self, 0, "distance", "angle")
        if not self.distance and not self.angle:
            raise BadValue("nothing is compared", keys=("distance",), hint="distance: 25")
        if self.student is None and self.teacher is not None:
            raise BadValue(
                "a layer of the teacher alone is named", keys=("teacher",), hint="add `student`"
            )


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a network is taught by another one.

    The loss is `weight` times that of the teacher's answers, 1 - `weight` times that of the labels,
    and what features, attention and relations add. Where there are no labels, and `train:` names no
    loss, the teacher alone teaches and `weight` counts as 1.

    Attributes:
        teacher: a recipe's file (its network as trained), an ONNX file, `module:callable`, which
            gives a network as under `network:`, or `itself`: the network before it was shrunk.
        temperature: that both answers are divided by before they are compared (Hinton et al.,
            Distilling the Knowledge in a Neural Network, 2015).
        weight: of the teacher's answers, from 0 to 1.
        answers: what they are: logits of `classes`, one of which is right, `flags`, each yes or
            no, or `values`; None: as the loss has it, and values where that does not tell, unless
            they are probabilities that add up to 1.
        outputs: that are compared; none: all of the network's, each with the teacher's of the same
            name, or the only one with the only one.
        features: layers that learn to give what the teacher's do, through an adapter that is
            learned along (Romero et al., FitNets, ICLR 2015).
        attention: layers that learn to look where the teacher's do (Zagoruyko and Komodakis,
            Paying More Attention to Attention, ICLR 2017).
        relations: None: they are not compared.
        views: 0: the teacher answers in each step. Else its answers are kept, and epochs e and
            e + `views` see the same batches, changed by chance in the same way; where nothing is
            changed by chance, one answer a sample is kept and each epoch has an order of its own.
        kept: the type that they are kept in.
    """

    teacher: str
    temperature: float = 4.0
    weight: float = 0.9
    answers: Kind | None = None
    outputs: tuple[Match, ...] = ()
    features: tuple[Match, ...] = ()
    attention: tuple[Match, ...] = ()
    relations: Relations | None = None
    views: int = 0
    kept: Literal["float16", "float32"] = "float32"

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        within(self, 0, 1, "weight")
        least(self, 0, "views")
        _ = self.origin
        if self.views and self.layers:
            raise BadValue(
                f"answers of the layer `{self.layers[0].theirs}` are not kept",
                keys=("views",),
                hint="views: 0, with a teacher that is a network of torch",
            )
        if not self.weight and not self.layers and self.relations is None:
            raise BadValue("nothing is learned from the teacher", keys=("weight",), hint="0.9")

    @property
    def origin(self) -> Origin:
        """What kind of teacher is named.

        Raises:
            BadValue: none that is known.
        """
        if self.teacher == ITSELF:
            return "itself"
        if self.teacher.endswith((".yaml", ".yml")):
            return "recipe"
        if self.teacher.endswith(".onnx"):
            return "onnx"
        if all(self.teacher.rpartition(":")[::2]):
            return "own"
        raise BadValue(f"`{self.teacher}` names no teacher", keys=("teacher",), hint=FORM)

    @property
    def layers(self) -> tuple[Match, ...]:
        """All layers that are looked into."""
        pair = self.relations
        related = () if pair is None or pair.student is None else (
            Match(student=pair.student, teacher=pair.teacher),
        )  # fmt: skip
        return (*self.features, *self.attention, *related)
