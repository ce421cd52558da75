"""The grammar of a sweep's YAML, and what is said of a wrong one."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from safetensors.torch import save_file

from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.plan import epochs_of, make_plan, share_of, show_plan
from orchestrator.sweeps.report import Report
from orchestrator.sweeps.space import Dimension, describe, label
from orchestrator.sweeps.trials import Trial
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.schema.types import EveryN

SPACES = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))
HEAD = "recipe: demo\noverrides:\n  data.limit: 256\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


def sweep(folder: Path, text: str, *words: str) -> Sweep:
    return Sweep(write(folder, HEAD + text), words)


def error_of(folder: Path, text: str, *words: str) -> str:
    """What is said of a YAML that is wrong: before or while its settings are checked as runs."""
    with pytest.raises(InputError) as error:
        make_plan(sweep(folder, text, *words))
    return str(error.value)


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_spaces_that_come_with_strata_are_right(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("# ")
    assert f"strata sweep search_spaces/{file.name}" in text
    plan = make_plan(Sweep(file, ["data.train=bundled:digits"]))
    assert plan.runs >= 6


def test_there_are_spaces() -> None:
    assert {file.stem for file in SPACES} >= {"smoke", "sdssl", "adasim", "joint", "frameworks"}


@pytest.mark.parametrize(
    ("domain", "low", "high"),
    [
        ({"uniform": [0.2, 0.4]}, 0.2, 0.4),
        ({"loguniform": [1e-4, 1e-2]}, 1e-4, 1e-2),
        ({"quniform": [0, 1, 0.25]}, 0, 1),
        ({"randint": [2, 5]}, 2, 4),
        ({"normal": [1.0, 0.1]}, 0.4, 1.6),
        ({"choice": [3, 7]}, 3, 7),
    ],
)
def test_samples_lie_where_they_should(domain: dict, low: float, high: float) -> None:
    dimension = Dimension.model_validate(domain)
    drawn = [dimension.sample(generator) for generator in [np.random.default_rng(0)] for _ in range(300)]
    assert low <= min(drawn) < max(drawn) <= high
    if "quniform" in domain:
        assert set(drawn) == {0, 0.25, 0.5, 0.75, 1}
    if "randint" in domain:
        assert set(drawn) == {2, 3, 4}
    if "loguniform" in domain:
        assert np.median(drawn) == pytest.approx(1e-3, rel=0.5)


GRID = """
space:
  distill.alpha: {grid: [0, 1]}
  positives.kind: {grid: [augment, adasim, nearest]}
  positives.tau: {grid: [0.1, 0.2], when: {positives.kind: adasim}}
  positives.top_k: {grid: [2, 3], when: {positives.kind: [adasim, nearest]}}
searcher: grid
scheduler: none
"""


def test_a_grid_has_every_combination_that_means_something_once(tmp_path: Path) -> None:
    planned = sweep(tmp_path, GRID).config.planned()
    assert len(planned) == 2 * (1 + 2 * 2 + 2)
    assert len({str(settings) for settings in planned}) == len(planned)
    assert all(("positives.tau" in s) == (s["positives.kind"] == "adasim") for s in planned)
    assert all(("positives.top_k" in s) == (s["positives.kind"] != "augment") for s in planned)


def test_a_grid_is_tried_in_an_order_of_its_seed(tmp_path: Path) -> None:
    text = "space:\n  distill.alpha: {grid: [0, 0.25, 0.5, 0.75, 1]}\nsearcher: grid\n"
    tried, again, other = (
        [settings["distill.alpha"] for settings in sweep(tmp_path, text, f"seed={seed}").config.planned()]
        for seed in (0, 0, 1)
    )
    assert tried == again != other
    assert sorted(tried) == sorted(other) == [0, 0.25, 0.5, 0.75, 1]
    assert tried != sorted(tried)
    assert len(sweep(tmp_path, text, "trials=2").config.planned()) == 2


def test_an_ablation_varies_one_key_at_a_time(tmp_path: Path) -> None:
    text = "space:\n  distill.alpha: {choice: [1, 0, 0.5]}\n  distill.beta: {choice: [1, 0]}\nsearcher: ablation\n"
    planned = sweep(tmp_path, text).config.planned()
    assert planned == [
        {"distill.alpha": 1, "distill.beta": 1},
        {"distill.alpha": 0, "distill.beta": 1},
        {"distill.alpha": 0.5, "distill.beta": 1},
        {"distill.alpha": 1, "distill.beta": 0},
    ]


def test_random_search_is_the_same_for_the_same_seed_and_goes_through_grids_evenly(tmp_path: Path) -> None:
    text = "space:\n  distill.alpha: {uniform: [0, 1]}\n  distill.beta: {grid: [0, 1, 2]}\ntrials: 9\n"
    first, again = (sweep(tmp_path, text).config.planned() for _ in range(2))
    assert first == again
    assert sweep(tmp_path, text, "seed=1").config.planned() != first
    assert [settings["distill.beta"] for settings in first] == [0, 1, 2] * 3


def test_numbers_with_exponents_are_numbers_as_in_recipes(tmp_path: Path) -> None:
    text = "space:\n  optim.lr: {loguniform: [1e-5, 1e-2]}\n  optim.weight_decay: {choice: [1e-3, 1e-4]}\n"
    space = sweep(tmp_path, text).config.space
    assert (space["optim.lr"].args, space["optim.weight_decay"].args) == ((1e-5, 1e-2), (1e-3, 1e-4))


@pytest.mark.parametrize(("step", "last"), [([0, 1, 0.6], 0.6), ([10, 100, 35], 80), ([0, 1, 0.35], 0.7)])
def test_a_step_that_does_not_divide_its_range_stays_within_it(step: list, last: float) -> None:
    dimension = Dimension.model_validate({"quniform": step})
    generator = np.random.default_rng(0)
    assert max(dimension.sample(generator) for _ in range(50)) == last == dimension.probes()[1]
    assert dimension.nearest(step[1]) == last, "what a scheduler changes a value to"


def test_grids_alone_are_tried_in_full_and_each_setting_once(tmp_path: Path) -> None:
    text = "space:\n  distill.alpha: {grid: [0, 1, 2, 3]}\n  distill.beta: {grid: [0, 1]}\n"
    planned = sweep(tmp_path, text).config.planned()
    assert len({str(settings) for settings in planned}) == len(planned) == 8
    plan = make_plan(sweep(tmp_path, text, "trials=20", "repeats=2"))
    assert (plan.settings, plan.runs) == (8, 16)
    assert plan.remarks == ["trials: 20, but there are 8 settings, each tried once; `repeats` adds seeds"]
    more = {key: f"  optim.{key}: {{grid: {list(range(5))}}}\n" for key in "ab"}
    assert len(sweep(tmp_path, f"space:\n{more['a']}{more['b']}").config.planned()) == 25


def test_weights_can_be_varied_and_are_tried_before_any_trial(tmp_path: Path, capsys) -> None:
    backbone = recipes.load("demo").backbone
    save_file(Encoder(backbone).model.state_dict(), tmp_path / "good.safetensors")
    (tmp_path / "bad.pth").write_text("these are no weights")
    text = "space:\n  backbone.weights: {{grid: [null, {0}/good.safetensors{1}]}}\n"
    plan = make_plan(sweep(tmp_path, text.format(tmp_path, "")))
    assert plan.runs == 2
    said = error_of(tmp_path, text.format(tmp_path, f", {tmp_path}/bad.pth"))
    assert "bad.pth: a text file, and no file of weights" in said
    warm = text.format(tmp_path, "").replace("null, ", "")
    plan = make_plan(sweep(tmp_path, warm, "optim.warm_heads=1", "optim.layer_decay=0.5", "data.limit=64"))
    show_plan(plan, Console(), nodes=[{"CPU": 2.0}])
    assert "images/s a worker" in capsys.readouterr().out, "timed, on fewer epochs than its heads take to warm"


SMALL = """
space:
  positives.kind: {choice: [augment, adasim]}
  positives.top_k: {randint: [2, 5], when: {positives.kind: adasim}}
  positives.tau: {quniform: [0.1, 0.2, 0.05], when: {positives.kind: adasim}}
  distill.layers: {grid: [all, {every: 2}]}
"""


def test_random_search_tries_each_setting_of_a_small_space_once(tmp_path: Path) -> None:
    planned = sweep(tmp_path, SMALL, "trials=100").config.planned()
    assert len({str(settings) for settings in planned}) == len(planned) == 2 * (1 + 3 * 3)
    for fewer in (1, 7, 19):  # a sweep goes on with more
        assert sweep(tmp_path, SMALL, f"trials={fewer}").config.planned() == planned[:fewer]


def test_a_range_has_settings_enough_also_where_it_seldom_exists(tmp_path: Path) -> None:
    kinds = ", ".join(f"k{number}" for number in range(12))
    text = f"space:\n  a: {{choice: [{kinds}]}}\n  b: {{uniform: [0, 1], when: {{a: k0}}}}\ntrials: 40\n"
    planned = sweep(tmp_path, text).config.planned()
    assert len({str(settings) for settings in planned}) == len(planned) == 40
    assert sum("b" not in settings for settings in planned) == 11


@pytest.mark.parametrize(
    ("file", "name"),
    [("my sweep (1)", "my-sweep-1"), ("été", "ete"), ("図", "sweep"), ("-x", "x"), ("a" * 200, "a" * 100)],
)
def test_a_sweep_is_called_by_its_file_whatever_that_is_called(file: str, name: str, tmp_path: Path) -> None:
    (tmp_path / f"{file}.yaml").write_text(HEAD + ALPHA)
    assert Sweep(tmp_path / f"{file}.yaml").config.name == name


@pytest.mark.parametrize("key", ["seed", "name"])
def test_what_a_sweep_says_of_all_runs_is_no_override(key: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"overrides:\n  data.limit: 256\n  {key}: 7\n{ALPHA}")
    with pytest.raises(InputError, match=rf"mine\.yaml:3: overrides\.{key}: "):
        Sweep(file)


def test_the_command_line_reaches_into_a_sweeps_sections(tmp_path: Path) -> None:
    words = ["space.distill.beta={grid: [0, 1]}", "overrides.data.limit=64", "searcher.name=random", "scheduler=none"]
    config = sweep(tmp_path, ALPHA + "searcher: optuna\n", *words).config
    assert (list(config.space), config.overrides["data.limit"]) == (["distill.alpha", "distill.beta"], 64)
    assert (config.searcher.name, config.scheduler.name) == ("random", "none")
    assert "command line: trials" in error_of(tmp_path, ALPHA, "trials.x=3")


def test_the_best_recipe_loads_again_whatever_its_values_are(tmp_path: Path) -> None:
    texts = ["a\nb: 1", "# z", "é\u2028"]
    key = "backbone.kwargs.note"
    values = {"recipe": "demo", "space": {key: {"choice": texts}}, "scheduler": "none"}
    found = Sweep(write(tmp_path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)))
    for number, text in enumerate(texts):
        trial = Trial(1, {key: text}, {key: label(text)}, 0, 1, "FINISHED", records=[{"epoch": 1, "knn/last": 0.5}])
        file = tmp_path / f"best-{number}.yaml"
        file.write_text(Report(found, [trial], 1.0).recipe())
        assert recipes.load(file).backbone.kwargs["note"] == text


def test_layer_choices_become_configurations(tmp_path: Path) -> None:
    found = sweep(tmp_path, "space:\n  distill.layers: {choice: [all, every: 2, [2, 4]]}\nsearcher: grid\n")
    planned = sorted(found.config.planned(), key=lambda settings: str(label(settings["distill.layers"])))
    assert [label(settings["distill.layers"]) for settings in planned] == ["[2, 4]", "all", "every: 2"]
    layers = [found.run_config(settings).distill.layers for settings in planned]
    assert layers == [[2, 4], "all", EveryN(every=2)]
    for settings in planned:
        assert found.config.decode({key: label(value) for key, value in settings.items()}) == settings


def test_the_recipe_itself_can_be_varied(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("extends: small-byol\ndata: {train: bundled:digits}\n")
    text = "overrides: {optim.epochs: 2}\nspace:\n  recipe: {choice: [demo, other.yaml]}\nsearcher: grid\n"
    found = Sweep(write(tmp_path, text))
    configs = [found.run_config(settings) for settings in found.config.planned()]
    assert {config.framework.name for config in configs} == {"mocov3", "byol"}
    assert {config.optim.epochs for config in configs} == {2}


def test_a_varied_framework_starts_anew_with_what_the_sweep_sets_of_it(tmp_path: Path) -> None:
    text = (
        "recipe: demo\noverrides: {framework.output_dim: 64}\n"
        "space:\n  framework.name: {grid: [mocov3, byol, simsiam]}\nsearcher: grid\nscheduler: none\n"
    )
    plan = make_plan(Sweep(write(tmp_path, text), ["data.limit=200", "framework.hidden_dim=32"]))
    for settings, config in plan.examples:
        own = {"framework.output_dim": 64, "framework.hidden_dim": 32} | settings
        assert {key: getattr(config.framework, key.partition(".")[2]) for key in own} == own
        kept = {"temperature": 0.1, "momentum": 0.98} if config.framework.name == "mocov3" else {}
        assert {key: getattr(config.framework, key) for key in kept} == kept
    assert sorted(plan.remarks) == [
        "framework: mocov3 → byol; dropped momentum=0.98, temperature=0.1 of demo.yaml",
        "framework: mocov3 → simsiam; dropped momentum=0.98, temperature=0.1 of demo.yaml",
    ]


def test_a_section_that_is_varied_away_stays_away(tmp_path: Path) -> None:
    text = "recipe: demo\noverrides: {distill.anneal: none}\nspace:\n  distill: {grid: [null, {alpha: 0.5}]}\n"
    found = Sweep(write(tmp_path, text + "searcher: grid\n"))
    off, on = sorted((found.run_config(settings).distill for settings in found.config.planned()), key=bool)
    assert off is None
    assert (on.alpha, on.anneal) == (0.5, "none")


def test_a_yaml_tag_makes_no_object(tmp_path: Path) -> None:
    text = f"name: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\nspace:\n  distill.alpha: {{choice: [0, 1]}}\n"
    with pytest.raises(InputError, match=r"\.yaml"):
        sweep(tmp_path, text)
    assert not (tmp_path / "made").exists()


def test_a_sweep_writes_no_credentials_down(tmp_path: Path) -> None:
    secret = "http://joe:hunter2@mlflow:5000"
    found = Sweep(write(tmp_path, GRID), [f"tracking.uri={secret}"])
    settings = found.config.planned()[0]
    assert found.run_config(settings).tracking.connection == secret
    assert found.recipe_of(settings)["tracking"] == {"uri": "http://mlflow:5000"}
    assert "hunter2" not in found.dump()
    assert "http://mlflow:5000" in found.dump()


def test_a_dumped_sweep_is_the_same_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: demo\nseed: 3\n")
    text = GRID.replace("scheduler: none", "recipe: base.yaml\nscheduler: {name: asha, grace: 2}")
    found = Sweep(write(tmp_path, "overrides: {data.limit: 300}\n" + text), ["optim.lr=1", "repeats=2"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sweep.yaml").write_text(found.dump())
    again = Sweep(elsewhere / "sweep.yaml")
    assert again.config.planned() == found.config.planned()
    assert again.config.scheduler == found.config.scheduler
    settings = found.config.planned()[0]
    assert again.run_config(settings, 1) == found.run_config(settings, 1)
    assert (again.run_config(settings).optim.lr, again.run_config(settings).data.limit) == (1, 300)


BIG_GRID = "space:\n" + "".join(f"  optim.{key}: {{grid: {list(range(60))}}}\n" for key in "abcde")
ALIASES = "seed: &a0 [x]\n" + "".join(f"k{n}: &a{n + 1} [{f'*a{n}, ' * 9}]\n" for n in range(12))
ALPHA = "space:\n  distill.alpha: {uniform: [0, 1]}\n"


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (
            "space:\n  distill.alpa: {uniform: [0, 1]}\n",
            5,
            ["distill.alpa: unknown key", "did you mean distill.alpha?"],
        ),
        ("space:\n  distill.alpha: {uniform: [-1, 1]}\n", 5, ["distill.alpha", "expected a number of at least 0"]),
        ("space:\n  distill.layers: {choice: [all, [2, 9]]}\n", 5, ["distill.layers: [9]", "layers 1 to 6"]),
        ("space:\n  distill.alpha: {unifrom: [0, 1]}\n", 5, ["space.distill.alpha", "did you mean uniform?"]),
        ("space:\n  distill.alpha: {uniform: [1, 0]}\n", 5, ["low < high"]),
        ("space:\n  distill.alpha: {uniform: [0, 1, 2]}\n", 5, ["expected numbers [low, high]"]),
        ("space:\n  optim.lr: {loguniform: [0, 1]}\n", 5, ["low > 0"]),
        ("space:\n  distill.alpha: {choice: [1, 1]}\n", 5, ["twice"]),
        ("space:\n  distill.alpha: 3\n", 5, ["expected one of {uniform"]),
        (
            "space:\n  positives.tau: {uniform: [0, 1], when: {positives.kind: adasim}}\n",
            5,
            ["positives.kind is no key of the space above it"],
        ),
        ("space: {}\n", 4, ["space: expected 1 to 100 keys", "given: {}"]),
        ("", 1, ["space: missing"]),
        (ALPHA + "searchr: random\n", 6, ["searchr: unknown key", "did you mean searcher?"]),
        (ALPHA + "searcher: {name: optuna, samplr: tpe}\n", 6, ["searcher.samplr", "did you mean searcher.sampler?"]),
        (ALPHA + "searcher: skopt\n", 6, ["searcher.name", "grid"]),
        (ALPHA + "searcher: grid\n", 6, ["grid needs lists", "space.distill.alpha is a range"]),
        (ALPHA + "searcher: bohb\nscheduler: asha\n", 6, ["bohb", "go together"]),
        (ALPHA + "searcher: optuna\nscheduler: pbt\n", 7, ["pbt", "goes with searcher: random"]),
        (ALPHA + "scheduler: pbt\nrepeats: 2\n", 7, ["repeats", "pbt"]),
        ("space:\n  backbone.kwargs.depth: {choice: [4, 6]}\nscheduler: pbt\n", 4, ["nothing to change in mid-run"]),
        (ALPHA + "metric: knn/lst\n", 6, ["knn/lst is not logged", "did you mean knn/last?"]),
        (ALPHA + "metric: [knn/last, loss]\nmode: max\n", 6, ["2 of them, and 1 in mode"]),
        (ALPHA + "metric: [knn/last, loss]\nmode: [max, min]\n", 6, ["scheduler: none, not asha"]),
        (ALPHA + "searcher: {name: optuna, sampler: nsgaii}\n", 6, ["nsgaii is for two metrics"]),
        ("space:\n  distill.alpha: {normal: [1, 0.1]}\nsearcher: optuna\n", 5, ["optuna knows no normal"]),
        (ALPHA + "scheduler: {name: asha, grace: 50}\n", 6, ["50 epochs are more than the 4"]),
        (ALPHA + "trials: none\n", 6, ["trials", "'none'"]),
        (ALPHA + "name: ../away\n", 6, ["name", "../away"]),
        (ALPHA + "trials: 4\nseed: 1\ntrials: 400\n", 8, ["found duplicate key trials"]),
        (ALPHA + "  distill.alpha: {uniform: [0, 2]}\n", 6, ["found duplicate key distill.alpha"]),
        ("space:\n  distill.alpha: {uniform: [0, .inf]}\n", 5, ["space.distill.alpha", "from -1e+300 to 1e+300"]),
        ("space:\n  distill.alpha: {quniform: [0, 1, .nan]}\n", 5, ["space.distill.alpha", "from -1e+300 to 1e+300"]),
        ("space:\n  distill.alpha: {quniform: [0, 1, 2]}\n", 5, ["a step above 0, at most high - low"]),
        (
            "space:\n  distill.alpha: {quniform: [0, 1, 0.3]}\nsearcher: hyperopt\n",
            5,
            ["space.distill.alpha", "hyperopt needs low and high that are multiples of the step"],
        ),
        ("space:\n  positives.top_k: {randint: [1, 9223372036854775808]}\n", 5, ["integers within ±2^53"]),
        ("space:\n  distill.alpha: {choice: [0, 0.0]}\n", 5, ["twice"]),
        (ALPHA + "  distill.beta: {uniform: [0, 1], when: abc}\n", 6, ["space.distill.beta: when: expected keys"]),
        (
            ALPHA + "  distill.beta: {uniform: [0, 1], when: {distill.alpha: []}}\n",
            6,
            ["when: distill.alpha: expected a"],
        ),
        (ALPHA + "  distill.beta: {uniform: [0, 1], when: {distill.alpha: 0.5}}\n", 6, ["distill.alpha is never 0.5"]),
        (
            "space:\n  positives.kind: {choice: [augment, adasim]}\n"
            "  positives.tau: {uniform: [0, 1], when: {positives.kind: adasin}}\n",
            6,
            ["positives.kind is never adasin; it is choice [augment, adasim]"],
        ),
        ("space:\n  recipe: {choice: [1, ~]}\n", 5, ["space.recipe: expected a list of recipes' names or files"]),
        ("space:\n  seed: {grid: [0, 1]}\n", 5, ["space.seed: a sweep sets its runs' seeds", "`repeats`", "`seed`"]),
        ("space:\n  name: {grid: [a, b]}\n", 5, ["space.name: "]),
        (ALPHA + "trials: 100000000\n", 6, ["trials: expected a whole number from 1 to 10000"]),
        (ALPHA + "repeats: 1000000000\n", 6, ["repeats: 20 settings × 1,000,000,000 seeds are 20,000,000,000 runs"]),
        (ALPHA + "scheduler: {name: asha, factor: 1.0000001}\n", 6, ["scheduler.factor", "of at least 1.1"]),
        (ALPHA + "scheduler: {name: pbt, every: 4}\n", 6, ["scheduler.every: after 4 epochs a trial of 4 is over"]),
        (BIG_GRID + "searcher: grid\ntrials: 20\n", 4, ["space: it has more than 10,000 combinations"]),
        (BIG_GRID, 4, ["space: it has more than 10,000 combinations"]),
        (ALIASES, 1, ["YAML node expansion exceeds"]),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(text: str, line: int, parts: list[str], tmp_path: Path) -> None:
    message = error_of(tmp_path, text)
    assert f"mine.yaml:{line}: " in message
    assert all(part in message for part in parts), message


def test_what_is_wrong_on_the_command_line_is_said(tmp_path: Path) -> None:
    assert "command line: optim.epoch: unknown key" in error_of(tmp_path, ALPHA, "optim.epoch=3")
    assert "command line: trials" in error_of(tmp_path, ALPHA, "trials=0")
    assert "distill.alpha is varied by" in error_of(tmp_path, ALPHA, "distill.alpha=0.5")


def test_overrides_that_are_wrong_are_said_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine.yaml:2: optim.epoch: unknown key; did you mean optim.epochs\?"):
        make_plan(Sweep(write(tmp_path, "overrides:\n  optim.epoch: 3\n" + ALPHA)))


def test_a_label_free_metric_is_asked_for_where_there_are_no_labels(image_folder: Path, tmp_path: Path) -> None:
    words = [f"data.train={image_folder}", "data.labels=none", "data.limit=null", "optim.batch_size=16"]
    assert "rankme/last" in error_of(tmp_path, ALPHA, *words)
    assert make_plan(sweep(tmp_path, ALPHA, *words, "metric=rankme/last")).runs == 20


@pytest.mark.parametrize("metric", ["loss/hidden", "knn/layer_01", "uniformity/best"])
def test_every_metric_that_the_runs_log_may_be_asked_for(metric: str, tmp_path: Path) -> None:
    assert make_plan(sweep(tmp_path, ALPHA, f"metric={metric}", "trials=2")).runs == 2


@pytest.mark.parametrize(
    ("metric", "parts"),
    [
        ("momentum", ["neither a high nor a low momentum is better", "such as knn/last"]),
        ("positives/same_class", ["not logged"]),
        ("linear/last", ["not logged", "{kind: linear}"]),
    ],
)
def test_a_metric_that_tells_no_trial_from_another_is_refused(metric: str, parts: list[str], tmp_path: Path) -> None:
    message = error_of(tmp_path, ALPHA + f"metric: {metric}\n")
    assert all(part in message for part in ["mine.yaml:6: metric: ", metric, *parts]), message


def test_a_metric_that_some_of_the_runs_do_not_log_is_refused(tmp_path: Path) -> None:
    off = "space:\n  distill.alpha: {choice: [0, 1]}\nmetric: loss/hidden\nscheduler: none\n"
    assert "metric: loss/hidden is not logged" in error_of(tmp_path, off, "distill.beta=0")


def test_the_metric_of_the_best_checkpoint_is_checked_too(tmp_path: Path) -> None:
    message = error_of(tmp_path, ALPHA, "checkpoint.best=knn/lst")
    assert "checkpoint.best: knn/lst is not logged by these runs; did you mean knn/last?" in message


def test_the_better_end_of_a_metric_is_looked_for_and_the_other_is_remarked_on(tmp_path: Path) -> None:
    assert sweep(tmp_path, ALPHA).config.mode == ["max"]
    assert sweep(tmp_path, ALPHA + "scheduler: none\nmetric: [knn/last, loss]\n").config.mode == ["max", "min"]
    assert not make_plan(sweep(tmp_path, ALPHA + "metric: loss\n", "trials=2")).remarks
    plan = make_plan(sweep(tmp_path, ALPHA + "metric: knn/last\nmode: min\n", "trials=2"))
    assert plan.sweep.config.mode == ["min"]
    assert [("mode=min" in remark, "higher knn/last is better" in remark) for remark in plan.remarks] == [(True, True)]


def test_a_trial_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    nodes = [{"CPU": 4.0, "GPU": 0.0}]
    plan = make_plan(sweep(tmp_path, ALPHA, "resources.cpus=8"))
    with pytest.raises(InputError, match=r"no trial fits.*8 CPUs.*4 CPUs.*resources"):
        share_of(plan, nodes)
    with pytest.raises(InputError, match="no trial fits"):
        share_of(make_plan(sweep(tmp_path, ALPHA, "resources.gpus=1")), nodes)
    with pytest.raises(InputError, match="no trial fits"):
        share_of(make_plan(sweep(tmp_path, ALPHA, "scaling.workers=8", "optim.batch_size=64")), nodes)


@pytest.mark.parametrize(
    ("words", "nodes", "expected"),
    [
        ([], [{"CPU": 4}], (1, 0.0, 4)),
        (["resources.cpus=2"], [{"CPU": 5}, {"CPU": 3}], (2, 0.0, 3)),
        ([], [{"CPU": 16, "GPU": 4}], (4, 1.0, 4)),
        (["resources.gpus=0.25"], [{"CPU": 16, "GPU": 2}], (2, 0.25, 8)),
        (["scaling.workers=2"], [{"CPU": 8, "GPU": 4}], (2, 1.0, 2)),
        (["scaling.workers=2", "resources.cpus=4"], [{"CPU": 8}], (2, 0.0, 2)),
    ],
)
def test_resources_are_shared_out(words: list[str], nodes: list[dict], expected: tuple, tmp_path: Path) -> None:
    share, at_once = share_of(make_plan(sweep(tmp_path, ALPHA, *words)), nodes)
    assert (share.cpus, share.gpus, at_once) == expected


def test_epochs_are_estimated(tmp_path: Path) -> None:
    words = ["trials=9", "optim.epochs=9"]
    assert epochs_of(make_plan(sweep(tmp_path, ALPHA, *words, "scheduler=none"))) == (81, 81)
    # Nine for one epoch, three of them for three, one for all nine.
    assert epochs_of(make_plan(sweep(tmp_path, ALPHA, *words, "scheduler={name: asha, factor: 3}"))) == (
        9 + 3 * 2 + 6,
        81,
    )
    assert epochs_of(make_plan(sweep(tmp_path, ALPHA, *words, "budget.epochs=15"))) == (15, 15)


def test_settings_are_described_with_the_papers_signs() -> None:
    settings = {"distill.alpha": 0.123456, "distill.layers": {"every": 2}, "optim.lr": 0.01}
    assert describe(settings) == "α=0.123  layers=every: 2  lr=0.01"


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    for text in ("- a\n", "a: [1\n"):
        with pytest.raises(InputError, match=r"mine\.yaml"):
            Sweep(write(tmp_path, text))
    with pytest.raises(InputError, match="no such file"):
        Sweep(tmp_path / "nothing.yaml")


def test_a_dry_run_says_what_a_sweep_would_take_and_leaves_nothing(strata, tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + ALPHA + "trials: 6\nrepeats: 2\n")
    done = strata("sweep", str(file), "--dry-run")
    assert done.returncode == 0, done.stderr
    for said in ("12: 6 settings × 2 seeds", "epochs", "hours", "disk", "α=", "uniform [0, 1]"):
        assert said in done.stdout
    assert list(tmp_path.iterdir()) == [file]


def test_a_sweep_that_does_not_fit_this_machine_is_refused_at_once(strata, tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + ALPHA + "resources: {cpus: 1000}\n")
    done = strata("sweep", str(file))
    assert done.returncode == 2
    assert "no trial fits" in done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_wrong_sweep_ends_with_status_2_and_leaves_nothing(strata, tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + ALPHA + "trails: 6\n")
    done = strata("sweep", str(file))
    assert done.returncode == 2
    assert "mine.yaml:6: trails: unknown key; did you mean trials?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [file]
    assert yaml.safe_load(file.read_text())["trails"] == 6
