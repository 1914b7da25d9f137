"""Logs: JSON lines, with pseudonyms that mean nothing outside one run."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO


class RunLog:
    """``<out>/logs/<run>/run.jsonl``: one event a line, patients under run-salted pseudonyms."""

    def __init__(self, out: Path) -> None:
        now = datetime.now(UTC)
        self.run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._salt = secrets.token_bytes(16)
        self.folder = out / "logs" / self.run_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = (self.folder / "run.jsonl").open("a", encoding="utf-8", buffering=1)

    def pseudonym(self, key: str) -> str:
        """Return the name of a session in this log."""
        return "p-" + hashlib.sha256(self._salt + key.encode()).hexdigest()[:10]

    def write(self, event: dict[str, Any]) -> None:
        """Append one event with the time (UTC)."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        self._stream.write(json.dumps(line, sort_keys=True) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
