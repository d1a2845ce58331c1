"""Pre- and post-processing as plain data, and bound to a model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples, BadValue
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.process import KINDS, Processing, input_of
from edgedl.runtime.process.boxes import Boxes
from edgedl.runtime.process.detect import Detect
from edgedl.runtime.process.features import Features
from edgedl.runtime.process.files import open_files
from edgedl.runtime.process.image import CHANNELS, Image, Resize
from edgedl.runtime.process.maps import Keypoints, Mask
from edgedl.runtime.process.postprocess import KINDS as ANSWERS
from edgedl.runtime.process.postprocess import kind_of, read, written
from edgedl.runtime.process.scores import Argmax, Binary, Sigmoid, Softmax, Threshold, TopK
from edgedl.runtime.process.sequences import Ctc, Tags
from edgedl.runtime.process.series import Series
from edgedl.runtime.process.sound import Sound
from edgedl.runtime.process.table import Column, Table
from edgedl.runtime.process.text import Text
from edgedl.runtime.process.values import Anomaly, Embedding, Values
from edgedl.yamls import read_yaml

SIDES = st.integers(1, 2000)
NUMBERS = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)
LAYOUTS = get_args(get_type_hints(Image)["layout"])
NAMES = st.none() | st.text(min_size=1, max_size=8)


@st.composite
def images(draw: st.DrawFn) -> Image:
    color = draw(st.sampled_from(list(CHANNELS)))
    sizes = {1, CHANNELS[color]}

    def channels(values: st.SearchStrategy[float]) -> tuple[float, ...]:
        size = draw(st.sampled_from(sorted(sizes)))
        return tuple(draw(st.lists(values, min_size=size, max_size=size)))

    way = draw(st.sampled_from(["shorter", "exactly", "letterbox", None]))
    resize = None
    if way is not None:
        size: Any = draw(SIDES) if way == "shorter" else (draw(SIDES), draw(SIDES))
        named = draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]))
        resize = Resize(**{way: size}, fill=draw(st.integers(0, 255)), interpolation=named)
    layouts = [layout for layout in LAYOUTS if "c" in layout or color == "gray"]
    common = {"color": color, "resize": resize, "layout": draw(st.sampled_from(layouts))}
    if resize is None:
        common["crop"] = draw(st.none() | st.tuples(SIDES, SIDES))
    if draw(st.booleans()):
        return Image(**common, dtype="uint8", input=draw(NAMES))
    return Image(
        **common, scale=draw(NUMBERS), mean=channels(NUMBERS), std=channels(NUMBERS.filter(bool)),
        input=draw(NAMES),
    )  # fmt: skip


SOUNDS = st.builds(
    Sound,
    rate=st.integers(1_000, 192_000),
    length=st.none() | st.integers(1, 10**6),
    scale=NUMBERS,
    mean=NUMBERS,
    std=NUMBERS.filter(bool),
    layout=st.sampled_from(["nt", "nct", "ntc", "t", "ct", "tc"]),
    input=NAMES,
)
BOXES = st.builds(
    Boxes,
    format=st.just("ssd"),
    outputs=st.lists(st.text(), max_size=2).map(tuple),
    size=st.tuples(SIDES, SIDES),
    strides=st.just((8, 16)),
    anchors=st.tuples(*[st.tuples(NUMBERS, NUMBERS)] * 2),
    variances=st.tuples(NUMBERS, NUMBERS),
    activation=st.sampled_from(["none", "sigmoid", "softmax"]),
    background=st.none() | st.integers(0, 90),
    threshold=NUMBERS,
)
ACTIVATIONS = st.sampled_from([None, "softmax", "sigmoid"])
LABELS = st.lists(st.text(), unique=True, max_size=4).map(tuple)
AFTER = st.one_of(
    *(st.builds(one, output=NAMES, axis=st.integers(-4, 4), labels=LABELS)
      for one in (Softmax, Sigmoid, Argmax)),
    st.builds(TopK, k=st.integers(1, 99), activation=ACTIVATIONS, labels=LABELS),
    st.builds(Threshold, st.tuples(NUMBERS), activation=ACTIVATIONS, labels=LABELS),
    st.builds(Binary, NUMBERS, labels=st.sampled_from([(), ("no", "yes")])),
    st.builds(Detect, BOXES, st.sampled_from(["input", "picture"]), labels=LABELS),
    st.builds(Values, NAMES, units=st.just(("m",)), scale=st.tuples(NUMBERS), low=st.just(0.0)),
    st.builds(Anomaly, NUMBERS, st.sampled_from(["input", "value"]), input=NAMES),
    st.builds(Embedding, NAMES, st.integers(-4, 4)),
    st.builds(Ctc, NAMES, labels=st.just(("-", "a", "b")), blank=st.integers(-3, 2)),
    st.builds(Tags, st.just(("O", "B-x", "I-x")), outside=st.just("O"),
              spans=st.sampled_from(["each", "bio"]), padding=st.none() | st.integers(0, 9)),
    st.builds(Mask, NAMES, st.sampled_from(["chw", "hwc"]), outside=st.integers(-1, 255)),
    st.builds(Keypoints, NAMES, stride=st.integers(1, 9), threshold=st.none() | NUMBERS),
)  # fmt: skip
FEATURES = st.builds(
    Features,
    rate=st.integers(8_000, 48_000),
    length=st.none() | st.integers(400, 10**5),
    of=st.sampled_from(["log-mel", "mfcc"]),
    window=st.integers(200, 400),
    hop=st.integers(8, 400),
    points=st.just(512),
    bands=st.integers(13, 20),
    low=st.floats(0, 100),
    mel=st.sampled_from(["htk", "slaney"]),
    area=st.booleans(),
    mean=NUMBERS.map(lambda value: (value,)),
    std=NUMBERS.filter(bool).map(lambda value: (value,)),
    layout=st.sampled_from(["ncft", "nctf", "nft", "ntf", "cft", "ctf", "ft", "tf"]),
    input=NAMES,
)
SERIES = st.builds(
    Series,
    channels=st.just(2),
    length=st.integers(1, 10**4),
    hop=st.none() | st.integers(1, 10**4),
    mean=st.tuples(NUMBERS, NUMBERS) | st.tuples(NUMBERS),
    layout=st.sampled_from(["nct", "ntc", "ct", "tc"]),
    input=NAMES,
)
COLUMNS = st.builds(
    Column,
    name=st.text(max_size=5),
    mean=NUMBERS,
    std=NUMBERS.filter(bool),
    categories=st.lists(st.text(max_size=3), unique=True, max_size=3).map(tuple),
)
TABLES = st.builds(
    Table,
    columns=st.lists(COLUMNS, min_size=1, max_size=4, unique_by=lambda column: column.name).map(
        tuple
    ),
    missing=st.sampled_from(["mean", "error"]),
    unknown=st.sampled_from(["zeros", "error"]),
    layout=st.sampled_from(["nf", "f"]),
    input=NAMES,
)
TEXTS = st.builds(
    Text,
    tokenizer=st.just('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'),
    length=st.integers(1, 10**4),
    padding=st.integers(0, 10**6),
    layout=st.sampled_from(["nt", "t"]),
    dtype=st.sampled_from(["int64", "int32"]),
    input=NAMES,
)
BEFORE = images() | SOUNDS | FEATURES | SERIES | TABLES | TEXTS
PROCESSINGS = st.builds(Processing, BEFORE, st.none() | AFTER)


@given(PROCESSINGS)
def test_what_is_written_is_read(processing: Processing) -> None:
    document = processing.to_json()
    assert Processing.from_json(json.loads(json.dumps(document, allow_nan=False))) == processing
    assert document["kind"] in KINDS


@given(PROCESSINGS, st.data())
def test_an_altered_document_is_read_or_refused(
    processing: Processing, data: st.DataObject
) -> None:
    document = processing.to_json()
    key = data.draw(st.sampled_from(sorted(document)))
    strange = [None, True, -1, 10**30, 0.5, "", "strange", [], [1], [[]], {}, {"a": 1}]
    document[key] = data.draw(st.sampled_from(strange))
    try:
        found = Processing.from_json(document)
    except BadValue as error:
        assert error.keys[:1] in ((), (key,)) or error.keys[0] in document
    else:
        assert isinstance(found, Processing)


SPEC = """\
kind: image
resize:
  shorter: 256
crop: 224
scale: 1/255
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
postprocess:
  kind: top-k
  labels: [cat, dog]
"""
WRONG = {
    "a key that is none": ("crop: 224", "colour: rgb", 4, "unknown key `colour`", "`color`?"),
    "a key inside": ("  shorter: 256", "  shortr: 256", 3, "unknown key `shortr`", "`shorter`?"),
    "a key behind": ("  kind: top-k", "  kind: top-k\n  top: 3", 10, "`top`", "known"),
    "a kind that is none": ("kind: image", "kind: imag", 1, "`imag`", "did you mean `image`?"),
    "no kind": ("kind: image\n", "", 1, "lacks `kind`", "one of image, sound"),
    "text for a number": ("scale: 1/255", "scale: small", 5, "wants a number", "1/255"),
    "a list too short": ("crop: 224", "crop: [224]", 4, "wants 2 values, not 1", ""),
    "two sizes": ("  shorter: 256", "  shorter: 256\n  exactly: 3", 2, "one of", "shorter"),
    "a crop too large": ("crop: 224", "crop: 257", 4, "larger than what", "resize to more"),
    "a std of 0": ("[0.229, 0.224, 0.225]", "0", 7, "is 0", "leave it out"),
    "a word for another": ("  kind: top-k", "  kind: topk", 9, "`topk`", "`top-k`?"),
    "numbers as labels": ("[cat, dog]", "[1, 2]", 10, "wants text, not `1`", "quotes"),
    "a list": (SPEC, "- kind: image\n", 1, "no pre-processing", "kind: image"),
    "nothing": (SPEC, "", 1, "no pre-processing", "kind: image"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "says", "hints"), WRONG.values(), ids=WRONG)
def test_an_error_has_the_line_and_a_way_out(
    old: str, new: str, line: int, says: str, hints: str, tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    assert read_yaml(path).read(Processing.from_json).preprocess.shape == (1, 3, 224, 224)
    assert old in SPEC
    path.write_text(SPEC.replace(old, new))
    with pytest.raises(BadValue) as caught:
        read_yaml(path).read(Processing.from_json)
    assert caught.value.where == f"{path}:{line}"
    assert says in caught.value.message
    assert hints in (caught.value.hint or "")


def takes(*shape: Any, name: str = "x", dtype: str = "float32") -> Signature:
    return Signature((Tensor(name, dtype, shape),), (Tensor("y", "float32", (1, 2)),))


EXACT = Image(resize=Resize(exactly=(8, 9)))


@pytest.mark.parametrize(
    "signature",
    [takes(1, 3, 8, 9), takes("n", 3, "h", "w"), takes(None, 3, 8, 9)],
)
def test_bound_to_a_model_that_it_fits(signature: Signature) -> None:
    bound = Processing(EXACT, Softmax()).bind(signature)
    assert bound.preprocess.input == "x"
    assert bound.postprocess is not None
    assert bound.postprocess.output == "y"
    assert bound.before(np.zeros((3, 4, 3), np.uint8))["x"].shape == (1, 3, 8, 9)
    assert bound.after({"y": np.zeros((1, 2), np.float32)}).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("preprocess", "signature", "says", "hints"),
    [
        (EXACT, takes(1, 8, 9, 3), "makes 1x3x8x9", "`layout: nhwc` would fit"),
        (EXACT, takes(3, 8, 9), "makes 1x3x8x9", "`layout: chw` would fit"),
        (EXACT, takes(1, 3, 9, 8), "the model's input is x float32[1x3x9x8]", "inspect"),
        (EXACT, takes(1, 3, 8, 9, dtype="uint8"), "makes float32", "`dtype: uint8`"),
        (Image(input="y"), takes(1, 3, 8, 9), "no input `y`", "known: x"),
        (Sound(rate=8_000, length=9), takes(1, 9, 1), "makes 1x9", "`layout: ntc` would fit"),
        (Sound(rate=8_000, length=9), takes(1, 8), "makes 1x9", "inspect"),
        (
            Image(),
            Signature((Tensor("a", "float32", None), Tensor("b", "float32", None)), ()),
            "also takes `b`",
            ".npz",
        ),
    ],
)
def test_a_model_that_it_does_not_fit(
    preprocess: Any, signature: Signature, says: str, hints: str
) -> None:
    with pytest.raises(BadSamples, match=re.escape(says)) as caught:
        input_of(preprocess, signature)
    assert hints in (caught.value.hint or "")


TOKENS = '{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}'


@pytest.mark.parametrize(
    ("preprocess", "name", "content", "signature"),
    [
        (Series(2, 3), "a.csv", "1,2\n3,4\n5,6\n", takes("n", 2, 3)),
        (Table((Column("x"), Column("y"))), "a.json", '{"x": 1, "y": 2}', takes("n", 2)),
        (Text(TOKENS, 4), "a.txt", "b", takes("n", 4, dtype="int64")),
    ],
)
def test_files_of_the_new_kinds_are_samples(
    preprocess: Any, name: str, content: str, signature: Signature, tmp_path: Path
) -> None:
    if isinstance(preprocess, Text):
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        (tmp_path / label / name).write_text(content)
    processing = Processing(preprocess)
    samples = open_files(tmp_path, processing).bind(signature)
    fed = samples.feed(1)["x"]
    wanted = processing.bind(signature).before(tmp_path / "two" / name)["x"]
    assert np.array_equal(fed, wanted)
    assert samples.classes == ("one", "two")


def test_a_layout_of_a_new_kind_that_would_fit() -> None:
    features = Features(8000, length=800, bands=12)
    with pytest.raises(BadSamples, match="makes 1x1x12x3") as caught:
        input_of(features, takes("n", 3, 12))
    assert caught.value.hint == "`layout: ntf` would fit"


def test_an_output_that_is_not_there() -> None:
    with pytest.raises(BadSamples, match="no output `z`") as caught:
        Processing(EXACT, Softmax("z")).bind(takes(1, 3, 8, 9))
    assert caught.value.hint == "known: y"


def test_before_it_is_bound_nobody_knows_the_input() -> None:
    with pytest.raises(BadSamples, match="which input"):
        Processing(Image()).before(np.zeros((3, 4, 3), np.uint8))


def test_without_post_processing_the_outputs_are_the_answer() -> None:
    outputs = {"y": np.zeros(2)}
    assert Processing(Image()).after(outputs) is outputs


def test_the_table_of_kinds_says_what_they_say() -> None:
    found = {kind_of(name) for name in ANSWERS}
    assert {one.kind for one in found} == set(ANSWERS)


# as bundles of 0.1 hold it, with every setting of every kind
OF_OLD = {"output": "y", "axis": -1, "k": 5, "activation": None, "labels": [], "boxes": None}


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({**OF_OLD, "kind": "softmax", "axis": 1}, Softmax("y", 1)),
        ({**OF_OLD, "kind": "sigmoid", "labels": ["a"]}, Sigmoid("y", labels=("a",))),
        ({**OF_OLD, "kind": "argmax"}, Argmax("y")),
        ({**OF_OLD, "kind": "top-k", "k": 2, "activation": "softmax"}, TopK("y", 2, "softmax")),
        ({**OF_OLD, "kind": "boxes", "boxes": {"format": "yolo"}},
         Detect(Boxes("yolo"), output="y")),
    ],
)  # fmt: skip
def test_what_bundles_of_0_1_hold_is_read(document: dict[str, Any], wanted: Any) -> None:
    assert read(document) == wanted
    assert read(written(wanted)) == wanted


@pytest.mark.parametrize(
    ("document", "keys", "says", "hints"),
    [
        (
            {"kind": "argmax", "activation": "softmax"},
            ("activation",),
            "unknown key",
            "known: axis",
        ),
        ({"kind": "softmax", "k": 3}, ("k",), "unknown key `k`", "known"),
        ({"kind": "top-k", "axis": 1}, ("axis",), "unknown key `axis`", "known"),
        ({"kind": "boxes"}, (), "lacks `boxes`", "add `boxes: ...`"),
        ({"kind": "argmax", "boxes": {"format": "yolo"}}, ("boxes",), "unknown key", "known"),
        ({"kind": "treshold"}, ("kind",), "`treshold`", "did you mean `threshold`?"),
        ({"kind": "ctc", "blnk": 3}, ("blnk",), "unknown key `blnk`", "did you mean `blank`?"),
        ({"kind": "anomaly"}, (), "lacks `threshold`", "add `threshold: ...`"),
        ({"kind": "mask", "of": "pictures"}, ("of",), "`pictures`", "did you mean `picture`?"),
        ({"kind": "tags", "labels": ["a"], "spans": "bio"}, ("labels",), "neither begins", "B-"),
        ({"k": 3}, (), "lacks `kind`", "one of softmax"),
        ([], (), "no post-processing", "kind: top-k"),
    ],
)
def test_a_post_processing_that_is_none(
    document: Any, keys: tuple[str, ...], says: str, hints: str
) -> None:
    with pytest.raises(BadValue, match=re.escape(says)) as caught:
        read(document)
    assert caught.value.keys == keys
    assert hints in (caught.value.hint or "")
