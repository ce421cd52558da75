"""Errors of a configuration: which key, where it was set, what was expected, in words for people."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core._pydantic_core import list_all_errors

from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.recipes import Setting
from ssl_core.recipes.read import as_key_takes
from ssl_core.schema import walk
from ssl_core.schema.run import RunConfig
from tests.ssl_core.recipes.test_load import error_of, write


def test_errors_name_file_and_line(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "# a run\nframework: {name: byol}\noptim:\n  epochs: 3\n  learning_rate: 1\n")
    message = error_of(file)
    assert message.startswith(f"{file}:5: optim.learning_rate: unknown key")
    file.write_text("framework: {name: byol}\n\noptim:\n  epochs: many\n")
    message = error_of(file)
    assert message.startswith(f"{file}:4: optim.epochs: ")
    assert "many" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optim.epoch=3", ["command line: optim.epoch: unknown key", "did you mean optim.epochs?"]),
        ("epochs=3", ["epochs: unknown key", "did you mean optim.epochs?"]),
        ("framework.momentums=0.9", ["framework.momentums: unknown key", "did you mean framework.momentum?"]),
        ("framework.name=mocov4", ["framework.name: expected one of", "'mocov4'", "did you mean mocov3?"]),
        ("framework=byol", ["framework: expected keys and values, such as framework.name=…"]),
        ("distill.layers={evry: 2}", ["distill.layers.evry: unknown key; did you mean distill.layers.every?"]),
        ("views.crop_scale=0.5", ["views.crop_scale: expected [least, most] of the area, or one such pair for each"]),
        ("evaluation.7.k=3", ["command line: evaluation.7.k: no such entry; evaluation has 1 here"]),
        ("evaluation.every=5", ["command line: evaluation.every: no such entry; evaluation has 1 here"]),
        ("evaluation.-1.every=x", ["command line: evaluation.-1.every: no such entry; evaluation has 1 here"]),
        ("evaluation.².every=1", ["command line: evaluation.².every: no such entry"]),
        ("data.train=", ["command line: data.train: expected text or a list, each text (given: '')"]),
        ("data.val=[]", ["command line: data.val: expected text or a list"]),
        ("tracking.experiment=", ["command line: tracking.experiment: expected text, 1 to 500 signs (given: '')"]),
        (f"name={'x' * 5_000_000}", ["command line: name: expected letters,", "at most 200"]),
        (f"evaluation.0.name={'x' * 101}", ["evaluation.0.name: expected letters,", "at most 100"]),
        ("tracking.tags.a(b=1", ["command line: tracking.tags: expected keys and values, each text; a key's signs"]),
        ("seed=18446744073709551616", ["command line: seed: expected a whole number of at least 0 and below 2**64"]),
        (f"optim.batch_size={10**400}", ["optim.batch_size: expected a whole number from 1 to 10,000,000"]),
        ("optim.betas=[0.9, 1.0]", ["optim.betas: expected [a number of at least 0 and below 1,"]),
        ("backbone.kwargs.in_chans=4", ["command line: backbone.kwargs: in_chans:", "expected 1 or 3 (given: 4)"]),
        ("backbone.kwargs.in_chans=x", ["command line: backbone.kwargs: in_chans:", "expected 1 or 3 (given: 'x')"]),
        ("backbone.kwargs.img_size=64", ["command line: backbone.kwargs: img_size: set backbone.image_size"]),
        ("backbone.image_size=1000000000", ["backbone.image_size: expected a whole number from 1 to 16,384"]),
        ("views.rotation=1e308", ["views.rotation: expected a number from 0 to 360 (given: 1e+308)"]),
        ("views.brightness=1e308", ["views.brightness: expected a number from 0 to 100"]),
        ("views.blur_sigma=[0, 1e30]", ["views.blur_sigma: expected [least, most], from 0 to 1000"]),
        ("views.blur_sigma=[2, 1]", ["views.blur_sigma: [2, 1]: expected [least, most]"]),
        ("views.local_crops.scale=[0.4, 0.1]", ["views.local_crops.scale: [0.4, 0.1]: expected [least, most]"]),
        ("evaluation=3", ["evaluation: expected a list, such as [{kind: knn}] (given: 3)"]),
        ("optim.lr=.nan", ["optim.lr: expected a number of at least 0 (given: nan)"]),
        ("optim.epochs=-1", ["command line: optim.epochs: expected a whole number above 0 (given: -1)"]),
        ("optim.lr=fast", ["command line: optim.lr", "'fast'"]),
        ("views.crop_scale=[0.9, 0.1]", ["views.crop_scale", "least ≤ most"]),
        ("distill.layers=[]", ["distill.layers: expected all, {every: n}, or a list of layers", "(given: [])"]),
        ("optim.batch_size=63", ["optim.batch_size (63)", "scaling.workers"]),
        ("optim.batch-size=8", ["command line: optim.batch-size: unknown key", "did you mean optim.batch_size?"]),
        ("optim.batch_size", ["optim.batch_size: expected KEY=VALUE"]),
        ("evaluation.0.kk=3", ["evaluation.0.kk: unknown key", "did you mean"]),
    ],
)
def test_errors_say_what_was_given_and_what_is_near(override: str, parts: list[str], tmp_path: Path):
    text = "framework: {name: mocov3}\nscaling: {workers: 2}\nevaluation: [{kind: knn}]\n"
    message = error_of(write(tmp_path / "run.yaml", text), override)
    assert all(part in message for part in parts), message


def test_several_errors_are_told_at_once(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "framework: {name: byol}\nsede: 1\noptim: {lr: x}\n")
    assert len(error_of(file).splitlines()) == 2


def test_missing_data_says_how_to_give_it(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"data\.train: missing; expected a folder of images, Parquet.*data\.train=FOLDER"
    ):
        recipes.load(write(tmp_path / "run.yaml", "framework: {name: byol}\n"))


def test_a_key_of_one_of_several_forms_names_its_line(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "framework:\n  name: bootleg\n  targets: {evry: 2}\n")
    expected = f"{file}:3: framework.targets.evry: unknown key; did you mean framework.targets.every?"
    assert error_of(file) == expected


def test_what_is_wrong_between_keys_names_the_line_of_one(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "framework: {name: byol}\noptim:\n  batch_size: 63\nscaling: {workers: 2}\n")
    assert error_of(file).startswith(f"{file}:3: optim.batch_size (63) must divide evenly")


WRONG = [None, True, -1, 0.5, 7.25, "a word", [], ["a word"], [3, 2, 1], {"wrod": 1}]
TEMPLATES = (known["message_template_python"] for known in list_all_errors())
PYDANTIC = {start for text in TEMPLATES if (start := " ".join(text.lower().split()[:3]).split("{")[0].strip())}


def _keys(annotation: Any, path: str, needs: tuple[Setting, ...]) -> Iterator[tuple[str, Any, tuple[Setting, ...]]]:
    """Every key of the schema, its type, and the settings that make it one of this run's keys."""
    entry = walk.entry(annotation)
    if entry is not None and walk.sections(entry):
        for name, section in walk.names(walk.sections(entry)).items():
            tag = walk.tag(walk.sections(entry))
            yield from _keys_of(section, f"{path}.0", (*needs, Setting(path, [{tag: name}])))
    among = walk.sections(annotation)
    names = walk.names(among) or dict.fromkeys(among)
    for name in names:
        section = names[name] or name
        own = (Setting(f"{path}.{walk.tag(among)}", name),) if len(among) > 1 else ()
        yield from _keys_of(section, path, (*needs, *own))


def _keys_of(
    section: type[BaseModel], path: str, needs: tuple[Setting, ...]
) -> Iterator[tuple[str, Any, tuple[Setting, ...]]]:
    for name, field in section.model_fields.items():
        key = f"{path}.{name}" if path else name
        annotation = field.rebuild_annotation()
        yield key, annotation, needs
        if key != "objectives":  # the same sections as those of `framework`
            yield from _keys(annotation, key, needs)


def test_a_wrong_value_of_any_key_is_told_in_our_words(tmp_path: Path):
    assert {"input should be", "extra inputs are", "value error,"} <= PYDANTIC
    file = write(tmp_path / "run.yaml", "framework: {name: byol}\ndata: {train: x}\n")
    seen, told = set(), 0
    for key, annotation, needs in _keys_of(RunConfig, "", ()):
        if (key, str(annotation)) in seen:
            continue
        seen.add((key, str(annotation)))
        takes = TypeAdapter(annotation).validate_python
        refused = []
        for value in WRONG:
            try:
                takes(as_key_takes(Setting(key, value)).value)
            except ValidationError:
                refused.append(value)
        assert refused or key == "backbone.kwargs", key
        for value in refused:
            with pytest.raises(InputError) as error:
                recipes.load(file, [*needs, Setting(key, value, where="line 7")])
            lines = str(error.value).splitlines()
            about = [line for line in lines if line.startswith((f"line 7: {key}: ", f"line 7: {key}."))]
            assert about, (key, value, lines)
            assert all("expected" in line or "unknown key" in line for line in about), (key, value, lines)
            assert not any(phrase in line.lower() for phrase in PYDANTIC for line in lines), (key, value, lines)
            told += 1
    assert len(seen) > 150
    assert told > 500
