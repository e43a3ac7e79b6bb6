"""What the fleet is asked changes nothing: every question is asked in every state of the fleet's stories.

Whatever is public in the fleet is listed here as a query or as a command; a new function has to be told which it is.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import serving.supervisor.fleet
from serving.config.config import load
from serving.ipc.scoreboard import Row, Scoreboard
from serving.supervisor.fleet import admission, cache, describe, overrun, pace, starting, warmtier
from serving.supervisor.fleet.deployment import Deployment, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.devices import Devices
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.spares import SpareRule
from serving.supervisor.fleet.state import FleetState
from tests.unit import test_fleet_gpus as gpus
from tests.unit import test_fleet_many as many

Query = Callable[[Fleet, float], object]
NAMES = ("auto", "cuda", "cpu", "cuda:0", "cuda:1")


def of_state(ask: Callable[[FleetState], object]) -> Query:
    return lambda fleet, now: ask(fleet.state)


def of_each_deployment(ask: Callable[[Deployment, float], object]) -> Query:
    return lambda fleet, now: [ask(one, now) for one in fleet.state.everything()]


def of_each_worker(ask: Callable[[WorkerProcess, float], object], *roles: Role) -> Query:
    return lambda fleet, now: [ask(one, now) for one in fleet.workers.all() if not roles or one.role in roles]


def of_each_device(ask: Callable[[Devices, str], object]) -> Query:
    return lambda fleet, now: [ask(fleet.state.devices, name) for name in NAMES]


def of_admission(ask: Callable[[admission.Admission, FleetState, float], object]) -> Query:
    return lambda fleet, now: ask(fleet.state.admission, fleet.state, now)


def residents(state: FleetState, now: float) -> list[cache.Resident]:
    return state.admission._residents(state.everything(), now)


def of_cache(ask: Callable[[list[cache.Resident], cache.Budget], object]) -> Query:
    return lambda fleet, now: ask(residents(fleet.state, now), fleet.state.admission.budget)


def lacks(state: FleetState) -> list[bool]:
    serving, devices = state.workers.of(Role.SERVING), state.devices
    return [devices.lacks_memory(one, name, serving) for one in state.everything() for name in NAMES]


MODEL = many.model("m1", device="auto", replicas=2)
NEED = cache.Need(1 << 20, 1 << 20, 2, "auto")
CONFIG = load({"SERVING_MODEL_STORE": "/models"})
KEYS = [(worker, epoch) for worker in range(3) for epoch in range(9)]
QUERIES: dict[str, Query] = {
    "FleetState.get": of_state(lambda state: [state.get(f"m{number}") for number in range(8)]),
    "FleetState.current": of_state(lambda state: state.current()),
    "FleetState.everything": of_state(lambda state: list(state.everything())),
    "FleetState.is_loading": of_state(lambda state: state.is_loading),
    "FleetState.placement": of_state(lambda state: [state.placement(f"m{number}") for number in range(8)]),
    "FleetState.room": of_state(lambda state: [state.room(one) for one in state.everything()]),
    "Rows.__len__": of_state(lambda state: len(state.workers.rows)),
    "Workers.all": of_state(lambda state: state.workers.all()),
    "Workers.of": of_state(lambda state: [state.workers.of(role) for role in Role]),
    "Workers.count": of_state(lambda state: [state.workers.count(role) for role in Role]),
    "Workers.find": of_state(lambda state: [state.workers.find(*key) for key in KEYS]),
    "Workers.by_pid": of_state(lambda state: [state.workers.by_pid(pid) for pid in range(100, 120)]),
    "Workers.wants": of_state(lambda state: [state.workers.wants(*key) for key in KEYS]),
    "Workers.waits_for_fork": lambda fleet, now: fleet.workers.waits_for_fork(now, 1.0),
    "Workers.pids": of_state(lambda state: state.workers.pids()),
    "Workers.is_empty": of_state(lambda state: state.workers.is_empty),
    "WorkerProcess.role": of_each_worker(lambda one, now: one.role),
    "WorkerProcess.status": of_each_worker(lambda one, now: one.status),
    "WorkerProcess.deployment": of_each_worker(lambda one, now: one.deployment, Role.SERVING),
    "WorkerProcess.model": of_each_worker(lambda one, now: one.model, Role.SERVING, Role.PARKED),
    "WorkerProcess.name": of_each_worker(lambda one, now: one.name, Role.SERVING, Role.PARKED),
    "WorkerProcess.is_wanted": of_each_worker(lambda one, now: one.is_wanted),
    "WorkerProcess.is_ready": of_each_worker(lambda one, now: one.is_ready),
    "WorkerProcess.may_take_over": of_each_worker(lambda one, now: one.may_take_over),
    "WorkerProcess.owes_a_reason": of_each_worker(lambda one, now: one.owes_a_reason),
    "WorkerProcess.overstays": of_each_worker(lambda one, now: one.overstays(now)),
    "Deployment.name": of_each_deployment(lambda one, now: one.name),
    "Deployment.stage": of_each_deployment(lambda one, now: one.stage),
    "Deployment.live": of_each_deployment(lambda one, now: one.live()),
    "Deployment.ready": of_each_deployment(lambda one, now: one.ready()),
    "Deployment.missing": of_each_deployment(lambda one, now: one.missing()),
    "Deployment.device_need": of_each_deployment(lambda one, now: one.device_need()),
    "Deployment.memory": of_each_deployment(lambda one, now: one.memory()),
    "Deployment.grown": of_each_deployment(lambda one, now: one.grown()),
    "Deployment.device_memory": of_each_deployment(lambda one, now: one.device_memory()),
    "Deployment.last_used": of_each_deployment(lambda one, now: one.last_used()),
    "Deployment.has_work": of_each_deployment(lambda one, now: one.has_work()),
    "Restarts.are_over": of_each_deployment(lambda one, now: one.restarts.are_over),
    "Restarts.is_calm": of_each_deployment(lambda one, now: one.restarts.is_calm(now)),
    "Spares.__len__": of_state(lambda state: len(state.spares)),
    "Spares.all": of_state(lambda state: state.spares.all()),
    "Spares.charge": of_state(lambda state: state.spares.charge()),
    "Spares.context": of_state(lambda state: state.spares.context()),
    "Spares.ready_on": of_state(lambda state: [state.spares.ready_on(name) for name in NAMES]),
    "SpareRule.__call__": of_state(lambda state: SpareRule(1, "auto")(state.everything(), state.devices)),
    "WarmTier.__len__": of_state(lambda state: len(state.warm)),
    "WarmTier.all": of_state(lambda state: state.warm.all()),
    "WarmTier.charge": of_state(lambda state: state.warm.charge()),
    "WarmTier.takes": of_state(lambda state: [state.warm.takes(MODEL, size) for size in (0, 1, 1 << 40)]),
    "WarmTier.of": of_state(lambda state: [state.warm.of(one.model) for one in state.everything()]),
    "warmtier.essence": lambda fleet, now: warmtier.essence(MODEL),
    "warmtier.joined": of_state(lambda state: warmtier.joined(state.spares.charge()[1], state.warm.charge())),
    "Devices.__contains__": of_each_device(lambda devices, name: name in devices),
    "Devices.usable": of_state(lambda state: state.devices.usable),
    "Devices.gpus": of_state(lambda state: state.devices.gpus()),
    "Devices.awaits": of_state(lambda state: state.devices.awaits),
    "Devices.visible": of_each_device(lambda devices, name: devices.visible(name, 2)),
    "Devices.inside": of_each_device(lambda devices, name: devices.inside(name, "auto")),
    "Devices.homes": of_each_device(lambda devices, name: devices.homes(name)),
    "Devices.blocked": of_each_device(lambda devices, name: devices.blocked(name)),
    "Devices.spread": of_state(lambda state: state.devices.spread(MODEL, {"cuda:0": 2, "cuda:1": 3}, 1)),
    "Devices.moved": of_state(lambda state: state.devices.moved(["cuda:0", "cuda:1"], MODEL, {"cuda:0": 2}, 1)),
    "Devices.is_taken": of_each_device(lambda devices, name: devices.is_taken(name, True, 1 << 40)),
    "Devices.lacks_memory": of_state(lacks),
    "Admission.room": of_admission(lambda one, state, now: [state.room(other) for other in state.everything()]),
    "Admission.rulings": of_admission(lambda one, state, now: list(one.rulings(state.everything(), now))),
    "Admission.lack": of_admission(
        lambda one, state, now: [one.lack(state.everything(), other, now) for other in state.everything()]
    ),
    "Admission.excess": of_admission(lambda one, state, now: one.excess(state.everything(), now)),
    "Admission.oldest": of_admission(lambda one, state, now: one.oldest(state.everything(), now)),
    "admission.estimate": of_state(lambda state: admission.estimate(MODEL, state.spares.context())),
    "admission.least": of_each_deployment(lambda one, now: admission.least(one.model, one.cost)),
    "admission.budget_of": of_state(lambda state: admission.budget_of(CONFIG, 0, state.devices.gpus())),
    "admission.check_memory": lambda fleet, now: admission.check_memory(CONFIG),
    "admission.stay_of": of_each_deployment(lambda one, now: admission.stay_of(one, now)),
    "admission.need_of": of_each_deployment(lambda one, now: admission.need_of(one, one.cost)),
    "admission.reservation": lambda fleet, now: [
        admission.reservation(one, residents(fleet.state, now), fleet.state.admission.budget)
        for one in fleet.state.everything()
    ],
    "cache.decide": of_cache(lambda there, budget: cache.decide(NEED, there, budget)),
    "cache.choose": of_cache(lambda there, budget: cache.choose(NEED, there, budget)),
    "cache.needed": of_cache(lambda there, budget: cache.needed(there[:1], NEED, there[1:], budget)),
    "cache.helps": of_cache(lambda there, budget: [cache.helps(one, NEED, there, budget) for one in there]),
    "cache.place": of_cache(lambda there, budget: cache.place(NEED, there, budget)),
    "cache.expect": of_cache(lambda there, budget: cache.expect(NEED, there, budget)),
    "cache.excess": of_cache(lambda there, budget: cache.excess(there, budget)),
    "cache.by_age": of_cache(lambda there, budget: cache.by_age(there)),
    "cache.on_device": of_cache(lambda there, budget: cache.on_device("cuda:0", there)),
    "cache.device_free": of_cache(lambda there, budget: cache.device_free(NEED, there, budget)),
    "cache.host_free": of_cache(cache.host_free),
    "cache.numbers": of_cache(lambda there, budget: cache.numbers(NEED, there, budget)),
    "cache.mib": lambda fleet, now: cache.mib(12345678),
    "describe.placement_of": of_each_deployment(lambda one, now: describe.placement_of(one.name, one)),
    "describe.server_state": of_state(lambda state: describe.server_state(state.everything())),
    "describe.model_state": of_each_deployment(lambda one, now: describe.model_state(one)),
    "describe.counts": of_state(lambda state: describe.counts(state.everything())),
    "describe.describe": of_each_deployment(describe.describe),
    "describe.state_of": of_each_deployment(lambda one, now: describe.state_of(one)),
    "describe.describe_replica": of_each_worker(lambda one, now: describe.describe_replica(one)),
    "describe.shown": of_each_deployment(lambda one, now: describe.shown(describe.describe(one, now), CONFIG)),
    "describe.without_paths": lambda fleet, now: describe.without_paths("/m/x: no", MODEL),
    "overrun.overrun": of_each_worker(lambda one, now: overrun.overrun(one, 60.0, now), Role.SERVING),
    "overrun.is_stopped": of_each_worker(lambda one, now: overrun.is_stopped(one, 0.0, now), Role.SERVING),
    "overrun.has_answered": of_each_worker(lambda one, now: overrun.has_answered(one), Role.SERVING),
    "pace.pause": lambda fleet, now: pace.pause(fleet.state.everything(), now),
    "starting.no_room": of_each_deployment(lambda one, now: str(starting.no_room(one, "why"))),
    "starting.cannot_be_served": of_each_deployment(lambda one, now: str(starting.cannot_be_served(one, "why"))),
}
COMMANDS: dict[str, str] = {
    "FleetState": "add replace remove admit_soon reserve",
    "Rows": "claim give_back",
    "Workers": "start forked take_over park ended overdue cut",
    "WorkerProcess": "become take_over park",
    "Deployment": "become lose learn touch",
    "Restarts": "succeed count_failure count_death",
    "Spares": "want close tick ready exited",
    "WarmTier": "park forget leave_device yield_one close tick exited",
    "Devices": "take_out saw died",
    "Admission": "set_budget reserve forget",
    "Fleet": "add admit leave retire tick end look take_out progress parked load_failed exited waiting_exited lost",
    "Unloading": "evict leave parked forget give_up_load settle_load retire",
    "WorkerStarter": "start_missing end replace",
    "Admitting": "admit",
    "WorkerReports": "progress load_failed ended",
    "workerreports": "give_up",
    "admission": "log_ruling",
}


def public() -> Iterator[str]:
    """The name of every public function, method and property of the fleet."""
    for module in pkgutil.iter_modules(serving.supervisor.fleet.__path__):
        found = importlib.import_module(f"serving.supervisor.fleet.{module.name}")
        for name, value in vars(found).items():
            if getattr(value, "__module__", "") != found.__name__ or name.startswith("_"):
                continue
            if inspect.isfunction(value):
                yield f"{module.name}.{name}"
            elif inspect.isclass(value) and not issubclass(value, enum.Enum):
                for key, member in vars(value).items():
                    asks = key in ("__len__", "__contains__", "__call__") or not key.startswith("_")
                    if asks and isinstance(member, FunctionType | property | classmethod):
                        yield f"{name}.{key}"


def test_every_function_of_the_fleet_is_known_as_a_query_or_as_a_command() -> None:
    commands = {f"{owner}.{name}" for owner, names in COMMANDS.items() for name in names.split()}
    assert commands & QUERIES.keys() == set()
    assert set(public()) == commands | QUERIES.keys()


def snapshot(root: object) -> object:
    """What can be seen of an object and all that it holds, compared by value; what was met before is a number."""
    met: dict[int, int] = {}
    kept: list[object] = []

    def look(one: Any) -> object:
        if isinstance(one, str | bytes | int | float | None | enum.Enum):
            return one
        if isinstance(one, FunctionType | MethodType | type) or (type(one).__module__ == "builtins" and callable(one)):
            return type(one).__name__
        if isinstance(one, Row):
            return one.index
        if isinstance(one, Scoreboard):
            return zlib.crc32(one._map)
        if id(one) in met:
            return met[id(one)]
        met[id(one)] = len(met)
        kept.append(one)  # so that its id is nobody else's
        if isinstance(one, Mapping):
            return [(look(key), look(value)) for key, value in one.items()]
        if isinstance(one, list | tuple | deque | frozenset):
            return [look(value) for value in one]
        if isinstance(one, set):
            return sorted(map(repr, one))
        slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [*slots, *getattr(one, "__struct_fields__", ()), *getattr(one, "__dict__", ())]
        return type(one).__name__, [(name, look(getattr(one, name, None))) for name in names if name != "__weakref__"]

    return look(root)


def ask(fleet: Fleet, now: float) -> None:
    """Ask everything, twice."""
    before = snapshot(fleet)
    answers = {name: snapshot(query(fleet, now)) for name, query in QUERIES.items()}
    again = {name: snapshot(query(fleet, now)) for name, query in QUERIES.items()}
    if snapshot(fleet) != before:
        raise AssertionError(f"{blame(fleet, now)} writes what it is only asked for")
    assert answers == again


def blame(fleet: Fleet, now: float) -> list[str]:
    found = []
    for name, query in QUERIES.items():
        before = snapshot(fleet)
        query(fleet, now + 1.0)
        if snapshot(fleet) != before:
            found.append(name)
    return found or ["something"]


@settings(max_examples=25, deadline=None)
@given(many.steps)
def test_questions_about_many_models_change_nothing(story: list[tuple[str, int, int]]) -> None:
    rig = many.Rig(host=100, models=5)
    for step in story:
        many.play(rig, *step)
        for replica in rig.fleet.workers.of(Role.SERVING)[:1]:
            rig.fleet.workers.overdue(replica.row.index, replica.epoch, rig.now - 1.0)
        ask(rig.fleet, rig.now)


@settings(max_examples=25, deadline=None)
@given(gpus.steps, st.booleans(), st.integers(0, 2))
def test_questions_about_gpus_spares_and_parked_workers_change_nothing(
    story: list[tuple[str, int, str]], many_models: bool, spares: int
) -> None:
    rig = gpus.Rig(16, 16, many=many_models, spares=spares, warm=64 if many_models else 0)
    if not many_models:
        rig.add(gpus.model(replicas=2))
    for step in story:
        gpus.play(rig, *step)
        for replica in rig.fleet.workers.of(Role.SERVING):
            if replica.status is Status.PARKING:
                rig.act(rig.fleet.parked(replica.row.index, replica.epoch, rig.now))
        ask(rig.fleet, rig.now)


def test_a_question_about_an_overdue_request_that_was_answered_late_changes_nothing() -> None:
    rig = many.Rig()
    served = rig.serve("m1", 60)
    [replica] = served.replicas
    rig.fleet.workers.overdue(replica.row.index, replica.epoch, rig.now)
    rig.board._floats[replica.row._at + 3] = rig.now + 0.1  # the beat
    ask(rig.fleet, rig.now + 1.0)
    assert replica.overdue is not None
    rig.tick()
    assert replica.overdue is None, "a tick records it"


def test_a_question_about_a_model_that_was_estimated_too_large_changes_nothing() -> None:
    rig = gpus.Rig(72, many=True)
    rig.fleet.state.admission.set_budget(cache.Budget(128 << 30, {"cuda:0": 72 << 30}))
    served = rig.fleet.add(gpus.never_loaded("m1", 71.9), rig.now, gpus.Owner.STORE, rig.now + 10)
    ask(rig.fleet, rig.now)
    assert served.is_guessed
    rig.tick()
    assert (served.is_guessed, served.stage) == (False, Stage.SERVING)
