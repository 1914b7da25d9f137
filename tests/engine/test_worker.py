"""The worker's decisions, without a process: the out-of-memory ladder, coded errors, the watchdog's eye."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chiasm.data.errors import ChiasmError, InputError, ResourceError, SeveralErrors
from chiasm.data.patients import Session
from chiasm.pipelines.engine import local
from chiasm.pipelines.engine.admission import Prediction, available_bytes, check
from chiasm.pipelines.engine.local import death_error
from chiasm.pipelines.engine.plan import Plan
from chiasm.pipelines.engine.scheduler import Flow
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.engine.worker import WorkItem, _Token, _Worker, is_out_of_memory


def worker(plan: Plan) -> tuple[Any, list[tuple[Any, ...]]]:
    sent: list[tuple[Any, ...]] = []
    connection = SimpleNamespace(send=sent.append)
    return _Worker(connection, SimpleNamespace(plan=plan)), sent  # type: ignore[arg-type]


def flow(plan: Plan, tries: list[str], *, alone: bool = False) -> Flow:
    context = Context(components={}, plan=plan, out=Path())
    return Flow(None, context, 0, _Token(WorkItem(session=Session(patient="1")), tries), alone=alone)


def test_the_ladder_halves_the_batch_then_the_window_then_goes_to_the_cpu() -> None:
    steps = Plan(device="cuda:0", batch_size=4).ladder()
    assert [(s.device, s.batch_size, s.window_scale) for s in steps] == [
        ("cuda:0", 2, 1.0),
        ("cuda:0", 1, 0.5),
        ("cpu", 1, 1.0),
    ]
    assert [(s.device, s.batch_size, s.window_scale) for s in Plan(batch_size=1).ladder()] == [("cpu", 1, 0.5)]


def test_out_of_memory_walks_the_ladder_and_ends() -> None:
    plan = Plan(device="cuda:0", batch_size=4)
    one, _ = worker(plan)
    assert one.next_plan(flow(plan, []), MemoryError()).batch_size == 2
    assert one.next_plan(flow(plan, ["first"]), RuntimeError("CUDA out of memory. Tried")).window_scale == 0.5
    assert one.next_plan(flow(plan, ["first", "second"]), MemoryError()) is None


def test_a_coded_error_is_final_and_a_foreign_one_of_a_shared_batch_is_tried_alone_once() -> None:
    plan = Plan()
    one, _ = worker(plan)
    assert one.next_plan(flow(plan, []), InputError("CHI-IN-001", "bad.")) is None
    assert one.next_plan(flow(plan, []), RuntimeError("a kernel failed")) == plan
    assert one.next_plan(flow(plan, ["shared"], alone=True), RuntimeError("a kernel failed")) is None


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_exceptions_mean_memory(error: BaseException, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def test_a_foreign_exception_becomes_an_internal_error_whose_text_stays_out_of_message_and_log() -> None:
    one, sent = worker(Plan())
    try:
        raise ValueError("patient CANARY was here")
    except ValueError as error:
        coded = one.coded(error)
    assert coded.code == "CHI-INT-001"
    assert "CANARY" not in str(coded) + str(sent)
    assert "ValueError at test_worker.py:" in coded.message
    assert sent[0][1]["event"] == "internal-error"


def test_memory_is_refused_with_both_numbers() -> None:
    check(Prediction(10, 2 << 30), 2 << 30)
    with pytest.raises(ResourceError, match=r"need 3.0 GiB and 2.0 GiB are allowed") as caught:
        check(Prediction(10, 3 << 30), 2 << 30)
    assert caught.value.code == "CHI-RES-001"
    assert 0 < available_bytes() < 1 << 50


def test_the_watchdog_ends_a_silent_worker_and_spares_one_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [10.0]
    one = local._Worker.__new__(local._Worker)
    one.held, one.progress_at, one.cpu_s = {"sub-1": WorkItem(session=Session(patient="1"))}, time.monotonic(), 10.0
    monkeypatch.setattr(local._Worker, "_cpu_seconds", lambda self: used[0])
    now = one.progress_at
    assert not one.stalled(now + local.STALL_S - 1)
    used[0] = 12.0
    assert not one.stalled(now + local.STALL_S + 1)  # it computed: the clock starts anew
    assert one.stalled(now + 2 * local.STALL_S + 2)  # and then it did not
    one.held = {}
    assert not one.stalled(now + 10 * local.STALL_S)  # nothing to do is no hang


def test_errors_keep_code_file_and_remedy_on_their_way_between_processes() -> None:
    from multiprocessing.reduction import ForkingPickler

    first = InputError("CHI-IN-005", "cut off.", "Copy again.", file="p1/t1.nii")
    for error in (first, SeveralErrors([first, death_error("CHI-RES-003", -9)])):
        back = ForkingPickler.loads(ForkingPickler.dumps(error))
        assert isinstance(back, ChiasmError)
        assert type(back) is type(error)
        assert str(back) == str(error)
