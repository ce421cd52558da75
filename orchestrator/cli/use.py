"""Commands for a trained encoder: `evaluate`, `duplicates`, `export`, `embed`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.app import console
from orchestrator.cli.options import PLACE, Address, Debug

ENCODER = (
    "a run's folder, its MLflow run id, a file of weights (with `backbone.name=MODEL`), or `timm:NAME`, which downloads"
)


def _named(metavar: str, text: str) -> Any:
    """What stands behind such a command: encoders by whatever names them, and keys."""
    return typer.Argument(metavar=f"{metavar} [KEY=VALUE]…", help=text, show_default=False)


def evaluate(
    words: Annotated[
        list[str] | None,
        _named(
            "WHAT…",
            f"Encoders: {ENCODER}; two of them are compared. Then keys: `data.train=FOLDER data.val=FOLDER`.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Which evaluators: a suite's name, or a YAML file with an `evaluation` list.  [default: quick]"
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="KIND", help="An evaluator by name, in the place of a suite; may be repeated."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="all, last, every:2, or numbers: 4,8.  [default: what each evaluator says]")
    ] = None,
    checkpoint: Annotated[
        int | None, typer.Option(metavar="EPOCH", help="Of a run: the weights after this epoch.  [default: the last]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the results go.  [default: evaluation/SUITE in the run's folder]", **PLACE),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say which suites and evaluators there are.")] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Measure a trained encoder, layer by layer, and say which layer to take.

    `strata evaluate RUN` takes a minute; `strata evaluate RUN --suite sdssl` measures what the paper does, `strata
    evaluate RUN --with linear --with fewshot` two things, `strata evaluate A B` says where two encoders differ.

    Figures are not measured twice: the same command goes on where it was stopped. They are in the run's folder, and in
    MLflow under the run. `--address` or `scaling.workers=4` spreads the work over Ray's workers.
    """
    from orchestrator.evaluate.display import list_evaluators
    from ssl_core.errors import InputError

    if list_them:
        list_evaluators(console)
        return
    if not words:
        raise InputError(
            "expected an encoder to evaluate, or two to compare: a run's folder, a file of weights, timm:NAME"
        )
    from orchestrator.evaluate import compare, record  # with torch, which takes its time
    from orchestrator.evaluate.plan import Wish, make_plan
    from orchestrator.evaluate.words import names_and_keys

    whats, keys = names_and_keys(words)
    if not 1 <= len(whats) <= 2:
        raise InputError(f"expected one encoder to evaluate, or two to compare; got {', '.join(whats) or 'none'}")
    chosen = tuple(kind for given in kinds or () for kind in given.split(","))
    wish = Wish(tuple(keys), suite, chosen, layers, checkpoint)
    plans = [make_plan(what, wish) for what in whats]
    if len(plans) == 2:
        compare.check(plans)
    done = []
    for plan in plans:
        plan.announce(console)
        own = output if output is None or len(plans) == 1 else output / plan.subject.name
        try:
            done.append(record.evaluate(plan, own, console))
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on with what is not measured yet")
            raise
        record.show(done[-1], console)
    if len(done) == 2:
        compare.compare(done[0], done[1], output, console)


def duplicates(
    words: Annotated[
        list[str] | None,
        _named(
            "WHAT", f"The encoder that says what is alike: {ENCODER}. Then keys: `data.train=FOLDER data.val=FOLDER`."
        ),
    ] = None,
    layer: Annotated[str, typer.Option(help="Whose features are compared: last, or a number.")] = "last",
    output: Annotated[
        Path | None,
        typer.Option(help="A folder for the list and the picture.  [default: in the run's folder]", **PLACE),
    ] = None,
    debug: Debug = False,
) -> None:
    """Find images that are in train twice, and images of val that train has too.

    Two images count as near-duplicates where they are as alike as an image and light copies of it; how alike that is
    follows from the images themselves. `duplicates.csv` has a row an image, by groups; `duplicates.png` shows them.
    """
    from orchestrator.evaluate.plan import Wish, make_plan
    from orchestrator.evaluate.same import duplicates as find
    from orchestrator.evaluate.words import names_and_keys

    whats, keys = names_and_keys(words or [])
    what = _one(whats, "look for duplicates with")
    plan = make_plan(what, Wish(tuple(keys), kinds=("duplicates",), layers=layer, option="--layer"))
    plan.announce(console)
    find(plan, output, console)


def export(
    words: Annotated[list[str] | None, _named("WHAT", f"The encoder: {ENCODER}. Then keys.")] = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="timm|hf|onnx|torch",
            help="timm: `timm.create_model('local-dir:FOLDER', pretrained=True)`; hf: `AutoModel.from_pretrained`; "
            "onnx: onnxruntime; torch: `torch.export.load`.",
        ),
    ] = "timm",
    layer: Annotated[
        str, typer.Option(metavar="best|last|N", help="Behind which layer it ends; what follows is left out.")
    ] = "last",
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Of images.  [default: those it was trained on]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where it goes.  [default: export/FORMAT in the run's folder]", **PLACE),
    ] = None,
    debug: Debug = False,
) -> None:
    """Hand a trained encoder to another program: timm, Hugging Face, ONNX or plain torch.

    `strata export RUN` writes a folder with weights, preprocessing and a model card. `strata export RUN --format onnx
    --layer best` ends behind the layer that was measured to be the best: it has fewer blocks, and costs less.

    Every export is opened again by the library it is for, and compared with the encoder on 100 of the run's images;
    one that differs by more than 0.0001 is removed, with exit status 1. ONNX and Hugging Face need `pip install
    'strata-ssl[export]'`.
    """
    from orchestrator.evaluate.words import names_and_keys
    from orchestrator.use.export import Wish, run

    whats, keys = names_and_keys(words or [])
    run(Wish(_one(whats, "export"), format, layer, size, output, keys), console)


def embed(
    words: Annotated[
        list[str] | None,
        _named("WHAT DATA", f"The encoder: {ENCODER}. The images: a folder, Parquet, or `bundled:digits`. Then keys."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The Parquet file, X.parquet; of very many images a folder X of files.", **PLACE)
    ] = None,
    layer: Annotated[
        str, typer.Option(metavar="best|last|N,…", help="Of which layer; of several each has a column.")
    ] = "last",
    half: Annotated[bool, typer.Option("--half", help="float16 instead of float32.")] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Ray workers; more than one, or --address, uses Ray Data.")
    ] = 1,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Features of images, for whatever is done with them next: search, clustering, another model.

    `strata embed RUN FOLDER --output features.parquet` writes a row an image: its number `id`, its `file`, its `label`
    if it has one, and `features`, a list of numbers. `--layer 1,6,12` writes columns `layer_01`, `layer_06` and
    `layer_12`.

    Of more images than a file of 256 MiB holds, the output is a folder of files; stopped, the same command goes on with
    those that are missing. Images that cannot be decoded are named and left out.
    """
    from orchestrator.evaluate.words import names_and_keys
    from orchestrator.use.embed import Wish, run
    from ssl_core.errors import InputError

    whats, keys = names_and_keys(words or [])
    if len(whats) != 2:
        raise InputError(
            f"expected an encoder and images, WHAT DATA (given: {', '.join(whats) or 'none'}); strata embed --help"
        )
    if output is None:
        raise InputError("--output: missing; where the features go: --output features.parquet")
    run(Wish(whats[0], whats[1], output, layer, half, workers, keys), console)


def _one(whats: list[str], verb: str) -> str:
    from ssl_core.errors import InputError

    if len(whats) != 1:
        raise InputError(
            f"expected one encoder to {verb}: a run's folder, a file of weights, timm:NAME (given: "
            f"{', '.join(whats) or 'none'})"
        )
    return whats[0]
