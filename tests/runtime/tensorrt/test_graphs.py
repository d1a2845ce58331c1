"""CUDA graphs of a session: when one is made, used and dropped."""

from __future__ import annotations

import pytest

from tests.runtime.tensorrt.bench import GRAPH, PLAIN, STATIC, Bench, rows
from tests.runtime.tensorrt.fake_trt import plan


def test_a_fixed_shape_is_a_graph_from_its_second_run_on(bench: Bench) -> None:
    with bench.open(STATIC) as session:
        assert bench.calls_of(session, rows(2)) == [PLAIN, PLAIN, "cudaStreamSynchronize"]
        second = bench.calls_of(session, rows(2, 5))
        assert second[0] == "cudaStreamBeginCapture"
        assert second[-2:] == GRAPH
        for start in (1, 7, -4):
            assert bench.calls_of(session, rows(2, start)) == GRAPH
        assert session.note is None
        assert bench.trt.made == 1


def test_each_shape_has_a_graph_in_a_context_of_its_own(bench: Bench) -> None:
    with bench.open() as session:
        for _ in range(3):
            for count in (1, 2, 4):
                bench.calls_of(session, rows(count))
        assert all(bench.calls_of(session, rows(n, 9)) == GRAPH for n in (4, 1, 2))
        assert bench.trt.made == 4
        assert bench.calls_of(session, rows(3))[0] == PLAIN
        assert bench.calls_of(session, rows(1, 3)) == GRAPH


def test_the_number_of_graphs_is_bounded(bench: Bench) -> None:
    with bench.open(graphs=2) as session:
        for count in (1, 2, 3, 4):
            for _ in range(3):
                bench.calls_of(session, rows(count))
            assert len(bench.cuda.executables) <= 2
        assert bench.calls_of(session, rows(4)) == GRAPH
        # one that had to go does not come back at once
        assert bench.calls_of(session, rows(1))[0] == PLAIN
        assert bench.calls_of(session, rows(1))[0] == PLAIN


def test_many_shapes_are_forgotten_in_turn(bench: Bench) -> None:
    wide = plan(x=(-1, 3), profiles=[((1, 3), (2, 3), (100, 3))])
    with bench.open(wide) as session:
        for count in range(1, 80):
            bench.calls_of(session, rows(count))
            bench.calls_of(session, rows(count, 2))
        assert len(bench.cuda.executables) <= 8
        assert bench.trt.alive.count("context") <= 9


def test_without_graphs_every_run_is_launched_anew(bench: Bench) -> None:
    with bench.open(STATIC, graphs=0) as session:
        for _ in range(3):
            assert bench.calls_of(session, rows(2)) == [PLAIN, PLAIN, "cudaStreamSynchronize"]
        assert session.note == "no CUDA graph: it was not asked for"


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"]
)
def test_where_capturing_fails_it_runs_without(bench: Bench, call: str) -> None:
    bench.cuda.refused[call] = 900
    with bench.open() as session:
        for start in range(3):
            bench.calls_of(session, rows(2, start))
        assert "no CUDA graph: CUDA failed in" in str(session.note)
        assert bench.calls_of(session, rows(2)) == [PLAIN, PLAIN, "cudaStreamSynchronize"]


def test_kernels_that_cannot_be_captured_yet(bench: Bench) -> None:
    bench.trt.capturable = False
    with bench.open() as session:
        for start in range(3):
            bench.calls_of(session, rows(2, start))
        assert "cannot be noted down" in str(session.note)
