"""What a run shows: titles and forms of the table of metrics."""

from rich.console import Console

from orchestrator.runs.display import RunDisplay, layer_table


def test_an_epoch_is_a_line_of_what_it_logs() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    display = RunDisplay(console, epochs=1)
    display.epoch({"epoch": 0.0, "knn/last": 0.125, "knn/layer_01": 0.1})
    display.epoch({"epoch": 1.0, "loss": 2.34567, "alpha": 0.5, "images_per_second": 99.6, "lr": 0.1})
    lines = console.export_text().splitlines()
    assert lines == ["epoch 0  k-NN last 12.5%", "epoch 1  loss 2.346  α 0.50  images/s 100"]


def test_the_live_table_has_a_column_for_what_any_epoch_logs() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    display = RunDisplay(console, epochs=1)
    display.records = [{"epoch": 0.0, "rankme/last": 3.21}, {"epoch": 1.0, "loss": 2.0, "positives/same_class": 0.5}]
    console.print(display._table())
    head, first, second = (line.split() for line in console.export_text().splitlines())
    assert head == ["epoch", "loss", "RankMe", "last", "same", "class"]
    assert first == ["0", "3.2"]
    assert second == ["1", "2.000", "50.0%"]


def test_layers_are_shown_before_and_after_and_the_best_is_marked() -> None:
    def record(first: float, second: float) -> dict[str, float]:
        names = ("knn", "food.knn", "rankme", "uniformity_ratio")
        values = zip(("layer_01", "layer_02"), (first, second), strict=True)
        return {f"{name}/{place}": value for place, value in list(values) for name in names}

    console = Console(record=True, width=200, force_terminal=False)
    console.print(layer_table(record(0.1, 0.2), record(0.4, 0.3) | {"linear/layer_01": 0.5, "linear/layer_02": 0.5}))
    text = console.export_text()
    assert "linear" not in text, "it was not measured before"
    assert "ratio" not in text, "it follows from two others"
    _, head, first, second = text.splitlines()
    assert head.split() == ["layer", "k-NN", "food:", "k-NN", "RankMe"]
    assert first.split() == ["1", *["10.0%", "→", "40.0%", "★"] * 2, "0.1", "→", "0.4"]
    assert second.split() == ["2", *["20.0%", "→", "30.0%"] * 2, "0.2", "→", "0.3"]
