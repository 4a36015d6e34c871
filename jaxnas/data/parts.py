"""Which images of a data set are for the weights, for the distributions, and for testing."""

from dataclasses import dataclass

import numpy as np

from jaxnas.data.folders import FolderSource
from jaxnas.data.partition import stratified_partition
from jaxnas.data.sources import ImageSource, Splits

# Share of each class that networks are tested on where a data set has no split for it, and the seed of the choice:
# other values are another benchmark.
TEST_FRACTION, TEST_SEED = 0.2, 0


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


def search_parts(
    splits: Splits,
    valid_fraction: float,
    seed: int,
    classes: int | None = None,
    per_class: int | None = None,
) -> tuple[Part, Part]:
    """What weights and distributions learn on: the splits `train` and `valid`, or parts of `train`.

    Args:
      splits: the data set.
      valid_fraction: share of `train` for the distributions, where there is no `valid`.
      seed: of every random choice.
      classes: how many classes, drawn at random; None for all.
      per_class: images of each class and split at most, drawn at random; None for all.

    Returns:
      ((source, subset) for the weights, (source, subset) for the distributions).

    Raises:
      ValueError: on a class with too few images, naming it, or counts that make no subset.
    """
    if splits.valid is None:
        parts = halves(splits.train, valid_fraction, seed, classes, per_class)
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
        order = generator.permutation(len(source))
        count = round(valid_fraction * len(source))
        label_map, names = np.arange(len(chosen), dtype=np.int32), tuple(source.class_names)
        return tuple(Subset(np.sort(part), label_map, names) for part in (order[count:], order[:count]))
    kept = _subset(source, generator, chosen, per_class)
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


def _subset(source: ImageSource, generator: np.random.Generator, chosen: np.ndarray, per_class: int | None) -> Subset:
    """All images of the chosen classes, or so many of each, drawn at random."""
    label_map = np.full(len(source.class_names), -1, np.int32)
    label_map[chosen] = np.arange(len(chosen))
    labels = label_map[source.labels()]
    kept = np.flatnonzero(labels >= 0)
    if per_class is not None:
        shuffled = generator.permutation(kept)
        members = [shuffled[labels[shuffled] == label][:per_class] for label in range(len(chosen))]
        kept = np.sort(np.concatenate(members))
    return Subset(kept, label_map, tuple(source.class_names[label] for label in chosen))


def training_parts(splits: Splits, learnt: tuple[Part, Part]) -> tuple[Part, Part]:
    """What the networks that a search found are trained on, and tested on.

    They are tested on the split `test`, or else `valid`, and trained on `train`. Without these a fifth of the images
    that the search learnt on, of each class where the labels are known, is for testing: no training sees it, but the
    search that chose the networks did. The same images always make the same parts.

    Args:
      splits: the data set.
      learnt: what weights and distributions of the search learnt on, see `search_parts`.

    Returns:
      ((source, subset) to train on, (source, subset) to test on).

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
        return (source, whole), (splits.test, _of_classes(splits.test, whole))
    if splits.valid is not None:
        return (source, whole), (other, distributions)
    if isinstance(source, FolderSource):
        rest, tested = stratified_partition(whole.label_map[source.labels()[indices]], TEST_FRACTION, TEST_SEED)
    else:
        order = np.random.default_rng(TEST_SEED).permutation(len(indices))
        count = round(TEST_FRACTION * len(indices))
        rest, tested = np.sort(order[count:]), np.sort(order[:count])
    return tuple((source, Subset(indices[part], whole.label_map, whole.class_names)) for part in (rest, tested))


def _of_classes(source: ImageSource, like: Subset) -> Subset:
    """All images of a source whose classes a subset of another split has."""
    if (like.label_map >= 0).all():
        return Subset(np.arange(len(source)), like.label_map, like.class_names)
    return Subset(np.flatnonzero(like.label_map[source.labels()] >= 0), like.label_map, like.class_names)
