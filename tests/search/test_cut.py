from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.search.cut import Price, cheapest


def total(chosen: frozenset[str], costs: dict[str, tuple[int, int]], crossings: list[Price]) -> int:
    """The sum as its definition says, without any network."""
    spent = sum(costs[name][name in chosen] for name in costs)
    for price in crossings:
        made_in_int8 = price.producer in chosen
        if not made_in_int8 and any(reader in chosen for reader in price.readers):
            spent += price.quantize
        in_float = price.read_in_float or any(r not in chosen for r in price.readers)
        if made_in_int8 and in_float:
            spent += price.dequantize
    return spent


def test_one_operator_pays_for_both_of_its_crossings() -> None:
    crossings = [Price(None, ("a",), False, 30, 30), Price("a", (), True, 30, 30)]
    assert cheapest({"a": (100, 50)}, crossings) == frozenset()
    assert cheapest({"a": (100, 39)}, crossings) == {"a"}


def test_a_slow_operator_between_fast_ones_stays_in_int8_where_leaving_costs_more() -> None:
    costs = {"a": (100, 20), "b": (10, 25), "c": (100, 20)}
    chain = [
        Price(None, ("a",), False, 5, 5),
        Price("a", ("b",), False, 10, 10),
        Price("b", ("c",), False, 10, 10),
        Price("c", (), True, 5, 5),
    ]
    assert cheapest(costs, chain) == {"a", "b", "c"}
    cheap = [Price(p.producer, p.readers, p.read_in_float, 5, 5) for p in chain]
    assert cheapest(costs, cheap) == {"a", "c"}


def test_a_tensor_is_converted_once_for_all_of_its_readers() -> None:
    costs = {"a": (20, 10), "b": (20, 10), "c": (20, 10)}
    assert cheapest(costs, [Price(None, ("a", "b", "c"), False, 29, 0)]) == {"a", "b", "c"}
    assert cheapest(costs, [Price(None, ("a", "b", "c"), False, 31, 0)]) == frozenset()


def test_what_is_fixed_stays_float_and_equal_sums_stay_float() -> None:
    assert cheapest({"a": (100, 1), "b": (100, 1)}, [], fixed={"a"}) == {"b"}
    assert cheapest({"a": (7, 7)}, []) == frozenset()


def test_five_thousand_operators_in_a_row_are_solved() -> None:
    costs = {f"n{i}": (100 + i % 7, 95 + i % 11) for i in range(5000)}
    chain = [Price(None, ("n0",), False, 3, 3)]
    chain += [Price(f"n{i}", (f"n{i + 1}",), False, 3, 3) for i in range(4999)]
    found = cheapest(costs, chain)
    assert 0 < len(found) < 5000
    assert total(found, costs, chain) < total(frozenset(costs), costs, chain)
    assert total(found, costs, chain) < total(frozenset(), costs, chain)


NAMES = ("a", "b", "c", "d", "e")
COST = st.integers(0, 40)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], list[Price]]:
    costs = {name: (draw(COST), draw(COST)) for name in NAMES}
    crossings = []
    for _ in range(draw(st.integers(0, 6))):
        producer = draw(st.sampled_from((None, *NAMES)))
        readers = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
        readers = [reader for reader in readers if reader != producer]
        crossings.append(
            Price(producer, tuple(readers), draw(st.booleans()), draw(COST), draw(COST))
        )
    return costs, crossings


@settings(max_examples=200, deadline=None)
@given(problems())
def test_no_other_choice_costs_less(
    problem: tuple[dict[str, tuple[int, int]], list[Price]],
) -> None:
    costs, crossings = problem
    every = [
        frozenset(name for name, bit in zip(NAMES, bits, strict=True) if bit)
        for bits in product((0, 1), repeat=len(NAMES))
    ]
    least = min(total(chosen, costs, crossings) for chosen in every)
    assert total(cheapest(costs, crossings), costs, crossings) == least
