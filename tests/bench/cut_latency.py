"""How the latency of an exported encoder falls with the layer that it ends at, by onnxruntime and by timm.

    python tests/bench/cut_latency.py

A ViT-S/16 at 224 px, one image at a time, takes about two minutes on two cores.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import timm
import torch

from ssl_core.networks.encoder import Encoder
from ssl_core.schema.run import RunConfig
from ssl_core.use.export import Exported, load_format, prepare
from ssl_core.use.subject import Subject


def milliseconds(function, repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * median(times[2:])


def by_onnx(exported: Exported, folder: Path, repeats: int) -> float:
    load_format("onnx").write(exported, folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    size = exported.backbone.image_size
    images = np.zeros((1, 3, size, size), np.float32)
    return milliseconds(lambda: session.run(["pooled"], {"images": images}), repeats)


@torch.no_grad()
def by_timm(exported: Exported, folder: Path, repeats: int) -> float:
    load_format("timm").write(exported, folder)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    size = exported.backbone.image_size
    images = torch.zeros(1, 3, size, size)
    return milliseconds(lambda: model(images), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--layers", default="3,6,9,12")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    backbone = {"name": given.model, "image_size": given.size}
    config = RunConfig.model_validate(
        {"framework": {"name": "simclr"}, "data": {"train": "bundled:digits"}, "backbone": backbone}
    )
    subject = Subject(given.model, Encoder(config.backbone).eval(), config)
    print("layer   parameters   onnxruntime ms   timm ms")
    for layer in map(int, given.layers.split(",")):
        exported = prepare(subject, layer)
        parameters = sum(x.numel() for x in exported.encoder.parameters())
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            times = by_onnx(exported, Path(one), given.repeats), by_timm(exported, Path(two), given.repeats)
        print(f"{layer:5}   {parameters / 1e6:8.1f} M   {times[0]:14.1f}   {times[1]:7.1f}", flush=True)


if __name__ == "__main__":
    main()
