"""What a file is, and which channel it holds: from its content first, then from the words around it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import ChiasmError
from .patients import LABEL

MASK = "mask"
"""The channel of a brain mask that came with the images; always optional."""

_MASK_WORDS = ("brainmask", "mask")
_LABEL_WORDS = frozenset("seg segmentation label labels lesion lesions tumor tumour dseg probseg gt".split())
# After "t1" these words say that a contrast agent was given: such an image is not the plain T1.
_CONTRAST_WORDS = frozenset("c ce gd post contrast gado gadolinium km postcontrast gdc".split())
_MODALITY_WORDS = (
    frozenset(
        "t1 t1w t1n t1ce t1c t1gd t1post mprage spgr t2 t2w t2f flair t2flair pd pdw dwi adc swi mask brain brainmask mr mri".split()
    )
    | _LABEL_WORDS
)
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_SPAN = 4
_NIFTI_MAGIC = {348: (344, (b"n+1\0", b"ni1\0")), 540: (4, (b"n+2\0", b"ni2\0"))}
_DICOM_FIRST_GROUPS = (0x0002, 0x0008)
_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


@dataclass(frozen=True)
class ChannelRule:
    """How a channel is recognised.

    Parameters
    ----------
    suffixes : tuple of str
        BIDS suffixes. ``ce_T1w`` asks for the entity ``ce-<anything>`` besides, ``ce-gadolinium_T1w`` for that value.
    keywords : tuple of str
        Words in loose file names, series descriptions and sidecars: whole words, any case, ``t1_gd`` equals ``t1gd``.
    optional : bool
        Whether a session is complete without it.
    """

    suffixes: tuple[str, ...]
    keywords: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Image:
    """A file, or a DICOM series, found under a patient folder and not yet given to a channel.

    Parameters
    ----------
    kind : {'nifti', 'dicom'}
    files : tuple of Path
    relative : str
        The first file relative to the input folder.
    inner : tuple of str
        Its path below the patient folder, outermost first.
    shape : tuple of int
        What the NIfTI header says (not checked); empty for DICOM.
    words : tuple of str
        Texts that describe it besides its name: series description, protocol. Used, never shown.
    problems : tuple of ChiasmError
        Why it cannot be trusted if a channel claims it (a damaged slice beside the others).
    """

    kind: Literal["nifti", "dicom"]
    files: tuple[Path, ...]
    relative: str
    inner: tuple[str, ...]
    shape: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    problems: tuple[ChiasmError, ...] = ()


def sniff(path: Path) -> tuple[Literal["nifti", "dicom", ""], tuple[int, ...]]:
    """Tell what a file is from its first bytes.

    Returns
    -------
    kind : {'nifti', 'dicom', ''}
    shape : tuple of int
        The dimensions that a NIfTI header claims, else empty.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 600)
        except zlib.error:
            return "", ()
    if len(head) >= 348:
        for order in "<>":
            size = struct.unpack_from(order + "i", head)[0]
            if size in _NIFTI_MAGIC:
                offset, magics = _NIFTI_MAGIC[size]
                return ("nifti", _nifti_shape(head, order, size)) if head[offset : offset + 4] in magics else ("", ())
    return ("dicom" if looks_like_dicom(head) else ""), ()


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a DICOM object, with or without the 128-byte preamble."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    group, element = struct.unpack_from("<HH", head)
    if group not in _DICOM_FIRST_GROUPS or element > 0x0100:
        return False
    if head[4:6] in _VALUE_REPRESENTATIONS:
        return True
    return bool(struct.unpack_from("<I", head, 4)[0] <= 128)  # implicit VR: a 32-bit length, short for these elements


def _nifti_shape(head: bytes, order: str, size: int) -> tuple[int, ...]:
    if size == 348:
        dims = struct.unpack_from(order + "8h", head, 40)
    elif len(head) >= 80:
        dims = struct.unpack_from(order + "8q", head, 16)
    else:
        return ()
    return tuple(dims[1 : 1 + dims[0]]) if 1 <= dims[0] <= 7 else ()


def stem(name: str) -> str:
    """Return a file name without ``.nii``, ``.nii.gz``, ``.dcm`` and the like."""
    return re.sub(r"(\.nii|\.img|\.hdr|\.dcm|\.ima)?(\.gz)?$", "", name, flags=re.IGNORECASE)


def named_nifti(name: str) -> bool:
    """Whether a file name claims to be NIfTI."""
    return name.lower().endswith((".nii", ".nii.gz"))


def tokens(text: str) -> list[str]:
    """Split a name or a description into lower-case words of letters and digits."""
    return re.findall(r"[a-z0-9]+", text.lower())


def match_length(words: Sequence[str], keyword: str) -> int:
    """Return how many characters of `words` a keyword covers; 0 when it is not there as whole words.

    A plain ``t1`` is not found in ``t1 gd``: the next word says that it is the contrast-enhanced image.
    """
    wanted = "".join(tokens(keyword))
    for start in range(len(words)):
        for stop in range(start + 1, min(start + _MAX_SPAN, len(words)) + 1):
            if "".join(words[start:stop]) != wanted:
                continue
            if wanted in {"t1", "t1w"} and _CONTRAST_WORDS.intersection(words[stop : stop + 2]):
                continue
            return len(wanted)
    return 0


def best_channels(text: str, rules: Mapping[str, ChannelRule]) -> list[str]:
    """Return the channels whose keywords cover most of `text`: none, one, or several that cannot be told apart."""
    words = tokens(text)
    scores = {
        name: max((match_length(words, word) for word in (*rule.keywords, *rule.suffixes)), default=0)
        for name, rule in rules.items()
    }
    best = max(scores.values(), default=0)
    return [name for name, score in scores.items() if score == best] if best else []


def is_mask(text: str) -> bool:
    """Whether a name says brain mask, and not the mask of a lesion."""
    words = tokens(text)
    return any(match_length(words, word) for word in _MASK_WORDS) and not _LABEL_WORDS.intersection(words)


def is_label_map(text: str) -> bool:
    """Whether a name says that the file is a segmentation rather than an image."""
    return bool(_LABEL_WORDS.intersection(tokens(text)))


def case_name(text: str, rules: Mapping[str, ChannelRule]) -> str:
    """Return what is left of a name without the words for channels and masks: equal for the files of one case."""
    known = _MODALITY_WORDS | {"".join(tokens(k)) for rule in rules.values() for k in (*rule.keywords, *rule.suffixes)}
    words = tokens_as_written(text)
    kept: list[str] = []
    position = 0
    while position < len(words):
        span = next((n for n in range(_MAX_SPAN, 0, -1) if "".join(words[position : position + n]).lower() in known), 0)
        if span:
            position += span
            while position < len(words) and words[position].lower() in _CONTRAST_WORDS:
                position += 1
        else:
            kept.append(words[position])
            position += 1
    return "_".join(kept)


def tokens_as_written(text: str) -> list[str]:
    """Split like `tokens`, keeping upper case."""
    return re.findall(r"[A-Za-z0-9]+", text)


def clean_label(name: str) -> str:
    """Make a patient or session label, letters and digits only, from a folder or file name.

    ``sub-01`` -> ``01``, ``patient_07`` -> ``patient07``. Where nothing is left, or too much, a short hash of the name
    keeps labels of different names different.
    """
    plain = unicodedata.normalize("NFKD", re.sub(r"^(sub|ses)-", "", name))
    label = re.sub(r"[^A-Za-z0-9]", "", plain)
    if LABEL.fullmatch(label):
        return label
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{label[:50]}{digest}" if label else f"x{digest}"


def sidecar_words(path: Path) -> tuple[str, ...]:
    """Return what a BIDS-like JSON beside an image says of the sequence; empty when there is none or it is damaged."""
    sidecar = path.with_name(stem(path.name) + ".json")
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > _MAX_SIDECAR_BYTES:
            return ()
        values = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    if not isinstance(values, dict):
        return ()
    return sequence_words(
        texts=[values.get("SeriesDescription"), values.get("ProtocolName")],
        sequence=str(values.get("ScanningSequence", "")),
        variant=str(values.get("SequenceVariant", "")),
        echo_ms=_milliseconds(values.get("EchoTime")),
        repetition_ms=_milliseconds(values.get("RepetitionTime")),
        inversion_ms=_milliseconds(values.get("InversionTime")),
        contrast=bool(values.get("ContrastBolusIngredient") or values.get("ContrastBolusAgent")),
    )


def _milliseconds(seconds: Any) -> float:
    return float(seconds) * 1000.0 if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) else 0.0


def sequence_words(
    *,
    texts: Iterable[object],
    sequence: str,
    variant: str,
    echo_ms: float,
    repetition_ms: float,
    inversion_ms: float,
    contrast: bool,
) -> tuple[str, ...]:
    """Return the describing texts, most telling first, and last the weighting that the timing suggests.

    The thresholds are textbook ones for 1.5-3 T: FLAIR inverts with TI > 1500 ms at a long echo; T2 has TE > 60 ms;
    gradient echo with TE < 15 ms, or spin echo with TE < 30 ms and TR < 1200 ms, is T1.
    """
    words = [text for text in texts if isinstance(text, str) and text]
    if contrast:
        words = [f"{text} contrast" for text in words]
    guess = ""
    if echo_ms > 60 and inversion_ms > 1500:
        guess = "flair"
    elif echo_ms > 60 and "SE" in sequence:
        guess = "t2"
    elif (0 < echo_ms < 15 and "GR" in sequence) or (0 < echo_ms < 30 and 0 < repetition_ms < 1200) or "MP" in variant:
        guess = "t1ce" if contrast else "t1"
    return (*words, guess) if guess else tuple(words)
