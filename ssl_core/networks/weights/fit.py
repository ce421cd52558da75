"""Published weights into an encoder: positions and patches brought to its grid and channels; what fits not is told."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.weights.containers import Candidate, candidates
from ssl_core.networks.weights.reading import backbone_of, read
from ssl_core.schema.encoder import BackboneConfig

LEAST = 0.9  # of an encoder's parameters that must be found
NAMED = 4  # names in a list of what is missing


@dataclass(frozen=True)
class Fit:
    """What became of weights.

    Attributes:
        place: where in the file they were.
        share: of the encoder's parameters that were found, in [0, 1].
        missing: names of the encoder's that were not found, or have another shape.
        left_over: names of the file's that the encoder has not.
        adapted: what was brought to other shapes, a few words each.
    """

    place: str
    share: float
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    adapted: tuple[str, ...]

    def __str__(self) -> str:
        said = [f"{self.share:.1%} of the encoder's parameters found" + (f" under {self.place}" if self.place else "")]
        said += self.adapted
        if self.missing:
            said.append(f"not found: {_some(self.missing)}")
        if self.left_over:
            said.append(f"left over: {_some(self.left_over)}")
        return "; ".join(said)


def load_weights(encoder: Encoder, where: str) -> Fit:
    """Put published weights into an encoder.

    Args:
        where: a file (`.safetensors`, `.pth`), a run's folder, or `timm:NAME`, which downloads.

    Raises:
        InputError: they cannot be read, or are of another network.
    """
    return fit_weights(encoder, read(where), where)


def check_weights(config: BackboneConfig) -> Fit | None:
    """What would become of the weights that a configuration starts from; None where it starts from none.

    Raises:
        InputError: they cannot be read, or are of another network.
    """
    return None if config.weights is None else load_weights(Encoder(config), config.weights)


def fit_weights(encoder: Encoder, stored: Any, where: str) -> Fit:
    """Put what a file holds into an encoder; nothing is changed where it does not fit.

    Raises:
        InputError: less than nine tenths of the encoder's parameters are there.
    """
    model = encoder.model
    wanted = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    found = [_fitted(candidate, model, wanted) for candidate in candidates(stored, set(wanted))]
    if not found:
        raise InputError(
            f"{where}: nothing in it is called as {encoder.name}'s weights are, such as {_some(list(wanted))}"
        )
    # The best fit; of those that are as good within a thousandth, what their authors evaluate.
    fit, tensors = min(found, key=lambda pair: (-round(pair[0].share, 3), pair[2]))[:2]
    if fit.share < LEAST:
        raise InputError(
            f"{where}: not the weights of {encoder.name}: {fit.share:.0%} of its parameters found"
            f"{f' under {fit.place}' if fit.place else ''}; not found, or of another shape: {_some(fit.missing)}; "
            f"left over: {_some(fit.left_over) or 'nothing'}{_of_themselves(where)}"
        )
    model.load_state_dict(tensors, strict=False)
    return fit


def _of_themselves(where: str) -> str:
    """What weights that Strata wrote say of the network that they are of."""
    said = backbone_of(where)
    kept = {key: said[key] for key in ("name", "image_size", "patch_size", "pool", "kwargs") if said.get(key)}
    written = ", ".join(f"backbone.{key}={value}" for key, value in kept.items()).replace("'", "")
    return f"\nthey say that they are of {written}" if kept else ""


def _fitted(candidate: Candidate, model: nn.Module, wanted: Mapping[str, Tensor]) -> tuple[Fit, dict[str, Tensor], int]:
    """How a set of tensors fits a model, those that do, and how late among equals it comes."""
    before = dict(candidate.tensors)
    # Positions first: timm's own rules ask for as many prefix tokens as the model has.
    tensors = _with_final_norm(_filtered(_with_positions(before, model), model), wanted)
    fitting = {name: x for name, x in tensors.items() if name in wanted and x.shape == wanted[name].shape}
    parameters = {name: x.numel() for name, x in model.named_parameters()}
    share = sum(size for name, size in parameters.items() if name in fitting) / sum(parameters.values())
    missing = tuple(name for name in wanted if name not in fitting)
    left_over = tuple(name for name, x in tensors.items() if name not in fitting and x.is_floating_point())
    adapted = tuple(
        f"{name} {_shape(before[name])} → {_shape(fitting[name])}"
        for name in fitting
        if name in before and before[name].shape != fitting[name].shape
    )
    return Fit(candidate.place, share, missing, left_over, adapted), fitting, candidate.rank


def _filtered(tensors: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """As timm itself brings weights of the model's kind to its names and shapes, and to its channels."""
    own = sys.modules[type(model).__module__]
    convert: Callable | None = getattr(own, "checkpoint_filter_fn", None)
    tensors = _with_channels(tensors, model)
    if convert is None or len(inspect.signature(convert).parameters) < 2:
        return _resampled(tensors, model)
    try:
        return dict(convert(dict(tensors), model))
    except Exception:  # whatever it expects of files of its own kind: these are none
        return _resampled(tensors, model)


def _with_channels(tensors: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The first convolution for grey images of one for colours, or the other way round (timm's rule: their sum)."""
    own = dict(model.named_parameters())
    for name, x in tensors.items():
        mine = own.get(name)
        if mine is not None and x.ndim == mine.ndim == 4 and {x.shape[1], mine.shape[1]} == {1, 3}:
            changed = adapt_input_conv(mine.shape[1], x if x.shape[1] == 3 else x.repeat(1, 3, 1, 1) / 3.0)
            return {**tensors, name: changed}
    return tensors


def _resampled(tensors: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    name, own = "patch_embed.proj.weight", dict(model.named_parameters())
    if name in tensors and name in own and tensors[name].shape[-2:] != own[name].shape[-2:]:
        return {**tensors, name: resample_patch_embed(tensors[name], list(own[name].shape[-2:]))}
    return tensors


def _with_positions(tensors: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Positions for as many prefix tokens as the model has positions for, on its grid."""
    own, given = getattr(model, "pos_embed", None), tensors.get("pos_embed")
    on_grid: Any = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if own is None or given is None or on_grid is None or own.shape == given.shape:
        return tensors
    if own.ndim != 3 or given.ndim != 3 or own.shape[-1] != given.shape[-1]:
        return tensors
    rows, columns = on_grid
    prefix = own.shape[1] - rows * columns
    there = next((n for n in (0, 1, prefix) if _is_square(given.shape[1] - n)), None)
    if there is None:
        return tensors
    first, grid = given[:, :there], given[:, there:]
    if there < prefix:
        first = torch.cat([first, first.new_zeros(1, prefix - there, first.shape[-1])], dim=1)
    changed = resample_abs_pos_embed(grid, [rows, columns], num_prefix_tokens=0)
    changed = torch.cat([first[:, :prefix], changed], dim=1)
    moved = dict(tensors, pos_embed=changed)
    if prefix == 0 and there and "cls_token" in tensors:  # its position is its own from now on
        moved["cls_token"] = tensors["cls_token"] + given[:, :1]
    return moved


def _with_final_norm(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm calls the final norm `fc_norm` where patch tokens are averaged before it, else `norm`."""
    for ours, theirs in (("fc_norm.", "norm."), ("norm.", "fc_norm.")):
        if f"{ours}weight" in wanted and f"{ours}weight" not in tensors and f"{theirs}weight" in tensors:
            renamed = {ours + name.removeprefix(theirs): x for name, x in tensors.items() if name.startswith(theirs)}
            return {name: x for name, x in tensors.items() if not name.startswith(theirs)} | renamed
    return tensors


def _is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number


def _shape(x: Tensor) -> str:
    return "×".join(map(str, x.shape))


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + (f" and {len(listed) - NAMED} more" if len(listed) > NAMED else "")
