"""Admission: as many requests at once as fit into the deadline, whatever one of them takes."""

import pytest
from prometheus_client import REGISTRY

from whiteboard.admission import LEAST, MOST, SMOOTHING, Admission


def busy(admission: Admission, cost_s: float, under_way: int, requests: int = 1_000) -> None:
    for _ in range(requests):
        admission.answered(cost_s * under_way, under_way)


@pytest.mark.parametrize("under_way", [1, 10, 80])
def test_the_limit_is_what_fits_into_the_budget_whatever_the_load_it_was_learnt_at(under_way: int) -> None:
    admission = Admission("toy", budget_s=0.05)
    busy(admission, 0.0005, under_way)
    assert admission.limit == pytest.approx(100, abs=1)
    assert not admission.full(admission.limit - 1)
    assert admission.full(admission.limit)


def test_slower_requests_lower_the_limit_and_it_comes_back_by_itself() -> None:
    admission = Admission("toy", budget_s=0.05)
    busy(admission, 0.0005, 20)
    busy(admission, 0.002, 20, int(5 / SMOOTHING))
    assert admission.limit == pytest.approx(25, abs=2)
    busy(admission, 0.0005, 20, int(8 / SMOOTHING))
    assert admission.limit == pytest.approx(100, abs=5)


def test_one_stall_of_the_machine_is_no_reason_to_refuse() -> None:
    admission = Admission("toy", budget_s=0.05)
    busy(admission, 0.0006, 16)
    busy(admission, 0.05, 16, 16)  # all that were under way took 0.8 s, once
    assert admission.limit > 32


def test_a_handful_always_fits_and_the_number_has_an_end() -> None:
    admission = Admission("toy", budget_s=0.05)
    busy(admission, 10.0, 1)
    assert admission.limit == LEAST and not admission.full(LEAST - 1)
    busy(admission, 0.00001, 1, 5_000)
    assert admission.limit == MOST


def test_what_is_refused_is_counted() -> None:
    def shed() -> float:
        return REGISTRY.get_sample_value("whiteboard_http_shed_total", {"system": "toy-shed"}) or 0.0

    admission = Admission("toy-shed", budget_s=0.001)
    assert not admission.full(0) and shed() == 0
    assert admission.full(MOST) and shed() == 1
    assert REGISTRY.get_sample_value("whiteboard_http_in_flight_limit", {"system": "toy-shed"}) == LEAST
