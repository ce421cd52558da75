"""`strata evaluate`: of runs that were trained here, in this process and on Ray's workers, with a real MLflow store."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.evaluate import compare
from orchestrator.evaluate.plan import Wish, make_plan
from orchestrator.evaluate.record import Evaluation, context_of, evaluate, folder_of, show
from orchestrator.tracking.receipt import known_run
from orchestrator.tracking.store import Store
from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.evaluation.measure import measure
from ssl_core.evaluation.results import Results, describe, figures, read
from ssl_core.training.history import History
from ssl_core.use.best import best_layer


def evaluated(run: Path, **wish) -> tuple[Evaluation, str]:
    """An evaluation, and what was shown."""
    console = Console(record=True, width=160, force_terminal=False)
    output = wish.pop("output", None)
    plan = make_plan(str(run), Wish(words=("data.workers=0", *wish.pop("words", ())), **wish))
    found = evaluate(plan, output, console)
    show(found, console)
    return found, console.export_text()


def test_a_finished_run_is_measured_as_at_its_end(runs: list[Path]) -> None:
    found, shown = evaluated(runs[0])
    last = History.read(runs[0])[-1]
    for name in ("knn/layer_01", "knn/last", "knn/best", "rankme/last", "alignment/layer_02"):
        assert found.metrics[name] == pytest.approx(last[name], rel=1e-5)
    assert 0.3 < found.metrics["linear/last"] < 1.0
    assert found.folder == runs[0] / "evaluation" / "quick"
    assert (found.folder / "plots" / "layers.png").stat().st_size > 5_000
    assert "best layer by linear" in shown
    assert (found.folder / "table.txt").read_text().splitlines()[-1].split()[0] == "2"


def test_mlflow_has_it_below_the_pretraining(runs: list[Path]) -> None:
    found, _ = evaluated(runs[0], kinds=("knn",))
    client: MlflowClient = Store.of().connect()
    child = client.get_run(known_run(found.folder)["run_id"])
    assert child.data.tags["mlflow.parentRunId"] == known_run(runs[0])["run_id"]
    assert child.data.metrics["knn/last"] == pytest.approx(found.metrics["knn/last"])
    assert child.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(child.info.run_id)} >= {"results.json", "table.txt", "plots"}


def test_what_is_measured_is_not_measured_again(runs: list[Path]) -> None:
    first, _ = evaluated(runs[0], kinds=("knn", "geometry"))
    file = first.folder / "results.json"
    before = file.read_bytes()
    again, shown = evaluated(runs[0], kinds=("knn", "geometry"))
    assert file.read_bytes() == before
    assert "measuring knn" not in shown
    assert again.metrics == first.metrics


def test_stopped_after_a_layer_it_goes_on_with_the_next(runs: list[Path], tmp_path: Path) -> None:
    plan = make_plan(str(runs[0]), Wish(words=("data.workers=0",), kinds=("knn",)))
    about = describe(plan.config, plan.images, "x", plan.subject.digest, 1)
    device = next(plan.subject.encoder.parameters()).device
    said: list[tuple[str, int, int]] = []

    def stops(what: str, done: int, total: int) -> None:
        said.append((what, done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(context_of(plan, device, lambda *_: None), Results(tmp_path, about), stops)
    kept = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [entry["layers"].keys() for entry in kept.values()] == [{"1"}]
    said.clear()
    (found,) = measure(context_of(plan, device, lambda *_: None), Results(tmp_path, about), lambda *s: said.append(s))
    assert said == [("knn", 0, 1), ("knn", 1, 1)], "one layer of two was left"
    whole, _ = evaluated(runs[0], kinds=("knn",))
    assert found.metrics(2) == whole.metrics


def test_other_weights_images_or_settings_are_measured_anew(runs: list[Path]) -> None:
    first, _ = evaluated(runs[0], kinds=("knn",))
    config = first.plan.config.evaluation[0]
    other = config.model_copy(update={"k": 3})
    assert first.results.key(config) != first.results.key(other)
    assert first.results.key(config) == first.results.key(config.model_copy(update={"every": 7}))
    data = first.plan.config.data.model_copy(update={"limit": 20})
    fewer = describe(
        first.plan.config, open_images(data), "seed-0", first.plan.subject.digest, first.plan.subject.epoch
    )
    assert Results(first.folder, fewer).key(config) != first.results.key(config)


def test_a_file_of_results_speaks_of_one_set_of_images_at_a_time(runs: list[Path], tmp_path: Path) -> None:
    whole, _ = evaluated(runs[0], kinds=("knn",), output=tmp_path / "own")
    few, _ = evaluated(runs[0], kinds=("knn",), words=("data.limit=40",), output=tmp_path / "own")
    file = tmp_path / "own" / "results.json"
    of_layers = {name: value for name, value in few.metrics.items() if "/layer_" in name}
    assert figures(read(file)) == of_layers
    again, _ = evaluated(runs[0], kinds=("knn",), output=tmp_path / "own")
    assert again.metrics == whole.metrics
    assert figures(read(file)) == {name: value for name, value in whole.metrics.items() if "/layer_" in name}
    assert figures(read(file), "of other weights") == {}


def test_a_folder_of_something_else_gets_no_results(runs: list[Path], folders: Path) -> None:
    with pytest.raises(InputError, match=r"--output: .*holds something else than results"):
        evaluated(runs[0], kinds=("knn",), output=folders / "train")
    assert not (folders / "train" / "results.json").exists()


def test_chosen_layers_alone_are_measured(runs: list[Path], tmp_path: Path) -> None:
    found, _ = evaluated(runs[0], kinds=("knn",), layers="last", output=tmp_path / "last")
    assert {name for name in found.metrics if name.startswith("knn/")} == {"knn/layer_02", "knn/last", "knn/best"}
    assert not any(name.endswith("layer_01") for name in found.metrics)
    found, shown = evaluated(runs[0], kinds=("knn",), layers="1", output=tmp_path / "first")
    assert {name for name in found.metrics if name.startswith("knn/")} == {"knn/layer_01", "knn/best"}
    assert "best layer" not in shown, "there is nothing to choose from"


def test_a_checkpoint_is_measured_beside_the_end(runs: list[Path]) -> None:
    plan = make_plan(str(runs[0]), Wish(kinds=("knn",), checkpoint=1))
    assert folder_of(plan).name == "knn-epoch_0001"
    assert plan.subject.digest == make_plan(str(runs[0]), Wish(kinds=("knn",))).subject.digest


def test_without_labels_a_suite_measures_the_rest_and_a_name_is_refused(runs: list[Path], tmp_path: Path) -> None:
    found, _ = evaluated(runs[0], words=("data.labels=none",), output=tmp_path / "bare")
    assert "rankme/last" in found.metrics
    assert "knn/last" not in found.metrics
    assert sum("is left out" in remark for remark in found.plan.remarks) == 2
    with pytest.raises(InputError, match="knn needs labels"):
        make_plan(str(runs[0]), Wish(words=("data.labels=none",), kinds=("knn",)))


def test_two_workers_find_what_one_process_does(runs: list[Path], tmp_path: Path, ray_session: None) -> None:
    kinds = ("knn", "linear", "geometry")
    alone, _ = evaluated(runs[1], kinds=kinds)
    shared, _ = evaluated(runs[1], kinds=kinds, words=("scaling.workers=2",), output=tmp_path / "two")
    assert shared.metrics.keys() == alone.metrics.keys()
    assert shared.metrics == pytest.approx(alone.metrics, rel=1e-3, abs=1e-5)
    assert all(found.finished for found in shared.found)
    assert not (tmp_path / "two" / ".ray-train").exists()


def test_two_runs_are_compared_image_by_image(runs: list[Path], tmp_path: Path) -> None:
    first, second = (evaluated(run, kinds=("knn", "geometry"))[0] for run in runs)
    console = Console(record=True, width=160, force_terminal=False)
    found = compare.compare(first, second, tmp_path / "both", console)
    one = next(d for d in found if d.metric == "knn" and d.layers == (2, 2))
    config = first.plan.config.evaluation[0]
    right = [evaluation.results.outcomes(config)[1].astype(float) for evaluation in (first, second)]
    assert one.gain == pytest.approx((right[1] - right[0]).mean())
    differences = right[1] - right[0]
    naive = 1.96 * np.sqrt(((differences - differences.mean()) ** 2).sum() / (len(differences) - 1) / len(differences))
    assert one.half == pytest.approx(naive)
    assert all(d.half is None for d in found if d.metric != "knn"), "others do not say how each image fared"
    for name in ("differences.png", "cka.png"):
        assert (tmp_path / "both" / name).stat().st_size > 5_000
    assert "seed-1" in console.export_text()


def test_runs_on_other_images_are_not_compared(runs: list[Path]) -> None:
    plans = [make_plan(str(runs[0]), Wish()), make_plan(str(runs[1]), Wish(words=("data.limit=50",)))]
    with pytest.raises(InputError, match=r"data\.limit: .* has 128, .* has 50"):
        compare.check(plans)


def test_the_best_layer_is_that_of_the_measured_weights(runs: list[Path]) -> None:
    found, _ = evaluated(runs[0])
    digest = found.plan.subject.digest
    chosen = best_layer(runs[0], digest)
    values = {layer: found.metrics[f"linear/layer_0{layer}"] for layer in (1, 2)}
    assert (chosen.by, chosen.value) == ("linear", max(values.values()))
    assert best_layer(runs[0], "others").by == "knn", "of other weights: the run's own figures"


@pytest.mark.parametrize(
    ("what", "wish", "words"),
    [
        ("nowhere", {}, "nowhere is "),
        (None, {"kinds": ("knn",), "layers": "7"}, r"--layers: the encoder has layers 1 to 2 \(given: 7\)"),
        (None, {"kinds": ("knn",), "layers": "first"}, "--layers: expected all, last"),
        (None, {"kinds": ("kn",)}, "evaluation.0.kind: expected one of .*did you mean knn"),
        (None, {"suite": "quik"}, "no suite named quik.*did you mean quick"),
        (None, {"suite": "quick", "kinds": ("knn",)}, "--suite, --with: one of them"),
        (None, {"words": ("optim.lr=1",)}, "optim.lr: the encoder is trained"),
        (None, {"words": ("data.train=nowhere",)}, "data.train: .*nowhere does not exist"),
        (None, {"checkpoint": 5}, "--checkpoint: .* has none of epoch 5; there are those of 1"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(
    runs: list[Path], what: str | None, wish: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_plan(what or str(runs[0]), Wish(**wish))


def test_the_program_says_what_can_be_measured(strata: Callable) -> None:
    listed = strata("evaluate", "--list")
    assert listed.returncode == 0
    assert "quick" in listed.stdout
    assert "geometry" in listed.stdout
    nothing = strata("evaluate")
    assert nothing.returncode == 2
    assert "expected an encoder" in nothing.stderr
