"""`${key}` in a value is another key's value, and nothing else is looked up."""

import re
from pathlib import Path

import pytest

from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.recipes.references import LONGEST, Unresolved, resolved
from tests.ssl_core.recipes.test_load import error_of, write


def test_another_key_is_referred_to_as_a_whole_or_within_a_text(tmp_path: Path):
    text = "extends: demo\nname: seed-${seed}\noptim: {lr: 0.5, min_lr: '${optim.lr}', betas: [0.5, '${optim.lr}']}\n"
    config = recipes.load(write(tmp_path / "run.yaml", text), ["seed=7", "data.train=[a, b]", "data.val=${data.train}"])
    assert (config.name, config.optim.min_lr, config.optim.betas) == ("seed-7", 0.5, (0.5, 0.5))
    assert config.data.val == ["a", "b"]


@pytest.mark.parametrize(
    "what", ["oc.env:HOME", "oc.env:HOME,x", "oc.decode:1", "oc.create:x", "now:%Y", "a b", "", ".seed"]
)
def test_nothing_else_is_looked_up(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/secret")
    file = write(tmp_path / "run.yaml", f"extends: demo\ntracking:\n  tags: {{x: 'a ${{{what}}}'}}\n")
    expected = f"tracking.tags.x: ${{{what}}}: expected the name of another key"
    assert error_of(file).startswith(f"{file}:3: {expected}")
    assert error_of("demo", f"tracking.tags.x=a ${{{what}}}").startswith(f"command line: {expected}")
    setting = recipes.Setting("tracking.tags.x", f"${{{what}}}", where="line 7")
    with pytest.raises(InputError, match="^" + re.escape(f"line 7: {expected}")):
        recipes.load("demo", [setting])


def test_what_leads_nowhere_is_named_with_its_place(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "extends: demo\nseed: ${nowhere}\n")
    assert error_of(file) == f"{file}:2: seed: ${{nowhere}}: neither a file nor the command line sets nowhere"
    assert "optim.lr: ${optim.lr} refers to itself" in error_of("demo", "optim.lr=${optim.lr}")
    assert "refers to itself" in error_of("demo", "optim.lr=${optim.min_lr}", "optim.min_lr=${optim.lr}")
    assert "seed: ${optim} is a section" in error_of("demo", "seed=${optim}")


def test_a_plain_sign_is_written_with_a_backslash_and_is_read_again(tmp_path: Path):
    for text in ("a${b}", "${", "\\${x}", "${oc.env:HOME}"):
        escaped = text.replace("${", "\\${")
        config = recipes.load("demo", [f"data.train={escaped}"])
        assert config.data.train == text
        assert recipes.load(write(tmp_path / "run.yaml", recipes.dump(config))) == config


def test_what_refers_to_much_does_not_grow_without_end():
    texts = {f"k{n}": f"${{k{n + 1}}}" * 10 for n in range(30)} | {"k30": "x"}
    with pytest.raises(Unresolved, match=f"longer than {LONGEST:,}"):
        resolved(texts)
    lists = {f"k{n}": [f"${{k{n + 1}}}"] * 10 for n in range(30)} | {"k30": ["x"]}
    with pytest.raises(Unresolved, match="list of lists"):
        resolved(lists)
