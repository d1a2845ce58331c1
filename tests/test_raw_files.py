"""Folders of photos and recordings down the line, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgedl
from edgedl.core.errors import BadBundle, BadOption, BadSamples
from edgedl.core.model import Model
from edgedl.core.samples import from_arrays
from edgedl.passes.graph import open_model, to_ship
from edgedl.runtime import installed_engines
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.payload import Payload
from edgedl.runtime.process import Processing
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.scores import Guess, TopK
from edgedl.runtime.process.sound import Sound
from edgedl.runtime.writing import Contents, write_bundle
from edgedl.yamls import read_yaml
from tests.models import answers, conv_net, gemm_net, saved
from tests.photos import photo
from tests.sounds import wav
from tests.test_line import ROOT, call

ENGINE = installed_engines()[0]
SPEC = """\
kind: image
resize: {shorter: 10}
crop: 8
scale: 1/255
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.25]
postprocess: {kind: top-k, k: 2, activation: softmax}
"""
CLASSES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five classes, photos of each, and what turns them into inputs."""
    folder = tmp_path_factory.mktemp("raw")
    saved(conv_net("batch"), folder)
    (folder / "spec.yaml").write_text(SPEC)
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 40 * (number + 2), (24, 30 + i, 3))
            photo(folder / "photos" / name, pixels, f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    """The model compressed on the photos, in a bundle that knows them."""
    out = place / "net.edl"
    edgedl.compress(
        place / "net.onnx", place / "photos", out, preprocess=place / "spec.yaml",
        target=ENGINE, seconds=0.5,
    )  # fmt: skip
    return out


def test_the_bundle_does_to_a_photo_what_was_done_to_the_samples(
    place: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processing = edgedl.processing(bundle)
    assert processing.preprocess == Image(
        resize=Resize(shorter=10), crop=(8, 8), scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3,
        input="x",
    )  # fmt: skip
    wanted = TopK("logits", k=2, activation="softmax", labels=CLASSES)
    assert processing.postprocess == wanted
    feed = processing.before(place / "photos" / "cat" / "3.jpg")
    with edgedl.open(bundle, threads=1) as session:
        best, second = processing.after(session.run(feed))
    logits = answers(place / "net.onnx", [feed], ENGINE)[0]["logits"][0]
    assert isinstance(best, Guess)
    assert best.index == int(np.argmax(logits))
    assert best.label == CLASSES[best.index]
    assert best.score > second.score > 0
    assert edgedl.check(bundle).ok

    status, text, _ = call(capsys, "inspect", bundle, "--json")
    assert status == 0
    assert json.loads(text.splitlines()[-1])["processing"] == processing.to_json()
    assert "resize (shorter 10" in call(capsys, "inspect", bundle)[1]


def test_eval_takes_the_bundles_own_and_bench_times_every_stage(
    place: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, net = place / "photos", place / "net.onnx"
    status, text, error = call(capsys, "eval", net, bundle, "--samples", photos, "--json")
    assert status == 0, error
    found = json.loads(text.splitlines()[-1])
    assert found["metric"] == "top1"
    assert [row["samples"] for row in found["rows"]] == [40, 40]
    given = edgedl.eval([net], photos, preprocess=place / "spec.yaml")
    assert given["rows"][0]["value"] == found["rows"][0]["value"]

    status, text, error = call(
        capsys, "bench", net, bundle, "--samples", photos, "--target", ENGINE, "--seconds", 0.5,
        "--json", "--report", tmp_path / "report",
    )  # fmt: skip
    assert status == 0, error
    for row in json.loads(text.splitlines()[-1])["rows"]:
        stages = row["stages_ms"]
        assert list(stages) == ["decode", "preprocess", "run", "postprocess"]
        assert all(stage > 0 for stage in stages.values())
        assert max(stages.values()) < row["end_to_end_ms"]["p90"]
        assert row["accuracy"]["samples"] == 40
    for name in ("report.txt", "report.md", "report.html"):
        assert "pre-process" in (tmp_path / "report" / name).read_text()
    assert "stages_decode_ms" in (tmp_path / "report" / "report.csv").read_text()


def test_run_takes_a_folder_or_a_photo(
    place: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npz"
    assert call(capsys, "run", bundle, "--input", place / "photos", "--output", out)[0] == 0
    with np.load(out) as found:
        every = dict(zip(found["files"].tolist(), found["logits"], strict=True))
    assert len(every) == 40
    one = place / "photos" / "dog" / "5.jpg"
    assert call(capsys, "run", bundle, "--input", one, "--output", out)[0] == 0
    with np.load(out) as found:
        assert found["files"].tolist() == ["5.jpg"]
        assert np.allclose(found["logits"][0], every["dog/5.jpg"], atol=1e-5)
    status = call(
        capsys, "run", place / "net.onnx", "--input", one, "--output", out,
        "--preprocess", place / "spec.yaml",
    )[0]  # fmt: skip
    assert status == 0


def test_an_archive_is_read_and_not_pre_processed(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32))
    found = edgedl.bench([place / "net.onnx"], samples=path, target=ENGINE, seconds=0.5)
    stages = found.rows[0].to_json()["stages_ms"]
    assert stages["decode"] > 0
    assert stages["run"] > 0
    assert stages["preprocess"] is None
    assert stages["postprocess"] is None


def test_a_bundle_may_be_told_what_its_arrays_were_made_by(place: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {"x": random.standard_normal((40, 3, 8, 8)).astype(np.float32)}
    out = tmp_path / "told.edl"
    found = edgedl.compress(
        place / "net.onnx", arrays, out, target=ENGINE, seconds=0.5, preprocess=place / "spec.yaml"
    )
    assert any("pre-processing (image) was not run" in doubt for doubt in found.doubts)
    assert edgedl.processing(out).preprocess.shape == (1, 3, 8, 8)
    again = tmp_path / "again.edl"
    edgedl.compress(out, from_arrays(arrays), again, target=ENGINE, seconds=0.5)
    assert edgedl.processing(again) == edgedl.processing(out)


def test_recordings_down_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("ReduceMean", ["absolute"], ["loudness"], axes=[1], keepdims=1),
             helper.make_node("Gemm", ["loudness", "w", "b"], ["scores"])]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Abs", ["sound"], ["absolute"]), *nodes],
        "loud",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, [1, 400])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [1, 2], [1.0, -1.0]),
            helper.make_tensor("b", TensorProto.FLOAT, [2], [-0.25, 0.25]),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "loud.onnx",
    )
    random = np.random.default_rng(0)
    for name, most in (("loud", 30_000), ("quiet", 3_000)):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for i in range(6):
            values = random.choice([-most, most], 1_000).astype("<i2")
            wav(tmp_path / "sounds" / name, values.tobytes(), name=f"{i}.wav", rate=8_000)
    (tmp_path / "spec.yaml").write_text("kind: sound\nrate: 8000\nlength: 400\n")
    status, text, error = call(
        capsys, "eval", tmp_path / "loud.onnx", "--samples", tmp_path / "sounds",
        "--preprocess", tmp_path / "spec.yaml", "--json",
    )  # fmt: skip
    assert status == 0, error
    assert json.loads(text.splitlines()[-1])["rows"][0]["value"] == 1.0
    found = edgedl.bench(
        [tmp_path / "loud.onnx"], samples=tmp_path / "sounds",
        preprocess=Sound(rate=8_000, length=400), target=ENGINE, seconds=0.5,
    )  # fmt: skip
    assert found.rows[0].to_json()["stages_ms"]["preprocess"] > 0


BAD: dict[str, tuple[list[str], int, str, str]] = {
    "a folder and no settings": (["photos"], 1, "nothing says", "--preprocess SPEC.yaml"),
    "settings that are not there": (
        ["photos", "--preprocess", "none.yaml"],
        1,
        "none.yaml: no such file",
        "YAML",
    ),
    "a key that is none": (
        ["photos", "--preprocess", "typo.yaml"],
        1,
        "typo.yaml:3: unknown key `crap`",
        "did you mean `crop`?",
    ),
    "a size that is not the model's": (
        ["photos", "--preprocess", "large.yaml"],
        1,
        "makes 1x3x9x9",
        "inspect",
    ),
    "a folder of nothing": (["nothing", "--preprocess", "spec.yaml"], 1, "no files", ".jpeg"),
    "a damaged photo": (
        ["damaged", "--preprocess", "spec.yaml"],
        1,
        "ant/1.jpg: cannot",
        "remove it",
    ),
}


@pytest.mark.parametrize(("arguments", "status", "says", "hints"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", ["eval", "compress"])
def test_bad_input_ends_in_an_error_and_a_way_out(
    command: str,
    arguments: list[str],
    status: int,
    says: str,
    hints: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    Path("typo.yaml").write_text(SPEC.replace("crop", "crap"))
    Path("large.yaml").write_text(SPEC.replace("crop: 8", "crop: 9"))
    Path("nothing").mkdir(exist_ok=True)
    Path("damaged/ant").mkdir(exist_ok=True, parents=True)
    for i in range(20):
        content = Path(f"photos/ant/{i % 8}.jpg").read_bytes()
        Path(f"damaged/ant/{i}.jpg").write_bytes(content[:150] if i == 1 else content)
    out = tmp_path / "out.edl"
    more = ["--int8", "-o", str(out), "--target", ENGINE] if command == "compress" else []
    model = "fixed.onnx" if "large.yaml" in arguments else "net.onnx"
    if model == "fixed.onnx":
        Path(model).write_bytes(conv_net().SerializeToString())
    given, text, error = call(capsys, command, model, "--samples", *arguments, *more)
    assert (given, text) == (status, "")
    assert error.startswith("error: ")
    assert says in error
    assert hints in error.partition("hint: ")[2]
    assert not out.exists()


def test_bench_keeps_its_rows_where_a_photo_is_damaged_beyond_those_it_timed(
    place: Path, tmp_path: Path
) -> None:
    content = (place / "photos" / "ant" / "0.jpg").read_bytes()
    for i in range(40):
        (tmp_path / f"{i:02d}.jpg").write_bytes(content[:150] if i == 39 else content)
    found = edgedl.bench(
        [place / "net.onnx", place / "net.onnx"], samples=tmp_path,
        preprocess=Image(resize=Resize(exactly=(8, 8))), target=ENGINE, seconds=0.5,
    )  # fmt: skip
    assert all(row.problem is None and row.latency_ms for row in found.rows)
    assert all(row.alone and row.alone.end_to_end_ms for row in found.rows)
    assert any("39.jpg: cannot be decoded" in doubt for doubt in found.doubts)


def test_settings_without_raw_files_are_not_passed_over(place: Path, tmp_path: Path) -> None:
    net, spec = place / "net.onnx", place / "spec.yaml"
    arrays = {"x": np.zeros((4, 3, 8, 8), np.float32), "labels": np.zeros(4, np.int64)}
    with pytest.raises(BadOption, match="arrays are not pre-processed"):
        edgedl.eval([net], arrays, preprocess=spec)
    with pytest.raises(BadOption, match="goes with --samples"):
        edgedl.bench([net], preprocess=spec)


def tiny(folder: Path, name: str, processing: Processing | None) -> Path:
    """A bundle of a tiny model."""
    model: Model = open_model(saved(gemm_net(), folder).path)
    given = model.signature.inputs[0]
    feed = {given.name: np.zeros([d for d in given.shape or () if isinstance(d, int)], np.float32)}
    data, names = to_ship(model)
    answer = answers(data, [feed], ENGINE)[0]
    write_bundle(
        folder / name,
        Contents(
            signature=model.signature,
            payloads=[(Payload(ENGINE, "onnx", "models/net.onnx", "float32", {}), data)],
            golden=Golden((feed,), ({k: Answer.of(v) for k, v in answer.items()},), 0.01),
            history=[],
            notes={},
            names=names,
            processing=processing,
        ),
    )
    return folder / name


def test_the_settings_in_the_readme_are_read(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    block = text[text.index("    kind: image") :].partition("\n\n")[0]
    (tmp_path / "spec.yaml").write_text(textwrap.dedent(block))
    found = read_yaml(tmp_path / "spec.yaml").read(Processing.from_json)
    assert found.preprocess.shape == (1, 3, 224, 224)
    assert found.postprocess == TopK(activation="softmax")


def test_a_bundle_without_is_read_as_before(tmp_path: Path) -> None:
    assert edgedl.processing(tiny(tmp_path, "without.edl", None)) is None
    assert edgedl.check(tmp_path / "without.edl").ok


def test_two_bundles_that_disagree_ask_for_a_word(tmp_path: Path) -> None:
    one = tiny(tmp_path, "one.edl", Processing(Sound(rate=8_000)))
    two = tiny(tmp_path, "two.edl", Processing(Sound(rate=16_000)))
    with pytest.raises(BadOption, match="unlike pre-processing") as caught:
        edgedl.eval([one, two], tmp_path)
    assert "--preprocess" in (caught.value.hint or "")
    with pytest.raises(BadSamples, match="no files"):
        edgedl.eval([one, one], tmp_path)


def test_processing_of_a_later_kind_leaves_the_bundle_usable(tmp_path: Path) -> None:
    class Later(Sound):
        kind = "smell"

    path = tiny(tmp_path, "later.edl", Processing(Later(rate=8_000)))
    with pytest.raises(BadBundle, match="`smell`") as caught:
        edgedl.processing(path)
    assert "upgrade" in (caught.value.hint or "")
    assert edgedl.check(path).ok


def test_altered_processing_is_noticed(tmp_path: Path) -> None:
    path = tiny(tmp_path, "net.edl", Processing(Sound(rate=8_000)))
    part = open_bundle(path).parts["about/processing"]
    data = bytearray(path.read_bytes())
    data[part.offset + part.bytes // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadBundle, match="`about/processing` was altered"):
        edgedl.processing(path)


BARE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("PIL", "yaml", "onnx", "torch", "click"):
            raise ModuleNotFoundError(f"{name} is refused here", name=name)

sys.meta_path.insert(0, Refuse())
import numpy as np
import edgedl
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process import Processing
from edgedl.runtime.process.sound import Sound
sound = Processing(Sound(rate=8000, length=10, input="x"))
assert sound.before(sys.argv[1])["x"].shape == (1, 10)
frame = np.zeros((8, 9, 3), np.uint8)
assert Image(crop=(8, 8)).apply(frame).shape == (1, 3, 8, 8)
assert Image(resize=Resize(shorter=4)).apply(frame).shape == (1, 3, 4, 4)
try:
    Image().decode("a.jpg")
except edgedl.EdgeError as error:
    print(error.hint)
"""


def test_a_device_needs_pillow_for_files_of_photos_alone(tmp_path: Path) -> None:
    path = wav(tmp_path, bytes(40), rate=16_000)
    done = subprocess.run(
        [sys.executable, "-c", BARE, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["pip install 'edgedl[images]'"]
