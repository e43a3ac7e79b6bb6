"""The cache's policy: the budget holds, the busy stay, and the least recently used go first."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serving.supervisor.fleet.cache import (
    Admit,
    Budget,
    Evict,
    Need,
    Refuse,
    Resident,
    Stay,
    Wait,
    decide,
    excess,
    place,
)

GPUS = ("cuda:0", "cuda:1")


def idle(key: int, host: int, last_used: float, **devices: int) -> Resident:
    named = {name.replace("_", ":"): size for name, size in devices.items()}
    return Resident(key, host, last_used, Stay.IDLE, named)


def test_what_fits_is_admitted() -> None:
    assert decide(Need(40), [idle(1, 60, 0)], Budget(100)) == Admit()


def test_the_least_recently_used_go_as_many_as_it_takes() -> None:
    residents = [idle(1, 30, 3.0), idle(2, 30, 1.0), idle(3, 30, 2.0)]
    assert decide(Need(50), residents, Budget(100)) == Evict((2, 3))


def test_the_busy_and_the_fixed_stay_however_old() -> None:
    residents = [
        Resident(1, 30, 0.0, Stay.BUSY),
        Resident(2, 30, 0.0, Stay.FIXED),
        idle(3, 30, 9.0),
    ]
    assert decide(Need(30), residents, Budget(100)) == Evict((3,))


def test_nobody_else_goes_while_enough_is_on_its_way_back() -> None:
    residents = [Resident(1, 60, 0.0, Stay.LEAVING), idle(2, 30, 0.0)]
    assert isinstance(decide(Need(50), residents, Budget(100)), Wait)


def test_work_is_waited_for_and_what_never_goes_is_refused_at_once_with_the_numbers() -> None:
    mib = 1 << 20
    busy, fixed = Resident(1, 60 * mib, 0.0, Stay.BUSY), Resident(1, 60 * mib, 0.0, Stay.FIXED)
    assert isinstance(decide(Need(50 * mib), [busy], Budget(100 * mib)), Wait)
    refusal = decide(Need(50 * mib), [fixed], Budget(100 * mib))
    assert refusal == Refuse("it needs 50 MiB of the 100 MiB for models, 60 MiB fixed")
    assert isinstance(decide(Need(101 * mib), [], Budget(100 * mib)), Refuse)


def test_a_count_is_a_budget_too() -> None:
    assert decide(Need(1), [idle(1, 1, 0)], Budget(100, models=1)) == Evict((1,))
    assert decide(Need(1), [idle(1, 1, 0)], Budget(100, models=2)) == Admit()


def test_each_replica_goes_to_the_gpu_with_the_most_room() -> None:
    budget = Budget(1000, {"cuda:0": 100, "cuda:1": 80})
    assert decide(Need(1, 30, 3, "auto"), [], budget) == Admit(("cuda:0", "cuda:1", "cuda:0"))
    assert decide(Need(1, 30, 1, "cuda:1"), [], budget) == Admit(("cuda:1",))
    assert decide(Need(1, 30, 1, "cpu"), [], budget) == Admit()


def test_only_who_holds_what_is_short_goes() -> None:
    budget = Budget(1000, {"cuda:0": 100, "cuda:1": 100})
    residents = [idle(1, 10, 0.0), idle(2, 10, 1.0, cuda_0=90), idle(3, 10, 2.0, cuda_1=90)]
    assert decide(Need(1, 50, 1, "cuda:1"), residents, budget) == Evict((3,))
    assert decide(Need(1, 50, 1, "auto"), residents, budget) == Evict((2,))


def test_nobody_goes_from_a_gpu_that_is_not_chosen_in_the_end() -> None:
    budget = Budget(1000, {"cuda:0": 10, "cuda:1": 10})
    fixed = Resident(1, 10, 0.0, Stay.FIXED, {"cuda:0": 7})
    residents = [fixed, idle(2, 10, 1.0, cuda_0=2), idle(3, 10, 2.0, cuda_1=9)]
    assert decide(Need(1, 8, 1, "auto"), residents, budget) == Evict((3,))


def test_models_that_have_grown_make_the_oldest_go() -> None:
    residents = [idle(1, 60, 2.0), idle(2, 60, 1.0), Resident(3, 10, 0.0, Stay.BUSY)]
    assert excess(residents, Budget(130)) == ()
    assert excess(residents, Budget(129)) == (2,)
    assert excess(residents, Budget(9)) == (2, 1)


sizes = st.integers(0, 50)
devices = st.dictionaries(st.sampled_from(GPUS), sizes)
residents_ = st.lists(
    st.builds(Resident, st.just(0), sizes, st.integers(0, 9).map(float), st.sampled_from(Stay), devices), max_size=8
).map(lambda found: [replace(one, key=key) for key, one in enumerate(found)])
needs = st.builds(Need, sizes, sizes, st.integers(1, 3), st.sampled_from(["cpu", "auto", *GPUS]))
budgets = st.builds(
    Budget,
    st.integers(0, 200),
    st.dictionaries(st.sampled_from(GPUS), st.integers(0, 100)),
    st.none() | st.integers(1, 8),
)


def age(resident: Resident) -> tuple[float, int]:
    return resident.last_used, resident.key


def held(residents: list[Resident], budget: Budget) -> bool:
    on_gpus = all(sum(one.devices.get(name, 0) for one in residents) <= size for name, size in budget.devices.items())
    models = budget.models is None or len(residents) <= budget.models
    return on_gpus and models and sum(one.host for one in residents) <= budget.host


@given(needs, residents_, budgets)
def test_an_admission_never_breaks_the_budget(need: Need, residents: list[Resident], budget: Budget) -> None:
    decision = decide(need, residents, budget)
    if isinstance(decision, Admit):
        on_devices: dict[str, int] = {}
        for name in decision.devices:
            on_devices[name] = on_devices.get(name, 0) + need.device
        new = Resident(99, need.host * need.replicas, 0.0, Stay.BUSY, on_devices)
        wanted = set(decision.devices)
        assert held(
            [*residents, new], replace(budget, devices={n: s for n, s in budget.devices.items() if n in wanted})
        )


@given(needs, residents_, budgets)
def test_only_the_idle_go_and_never_before_one_that_was_used_longer_ago(
    need: Need, residents: list[Resident], budget: Budget
) -> None:
    decision = decide(need, residents, budget)
    if isinstance(decision, Evict):
        by_key = {one.key: one for one in residents}
        victims = [by_key[key] for key in decision.keys]
        assert victims
        assert all(one.stay is Stay.IDLE for one in victims)
        assert victims == sorted(victims, key=age)
        # The last one was needed: without it there is still no room.
        staying = [one for one in residents if one.stay is not Stay.LEAVING and one not in victims]
        assert place(need, staying, budget) is not None
        assert place(need, [*staying, victims[-1]], budget) is None
        # Nobody goes in vain: whichever of them stays, there is no room.
        assert all(place(need, [*staying, one], budget) is None for one in victims)
        if not budget.devices and budget.models is None:
            # With memory alone at stake all who were used longer ago than the last one do not make room together.
            newer = [one for one in residents if one.stay is not Stay.IDLE or age(one) >= age(victims[-1])]
            assert place(need, [one for one in newer if one.stay is not Stay.LEAVING], budget) is None


@given(needs, residents_, budgets)
def test_a_refusal_is_for_good_and_a_wait_is_not(need: Need, residents: list[Resident], budget: Budget) -> None:
    decision = decide(need, residents, budget)
    fixed = [one for one in residents if one.stay is Stay.FIXED]
    if isinstance(decision, Refuse):
        assert place(need, fixed, budget) is None
    else:
        assert place(need, fixed, budget) is not None


@given(needs, residents_, budgets)
def test_evicting_what_is_told_and_asking_again_comes_to_an_end(
    need: Need, residents: list[Resident], budget: Budget
) -> None:
    for _ in range(len(residents) + 2):
        decision = decide(need, residents, budget)
        if not isinstance(decision, Evict):
            break
        residents = [one for one in residents if one.key not in decision.keys]
    assert not isinstance(decision, Evict)
