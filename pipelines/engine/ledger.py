"""The ledger: one sqlite file that the driver alone writes. It remembers times and attempts; resume does not need it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from ...data.errors import ResourceError

CODES = {"CHI-RES-020": "The ledger in the work folder cannot be opened or written."}

_SCHEMA = """
create table if not exists sessions(
    key text not null, recipe text not null, status text not null, code text not null, attempts integer not null,
    seconds real not null, peak_rss integer not null, finished real not null, primary key (key, recipe));
create table if not exists files(path text primary key, size integer not null, mtime_ns integer not null, sha256 text not null);
"""


class Ledger:
    """Times, attempts and a cache of file hashes, in ``<work>/ledger.sqlite``.

    Raises
    ------
    ResourceError
        ``CHI-RES-020`` where sqlite cannot use the file.
    """

    def __init__(self, work: Path) -> None:
        try:
            work.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(work / "ledger.sqlite", isolation_level=None)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from None

    def finished(
        self, key: str, recipe: str, *, status: str, code: str, attempts: int, seconds: float, peak_rss: int
    ) -> None:
        """Note the end of a session."""
        row = (key, recipe, status, code, attempts, seconds, peak_rss, time.time())
        try:
            self._db.execute("insert or replace into sessions values (?,?,?,?,?,?,?,?)", row)
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def mean_seconds(self, recipe: str) -> float | None:
        """Mean seconds of the sessions done so far under a recipe."""
        (value,) = self._db.execute(
            "select avg(seconds) from sessions where recipe = ? and status = 'done'", (recipe,)
        ).fetchone()
        return None if value is None else float(value)

    def cached_hash(self, path: Path) -> str | None:
        """Return the sha256 of a file whose size and time are those of the last look."""
        try:
            stat = path.stat()
        except OSError:
            return None
        found = self._db.execute("select size, mtime_ns, sha256 from files where path = ?", (str(path),)).fetchone()
        return str(found[2]) if found and (found[0], found[1]) == (stat.st_size, stat.st_mtime_ns) else None

    def remember_hashes(self, hashes: Mapping[Path, str]) -> None:
        """Keep sha256 values with the size and time that the files have now."""
        rows = []
        for path, value in hashes.items():
            try:
                stat = path.stat()
            except OSError:
                continue
            rows.append((str(path), stat.st_size, stat.st_mtime_ns, value))
        try:
            self._db.executemany("insert or replace into files values (?,?,?,?)", rows)
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _unusable(error: sqlite3.Error | OSError) -> ResourceError:
    return ResourceError(
        "CHI-RES-020",
        f"the ledger cannot be opened or written ({type(error).__name__}: {error}).",
        "Make room, or give another --work-dir on a local disk; then run the command again.",
    )
