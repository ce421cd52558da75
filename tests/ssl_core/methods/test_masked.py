"""The masked family: which patches are hidden, who sees what, what is predicted, and how the three are related."""

import io
import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from ssl_core import distributed, methods
from ssl_core.batch import Masks
from ssl_core.data.masks import MaskDrawer, draw
from ssl_core.data.sources import open_images
from ssl_core.data.views import denormalise, normalise
from ssl_core.errors import InputError
from ssl_core.methods import Method
from ssl_core.methods.engine import StepOutput
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Hide, Want
from ssl_core.objectives.base import Seen
from ssl_core.objectives.patches import PatchPrediction
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.run import RunConfig
from ssl_core.training.events import EpochEnded, Event, Listener
from ssl_core.training.loop import Pretraining
from tests.conftest import batch_of, tiny_config
from tests.gloo import Ranks

MASKED = ["ijepa", "mae", "bootleg"]
BLOCKS = {"kind": "blocks", "targets": 3, "target_scale": [0.1, 0.2]}
SIZE = 32


def config_of(name: str, **framework) -> RunConfig:
    """On 4 × 4 patches."""
    blocks = {} if name == "mae" else {"mask": {"kind": "blocks"}}
    return tiny_config(name, backbone={"image_size": SIZE}, framework={**blocks, **framework})


def build(name: str, **framework) -> Method:
    torch.manual_seed(0)
    return methods.build(config_of(name, **framework))


def objective_of(method: Method) -> PatchPrediction:
    (objective,) = method.objectives.values()
    return objective


def masks_of(method: Method, images: int = 4) -> Masks:
    objective = objective_of(method)
    return draw(MaskDrawer(objective.config.mask, objective.grid, seed=3), 1, range(images))


def look(method: Method, x: Tensor, masks: Masks | None = None) -> Seen:
    """What the objective sees of images (B, C, H, W)."""
    name = objective_of(method).config.name
    return method.look(batch_of(x[None], masks={name: masks or masks_of(method, len(x))}))[name]


def run(method: Method, x: Tensor, masks: Masks | None = None) -> StepOutput:
    name = objective_of(method).config.name
    return method(batch_of(x[None], masks={name: masks or masks_of(method, len(x))}), 0.0)


def patches(encoder, x: Tensor, layers: list[int], seen: Tensor | None = None) -> list[Tensor]:
    found = encoder(x, Want(patches=tuple(layers)), None if seen is None else Hide.drop(seen)).patches
    return [found[layer] for layer in layers]


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01])
def test_a_share_that_hides_nothing_or_all_is_refused(share: float) -> None:
    with pytest.raises((ValidationError, InputError), match="share"):
        methods.build(config_of("mae", mask={"kind": "random", "share": share}))


@pytest.mark.parametrize("scale", [[1.0, 1.0], [0.1, 0.8]])
def test_blocks_that_may_hide_everything_are_refused(scale: list[float]) -> None:
    with pytest.raises(InputError, match="can hide all of 4 × 4"):
        build("ijepa", mask={"kind": "blocks", "target_scale": scale})


@pytest.mark.parametrize("name", MASKED)
def test_the_student_does_not_see_hidden_patches(name: str) -> None:
    method = build(name, mask=BLOCKS)
    x, masks = images(), masks_of(method)
    (before,) = patches(method.student, x, [3], masks.context)
    changed = x.clone().unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, 4, 4, 8, 8)
    for image, targets in enumerate(masks.targets):
        for patch in targets.flatten().tolist():
            changed[image, :, patch // 4, patch % 4] = 5.0
    changed = changed.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    assert not torch.equal(changed, x)
    (after,) = patches(method.student, changed, [3], masks.context)
    assert torch.equal(after, before)
    if method.teacher is not None:
        seen = [objective_of(method).teach(look(method, images, masks)) for images in (changed, x)]
        assert not torch.equal(*seen), "the teacher sees all"


def test_all_patches_seen_are_the_network_as_timm_has_it() -> None:
    backbone = build("ijepa").student.eval()
    every = torch.arange(16).expand(4, -1)
    for layer, tokens in zip((1, 3), patches(backbone, images(), [1, 3], every), strict=True):
        index = [layer - 1]
        (expected,) = backbone.model.forward_intermediates(
            images(), indices=index, intermediates_only=True, output_fmt="NLC"
        )
        torch.testing.assert_close(tokens, backbone.inside.final_norm(expected))


def test_bootleg_with_the_last_layer_is_ijepa() -> None:
    results = []
    for method in (build("ijepa"), build("bootleg", targets=[3])):
        output = run(method, images())
        output.loss.backward()
        results.append((output.loss.detach(), [p.grad for p in method.parameters() if p.grad is not None]))
    (loss, gradients), (other_loss, other_gradients) = results
    assert torch.equal(loss, other_loss)
    assert len(gradients) == len(other_gradients)
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def naive_loss(method: Method, x: Tensor, masks: Masks) -> Tensor:
    """Image by image, block by block, layer by layer, patch by patch."""
    objective, losses = objective_of(method), []
    for number, image in enumerate(x):
        context = masks.context[number : number + 1]
        (seen,) = patches(method.student, image[None], [method.student.depth], context)
        for block in masks.targets[number]:
            predictions = objective.predictor(seen, Masks(context, block[None, None]))[:, 0, 0]
            for layer, predicted in zip(objective.layers, predictions, strict=True):
                for patch, prediction in zip(block.tolist(), predicted, strict=True):
                    if method.teacher is not None:
                        target = patches(method.teacher.encoder, image[None], [layer])[0][0, patch]
                        target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
                        losses.append(F.smooth_l1_loss(prediction, target))
                    else:
                        row, column = divmod(patch, 4)
                        pixels = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
                        target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                        losses.append(F.mse_loss(prediction, target))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", MASKED)
def test_the_dense_code_is_the_naive_one(name: str) -> None:
    method = build(name, **({"targets": [1, 3]} if name == "bootleg" else {}))
    output = run(method, images())
    torch.testing.assert_close(output.loss, naive_loss(method, images(), masks_of(method)))


def test_bootleg_logs_every_target() -> None:
    parts = run(build("bootleg", targets="all"), images()).parts
    losses = [parts[f"loss/target_{layer:02d}"] for layer in (1, 2, 3)]
    torch.testing.assert_close(torch.stack(losses).mean(), parts["loss"])
    assert parts["loss/last"] == losses[-1]


def test_targets_are_weighted_by_their_ratios() -> None:
    parts = run(build("bootleg", targets=[1, 3], target_weights=[1, 3]), images()).parts
    first, last = parts["loss/target_01"], parts["loss/target_03"]
    torch.testing.assert_close(parts["loss"], first / 4 + 3 * last / 4)
    with pytest.raises(InputError, match=r"target_weights: 2 of them for target layers \[1, 2, 3\]"):
        build("bootleg", targets="all", target_weights=[1, 3])


@pytest.mark.parametrize("name", ["ijepa", "bootleg"])
def test_no_gradient_reaches_the_teacher_which_follows(name: str) -> None:
    method = build(name, momentum=0.5)
    run(method, images()).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)
    student, teacher = method.student.model.blocks[0].mlp.fc1, method.teacher.encoder.model.blocks[0].mlp.fc1
    with torch.no_grad():
        student.weight.add_(1.0)
    before = teacher.weight.clone()
    assert method.update_teacher(0.0) == 0.5
    torch.testing.assert_close(teacher.weight, (before + student.weight) / 2)
    assert method.update_teacher(1.0) == 1.0
    assert method.encoder is method.teacher.encoder


def other_network(depth: int = 2, patch_size: int = 8) -> Encoder:
    kwargs = {"embed_dim": 48, "depth": depth, "num_heads": 3}
    backbone = {"name": "vit_tiny_patch16_224", "image_size": SIZE, "patch_size": patch_size, "kwargs": kwargs}
    return Encoder(BackboneConfig(**backbone))


@pytest.mark.parametrize(("name", "more"), [("ijepa", {}), ("bootleg", {"targets": "all"})])
def test_a_frozen_teacher_may_be_another_network_and_never_changes(name: str, more: dict) -> None:
    torch.manual_seed(0)
    given = other_network()
    method = methods.build(config_of(name, **more), given)
    before = {key: value.clone() for key, value in method.teacher.state_dict().items()}
    masks = masks_of(method)
    first = run(method, images(), masks)
    first.loss.backward()
    assert method.update_teacher(0.5) is None
    assert method.encoder is method.student
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in method.teacher.state_dict().items())
    assert any(p.grad.abs().max() > 0 for p in method.student.parameters() if p.grad is not None)
    objective = objective_of(method)
    assert objective.layers == ([2] if name == "ijepa" else [1, 2]), "the teacher's"
    (expected,) = patches(given.eval(), images(), [2])
    target = objective.teach(look(method, images(), masks))[-1]
    torch.testing.assert_close(target, F.layer_norm(expected, (48,)))


def test_a_teacher_that_sees_other_patches_is_refused() -> None:
    with pytest.raises(InputError, match=r"teacher: it sees 2 × 2 patches of an image, the student 4 × 4"):
        methods.build(config_of("ijepa"), other_network(patch_size=16))


@pytest.mark.parametrize("name", MASKED)
def test_error_maps_say_how_far_off_each_hidden_patch_is(name: str) -> None:
    method = build(name, mask=BLOCKS).eval()
    objective, masks = objective_of(method), masks_of(method)
    seen = look(method, images(), masks)
    maps = objective.error_maps(seen)
    assert maps.shape == (len(objective.layers), 4, 4, 4)
    losses = objective.measure(objective.predict(seen), objective.targets(seen))
    for image, targets in enumerate(masks.targets):
        for patch in range(16):
            own = losses[:, image][:, targets == patch]
            shown = maps[:, image, patch // 4, patch % 4]
            if own.numel():
                torch.testing.assert_close(shown, own.mean(dim=1))
            else:
                assert shown.isnan().all()


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae_reconstructs_what_is_hidden_and_leaves_what_is_seen(norm_pixels: bool) -> None:
    method = build("mae", norm_pixels=norm_pixels)
    objective, masks = objective_of(method), masks_of(method)
    known = denormalise(images())
    x = normalise(known)
    visible = torch.zeros(4, 16).scatter_(1, masks.context, 1.0).view(4, 1, 4, 4)
    visible = visible.repeat_interleave(8, 2).repeat_interleave(8, 3).bool().expand_as(x)
    seen = look(method, x, masks)
    rebuilt = objective.reconstruct(seen)
    assert torch.equal(rebuilt[visible], x[visible])
    assert not torch.allclose(rebuilt[~visible], x[~visible], atol=0.1)
    truth = objective.reconstruct(seen, objective.targets(seen))
    torch.testing.assert_close(truth, x, rtol=1e-4, atol=1e-4)
    assert torch.equal(denormalise(truth), known)


@pytest.mark.parametrize("name", MASKED)
def test_bfloat16_runs_and_stays_near_float32(name: str) -> None:
    losses, changes = {}, {}
    for precision in ("fp32", "bf16"):
        values = config_of(name).model_dump(mode="json")
        values["optim"] |= {"epochs": 1, "precision": precision, "name": "sgd", "weight_decay": 0.0}
        config = RunConfig.model_validate(values)
        run = Pretraining(config, open_images(config.data), loaders=0)
        before = torch.cat([p.detach().flatten() for p in run.method.student.parameters()])
        losses[precision] = run.run()[-1]["loss"]
        changes[precision] = torch.cat([p.detach().flatten() for p in run.method.student.parameters()]) - before
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]
    assert F.cosine_similarity(changes["bf16"], changes["fp32"], dim=0) > 0.9


def _gradients(name: str, whole: Tensor) -> dict[str, Tensor]:
    method = build(name)
    rank, share = distributed.rank(), len(whole) // distributed.world_size()
    mine = slice(rank * share, (rank + 1) * share)
    output = run(method, whole[mine], masks_of(method, len(whole)).rows(mine.start, mine.stop))
    output.loss.backward()
    return {n: distributed.mean_over_ranks(p.grad) for n, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MASKED)
def test_two_workers_compute_the_gradient_of_one(name: str, two_ranks: Ranks) -> None:
    alone = _gradients(name, images(6))
    together = two_ranks(_gradients, name, images(6))[0]
    assert alone.keys() == together.keys()
    for key, gradient in alone.items():
        torch.testing.assert_close(together[key], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MASKED)
def test_a_run_learns_is_evaluated_and_goes_on_where_it_stood(name: str) -> None:
    values = config_of(name).model_dump(mode="json")
    config = RunConfig.model_validate({**values, "evaluation": [{"kind": "geometry"}]})
    loaded = open_images(config.data)
    kept = io.BytesIO()

    class Keeps(Listener):
        def on(self, event: Event) -> None:
            if isinstance(event, EpochEnded) and event.record["epoch"] == 1:
                torch.save(whole.state_dict(), kept)

    whole = Pretraining(config, loaded, loaders=0)
    history = whole.run(Keeps())
    assert {"rankme/layer_01", "rankme/last", "loss"} <= history[-1].keys()

    kept.seek(0)
    again = Pretraining(config, loaded, loaders=0)
    again.load_state_dict(torch.load(kept, weights_only=True))
    again.run()
    assert again.history[-1]["loss"] == history[-1]["loss"]
    for old, new in zip(whole.method.state_dict().values(), again.method.state_dict().values(), strict=True):
        assert torch.equal(old, new)


def test_what_cannot_be_combined_is_refused() -> None:
    values = config_of("ijepa").model_dump(mode="json")
    for section in ({"distill": {}}, {"positives": {"kind": "nearest"}}, {"views": {"local_crops": {}}}):
        with pytest.raises(ValidationError, match="ijepa"):
            RunConfig.model_validate({**values, **section})


def test_a_target_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"framework.targets: \[7\] of a backbone with layers 1 to 3"):
        build("bootleg", targets=[1, 7])


def several(*objectives: dict) -> Method:
    values = config_of("ijepa").model_dump(mode="json") | {"framework": None}
    return methods.build(RunConfig.model_validate(values | {"objectives": list(objectives)}))


TINY_PREDICTOR = {"predictor": {"dim": 16, "depth": 1, "heads": 2}}
BYOL = {"name": "byol", "output_dim": 8, "hidden_dim": 16}


def test_what_is_wrong_with_one_of_several_objectives_is_told_by_its_place() -> None:
    wrong = {"name": "mae", **TINY_PREDICTOR, "mask": {"kind": "random", "share": 0.01}}
    with pytest.raises(InputError, match=r"^objectives\.1\.mask\.share: "):
        several(BYOL, wrong)
    with pytest.raises(InputError, match=r"^objectives\.0\.targets: "):
        several({"name": "bootleg", **TINY_PREDICTOR, "targets": [7]}, BYOL)
    with pytest.raises(InputError, match=r"^objectives\.0\.target_weights: "):
        several({"name": "bootleg", **TINY_PREDICTOR, "target_weights": [1, 1, 1, 1]})


def test_several_objectives_follow_one_teacher_in_one_way() -> None:
    latent = {"name": "ijepa", **TINY_PREDICTOR}
    with pytest.raises(
        InputError, match=r"^objectives\.1\.momentum: .* 0\.9 to 1 here .* 0\.996 to 1 by objectives\.0\."
    ):
        several(BYOL, latent | {"momentum": 0.9})
    with pytest.raises(InputError, match=r"0\.996 to 0\.999 here"):
        several(BYOL, latent | {"momentum_end": 0.999})
    first, second = several(BYOL, latent), several(latent, BYOL)
    cosine, linear = 1 - 0.004 * (1 + math.cos(math.pi / 4)) / 2, 0.997
    assert (first.update_teacher(0.25), second.update_teacher(0.25)) == pytest.approx((cosine, linear))
    assert (first.encoder, second.encoder) == (first.student, second.teacher.encoder)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_r_s16_p8_224"])
def test_what_is_no_vit_is_refused(name: str) -> None:
    values = config_of("mae").model_dump(mode="json")
    values["backbone"] = {"name": name, "image_size": 224, "pool": "mean"}
    with pytest.raises(InputError, match="take a ViT"):
        methods.build(RunConfig.model_validate(values))
