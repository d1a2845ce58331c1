"""What every engine promises, tried on every engine that is installed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from edgedl.backends import backend
from edgedl.core.engines import LISTED, install_of, package_of
from edgedl.core.errors import EngineFailed, Unsupported, WrongInput
from edgedl.core.registry import EXTRAS, installed
from edgedl.core.target import SCHEMES, TARGETS, Target, target_of
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import Operator
from tests.models import NETS, answers, conv_net, dynamic_net, feeds, if_net, saved

INSTALLED = installed_engines()
PRECISIONS = {"float32", "bf16", "float16", "int8", "integer", "conversion"}


@pytest.mark.parametrize("name", LISTED)
def test_its_line_says_where_it_lies_and_how_to_get_it(name: str) -> None:
    line, package = LISTED[name], package_of(name)
    for path, attribute in ((line.runtime, "ENGINE"), (line.backend, "BACKEND")):
        module, colon, found = path.partition(":")
        assert colon, f"`{path}` names no attribute, as {module}:{attribute} does"
        assert found, f"`{path}` names no attribute, as {module}:{attribute} does"
        assert installed(module), f"`{name}` is listed at {path}, and there is no such file"
    assert line.install or package in EXTRAS or installed(package), (
        f"`{name}` counts as installed where the Python package `{package}` is, and nothing says"
        " how to get that: `package=` in its line names another, `install=` says it in words, or"
        " EXTRAS in core/registry.py and pyproject.toml name an extra"
    )
    assert install_of(name)
    assert TARGETS[name].engines == (name,)
    assert line.about


@pytest.mark.parametrize("name", LISTED)
def test_its_backend_has_schemes_that_can_be_named(name: str) -> None:
    built = backend(name)
    assert built.engine == name, f"{LISTED[name].backend} is the backend of `{built.engine}`"
    for scheme in (built.scheme, *built.schemes):
        assert SCHEMES.get(scheme.name) == scheme, (
            f"scheme `{scheme.name}` is not in SCHEMES of core/target.py"
        )


@pytest.mark.parametrize("name", INSTALLED)
def test_bears_the_name_that_it_is_listed_under(name: str) -> None:
    found = engine(name)
    assert found.name == name
    assert found.version
    assert found.precisions()[0] == "float32"
    assert set(found.precisions()) <= {"float32", "bf16", "float16"}


@pytest.mark.parametrize("name", INSTALLED)
def test_its_backend_says_no_to_another_target(name: str) -> None:
    elsewhere = Target("elsewhere", ("nothing",), "a target that has not this engine")
    with pytest.raises(Unsupported, match="`elsewhere`"):
        backend(name).check(elsewhere)


@pytest.mark.parametrize("name", INSTALLED)
def test_all_settings_of_its_backend_open_a_model(name: str, tmp_path: Path) -> None:
    model, built = saved(conv_net(), tmp_path), backend(name)
    feed = feeds(model.signature, 1)[0]
    [wanted] = answers(model.path, [feed], name)
    given = {one: built.settings(one) for one in (*built.floats(), "int8")} | dict(built.rests())
    for label, settings in given.items():
        with engine(name).open_model(model.path, settings=settings, threads=1) as session:
            found = session.run(feed)["logits"]
        assert np.allclose(found, wanted["logits"], atol=0.1), label


@pytest.mark.parametrize("name", INSTALLED)
def test_writes_into_arrays_that_it_is_given(name: str, tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    feed = feeds(model.signature, 1)[0]
    with engine(name).open_model(model.path, settings={}, threads=1) as session:
        into = {"logits": np.zeros((1, 5), np.float32)}
        session.run_into(feed, into)
        assert np.array_equal(into["logits"], session.run(feed)["logits"])
        with pytest.raises(WrongInput, match="shape"):
            session.run_into(feed, {"logits": np.zeros((1, 6), np.float32)})


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", INSTALLED)
def test_answers_as_the_specification_does(name: str, net: str, tmp_path: Path) -> None:
    model = saved(NETS[net](), tmp_path)
    rows = feeds(model.signature)
    reference = ReferenceEvaluator(str(model.path))
    for row, given in zip(rows, answers(model.path, rows, name), strict=True):
        wanted = reference.run(None, row)
        for tensor, value in zip(model.signature.outputs, wanted, strict=True):
            assert np.allclose(given[tensor.name], value, atol=1e-3)


@pytest.mark.parametrize("name", INSTALLED)
def test_takes_any_memory_order_and_gives_arrays_of_its_own(name: str, tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    feed = feeds(model.signature, 1)[0]["x"]
    flipped = np.asfortranarray(feed)
    locked = feed.copy()
    locked.flags.writeable = False
    with engine(name).open_model(model.path, settings={}, threads=1) as session:
        first = session.run({"x": feed})["logits"]
        kept = first.copy()
        for other in (flipped, locked, feed[..., ::-1][..., ::-1]):
            assert np.array_equal(session.run({"x": other})["logits"], kept)
        session.run({"x": np.zeros_like(feed)})
        assert np.array_equal(first, kept)


@pytest.mark.parametrize("name", INSTALLED)
def test_opens_bytes_as_it_opens_a_path(name: str, tmp_path: Path) -> None:
    model = saved(conv_net("batch"), tmp_path)
    feed = feeds(model.signature, 1)[0]
    with engine(name).open_model(model.path.read_bytes(), settings={}, threads=1) as session:
        batch = session.run({"x": np.concatenate([feed["x"]] * 3)})["logits"]
        assert np.allclose(batch, answers(model.path, [feed], name)[0]["logits"], atol=1e-5)
        assert batch.shape == (3, 5)


WRONG = {
    "another name": ({"y": np.zeros((1, 3, 8, 8), np.float32)}, "`y` is not an input"),
    "nothing": ({}, "no array for input `x`"),
    "another type": ({"x": np.zeros((1, 3, 8, 8))}, "float64"),
    "another shape": ({"x": np.zeros((1, 3, 8, 9), np.float32)}, "has shape"),
    "another rank": ({"x": np.zeros((3, 8, 8), np.float32)}, "has shape"),
    "a list": ({"x": [1.0]}, "not an array"),
}


@pytest.mark.parametrize(("given", "says"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", INSTALLED)
def test_refuses_wrong_inputs(
    name: str, given: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    model = saved(conv_net(), tmp_path)
    with (
        engine(name).open_model(model.path, settings={}, threads=1) as session,
        pytest.raises(WrongInput, match=says),
    ):
        session.run(given)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_closed_session_says_so(name: str, tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    session = engine(name).open_model(model.path, settings={}, threads=1)
    session.close()
    with pytest.raises(WrongInput, match="closed"):
        session.run(feeds(model.signature, 1)[0])


@pytest.mark.parametrize("name", INSTALLED)
def test_a_model_that_it_cannot_read_is_an_error_in_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x08nothing like a model")
    with pytest.raises(EngineFailed, match="refuses the model"):
        engine(name).open_model(path, settings={})


def told(found: list[Operator]) -> str:
    said = ", ".join(f"{one.kind} in {one.precision}" for one in found)
    return f"of two convolutions and a dense layer in float32 it tells: {said}"


@pytest.mark.parametrize("name", INSTALLED)
def test_tells_what_it_runs(name: str, tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    feed = feeds(model.signature, 1)[0]
    found = engine(name).operators(model.path, feed, settings={}, threads=1)
    products = [o for o in found if o.kind.startswith(("Conv", "FusedConv"))]
    assert len(products) == 2, told(found)
    assert {o.precision for o in products} == {"float32"}, told(found)
    assert {o.precision for o in found} <= PRECISIONS, told(found)


@pytest.mark.parametrize("name", INSTALLED)
def test_times_what_it_runs_when_it_is_asked_to(name: str, tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    feed = feeds(model.signature, 1)[0]
    once = engine(name).operators(model.path, feed, settings={}, threads=1)
    timed = engine(name).operators(model.path, feed, settings={}, threads=1, runs=3)
    assert {operator.us for operator in once} == {None}
    assert all(operator.us is not None and operator.us >= 0 for operator in timed)
    assert len({operator.name for operator in timed}) == len(timed)
    assert all(operator.name for operator in timed)
    products = [o.name for o in timed if o.kind.startswith(("Conv", "FusedConv"))]
    assert len(products) == 2
    assert not any(operator.fallback for operator in timed if operator.name in products)


@pytest.mark.parametrize("name", INSTALLED)
def test_products_of_a_large_image_take_time(name: str, tmp_path: Path) -> None:
    model = saved(dynamic_net(), tmp_path)
    feed = {"x": np.ones((1, 3, 256, 256), np.float32)}
    found = engine(name).operators(model.path, feed, settings={}, threads=1, runs=2)
    times = [o.us for o in found if o.kind.startswith(("Conv", "FusedConv"))]
    assert len(times) >= 2
    assert all(us is not None and us > 0 for us in times)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_body_computes_in_nothing_of_its_own(name: str, tmp_path: Path) -> None:
    model = saved(if_net(), tmp_path)
    feed = feeds(model.signature, 1)[0]
    found = engine(name).operators(model.path, feed, settings={}, threads=1, runs=3)
    assert "int8" not in {operator.precision for operator in found}


@pytest.mark.parametrize("name", INSTALLED)
def test_its_backend_builds_for_its_target(name: str, tmp_path: Path) -> None:
    built = backend(name)
    built.check(target_of(name))
    payload = built.compile(saved(conv_net(), tmp_path).path.read_bytes(), "float32")
    assert payload.engine == name
    assert built.floats()[0] == "float32"
