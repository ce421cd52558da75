"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens: config.json and model.safetensors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_core.errors import InputError
from ssl_core.networks.create import timm_arguments
from ssl_core.use.export.exported import Exported, preprocessing

LIBRARIES = ("timm",)


def check(exported: Exported) -> None:
    """Whether timm can make a network of these blocks again.

    Raises:
        InputError: it cannot, and what works.
    """
    if not exported.is_cut:
        return
    wrong = InputError(
        f"--layer: timm cannot build {exported.backbone.name} with {exported.layer} of its "
        f"{exported.subject.encoder.depth} layers (it takes no depth); --format onnx and --format torch can be cut "
        "there, and --layer last gives a folder from which timm takes any layer"
    )
    if not exported.is_vit:
        raise wrong
    try:
        own = timm.create_model(_architecture(exported), num_classes=0, **_arguments(exported))
        own.load_state_dict(_tensors(exported))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise wrong from error


def write(exported: Exported, folder: Path) -> None:
    """Fill the folder with what timm reads; transformers reads it too."""
    model, arguments = exported.encoder.model, _arguments(exported)
    config = {
        "architecture": _architecture(exported),
        "num_classes": 0,
        "num_features": exported.dim,
        "global_pool": {"token": "token", "mean": "avg"}[exported.backbone.pool] if exported.is_vit else "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "strata",
            "custom_load": False,
            **preprocessing(exported.backbone),
            "fixed_input_size": "img_size" in arguments,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": model.pretrained_cfg.get("first_conv"),
            "classifier": model.pretrained_cfg.get("classifier"),
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(_tensors(exported), folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images → pooled and patches, as timm gives them."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    @torch.no_grad()
    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        maps = model.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
        return model(images), pooled_norm_of(model)(maps[0].flatten(2).transpose(1, 2))

    return look


def reader(folder: Path) -> Callable[[Image.Image], Tensor]:
    """An image → what the model takes, as timm makes it by the folder's configuration."""
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    transform: Any = timm.data.create_transform(**timm.data.resolve_data_config(config), is_training=False)
    return transform


def pooled_norm_of(model: Any) -> nn.Module:
    """The norm that a ViT has of its pooled feature, where it has none of its tokens."""
    return model.fc_norm if _norms_what_is_pooled(model) else nn.Identity()


def _norms_what_is_pooled(model: Any) -> bool:
    return isinstance(getattr(model, "norm", None), nn.Identity) and hasattr(model, "fc_norm")


def usage(exported: Exported, folder: str) -> str:
    """Python that takes features from it."""
    convert = "L" if exported.backbone.channels == 1 else "RGB"
    if exported.is_vit:
        layout, shape = ' output_fmt="NLC",', f"(1, P, {exported.dim})"
    else:
        layout, shape = "", f"(1, {exported.dim}, rows, columns)"
    norm = "    patches = model.fc_norm(patches)\n" if _norms_what_is_pooled(exported.encoder.model) else ""
    place = exported.encoder.inside.place_of(exported.layer)
    return f'''import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
images = transform(Image.open("IMAGE.png").convert("{convert}"))[None]
with torch.no_grad():
    pooled = model(images)  # (1, {exported.dim})
    (patches,) = model.forward_intermediates(
        images, indices=[{place}], norm=True,{layout} intermediates_only=True
    )  # {shape}
{norm}'''


def _architecture(exported: Exported) -> str:
    return exported.backbone.name.partition(".")[0]


def _arguments(exported: Exported) -> dict[str, Any]:
    arguments = timm_arguments(exported.backbone)
    if exported.is_cut:
        arguments["depth"] = exported.layer
    if _takes_token_of_mean(exported):
        arguments["global_pool"] = "token"
    return arguments


def _tensors(exported: Exported) -> dict[str, Tensor]:
    """The weights by the names that timm has for them in the network that the arguments make."""
    tensors = {name: x.detach().contiguous().clone() for name, x in exported.encoder.model.state_dict().items()}
    if _takes_token_of_mean(exported):
        return {name.replace("fc_norm.", "norm.", 1): x for name, x in tensors.items()}
    return tensors


def _takes_token_of_mean(exported: Exported) -> bool:
    """Whether Strata takes the class token where timm would take the mean, as of EVA's models."""
    own = getattr(exported.encoder.model, "global_pool", None)
    return exported.is_vit and exported.backbone.pool == "token" and own != "token"
