"""Raw things in, answers out, by a bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.backends import backend
from edgedl.core.errors import BadBundle, BadOption, BadSamples, WrongInput
from edgedl.passes.graph import to_ship
from edgedl.runtime import ENGINES, installed_engines
from edgedl.runtime.answering import Answering
from edgedl.runtime.golden import Golden
from edgedl.runtime.process import Processing
from edgedl.runtime.process.image import Image, Resize, recolored
from edgedl.runtime.process.maps import Mask
from edgedl.runtime.process.scores import TopK
from edgedl.runtime.process.sound import Recording, Sound, recorded
from edgedl.runtime.process.table import Column, Table
from edgedl.runtime.writing import Contents, write_bundle
from tests.models import conv_net, dynamic_net, gemm_net, image_net, saved
from tests.photos import photo
from tests.sounds import wav

BEFORE = Image(resize=Resize(exactly=(8, 8)), scale=1 / 255, mean=(0.5,), std=(0.25,))
AFTER = TopK(k=2, activation="softmax", labels=("a", "b", "c", "d", "e"))


@pytest.fixture(scope="module", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    if request.param not in installed_engines():
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def bundled(folder: Path, net: Any, processing: Processing | None, engine_name: str) -> Path:
    model = saved(net, folder)
    data, names = to_ship(model)
    bound = None if processing is None else processing.bind(model.signature)
    write_bundle(
        folder / "net.edl",
        Contents(
            signature=model.signature,
            payloads=[(backend(engine_name).compile(data, "float32"), data)],
            golden=Golden((), (), 0.01),
            history=(),
            notes={},
            names=names,
            processing=bound,
        ),
    )
    return folder / "net.edl"


class Counted:
    """A session that notes how many samples each call has."""

    def __init__(self, session: Any, sizes: list[int]) -> None:
        self.session, self.sizes = session, sizes
        self.signature, self.close = session.signature, session.close

    def run(self, feed: Any) -> Any:
        self.sizes.append(len(feed["x"]))
        return self.session.run(feed)


def pixels(count: int, height: int = 8, width: int = 8) -> list[np.ndarray]:
    return list(np.random.default_rng(3).integers(0, 256, (count, height, width, 3), np.uint8))


def step_by_step(path: Path, raw: Any) -> Any:
    """The answer by the bundle's parts, one after the other."""
    found = edgedl.processing(path)
    assert found is not None
    with edgedl.open(path, threads=1) as session:
        return found.after(session.run(found.before(raw)))


def test_a_picture_gets_its_answer(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, conv_net("batch"), Processing(BEFORE, AFTER), engine_name)
    given = [*pixels(3), *pixels(2, 11, 17)]
    wanted = [step_by_step(path, one) for one in given]
    file = photo(tmp_path, given[3])
    with edgedl.answering(path, threads=1) as model:
        assert [model.answer(one) for one in given] == wanted
        assert model.answer(file) == model.answer(str(file)) == wanted[3]
        assert wanted[0][0].label in "abcde"
        for batch in (1, 2, 7):
            for got, one in zip(model.answers(given, batch=batch), wanted, strict=True):
                assert [guess.index for guess in got] == [guess.index for guess in one]
                scores = [guess.score for guess in one]
                assert [guess.score for guess in got] == pytest.approx(scores, abs=1e-5)
        assert list(model.answers([])) == []
    with pytest.raises(WrongInput, match="closed"):
        model.answer(given[0])


@pytest.mark.parametrize(("free", "wanted"), [(True, [3, 3, 1]), (False, [1] * 7)])
def test_the_network_takes_several_at_once_where_it_can(
    free: bool, wanted: list[int], engine_name: str, tmp_path: Path
) -> None:
    net = conv_net("batch" if free else 1)
    path = bundled(tmp_path, net, Processing(BEFORE), engine_name)
    sizes: list[int] = []
    with Answering(Counted(edgedl.open(path, threads=1), sizes), Processing(BEFORE)) as model:
        outputs = list(model.answers(pixels(7), batch=3))
    assert sizes == wanted
    assert all(one["logits"].shape == (1, 5) for one in outputs)


def test_pictures_of_several_sizes_go_one_by_one(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, dynamic_net(), Processing(Image(), AFTER), engine_name)
    given = [*pixels(2), *pixels(1, 9, 12)]
    with edgedl.answering(path, threads=1) as model:
        found = list(model.answers(given, batch=3))
    for got, one in zip(found, given, strict=True):
        wanted = step_by_step(path, one)
        assert [guess.index for guess in got] == [guess.index for guess in wanted]


def test_threads_have_buffers_of_their_own(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, conv_net(), Processing(BEFORE, AFTER), engine_name)
    given = pixels(16)
    with edgedl.answering(path, threads=1) as model, ThreadPoolExecutor(8) as pool:
        wanted = [model.answer(one) for one in given]
        assert list(pool.map(model.answer, given * 25)) == wanted * 25


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("wanted", ["rgb", "bgr", "gray"])
def test_a_camera_with_another_order_of_channels(color: str, wanted: Any, tmp_path: Path) -> None:
    given = np.random.default_rng(1).integers(0, 256, (6, 7, 1 if color == "gray" else 3), np.uint8)
    rgb = (
        np.repeat(given, 3, axis=2)
        if color == "gray"
        else given[:, :, :: -1 if color == "bgr" else 1]
    )
    file = photo(tmp_path, rgb)
    # a grey of equal channels is that grey, as the weights sum to 2 ** 16
    assert np.array_equal(recolored(given, color, wanted) if color != wanted else given,
                          Image(color=wanted).decode(file))  # fmt: skip


def test_a_camera_is_told_apart_from_files(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, conv_net(), Processing(BEFORE, AFTER), engine_name)
    [one] = pixels(1)
    file = photo(tmp_path, one)
    with edgedl.answering(path, threads=1) as plain, edgedl.answering(path, color="bgr") as turned:
        wanted = plain.answer(one)
        for found in (turned.answer(one[:, :, ::-1]), turned.answer(file)):
            assert [guess.index for guess in found] == [guess.index for guess in wanted]
        with pytest.raises(BadSamples, match="no picture in `bgr`"):
            turned.answer(one[:, :, :2])


def test_a_mask_comes_at_the_pictures_size(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, image_net(), Processing(BEFORE, Mask()), engine_name)
    with edgedl.answering(path, threads=1) as model:
        [one] = pixels(1, 20, 30)
        found = model.answer(one)
    assert found.shape == (20, 30)
    small = step_by_step(path, one)
    rows, columns = (((np.arange(n) + 0.5) * 8 / n).astype(int) for n in (20, 30))
    assert np.array_equal(found, small[rows[:, None], columns])


def test_rows_of_a_table(engine_name: str, tmp_path: Path) -> None:
    net = gemm_net()
    width = net.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    before = Table(tuple(Column(f"c{i}", float(i), 2.0) for i in range(width)))
    path = bundled(tmp_path, net, Processing(before), engine_name)
    row = {f"c{i}": i + 2.0 for i in range(width)}
    with edgedl.answering(path, threads=1) as model:
        [found] = model.answer(row).values()
        [wanted] = model.session.run(
            {model.signature.inputs[0].name: np.ones((1, width), np.float32)}
        ).values()
    assert np.array_equal(found, wanted)


def test_a_bundle_that_does_not_say(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, conv_net(), None, engine_name)
    with pytest.raises(BadBundle, match="does not say") as caught:
        edgedl.answering(path)
    assert "--preprocess" in (caught.value.hint or "")


def test_an_order_of_channels_that_is_none(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, conv_net(), Processing(BEFORE), engine_name)
    with pytest.raises(BadOption, match="`brg`") as caught:
        edgedl.answering(path, color="brg")
    assert "known: bgr, gray, rgb" in (caught.value.hint or "")
    net = gemm_net()
    width = net.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    row = Processing(Table(tuple(Column(f"c{i}") for i in range(width))))
    with pytest.raises(BadOption, match="takes a table"):
        edgedl.answering(bundled(tmp_path, net, row, engine_name), color="bgr")


def test_a_batch_of_none(engine_name: str, tmp_path: Path) -> None:
    path = bundled(tmp_path, conv_net(), Processing(BEFORE), engine_name)
    with edgedl.answering(path) as model, pytest.raises(BadOption, match="`batch` is 0"):
        model.answers([], batch=0)


@pytest.mark.parametrize("kind", ["int16", "uint8"])
@pytest.mark.parametrize("channels", [1, 2])
def test_whole_numbers_of_a_microphone_are_those_of_a_file(
    kind: str, channels: int, tmp_path: Path
) -> None:
    info = np.iinfo(kind)
    values = np.random.default_rng(2).integers(info.min, info.max, (50, channels)).astype(kind)
    values = values[:, 0] if channels == 1 else values
    file = wav(tmp_path, values.tobytes(), bits=info.bits, channels=channels, rate=8000)
    before = Sound(8000, 60)
    assert before.apply(values) == pytest.approx(before.apply(before.decode(file)), abs=1e-7)


def test_an_array_has_the_models_rate_and_a_recording_its_own() -> None:
    values = np.linspace(-1, 1, 100)
    found = recorded(values, 8000)
    assert found.rate == 8000
    assert found.values.dtype == np.float32
    assert recorded(one := Recording(found.values, 16_000), 8000) is one
    for strange in (np.zeros(3, np.int64), np.zeros((2, 2, 2), np.float32), [0.0], np.zeros(0)):
        with pytest.raises(BadSamples, match="is no recording"):
            recorded(strange, 8000)
    with pytest.raises(BadSamples, match="would have 100 channels"):
        recorded(np.zeros((2, 100), np.float32), 8000)
