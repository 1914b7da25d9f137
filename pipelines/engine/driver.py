"""The driver: finds what is left, feeds an executor, keeps the ledger, writes the group outputs. Never imports torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.errors import InputError, RecipeError
from ...data.patients import Session
from .executor import Executor
from .group import write_group_outputs
from .inventory import Decision, Identity, clear_leftovers, decide
from .ledger import Ledger
from .logs import RunLog
from .progress import Progress
from .records import PatientRecord
from .worker import WorkItem

CODES = {
    "CHI-RC-020": "Finished sessions were made with another recipe, weights, input or version.",
}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the command line asked the driver for."""

    out: Path
    work: Path
    title: str
    identity: Identity
    update: bool = False
    retry_failed: bool = False
    stop_on_first_failure: bool = False


@dataclass(kw_only=True)
class RunResult:
    """How a run ended."""

    records: list[PatientRecord] = field(default_factory=list)
    skipped: int = 0
    stopped_early: bool = False

    @property
    def failed(self) -> list[PatientRecord]:
        """Records of the sessions that failed in this run or, unchanged, before."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def exit_code(self) -> int:
        """0 all ok, 1 some failed."""
        return 1 if self.failed else 0


def shard_of(session: Session, n_shards: int) -> int:
    """Return 1-based shard of a session: by a stable hash of the patient, so that a patient's sessions stay together."""
    return zlib.crc32(session.patient.encode()) % n_shards + 1


def select(
    sessions: Sequence[Session], *, participants: Sequence[str] = (), shard: tuple[int, int] = (1, 1)
) -> list[Session]:
    """Keep the sessions of a shard and of the participants asked for.

    Raises
    ------
    InputError
        ``CHI-IN-060`` when nothing is left, ``CHI-IN-071`` when a participant asked for is not there.
    """
    wanted = {label.removeprefix("sub-") for label in participants}
    missing = wanted - {session.patient for session in sessions}
    if missing:
        raise InputError(
            "CHI-IN-071",
            f"no such participant in the input: {', '.join(sorted(missing))}.",
            "Labels are the folder names without 'sub-'.",
        )
    index, total = shard
    kept = [s for s in sessions if (not wanted or s.patient in wanted) and shard_of(s, total) == index]
    if not kept and total == 1:
        raise InputError(
            "CHI-IN-060",
            "there is no session in the input.",
            "See the page 'Cohorts' for the layouts that are recognised.",
        )
    return kept


def plan_work(sessions: Sequence[Session], request: RunRequest, ledger: Ledger) -> list[Decision]:
    """Decide for each session.

    Raises
    ------
    RecipeError
        ``CHI-RC-020``: finished sessions would change; nothing was touched.
    """
    decisions = [decide(s, request.out, request.identity, ledger, retry_failed=request.retry_failed) for s in sessions]
    changed = [d for d in decisions if d.verdict == "changed"]
    if changed and not request.update:
        listed = "; ".join(f"{d.session.key} ({d.reason})" for d in changed[:20])
        more = f" and {len(changed) - 20} more" if len(changed) > 20 else ""
        raise RecipeError(
            "CHI-RC-020",
            f"{len(changed)} finished sessions would come out differently now: {listed}{more}.",
            "Add --update to compute them again, or choose another output folder.",
        )
    return decisions


def run_cohort(
    decisions: Sequence[Decision],
    request: RunRequest,
    executor: Callable[[], Executor],
    ledger: Ledger,
    progress: Progress,
) -> RunResult:
    """Run what is left and write the group outputs."""
    result = RunResult()
    todo = [d for d in decisions if d.verdict != "skip"]
    for decision in decisions:
        if decision.verdict == "skip" and decision.record is not None:
            result.skipped += 1
            result.records.append(decision.record)
    log = RunLog(request.out)
    log.write(
        {
            "event": "start",
            "sessions": len(decisions),
            "todo": len(todo),
            "recipe": request.identity.recipe,
            "version": request.identity.version,
        }
    )
    for decision in todo:
        clear_leftovers(decision.session, request.out, decision, request.identity.recipe_name)
    running = executor()
    try:
        with progress:
            for outcome in running.run([WorkItem(session=d.session) for d in todo], log.write):
                record = outcome.record
                result.records.append(record)
                failed = record.status == "failed"
                ledger.finished(
                    record.key, record.recipe, status=record.status, code=record.code,
                    attempts=outcome.attempts, seconds=outcome.seconds, peak_rss=outcome.peak_rss,
                )  # fmt: skip
                log.write({
                    "event": "end", "session": log.pseudonym(record.key), "status": record.status,
                    "code": record.code, "seconds": outcome.seconds,
                    "peak_rss": outcome.peak_rss, "attempts": outcome.attempts, "tries": list(outcome.tries),
                })  # fmt: skip
                progress.update(failed=failed)
                if failed:
                    progress.say(failure_line(record))
                if failed and request.stop_on_first_failure:
                    result.stopped_early = True
                    break
    finally:
        running.stop()
        write_group_outputs(request.out, request.identity.recipe_name, request.title, request.identity)
        log.write({"event": "stop", "done": progress.done, "failed": progress.failed})
        log.close()
    return result


def failure_line(record: PatientRecord) -> str:
    """Return the one line that the terminal shows for a failed session."""
    where = f" {record.file}:" if record.file else ""
    return f"{record.key} failed [{record.code}]{where} {record.message} {record.remedy}".rstrip()
