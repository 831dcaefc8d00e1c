"""How long the observer rests between two looks."""

from __future__ import annotations

from projections.worker import OBSERVE_REST_S_MAX, _rest_s


def test_a_look_that_stood_before_a_lock_is_followed_by_another_soon() -> None:
    assert _rest_s(1.0, 20.0) == OBSERVE_REST_S_MAX <= 5


def test_looking_takes_no_more_than_a_tenth_of_the_time() -> None:
    assert _rest_s(1.0, 0.0) == 0.05
    assert _rest_s(1.0, 0.02) == 0.2
