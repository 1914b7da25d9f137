"""Headers of lossy audio: Ogg (Vorbis, Opus), MP3, MPEG-4 (.m4a), AAC in ADTS frames, AMR.

Layouts: RFC 3533 and 7845 (Ogg, Opus), Vorbis I specification, ISO/IEC 11172-3 and 13818-3 (MP3), 14496-12 (MPEG-4 boxes), 13818-7
(ADTS), RFC 4867 (AMR).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .audio_claims import AGAIN, CONVERT, Claims, Source, contradiction, refuse
from .audio_pcm import flac_claims

_MAX_FRAMES = 400_000  # of MP3 at 44.1 kHz: 2.9 hours; what follows is extrapolated
_BLOCK = 1 << 20
_MAX_OGG_PAGE = 65_307
_MAX_BOXES = 4096
_SEARCH = 64 << 10
_MAX_ID3_TAGS = 8
_MIN_MP3_FRAME = 24

_MP3_KBITS = {  # by (first version of MPEG?, layer): index 1 to 14
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_AMR_BYTES = {  # of a frame of 20 ms, by its type
    8_000: (13, 14, 16, 18, 20, 21, 27, 32, 6, 6, 6, 6, 0, 0, 0, 1),
    16_000: (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 6, 0, 0, 0, 1, 1),
}

Frame = tuple[int, int]
"""Bytes of a frame, samples in it."""


def after_id3(source: Source) -> int:
    """Return where the audio begins behind ID3v2 tags, which may hold a picture of any size."""
    offset = 0
    for _ in range(_MAX_ID3_TAGS):
        head = source.some(offset, 10)
        if head[:3] != b"ID3" or len(head) < 10:
            return offset
        if max(head[6:10]) > 127:
            contradiction("the length of its ID3 tag is impossible")
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
        if offset > source.size:
            refuse("CHI-IN-203", f"the file ends after {source.size:,} bytes, inside its ID3 tag.", AGAIN)
    return contradiction(f"it begins with more than {_MAX_ID3_TAGS} ID3 tags")


# MP3 ------------------------------------------------------------------------------------------------------------------


def mp3_start(source: Source, start: int, *, search: bool) -> int | None:
    """Return where the first of two frames in a row begins, or None.

    Parameters
    ----------
    start : int
        Behind the ID3 tags.
    search : bool
        Whether up to 64 KiB of something else may stand before.
    """
    data = source.some(start, _SEARCH + 4096)
    place = 0
    while 0 <= place <= (_SEARCH if search else 0):
        frame = _mp3_frame(data[place : place + 4])
        if frame:
            following = data[place + frame[0] : place + frame[0] + 4]
            # One whole frame and no more is a file too.
            if _mp3_frame(following) or (place + frame[0] == len(data) and start + len(data) == source.size):
                return start + place
        place = data.find(b"\xff", place + 1)
    return None


def _mp3_frame(head: bytes) -> Frame | None:
    """Return bytes and samples of the frame with this 4-byte header, or None where it is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, index, rate_index = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    rate, first = _MP3_RATES[version][rate_index], version == 3
    bits = _MP3_KBITS[first, layer][index - 1] * 1000
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // rate + padding) * 4, 384
    n_samples = 576 if layer == 3 and not first else 1152
    return n_samples // 8 * bits // rate + padding, n_samples


def read_mp3(source: Source, start: int) -> Claims:
    """Read an MPEG audio stream: its length from the Xing or VBRI header, else by going from frame to frame."""
    head = source.bytes(start, 4)
    version, rate_index = head[1] >> 3 & 3, head[2] >> 2 & 3
    rate, channels = _MP3_RATES[version][rate_index], 1 if head[3] >> 6 == 3 else 2
    n_bytes, n_samples = _mp3_frame(head) or (0, 0)
    first = source.some(start, max(n_bytes, 192))
    side = (17 if channels == 1 else 32) if version == 3 else (9 if channels == 1 else 17)
    tag, vbri = first[4 + side : 4 + side + 16], first[36:54]
    n_frames = claimed_bytes = 0
    if tag[:4] in (b"Xing", b"Info") and len(tag) == 16 and tag[7] & 1:
        n_frames = int.from_bytes(tag[8:12], "big")
        claimed_bytes = int.from_bytes(tag[12:], "big") if tag[7] & 2 else 0
    elif vbri[:4] == b"VBRI" and len(vbri) == 18:
        claimed_bytes, n_frames = int.from_bytes(vbri[10:14], "big"), int.from_bytes(vbri[14:], "big")
    if n_frames:
        seconds = n_frames * n_samples / rate
        # No frame is shorter than 24 bytes: 8 kbit/s at 24 kHz.
        share = min((source.size - start) / max(claimed_bytes, _MIN_MP3_FRAME * n_frames), 1.0)
        return Claims(format="mp3", rate=rate, channels=channels, duration_s=seconds, there_s=share * seconds)
    return Claims(format="mp3", rate=rate, channels=channels, duration_s=_walked(source, start, rate, _mp3_frame, 4))


def _walked(source: Source, start: int, rate: int, frame_of: Callable[[bytes], Frame | None], n_head: int) -> float:
    """Return the seconds of a stream of frames; past `_MAX_FRAMES` the rest is taken to be like what came before.

    It ends at the first bytes that are no frame: a trailing tag, or damage, behind which the decoder may find more.
    """
    offset, n_samples = start, 0
    buffer, buffer_at = b"", start
    for _ in range(_MAX_FRAMES):
        place = offset - buffer_at
        if place + n_head > len(buffer):
            buffer, buffer_at, place = source.some(offset, _BLOCK), offset, 0
        frame = frame_of(buffer[place : place + n_head])
        if frame is None or frame[0] < 1:
            return n_samples / rate
        offset, n_samples = offset + frame[0], n_samples + frame[1]
    return n_samples / rate * max((source.size - start) / (offset - start), 1.0)


# AAC and AMR ----------------------------------------------------------------------------------------------------------


def _adts_frame(head: bytes) -> Frame | None:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 >= len(_AAC_RATES):
        return None
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return (size, 1024 * (1 + (head[6] & 3))) if size >= 7 else None


def is_adts(source: Source, start: int) -> bool:
    """Whether two ADTS frames stand in a row, or one that fills the file."""
    frame = _adts_frame(source.some(start, 7))
    return frame is not None and (
        start + frame[0] == source.size or _adts_frame(source.some(start + frame[0], 7)) is not None
    )


def read_adts(source: Source, start: int) -> Claims:
    """Read a stream of ADTS frames (.aac)."""
    head = source.bytes(start, 7)
    rate, channels = _AAC_RATES[head[2] >> 2 & 15], (head[2] & 1) << 2 | head[3] >> 6
    seconds = _walked(source, start, rate, _adts_frame, 7)
    # Eight channels have number 7; 0 says that the stream itself tells them.
    return Claims(format="aac", rate=rate, channels=8 if channels == 7 else channels, duration_s=seconds)


def read_amr(source: Source) -> Claims:
    """Read an AMR or AMR-WB file of one channel."""
    magic = source.some(0, 9)
    wide = magic == b"#!AMR-WB\n"
    if not wide and not magic.startswith(b"#!AMR\n"):
        refuse("CHI-IN-207", "AMR files of several channels are not read.", CONVERT)
    rate, start = (16_000, 9) if wide else (8_000, 6)
    sizes = _AMR_BYTES[rate]

    def frame_of(head: bytes) -> Frame | None:
        return (sizes[head[0] >> 3 & 15], rate // 50) if head and not head[0] & 0x83 else None

    seconds = _walked(source, start, rate, frame_of, 1)
    return Claims(format="amr", rate=rate, channels=1, duration_s=seconds)


# Ogg ------------------------------------------------------------------------------------------------------------------


def read_ogg(source: Source) -> Claims:
    """Read the first packet of an Ogg stream and the position on its last page."""
    head = source.bytes(0, 27)
    serial = head[14:18]
    n_segments = head[26]
    if not n_segments:
        contradiction("its first page holds no packet")
    packet = source.bytes(27 + n_segments, sum(source.bytes(27, n_segments)))
    skipped = 0
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        name, channels, rate = "ogg", packet[11], int.from_bytes(packet[12:16], "little")
    elif packet[:8] == b"OpusHead" and len(packet) >= 12:
        name, channels, rate, skipped = "ogg", packet[9], 48_000, int.from_bytes(packet[10:12], "little")
    elif packet[:5] == b"\x7fFLAC" and len(packet) >= 51:
        return flac_claims(packet[17:51], source.size, "ogg")
    else:
        refuse("CHI-IN-207", "the Ogg stream is neither Vorbis nor Opus nor FLAC.", CONVERT)
    position = _last_position(source, serial)
    seconds = None if position is None or not rate else max(position - skipped, 0) / rate
    if seconds == 0:
        refuse("CHI-IN-208", "the Ogg stream has its headers and no audio.", AGAIN)
    return Claims(format=name, rate=rate, channels=channels, duration_s=seconds)


def _last_position(source: Source, serial: bytes) -> int | None:
    """Return the samples up to the last page of the stream that says them, or None."""
    start = max(source.size - 2 * _MAX_OGG_PAGE, 0)
    tail = source.some(start, 2 * _MAX_OGG_PAGE)
    place = tail.rfind(b"OggS")
    while place >= 0:
        page = tail[place : place + 18]
        if len(page) == 18 and page[14:] == serial and page[6:14] != b"\xff" * 8:
            return int.from_bytes(page[6:14], "little")
        place = tail.rfind(b"OggS", 0, place)
    return None


# MPEG-4 ---------------------------------------------------------------------------------------------------------------

Box = tuple[bytes, int, int]
"""Name, first and last byte + 1 of what is inside."""


def read_mp4(source: Source) -> Claims:
    """Read the first sound track of an MPEG-4 or QuickTime file."""
    budget = [_MAX_BOXES]
    top = list(_boxes(source, 0, source.size, budget, outer=True))
    moov = next((box for box in top if box[0] == b"moov"), None)
    cut = next((box for box in top if box[2] > source.size), None)
    if moov is None or moov[2] > source.size:
        refuse("CHI-IN-203", "the file ends before the description of its tracks.", AGAIN)
    for track in (box for box in _boxes(source, moov[1], moov[2], budget) if box[0] == b"trak"):
        found = _inside(source, track, (b"mdia",), budget)
        handler = _inside(source, found, (b"hdlr",), budget)
        if found and handler and source.bytes(handler[1] + 8, 4) == b"soun":
            return _track(source, found, cut, budget)
    return refuse("CHI-IN-208", "the file has no sound track.", "Give the recording of the sound.")


def _track(source: Source, mdia: Box, cut: Box | None, budget: list[int]) -> Claims:
    mdhd = _inside(source, mdia, (b"mdhd",), budget)
    stsd = _inside(source, mdia, (b"minf", b"stbl", b"stsd"), budget)
    if mdhd is None or stsd is None:
        contradiction("its sound track has no description")
    long = source.bytes(mdhd[1], 1) == b"\x01"
    scale, length = source.unpack(">IQ" if long else ">II", mdhd[1] + (20 if long else 12))
    unknown = length in (0, (1 << (64 if long else 32)) - 1)  # the length of a stream in fragments
    # One entry: 8 bytes of box, 8 of reference, 8 reserved, then channels, bits, 4 reserved, rate in 16.16.
    channels, _, _, rate = source.unpack(">HHII", stsd[1] + 8 + 24)
    rate >>= 16
    if not scale:
        contradiction("its sound track has a clock of 0 Hz")
    seconds = None if unknown else length / scale
    there = seconds
    if cut is not None and seconds:
        there = seconds * (source.size - cut[1]) / (cut[2] - cut[1])
    # Rates above 65,535 do not fit there: the clock has them.
    return Claims(format="m4a", rate=rate or scale, channels=channels, duration_s=seconds, there_s=there)


def _inside(source: Source, box: Box | None, path: tuple[bytes, ...], budget: list[int]) -> Box | None:
    for name in path:
        if box is None:
            return None
        box = next((inner for inner in _boxes(source, box[1], box[2], budget) if inner[0] == name), None)
    return box


def _boxes(source: Source, start: int, end: int, budget: list[int], *, outer: bool = False) -> Iterator[Box]:
    """Yield the boxes between two bytes; `budget` bounds how many are looked at in all."""
    offset = start
    while offset + 8 <= end:
        budget[0] -= 1
        if budget[0] < 0:
            contradiction(f"it has more than {_MAX_BOXES} boxes")
        size, head = int.from_bytes(source.bytes(offset, 4), "big"), 8
        name = source.bytes(offset + 4, 4)
        if size == 1:
            size, head = source.unpack(">Q", offset + 8)[0], 16
        elif size == 0:
            size = end - offset
        if size < head or (not outer and offset + size > end):
            contradiction("one of its boxes has an impossible size")
        yield name, offset + head, offset + size
        offset += size
