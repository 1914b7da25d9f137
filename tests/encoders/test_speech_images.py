"""Pictures of fixed size: which frames are in them, which seconds they stand for, how they are scaled."""

import pytest
import torch

from chiasm.encoders.speech_images import (
    PlaneStatistics,
    SpeechImageConfig,
    plane_statistics,
    to_images,
    token_spans,
)

HOP_S = 0.5


def numbered(n_frames: int, n_mels: int = 4) -> torch.Tensor:
    """A picture whose first plane says the frame, the second the Mel row, the third nothing."""
    frame = torch.arange(n_frames, dtype=torch.float32).expand(n_mels, -1)
    row = torch.arange(n_mels, dtype=torch.float32)[:, None].expand(-1, n_frames)
    return torch.stack([frame, row, torch.zeros_like(row)])


def raw(n_frames: int, **fields) -> tuple[list[list[float]], list[list[float]]]:
    """First plane's lowest row of every picture, and the spans."""
    config = SpeechImageConfig(size=(4, 6), normalise="none", **fields)
    images = to_images(numbered(n_frames), HOP_S, config)
    return [pixels[0, 0].tolist() for pixels in images.pixels], images.spans.tolist()


def test_chunks_keep_every_frame_once() -> None:
    rows, spans = raw(12, mode="chunks")
    assert rows == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert spans == [[0, 3], [3, 6]]


def test_half_a_window_is_kept_and_filled_up_with_silence() -> None:
    rows, spans = raw(9, mode="chunks")
    assert rows == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 0, 0, 0]]
    assert spans == [[0, 3], [3, 6]]


def test_less_than_half_a_window_is_squeezed_into_the_last_one() -> None:
    rows, spans = raw(14, mode="chunks")
    assert rows[0] == [0, 1, 2, 3, 4, 5]
    assert spans == [[0, 3], [3, 7]]
    assert rows[1][0] == pytest.approx(6.2, abs=0.3)
    assert rows[1][-1] == pytest.approx(12.8, abs=0.3)
    assert sum(rows[1]) / 6 == pytest.approx(9.5, abs=1e-4)


def test_a_short_recording_is_one_window() -> None:
    assert raw(2, mode="chunks") == ([[0, 1, 0, 0, 0, 0]], [[0, 3]])


def test_windows_overlap() -> None:
    rows, spans = raw(12, mode="chunks", overlap=0.5)
    assert [row[0] for row in rows] == [0, 3, 6]
    assert spans == [[0, 3], [1.5, 4.5], [3, 6]]


def test_a_longer_window_is_squeezed() -> None:
    rows, spans = raw(24, mode="chunks", chunk_frames=12)
    assert spans == [[0, 6], [6, 12]]
    assert rows[1][0] == pytest.approx(12.5, abs=0.35)
    assert sum(rows[1]) / 6 == pytest.approx(17.5, abs=1e-4)


def test_of_too_many_windows_some_are_taken_at_even_distances() -> None:
    rows, _ = raw(30, mode="chunks", max_chunks=3)
    assert [row[0] for row in rows] == [0, 12, 24]
    assert len(raw(30, mode="chunks", max_chunks=9)[0]) == 5


def test_crop_takes_the_middle() -> None:
    assert raw(11, mode="crop") == ([[2, 3, 4, 5, 6, 7]], [[1, 4]])
    assert raw(4, mode="crop") == ([[0, 1, 2, 3, 0, 0]], [[0, 3]])


def test_resize_keeps_the_mean_of_the_whole_recording() -> None:
    rows, spans = raw(60, mode="resize")
    assert spans == [[0, 30]]
    assert sum(rows[0]) / 6 == pytest.approx(29.5, abs=1e-3)
    assert rows[0] == sorted(rows[0])
    # Antialiased: a pixel is an average over its ten frames, not the value of one or two of them.
    flicker = torch.tensor([0.0, 1.0]).repeat(60).expand(3, 4, -1)
    smooth = to_images(flicker, HOP_S, SpeechImageConfig(size=(4, 6), normalise="none")).pixels
    assert float((smooth - 0.5).abs().max()) < 0.06


def test_the_mel_axis_is_resized_too() -> None:
    pixels = to_images(
        numbered(6, n_mels=8), HOP_S, SpeechImageConfig(mode="crop", size=(4, 6), normalise="none")
    ).pixels
    assert pixels.shape == (1, 3, 4, 6)
    assert pixels[0, 1, :, 0].tolist() == pytest.approx([0.714, 2.5, 4.5, 6.286], abs=1e-3)


def test_min_max_is_each_planes_own_and_shared_by_a_recordings_pictures() -> None:
    pixels = to_images(numbered(12), HOP_S, SpeechImageConfig(mode="chunks", size=(4, 6))).pixels
    assert float(pixels[0, 0].min()) == -1
    assert float(pixels[1, 0].max()) == 1
    assert float(pixels[0, 0].max()) == pytest.approx(2 * 5 / 11 - 1)
    assert pixels[:, 1].unique().tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert not pixels[:, 2].any()


def test_silence_that_fills_up_changes_no_other_pixel() -> None:
    config = SpeechImageConfig(mode="chunks", size=(4, 6))
    padded = to_images(numbered(9), HOP_S, config).pixels
    assert torch.allclose(padded[0, 0, 0], torch.arange(6) / 8 * 2 - 1)
    assert (padded[1, 0, :, 3:] == -1).all()


def test_train_set_statistics() -> None:
    pictures = [
        to_images(numbered(n), HOP_S, SpeechImageConfig(mode="chunks", size=(4, 6), normalise="none")).pixels
        for n in (12, 18)
    ]
    statistics = plane_statistics(pictures)
    everything = torch.cat(pictures).transpose(0, 1).flatten(1)
    assert statistics.mean == pytest.approx(everything.mean(1).tolist(), abs=1e-5)
    assert statistics.std[:2] == pytest.approx(everything.std(1, correction=0).tolist()[:2], abs=1e-5)
    config = SpeechImageConfig(mode="chunks", size=(4, 6), normalise="mean-std", statistics=statistics)
    scaled = torch.cat([to_images(numbered(n), HOP_S, config).pixels for n in (12, 18)]).transpose(0, 1).flatten(1)
    assert scaled.mean(1).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert scaled.std(1, correction=0).tolist()[:2] == pytest.approx([1, 1], abs=1e-4)
    with pytest.raises(ValueError, match="no picture"):
        plane_statistics([])


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"mode='middle', overlap=1.0, statistics=None"):
        SpeechImageConfig(mode="middle", overlap=1.0, normalise="mean-std")
    flat = PlaneStatistics(mean=(0.0, 0.0, 0.0), std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="statistics"):
        SpeechImageConfig(normalise="mean-std", statistics=flat)


@pytest.mark.parametrize("shape", [(3, 4, 0), (2, 4, 9), (4, 9)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="log-Mel picture"):
        to_images(torch.zeros(shape), HOP_S, SpeechImageConfig())


def test_token_spans_go_through_time_within_a_mel_row() -> None:
    spans = token_spans(torch.tensor([[0.0, 6.0], [6.0, 9.0]]), (2, 3), 224)
    assert spans.dtype == torch.float32
    assert spans.tolist() == [
        [0, 2, 0, 112], [2, 4, 0, 112], [4, 6, 0, 112], [0, 2, 112, 224], [2, 4, 112, 224], [4, 6, 112, 224],
        [6, 7, 0, 112], [7, 8, 0, 112], [8, 9, 0, 112], [6, 7, 112, 224], [7, 8, 112, 224], [8, 9, 112, 224],
    ]  # fmt: skip


def test_token_spans_of_reduced_tokens() -> None:
    pictures = torch.tensor([[0.0, 6.0], [6.0, 9.0]])
    assert token_spans(pictures, (2, 3), 224, reduce="time").tolist() == [
        [0, 2, 0, 224], [2, 4, 0, 224], [4, 6, 0, 224], [6, 7, 0, 224], [7, 8, 0, 224], [8, 9, 0, 224],
    ]  # fmt: skip
    assert token_spans(pictures, (2, 3), 224, reduce="chunk").tolist() == [[0, 6, 0, 224], [6, 9, 0, 224]]
    with pytest.raises(ValueError, match="'rows'"):
        token_spans(pictures, (2, 3), 224, reduce="rows")
