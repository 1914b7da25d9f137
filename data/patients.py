"""Who, when, and which file: patient, session, recording."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .errors import ChiasmError

LABEL = re.compile(r"[A-Za-z0-9]{1,64}")
"""What a patient or session label may be: paths are built from nothing else."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One acquisition: a file, or the ordered slices of a DICOM series; of speech, a sound file or its transcript.

    Parameters
    ----------
    channel : str
        What the recipe calls it: ``T1w``, ``flair``, ``mask`` ... Empty until a channel rule claims it. ``audio`` and
        ``transcript`` for speech.
    kind : {'nifti', 'dicom', 'audio', 'transcript', 'betas'}
        Found from the content; for transcripts, which are plain text, the name helps.
    files : tuple of Path
        Absolute paths. One; the slices in order of position for DICOM; all files of a subject for betas.
    relative : str
        The first file relative to the input folder, for messages.
    volume_index : int, optional
        Which 3-D volume of a 4-D file (one file that holds all channels).
    """

    channel: str
    kind: Literal["nifti", "dicom", "audio", "transcript", "betas"]
    files: tuple[Path, ...]
    relative: str
    volume_index: int | None = None


@dataclass(frozen=True, kw_only=True)
class Session:
    """The unit of work: one patient at one time.

    Parameters
    ----------
    patient, session : str
        Labels that match `LABEL`; `session` is empty where the input has no sessions.
    recordings : tuple of Recording
        Every recording that was recognised.
    problems : tuple of ChiasmError
        What discovery found wrong; a session with problems fails at once, and is reported like any other.
    """

    patient: str
    session: str = ""
    recordings: tuple[Recording, ...] = ()
    problems: tuple[ChiasmError, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """``sub-<patient>[_ses-<session>]``: the prefix of every output file."""
        return f"sub-{self.patient}" + (f"_ses-{self.session}" if self.session else "")

    @property
    def folder(self) -> str:
        """``sub-<patient>[/ses-<session>]``: the output folder relative to OUT."""
        return f"sub-{self.patient}" + (f"/ses-{self.session}" if self.session else "")

    def channel(self, name: str) -> Recording | None:
        """Return the recording of a channel, or None."""
        return next((r for r in self.recordings if r.channel == name), None)
