"""Which images of a data set are for the weights, for the distributions, and for testing."""

from dataclasses import dataclass

import numpy as np

from jaxnas.data.folders import FolderSource
from jaxnas.data.partition import stratified_partition
from jaxnas.data.sources import ImageSource, Splits

# Share of each class that networks are tested on where a data set has no split for it, and the seed of the choice:
# other values are another benchmark.
TEST_FRACTION, TEST_SEED = 0.2, 0
LEAST_LEARNT = 2  # images of a class: one for the weights and one for the distributions
NO_IMAGES = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of a source.

    Attributes:
      indices: int64 [N], into the source.
      label_map: int32, the subset's label for each of the source's, -1 for classes left out.
      class_names: of the subset's labels.
    """

    indices: np.ndarray
    label_map: np.ndarray
    class_names: tuple[str, ...]


Part = tuple[ImageSource, Subset]  # what a stream reads


def held_out(splits: Splits, fraction: float) -> np.ndarray:
    """The images of `train` that no search reads, so that the networks it finds can be tested on them.

    Of each class where the labels are known without reading all records, else of all images. A class keeps two images
    to learn on, whatever the share. The same images always make the same choice.

    Args:
      splits: the data set.
      fraction: share of the images; 0 for none.

    Returns:
      int64 [N], increasing; none where the data set has a split `valid` or `test`.

    Raises:
      ValueError: if the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"test_fraction must be at least 0 and below 1, got {fraction}")
    source = splits.train
    if not fraction or splits.valid is not None or splits.test is not None:
        return NO_IMAGES
    generator = np.random.default_rng(TEST_SEED)
    known = source.labels() if isinstance(source, FolderSource) else np.zeros(len(source), np.int32)
    chosen = np.zeros(len(source), bool)
    for label in np.unique(known):
        members = np.flatnonzero(known == label)
        count = min(round(fraction * len(members)), len(members) - LEAST_LEARNT)
        chosen[generator.permutation(members)[: max(count, 0)]] = True
    return np.flatnonzero(chosen)


def held_out_part(splits: Splits, like: Subset, fraction: float) -> Part | None:
    """The images that `held_out` names, those of the classes of a subset of `train`; None if there are none."""
    indices = held_out(splits, fraction)
    return (splits.train, _of_classes(splits.train, like, indices)) if len(indices) else None


def search_parts(
    splits: Splits,
    valid_fraction: float,
    seed: int,
    classes: int | None = None,
    per_class: int | None = None,
    test_fraction: float = 0.0,
) -> tuple[Part, Part]:
    """What weights and distributions learn on: the splits `train` and `valid`, or parts of `train`.

    Args:
      splits: the data set.
      valid_fraction: share of `train` for the distributions, where there is no `valid`.
      seed: of every random choice.
      classes: how many classes, drawn at random; None for all.
      per_class: images of each class and split at most, drawn at random; None for all.
      test_fraction: share of `train` that is left out, see `held_out`.

    Returns:
      ((source, subset) for the weights, (source, subset) for the distributions).

    Raises:
      ValueError: on a class with too few images, naming it, or counts that make no subset.
    """
    if splits.valid is None:
        left_out = held_out(splits, test_fraction)
        parts = halves(splits.train, valid_fraction, seed, classes, per_class, left_out)
        return (splits.train, parts[0]), (splits.train, parts[1])
    generator = np.random.default_rng(seed)
    chosen = _choose_classes(splits.train, generator, classes)
    return tuple((source, _subset(source, generator, chosen, per_class)) for source in (splits.train, splits.valid))


def halves(
    source: ImageSource,
    valid_fraction: float,
    seed: int,
    classes: int | None = None,
    per_class: int | None = None,
    left_out: np.ndarray = NO_IMAGES,
) -> tuple[Subset, Subset]:
    """The parts that weights and distributions learn on, of all images or of a random subset.

    Class by class where the labels are known without reading all records (a folder) or have to be read for the subset;
    otherwise over all images alike.

    Args:
      source: where the images are.
      valid_fraction: share of the second part.
      seed: of every random choice.
      classes: how many classes, drawn at random; None for all.
      per_class: images of each class at most, drawn at random; None for all.
      left_out: int64 [N], images for neither part.

    Returns:
      (train, valid), disjoint.

    Raises:
      ValueError: on a class with too few images, naming it, or counts that make no subset.
    """
    if per_class is not None and per_class < 2:
        raise ValueError(f"images_per_class must be at least 2, one for each half, got {per_class}")
    generator = np.random.default_rng(seed)
    chosen = _choose_classes(source, generator, classes)
    if classes is None and per_class is None and not isinstance(source, FolderSource):
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction must lie strictly between 0 and 1, got {valid_fraction}")
        order = generator.permutation(np.setdiff1d(np.arange(len(source)), left_out))
        count = round(valid_fraction * len(order))
        label_map, names = np.arange(len(chosen), dtype=np.int32), tuple(source.class_names)
        return tuple(Subset(np.sort(part), label_map, names) for part in (order[count:], order[:count]))
    kept = _subset(source, generator, chosen, per_class, left_out)
    labels = kept.label_map[source.labels()[kept.indices]]
    for name, count in zip(kept.class_names, np.bincount(labels, minlength=len(chosen))):
        if not 0 < round(valid_fraction * count) < count:
            raise ValueError(
                f"class {name!r} of {source.name} has {count} image{'' if count == 1 else 's'}, too few "
                f"for both halves at valid_fraction {valid_fraction}; add images or remove the class"
            )
    parts = stratified_partition(labels, valid_fraction, seed)
    return tuple(Subset(kept.indices[part], kept.label_map, kept.class_names) for part in parts)


def class_counts(*parts: Part) -> dict[str, int] | None:
    """Images of each class in all parts together; None for TFDS, where every record would have to be read."""
    if not all(isinstance(source, FolderSource) for source, _ in parts):
        return None
    total = sum(
        np.bincount(part.label_map[source.labels()[part.indices]], minlength=len(part.class_names))
        for source, part in parts
    )
    return dict(zip(parts[0][1].class_names, total.tolist()))


def _choose_classes(source: ImageSource, generator: np.random.Generator, classes: int | None) -> np.ndarray:
    """Labels of the source, increasing."""
    total = len(source.class_names)
    if classes is not None and not 2 <= classes <= total:
        raise ValueError(f"classes must be from 2 to the {total} of {source.name}, got {classes}")
    if total < 2:
        raise ValueError(f"data set {source.name} has {total} class; a classification needs two at least")
    return np.arange(total) if classes is None else np.sort(generator.permutation(total)[:classes])


def _subset(
    source: ImageSource,
    generator: np.random.Generator,
    chosen: np.ndarray,
    per_class: int | None,
    left_out: np.ndarray = NO_IMAGES,
) -> Subset:
    """All images of the chosen classes but those left out, or so many of each, drawn at random."""
    label_map = np.full(len(source.class_names), -1, np.int32)
    label_map[chosen] = np.arange(len(chosen))
    labels = label_map[source.labels()]
    kept = np.setdiff1d(np.flatnonzero(labels >= 0), left_out)
    if per_class is not None:
        shuffled = generator.permutation(kept)
        members = [shuffled[labels[shuffled] == label][:per_class] for label in range(len(chosen))]
        kept = np.sort(np.concatenate(members))
    return Subset(kept, label_map, tuple(source.class_names[label] for label in chosen))


@dataclass(frozen=True, eq=False)
class TrainingParts:
    """What the networks that a search found are trained and tested on.

    Attributes:
      train: the images to train on.
      tested: the images to test on, which no training sees.
      searched: whether the search that chose the networks has read the test images.
    """

    train: Part
    tested: Part
    searched: bool


def training_parts(splits: Splits, learnt: tuple[Part, Part], test_fraction: float = 0.0) -> TrainingParts:
    """What the networks that a search found are trained on, and tested on.

    They are tested on the split `test`, or else on what the search held out, or else on `valid`, and trained on the
    other images of `train`. A search that held out nothing has read all images: a fifth of them, of each class where
    the labels are known, is for testing then. The same images always make the same parts.

    Args:
      splits: the data set.
      learnt: what weights and distributions of the search learnt on, see `search_parts`.
      test_fraction: share that the search held out, see `held_out`.

    Raises:
      ValueError: if a class has too few images for both parts.
    """
    (source, weights), (other, distributions) = learnt
    if splits.valid is None:
        indices = np.sort(np.concatenate([weights.indices, distributions.indices]))
        whole = Subset(indices, weights.label_map, weights.class_names)
    else:
        whole = weights
    if splits.test is not None:
        return TrainingParts((source, whole), (splits.test, _of_classes(splits.test, whole)), searched=False)
    if splits.valid is not None:
        return TrainingParts((source, whole), (other, distributions), searched=True)
    unread = held_out_part(splits, whole, test_fraction)
    if unread is not None:
        return TrainingParts((source, whole), unread, searched=False)
    if isinstance(source, FolderSource):
        rest, tested = stratified_partition(whole.label_map[source.labels()[indices]], TEST_FRACTION, TEST_SEED)
    else:
        order = np.random.default_rng(TEST_SEED).permutation(len(indices))
        count = round(TEST_FRACTION * len(indices))
        rest, tested = np.sort(order[count:]), np.sort(order[:count])
    train, tested = ((source, Subset(indices[part], whole.label_map, whole.class_names)) for part in (rest, tested))
    return TrainingParts(train, tested, searched=True)


def _of_classes(source: ImageSource, like: Subset, indices: np.ndarray | None = None) -> Subset:
    """The images of a source, or some of them, whose classes a subset of another split has."""
    indices = np.arange(len(source)) if indices is None else indices
    if not (like.label_map >= 0).all():
        indices = indices[like.label_map[source.labels()[indices]] >= 0]
    return Subset(indices, like.label_map, like.class_names)
