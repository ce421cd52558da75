"""Pictures of near-duplicates: a row a group."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ssl_core.data.sources.base import Images, Source
from ssl_core.pictures.run import draw_tile, plt

GROUPS, MEMBERS = 12, 8  # shown


def group_picture(images: Images, groups: Sequence[Sequence[tuple[str, int, float]]], title: str) -> Figure:
    """The first groups of images, a row each, with each image's similarity to the most similar other one.

    Args:
        groups: (split, index, similarity) of each image.
    """
    shown = [group[:MEMBERS] for group in groups[:GROUPS]]
    columns = max(map(len, shown))
    figure, axes = plt.subplots(
        len(shown),
        columns,
        figsize=(1.25 * columns + 0.9, 1.45 * len(shown) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, (group, whole) in enumerate(zip(shown, groups, strict=False)):
        for axis, (split, index, similarity) in zip(axes[row], group, strict=False):
            source: Source = getattr(images, split)
            draw_tile(axis, source, index)
            axis.set_title(
                f"{split} {index}\n{similarity:.3f}", fontsize=7, color="black" if split == "train" else "tab:red"
            )
        if len(whole) > len(group):
            axes[row][-1].text(1.05, 0.5, f"+ {len(whole) - len(group)}", transform=axes[row][-1].transAxes, fontsize=7)
    more = f"; {len(groups) - len(shown)} groups more" if len(groups) > len(shown) else ""
    figure.suptitle(title + more, fontsize=9)
    return figure
