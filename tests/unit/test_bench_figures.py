"""The bench's arithmetic, compared with definitions written another way."""

from bench.figures import CURVE, curve, median_curve, percentile, spread
from hypothesis import given
from hypothesis import strategies as st

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


def test_percentiles_of_a_thousand():
    ordered = [float(value) for value in range(1, 1001)]
    assert percentile(ordered, 50) == 500
    assert percentile(ordered, 95) == 950
    assert percentile(ordered, 99) == 990
    assert percentile(ordered, 99.9) == 999
    assert percentile(ordered, 100) == 1000
    assert percentile(ordered, 0) == 1


def test_a_percentile_of_few_values_is_one_of_them():
    assert percentile([7.0], 99.9) == 7.0
    assert percentile([1.0, 2.0], 50) == 1.0
    assert percentile([1.0, 2.0], 51) == 2.0


@given(values, st.sampled_from(CURVE))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values, percent):
    ordered = sorted(values)
    found = percentile(ordered, percent)
    enough = percent / 100 * len(ordered) - 1e-6
    assert sum(value <= found for value in ordered) >= enough
    below = [value for value in ordered if value < found]
    assert len(below) < max(enough, 1e-9) + 1e-6 or not below


@given(values)
def test_a_curve_never_falls(values):
    found = list(curve(sorted(values)).values())
    assert found == sorted(found)
    assert found[0] == min(values)
    assert found[-1] == max(values)


def test_no_values_no_curve():
    assert curve([]) == {}


def test_spread():
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.least, found.most) == (2.0, 1.0, 3.0)
    assert found.values == [3.0, 1.0, 2.0]
    assert spread([1.0, 2.0]).median == 1.5


def test_the_median_of_curves_is_taken_at_each_percentile():
    curves = [{"50": 1.0, "99": 9.0}, {"50": 3.0, "99": 2.0}, {"50": 2.0, "99": 5.0}]
    assert median_curve(curves) == {"50": 2.0, "99": 5.0}
