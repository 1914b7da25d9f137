"""What the user asked for beside the recipe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that change what a pipeline writes; ``pipelines/<task>.py`` reads them when it names its stages.

    Parameters
    ----------
    probabilities : bool
        Also write probability maps.
    prepare : bool
        Register the channels to one another, mask the brain and resample, where the input is raw.
    mask_folder : str
        Folder of brain masks ``<key>*.nii.gz`` that replace the mask network; empty: none.
    single_file : bool
        Reports with everything inlined.
    """

    probabilities: bool = False
    prepare: bool = False
    mask_folder: str = ""
    single_file: bool = False

    def sha256(self) -> str:
        """Hash that enters the done-record: another set of options is another computation."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
