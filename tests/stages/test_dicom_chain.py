"""DICOM in, DICOM SEG out: the same voxels in both outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from chiasm.data.patients import Recording, Session
from chiasm.data.phantoms.dicom import write_series
from chiasm.pipelines.engine.options import RunOptions
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.segmentation import build


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom and highdicom warn about optional codecs
def test_a_series_gets_a_segmentation_object_that_refers_to_it(
    tmp_path: Path, recipe_of: Any, context: Context, nearest_class: Any
) -> None:
    values = np.zeros((18, 20, 17), np.int16)
    values[3:12, 4:15, 5:14] = 1
    values[5:8, 6:9, 7:10] = 2
    affine = np.eye(4)
    affine[:3, 3] = (-9, -10, 5)
    files = write_series(tmp_path / "series", values, affine, patient_name="CANARY^NAME", contrast="t1", number=1)
    recording = Recording(channel="T1w", kind="dicom", files=tuple(files), relative="series/0001.dcm")
    context.components = {"network": nearest_class}
    item: Any = Session(patient="01", recordings=(recording,))
    for stage in build(recipe_of(), RunOptions()).stages:
        item = stage.run(item, context)
    segmentation = pydicom.dcmread(context.out / "sub-01/anat/sub-01_desc-testrecipe_dseg.dcm")
    source = pydicom.dcmread(files[0])
    assert segmentation.Modality == "SEG"
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["low", "high"]
    assert int(segmentation.pixel_array.sum()) == int((values > 0).sum())
    nifti = nib.load(context.out / "sub-01/anat/sub-01_desc-testrecipe_dseg.nii.gz")
    upright = nib.as_closest_canonical(nifti)
    np.testing.assert_array_equal(np.asarray(upright.dataobj), values)
    np.testing.assert_allclose(upright.affine, affine, atol=1e-4)
    texts = [path for path in context.out.rglob("*") if path.suffix in {".json", ".tsv", ".html"}]
    assert not any("CANARY" in path.read_text("utf-8") for path in texts)
