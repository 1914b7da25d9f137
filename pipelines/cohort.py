"""A cohort, from the arguments of ``chiasm run`` to an exit code."""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .. import __version__
from ..data.discovery import ChannelRule, discover
from ..data.errors import RecipeError, ToolError, did_you_mean
from ..data.patients import Session
from ..data.phantoms.marker import is_phantom
from .console import complain, say, table
from .engine.admission import WORKER_BYTES, available_bytes, predict
from .engine.driver import RunRequest, RunResult, plan_work, run_cohort, select
from .engine.executor import Executor
from .engine.group import write_group_outputs
from .engine.inventory import Identity
from .engine.ledger import Ledger
from .engine.local import LocalExecutor
from .engine.lock import FolderLock
from .engine.options import RunOptions
from .engine.plan import Plan
from .engine.progress import Progress
from .engine.records import label_of
from .engine.weights import component_hashes
from .engine.worker import WorkerSettings
from .recipes import BaseRecipe, load_recipe, with_weights

CODES = {
    "CHI-RC-021": "The output folder is the input folder, or lies inside it.",
    "CHI-RC-022": "An unknown device.",
    "CHI-RC-024": "A manifest with a recipe that reads no images.",
    "CHI-TL-001": "An executor that is not installed.",
}
SHARE_OF_FREE_MEMORY = 0.8


@dataclass(frozen=True)
class _Cohort:
    recipe: BaseRecipe
    request: RunRequest
    settings: list[WorkerSettings]
    sessions: list[Session]


def run(arguments: argparse.Namespace) -> int:
    """Run a cohort as the command line asked and return the exit code."""
    recipe: BaseRecipe = load_recipe(arguments.recipe)
    if arguments.weights:
        recipe = with_weights(recipe, arguments.weights)
    _check_folders(arguments.source, arguments.out)
    if arguments.executor != "local":
        raise ToolError(
            "CHI-TL-001",
            f"the executor '{arguments.executor}' is not part of this version.",
            "Use --executor local, with --shard i/n on a cluster.",
        )
    cohort = _gather(recipe, arguments)
    out, work = cohort.request.out, cohort.request.work
    if arguments.level == "group":
        pages = write_group_outputs(out, cohort.request.identity.recipe_name, recipe.title, cohort.request.identity)
        say(f"report: {pages[-1]}")
        return 0
    if arguments.dry_run:
        return _dry_run(cohort)
    index, total = arguments.shard
    lock = FolderLock(work, f"{label_of(recipe.name)}-{index}of{total}")
    try:
        return _run_locked(cohort)
    finally:
        lock.release()


def _run_locked(cohort: _Cohort) -> int:
    ledger = Ledger(cohort.request.work)
    # SIGINT too: a shell that starts us in the background has it ignored.
    before = {number: signal.signal(number, _as_interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        decisions = plan_work(cohort.sessions, cohort.request, ledger)
        todo = sum(d.verdict != "skip" for d in decisions)
        say(
            f"{len(decisions)} sessions: {todo} to run, {len(decisions) - todo} finished before. Recipe '{cohort.recipe.name}'."
        )

        def executor() -> Executor:
            return LocalExecutor(cohort.settings)

        result = run_cohort(decisions, cohort.request, executor, ledger, Progress(todo))
    except KeyboardInterrupt:
        complain("Stopped. What is finished is kept; the same command goes on from here.")
        return 75
    finally:
        ledger.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    _show(result, cohort)
    return result.exit_code


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _gather(recipe: BaseRecipe, arguments: argparse.Namespace) -> _Cohort:
    sessions = select(
        _discovered(recipe, arguments),
        participants=arguments.participant_label,
        shard=arguments.shard,
    )
    options = RunOptions(
        probabilities=arguments.probabilities,
        prepare=arguments.prepare,
        mask_folder=str(arguments.mask) if arguments.mask else "",
        single_file=arguments.single_file,
    )
    identity = Identity(
        recipe_name=recipe.name,
        recipe=recipe.sha256(),
        options=options.sha256(),
        version=__version__,
        weights=component_hashes(recipe),
        device=arguments.device,
        mode=arguments.mode,
    )
    request = RunRequest(
        out=arguments.out,
        work=arguments.work_dir or arguments.out / ".chiasm",
        title=recipe.title,
        identity=identity,
        update=arguments.update,
        retry_failed=arguments.retry_failed,
        stop_on_first_failure=arguments.stop_on_first_failure,
    )
    return _Cohort(recipe, request, _worker_settings(recipe, options, identity, arguments), sessions)


def _discovered(recipe: BaseRecipe, arguments: argparse.Namespace) -> list[Session]:
    if recipe.pipeline in {"dementia", "fmri-images"}:
        if arguments.manifest is not None:
            raise RecipeError(
                "CHI-RC-024",
                "a manifest is read for MRI only.",
                "Give the folder of the data without --manifest; one folder a person.",
            )
        if recipe.pipeline == "fmri-images":
            from ..data.fmri_discovery import fmri_sessions

            return fmri_sessions(arguments.source)
        from ..data.speech_discovery import speech_sessions

        return speech_sessions(arguments.source)
    rules = {
        name: ChannelRule(suffixes=spec.suffixes, keywords=spec.keywords, optional=spec.optional)
        for name, spec in recipe.channels.items()
    }
    return discover(arguments.source, rules, manifest=arguments.manifest)


def _worker_settings(
    recipe: BaseRecipe, options: RunOptions, identity: Identity, arguments: argparse.Namespace
) -> list[WorkerSettings]:
    devices = devices_of(arguments.device, arguments.workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = int(arguments.memory_gb * 2**30) if arguments.memory_gb else int(SHARE_OF_FREE_MEMORY * available_bytes())
    limit = max(0, allowed // len(devices) - WORKER_BYTES)
    return [
        WorkerSettings(
            recipe=recipe,
            options=options,
            plan=Plan(
                device=device,
                batch_size=arguments.batch_size or (1 if device == "cpu" else 4),
                precision="bfloat16" if arguments.mode == "fast" and has_bfloat16(device) else "float32",
                mode=arguments.mode,
                threads=arguments.threads or max(1, cores // len(devices)),
                seed=arguments.seed,
                compile=arguments.compile,
            ),
            identity=identity,
            out=arguments.out,
            limit_bytes=limit,
            input_is_phantom=is_phantom(arguments.source),
        )
        for device in devices
    ]


def devices_of(text: str, workers: int) -> list[str]:
    """Turn ``--device`` into one device a worker.

    Raises
    ------
    RecipeError
        ``CHI-RC-022``.
    """
    n_cuda = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if text == "auto":
        text = "all" if n_cuda else "cpu"
    if text == "all":
        return [f"cuda:{index}" for index in range(n_cuda)] or ["cpu"] * workers
    if text in {"cpu", "mps"}:
        return [text] * (workers if text == "cpu" else 1)
    kind, _, numbers = text.partition(":")
    if kind == "cuda" and (not numbers or all(part.isdigit() for part in numbers.split(","))):
        return [f"cuda:{int(part)}" for part in (numbers or "0").split(",")]
    raise RecipeError(
        "CHI-RC-022",
        f"'{text}' is not a device.{did_you_mean(text, ['cpu', 'cuda', 'mps', 'all', 'auto'])}",
        "Use auto, cpu, mps, cuda:0, cuda:0,1 or all.",
    )


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is computed by the device itself (on a CPU without it, it is slower than float32)."""
    if device != "cpu":
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _check_folders(source: Path, out: Path) -> None:
    if out == source or (out.is_relative_to(source) and "derivatives" not in out.relative_to(source).parts):
        raise RecipeError(
            "CHI-RC-021",
            "the output folder is the input folder, or lies inside it.",
            f"Choose another, such as {source.name}/derivatives/chiasm or a folder beside it.",
        )


def _dry_run(cohort: _Cohort) -> int:
    from .engine.tasks import activation_bytes, build_pipeline

    ledger = Ledger(cohort.request.work) if cohort.request.work.is_dir() else None
    settings = cohort.settings[0]
    pipeline = build_pipeline(cohort.recipe, settings.options)
    activations = activation_bytes(cohort.recipe, settings.plan)
    rows = []
    for session in cohort.sessions:
        prediction = predict(session, pipeline, activations)
        fits = "fits" if prediction.peak_bytes <= settings.limit_bytes else "too large"
        found = ", ".join(f"{r.channel or '?'} {r.relative}" for r in session.recordings) or "nothing"
        problem = session.problems[0].code if session.problems else fits
        rows.append([session.key, f"{prediction.peak_bytes / 2**30:.2f} GiB", problem, found])
    say(table(["session", "memory", "state", "recordings"], rows))
    seconds = ledger.mean_seconds(cohort.request.identity.recipe) if ledger else None
    if ledger:
        ledger.close()
    estimate = (
        f"about {seconds * len(rows) / len(cohort.settings) / 60:.1f} min from earlier sessions"
        if seconds
        else "unknown before the first session"
    )
    devices = ", ".join(s.plan.device for s in cohort.settings)
    say(f"\n{len(rows)} sessions, {len(cohort.settings)} worker(s) on {devices}; time: {estimate}. Nothing was run.")
    return 0


def _show(result: RunResult, cohort: _Cohort) -> None:
    records = sorted(result.records, key=lambda record: (record.status != "failed", record.key))
    columns = list(dict.fromkeys(name for record in records for name in record.row))[:6]
    rows = [
        [r.key, r.status, *[_cell(r.row.get(name)) for name in columns], r.code or "; ".join(r.flags)[:60]]
        for r in records[:40]
    ]
    say()
    say(table(["session", "status", *columns, "note"], rows))
    if len(records) > len(rows):
        say(f"... and {len(records) - len(rows)} more")
    _say_failures(result)
    say(f"\n{len(records) - len(result.failed)} done ({result.skipped} before), {len(result.failed)} failed.")
    say(f"report: {cohort.request.out / ('desc-' + label_of(cohort.recipe.name) + '_report.html')}")


def _say_failures(result: RunResult) -> None:
    for record in result.failed[:20]:
        where = f"{record.file}: " if record.file else ""
        say(f"\n{record.key} [{record.code}] {where}{record.message}\n    {record.remedy}")


def _cell(value: float | str | None) -> str:
    if value is None:
        return "n/a"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value.is_integer() else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
