"""Which patients an input holds: a BIDS dataset, folders of loose files, one file, or a manifest.

Nothing is read here but names, first bytes and DICOM headers. What is wrong with one patient is kept in that patient's
`Session.problems`, so that the others run; only an input that as a whole cannot be used raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .bids import bids_sessions, is_bids
from .containment import entries
from .errors import ChiasmError, InputError, did_you_mean
from .loose import loose_sessions, single_file
from .manifest import manifest_sessions
from .patients import Session
from .recognition import ChannelRule

__all__ = ["CODES", "ChannelRule", "discover"]

CODES: dict[str, str] = {
    "CHI-IN-060": "The input folder holds no patient.",
    "CHI-IN-061": "The input does not exist or cannot be read.",
    "CHI-IN-062": "Several images fit one channel and no rule chooses.",
    "CHI-IN-063": "A channel that the recipe needs has no image.",
    "CHI-IN-064": "A patient's folder has no usable image.",
    "CHI-IN-066": "Two folders or files lead to the same patient and session label.",
    "CHI-IN-067": "A link leads out of the input folder.",
    "CHI-IN-068": "A link leads nowhere, or a file cannot be opened.",
    "CHI-IN-069": "More files in one patient's folder than a patient can have.",
    "CHI-IN-070": "The volumes of a 4-D file are not as many as the recipe's channels.",
    "CHI-IN-071": "A patient asked for is not in the input.",
    "CHI-IN-073": "nnU-Net channel numbers do not match the recipe's channels.",
    "CHI-IN-075": "The manifest's header is wrong.",
    "CHI-IN-076": "A manifest line has the wrong fields.",
    "CHI-IN-077": "A manifest line has a label that is not 1 to 64 letters and digits.",
    "CHI-IN-078": "A manifest line names a channel that the recipe does not have.",
    "CHI-IN-079": "A manifest line names a file that is not there.",
    "CHI-IN-080": "A manifest path leaves its folder.",
    "CHI-IN-082": "The manifest cannot be read.",
    "CHI-IN-083": "A manifest path does not hold one image.",
}


def discover(
    root: Path,
    rules: Mapping[str, ChannelRule],
    *,
    manifest: Path | None = None,
    participants: Sequence[str] = (),
) -> list[Session]:
    """Find the sessions of an input, in a fixed order (by patient, then session).

    Parameters
    ----------
    root : Path
        A BIDS dataset, a folder of patient folders, a flat folder of cases, one patient's folder, or one file.
    rules : mapping of str to ChannelRule
        How each channel is recognised; the order is the recipe's channel order.
    manifest : Path, optional
        A table that replaces the search.
    participants : sequence of str
        Keep these patients only; ``sub-`` before the label is allowed.

    Returns
    -------
    list of Session
        With absolute paths. A recording that no channel claims is left out.

    Raises
    ------
    InputError, SeveralErrors
        Codes ``CHI-IN-060``, ``061``, ``071``, and for a manifest ``075`` to ``083``.
    """
    root = _resolved(root)
    if manifest is not None:
        found = manifest_sessions(manifest, root if root.is_dir() else root.parent, rules)
    elif root.is_file():
        found = single_file(root, rules)
    elif is_bids(root):
        found = bids_sessions(root, rules)
    else:
        found = loose_sessions(root, rules)
    if not found:
        raise _nothing(root, manifest)
    return _chosen(_without_collisions(found), participants)


def _resolved(root: Path) -> Path:
    try:
        real = root.resolve(strict=True)
        if real.is_dir():
            next(real.iterdir(), None)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise InputError("CHI-IN-061", f"The input cannot be read ({reason}).", "Check the path.") from error
    return real


def _nothing(root: Path, manifest: Path | None) -> InputError:
    if manifest is not None:
        return InputError("CHI-IN-060", "The manifest has no line.", "Add one line a recording.", file=manifest.name)
    if any(entry.name == "dataset_description.json" for entry in entries(root)):
        return InputError("CHI-IN-060", "The BIDS dataset has no sub-* folder.", "Give the folder that holds them.")
    return InputError(
        "CHI-IN-060",
        "Nothing to do: looked for a BIDS dataset (sub-*/anat), patient folders or files with NIfTI or DICOM content.",
        "Give the folder that holds the patients, or a --manifest.",
    )


def _without_collisions(found: Sequence[tuple[str, Session]]) -> list[Session]:
    by_key: dict[tuple[str, str], list[tuple[str, Session]]] = {}
    for where, session in found:
        # Lower case, because on many disks the output folders of A and a would be one.
        by_key.setdefault((session.patient.lower(), session.session.lower()), []).append((where, session))
    sessions = []
    for group in by_key.values():
        session = group[0][1]
        if len(group) > 1:
            places = ", ".join(where for where, _ in group[:4])
            problem: ChiasmError = InputError(
                "CHI-IN-066",
                f"{len(group)} inputs have the label {session.key}: {places}.",
                "Rename the folders or files so that their letters and digits differ, or use --manifest.",
                file=group[0][0],
            )
            session = Session(patient=session.patient, session=session.session, problems=(problem,))
        sessions.append(session)
    return sorted(sessions, key=lambda session: (session.patient, session.session))


def _chosen(sessions: list[Session], participants: Sequence[str]) -> list[Session]:
    if not participants:
        return sessions
    wanted = {label.removeprefix("sub-") for label in participants}
    present = {session.patient for session in sessions}
    absent = sorted(wanted - present)
    if absent:
        hint = did_you_mean(absent[0], sorted(present))
        raise InputError(
            "CHI-IN-071",
            f"Not in the input: {', '.join(absent[:10])}.{hint}",
            f"The input has {len(present)} patient(s); give labels with or without 'sub-'.",
        )
    return [session for session in sessions if session.patient in wanted]
