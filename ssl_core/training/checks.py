"""What is known of a run before it starts: what it will log, and whether its images and its choices will do."""

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import check as check_evaluation
from ssl_core.evaluation.base import due
from ssl_core.evaluation.metrics import check_compared, names_by_layer
from ssl_core.methods import Method
from ssl_core.positives import checks as positives
from ssl_core.schema.run import RunConfig


def metric_names(config: RunConfig, images: Images, method: Method) -> dict[str, bool]:
    """The metrics that a run logs, at the latest after its last epoch; whether that is sure.

    What is not depends on what it meets: `positives/same_class` is there where a pair of two images was drawn.
    """
    names = [*method.part_names(), "epoch", "lr", "weight_decay", "grad_norm", "images_per_second", "data_wait"]
    names += ["broken_images", *names_by_layer(due(config, images, 0), method.encoder.depth)]
    if method.teacher is not None and method.teacher.follows:
        names.append("momentum")
    return dict.fromkeys(names, True) | positives.metric_names(config, images)


def check_best(config: RunConfig, images: Images, method: Method) -> None:
    """Whether `checkpoint.best` is a metric that says which checkpoint is better.

    Raises:
        InputError: it is not logged, or has no direction.
    """
    default = type(config.checkpoint).model_fields["best"].default
    if config.checkpoint.best != default:  # which some runs do not log; then no checkpoint is the best
        check_compared("checkpoint.best", config.checkpoint.best, metric_names(config, images, method), images.labelled)


def check_images(config: RunConfig, images: Images) -> None:
    """Whether the images are enough for one step, and allow the positives asked for.

    Raises:
        InputError: fewer training images than a batch; no labels, or too few images, for `positives`.
    """
    if len(images.train) < config.optim.batch_size:
        raise InputError(
            f"optim.batch_size: {config.optim.batch_size} is more than the {len(images.train)} images of data.train"
        )
    positives.check(config, images)
    check_evaluation(config, images)
