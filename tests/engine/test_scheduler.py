"""Flows through legs: order, budget, batches across sessions, and one failing session among others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.data.errors import InputError, RecipeError
from chiasm.pipelines.engine.plan import Plan
from chiasm.pipelines.engine.scheduler import Flow, Scheduler, legs_of
from chiasm.pipelines.engine.stage import BatchedStage, BatchJob, Context, Pipeline, Stage


class Double(Stage):
    name = "double"
    consumes = int
    produces = int

    def run(self, item: int, context: Context) -> int:
        if item < 0:
            raise InputError("CHI-IN-999", "negative.")
        return 2 * item


class Text(Stage):
    name = "text"
    consumes = str
    produces = str

    def run(self, item: str, context: Context) -> str:
        return item


class _Countdown(BatchJob):
    """`n` units of value n; the answers are added up."""

    def __init__(self, n: int) -> None:
        self.n_units, self.total = n, 0.0

    def unit(self, index: int) -> torch.Tensor:
        return torch.tensor([float(self.n_units)])

    def accept(self, index: int, result: torch.Tensor) -> None:
        self.total += float(result)

    def finish(self) -> int:
        return int(self.total)


class AddOne(BatchedStage):
    name = "add-one"
    consumes = int
    produces = int

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.fail_on: float | None = None

    def open(self, item: int, context: Context) -> BatchJob:
        return _Countdown(item)

    def forward(self, batch: torch.Tensor, context: Context) -> torch.Tensor:
        self.shapes.append(tuple(batch.shape))
        if self.fail_on is not None and bool((batch == self.fail_on).any()):
            raise MemoryError
        return batch + 1


class Last(Stage):
    name = "last"
    consumes = int
    produces = int

    def run(self, item: int, context: Context) -> int:
        return item


def run_all(
    stages: list[Stage], values: list[Any], *, batch_size: int = 4, budget: int = 100, each: int = 1
) -> list[Flow]:
    finished: list[Flow] = []
    scheduler = Scheduler(Pipeline("test", stages), budget, finished.append)
    for value in values:
        context = Context(components={}, plan=Plan(batch_size=batch_size), out=Path())
        scheduler.submit(Flow(value, context, each, token=value))
    scheduler.close()
    scheduler.run()
    return sorted(finished, key=lambda flow: flow.token)


def test_every_session_passes_all_stages() -> None:
    flows = run_all([Double(), AddOne(), Last()], [1, 2, 3])
    # n units of value n, plus one each: n * (n + 1), with n the doubled input
    assert [flow.value for flow in flows] == [2 * 3, 4 * 5, 6 * 7]


def test_batches_are_filled_across_sessions_and_keep_the_plan_shape() -> None:
    stage = AddOne()
    job_sizes = [3, 3, 2]
    flows = run_all([stage, Last()], job_sizes)
    assert [flow.value for flow in flows] == [2 * 3, 3 * 4, 3 * 4]
    assert stage.shapes == [(4, 1), (4, 1)]  # 8 units in two full batches, not three padded ones


def test_a_lone_session_is_padded_to_the_plan_shape() -> None:
    stage = AddOne()
    assert stage.run(3, Context(components={}, plan=Plan(batch_size=2), out=Path())) == 12
    assert stage.shapes == [(2, 1), (2, 1)]


def test_one_failing_session_does_not_touch_the_others() -> None:
    flows = run_all([Double(), AddOne(), Last()], [-1, 1, 2])
    assert isinstance(flows[0].error, InputError)
    assert [flow.value for flow in flows[1:]] == [6, 20]


def test_an_error_of_a_batch_reaches_every_session_in_it_and_no_other() -> None:
    stage = AddOne()
    stage.fail_on = 2.0
    flows = run_all([stage, Last()], [2, 5], batch_size=2)
    assert isinstance(flows[0].error, MemoryError)
    assert flows[1].value == 30


def test_sessions_in_flight_never_exceed_the_byte_budget() -> None:
    state = {"now": 0, "most": 0}
    lock = threading.Lock()

    class Enter(Stage):
        name = "enter"
        consumes = int
        produces = int

        def run(self, item: int, context: Context) -> int:
            with lock:
                state["now"] += 10
                state["most"] = max(state["most"], state["now"])
            return item

    class Leave(Last):
        name = "leave"

        def run(self, item: int, context: Context) -> int:
            with lock:
                state["now"] -= 10
            return item

    assert len(run_all([Enter(), AddOne(), Leave()], list(range(1, 20)), budget=25, each=10)) == 19
    assert state["most"] <= 20


def test_a_session_larger_than_the_budget_still_runs_alone() -> None:
    assert [flow.value for flow in run_all([Double(), Last()], [1, 2], budget=1, each=50)] == [2, 4]


def test_legs_join_neighbours_of_one_device() -> None:
    legs = legs_of(Pipeline("test", [Double(), Last(), AddOne()]))
    assert [(leg.device, len(leg.stages)) for leg in legs] == [("cpu", 2), ("accelerator", 1)]


def test_stages_that_do_not_fit_are_refused_before_anything_runs() -> None:
    with pytest.raises(RecipeError, match="'text' takes str, but 'double' gives int"):
        Pipeline("test", [Double(), Text()])
