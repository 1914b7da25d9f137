"""Batch segmentation as MONAI's documentation writes it (and, with --tuned, as an expert would tune it): the peer of ``chiasm run``.

    python benchmarks/peers/monai_script.py IN OUT WEIGHTS.safetensors --config network.json [--tuned]

IN is a folder of patient folders with four files each. Kept free of Chiasm's code on purpose.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import sliding_window_inference
from monai.networks.nets import SwinUNETR
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
)
from safetensors.torch import load_file

CHANNELS = ("flair", "t1ce", "t1", "t2")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads(arguments.config.read_text())

    folders = sorted(p for p in arguments.source.iterdir() if p.is_dir())
    data = [{"image": [str(next(folder.glob(f"*_{name}.nii.gz"))) for name in CHANNELS]} for folder in folders]
    before = Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True),
        ]
    )
    dtype = {"output_dtype": "uint8"} if arguments.tuned else {}
    after = Compose(
        [
            Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted(keys="pred", argmax=True),
            # data_root_dir: with the defaults every patient is written to the same file
            SaveImaged(
                keys="pred",
                output_dir=arguments.out,
                output_postfix="seg",
                data_root_dir=arguments.source,
                print_log=False,
                **dtype,
            ),
        ]
    )
    flash = {"use_flash_attention": True} if arguments.tuned else {}
    network = SwinUNETR(**settings["network"], **flash).to(arguments.device).eval()
    network.load_state_dict(load_file(arguments.weights))
    loader = DataLoader(Dataset(data, before), batch_size=1, num_workers=1 if arguments.tuned else 0)
    with torch.no_grad():
        for batch in loader:
            batch["pred"] = sliding_window_inference(
                batch["image"].to(arguments.device),
                settings["roi"],
                1,
                network,
                overlap=settings["overlap"],
                mode=settings["blend"],
            )
            for item in decollate_batch(batch):
                after(item)


if __name__ == "__main__":
    main()
