"""README.md of an export: what the encoder is, what it learned from, how good it is, how to use it."""

from collections.abc import Callable
from pathlib import Path

from ssl_core import recipes
from ssl_core.evaluation.metrics import find, layers_of
from ssl_core.evaluation.results import figures_of
from ssl_core.training.history import History
from ssl_core.use.export.exported import Exported, preprocessing

FRONT = "---\nlibrary_name: timm\ntags:\n- image-feature-extraction\n- self-supervised\n- strata\n---\n"
SECTIONS = ("framework", "objectives", "distill", "positives", "optim", "views", "seed")
"""Of a run's configuration: what its method is."""


def card(exported: Exported, checked: str, usage: Callable[[str], str], folder: Path) -> str:
    """The card of an export that will lie in `folder`.

    Args:
        checked: how far it is from the encoder, in words.
        usage: Python that uses it, given the folder.
    """
    subject, backbone = exported.subject, exported.backbone
    depth = subject.encoder.depth
    chosen = f" ({exported.chosen_by})" if exported.chosen_by else ""
    size, share = backbone.image_size, preprocessing(backbone)["crop_pct"]
    lines = [
        FRONT,
        f"# {subject.name}\n",
        f"A {backbone.name} of timm's at {size} px, exported with [Strata](https://pypi.org/project/strata-ssl/): "
        f"features of layer {exported.layer} of {depth}{chosen}, {exported.dim} numbers an image and a patch.\n",
        "## Use\n",
        f"```python\n{usage(str(folder)).rstrip()}\n```\n",
        f"Images: {'grey' if backbone.channels == 1 else 'RGB'}, their shorter side resized (bilinear), the centre "
        f"{share:.1%} of it cropped to {size} px, normalised with ImageNet's mean and deviation.\n",
        f"Compared with the encoder it comes from, {checked}.\n",
        *_learned(exported),
        *_figures(exported),
    ]
    return "\n".join(lines)


def _learned(exported: Exported) -> list[str]:
    """From which images, how."""
    subject, config = exported.subject, exported.subject.config
    if subject.folder is None:
        return [
            "## Training\n",
            "These weights belong to no run of Strata's; how they were trained is not known here.\n",
        ]
    settings = {key: value for key, value in recipes.flatten(config).items() if key.partition(".")[0] in SECTIONS}
    rows = [f"| `{key}` | {value} |" for key, value in settings.items() if value not in (None, "")]
    trained = f"without labels on `{config.data.train}`, {subject.epoch} of {config.optim.epochs} epochs"
    return ["## Training\n", f"{config.method_name}, {trained}.\n", "| setting | value |\n|---|---|", *rows, ""]


def _figures(exported: Exported) -> list[str]:
    """What was measured of the layer: after training, or while it lasted."""
    subject = exported.subject
    if subject.folder is None:
        return []
    found: dict[str, float] = {}
    records = History.read(subject.folder)
    if records and records[-1].get("epoch") == subject.epoch:
        found |= records[-1]
    found |= figures_of(subject.folder, exported.digest)
    names = sorted({name.rpartition("/")[0] for name in found if name.rpartition("/")[2].startswith("layer_")})
    rows = []
    for name in names:
        value, metric = layers_of(found, name).get(exported.layer), find(f"{name}/last")
        if value is not None and metric is not None:
            rows.append(f"| {name} | {metric.form.format(value)} |")
    return (
        ["## Measured\n", f"Of layer {exported.layer}:\n", "| metric | value |\n|---|---|", *rows, ""] if rows else []
    )
