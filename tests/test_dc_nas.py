"""DC-NAS-style selection: its extremes, its similarity, and its representations on tiny supernets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, supernet
from jaxnas.selection import dc_nas
from tests.test_strategies import task

pytestmark = pytest.mark.long

PENALTIES = (0.0, 0.2)


@pytest.fixture(scope="module")
def candidates():
    """Sampled networks of a small table, noisy and true losses, costs."""
    rng = np.random.default_rng(0)
    archs = np.unique(task().space.sample_uniform(rng, 60), axis=0)
    rows = task().rows(archs)
    true = task().error[rows]
    return archs, true + rng.normal(size=len(archs)) * 0.1, true, task().cost.scaled[rows]


def selected(candidates, clusters, seed=0, order=None, penalties=PENALTIES, space=None):
    archs, cheap, accurate, costs = candidates
    if order is not None:
        archs, cheap, accurate, costs = archs[order], cheap[order], accurate[order], costs[order]
    by_arch = {tuple(arch): index for index, arch in enumerate(archs.tolist())}

    def of(losses):
        return lambda some: losses[[by_arch[tuple(arch)] for arch in np.asarray(some).tolist()]]

    representations = dc_nas.one_hot(archs, space or task().space)
    key = jax.random.key(seed)
    return dc_nas.select(key, archs, representations, of(cheap), of(accurate), clusters, penalties, costs)


def test_one_cluster_is_the_cheap_score_alone(candidates):
    archs, cheap, _, costs = candidates
    found = selected(candidates, 1)
    wanted = [archs[(cheap + penalty * costs).argmin()] for penalty in PENALTIES]
    assert {tuple(archs[winner]) for winner in found.winners} == {tuple(arch) for arch in wanted}
    for penalty, arch in zip(PENALTIES, wanted):
        np.testing.assert_array_equal(selected(candidates, 1, penalties=(penalty,)).archs, [arch])


def test_a_cluster_for_each_is_the_accurate_score_alone(candidates):
    archs, _, accurate, costs = candidates
    found = selected(candidates, len(archs))
    np.testing.assert_array_equal(found.winners, np.arange(len(archs)))
    np.testing.assert_array_equal(found.archs, [archs[(accurate + p * costs).argmin()] for p in PENALTIES])


def test_the_order_of_candidates_changes_nothing(candidates):
    order = np.random.default_rng(1).permutation(len(candidates[0]))
    first, second = selected(candidates, 6), selected(candidates, 6, order=order)
    np.testing.assert_array_equal(first.archs, second.archs)
    np.testing.assert_array_equal(first.clusters[order], second.clusters)


def test_winners_are_the_best_of_their_clusters_and_few(candidates):
    _, cheap, _, costs = candidates
    found = selected(candidates, 6)
    assert len(set(found.clusters)) == 6
    assert 6 <= len(found.winners) <= 6 * len(PENALTIES)
    for cluster in range(6):
        members = np.flatnonzero(found.clusters == cluster)
        for penalty in PENALTIES:
            assert members[(cheap + penalty * costs)[members].argmin()] in found.winners


def test_k_means_clusters_by_similarity():
    representations = np.random.default_rng(0).normal(size=(5, 3, 4))
    rows = dc_nas.unit_rows(representations)
    similarity = np.einsum("idr,jdr->ij", rows, rows) / 3  # the mean over decisions of the cosines
    rows = rows.reshape(5, -1)
    squared = ((rows[:, None] - rows) ** 2).sum(-1)
    np.testing.assert_allclose(squared, 2 * 3 * (1 - similarity), atol=1e-12)
    # Two tight groups of directions, whatever the lengths.
    groups = np.array([[1.0, 0.1], [2.0, 0.0], [0.1, 1.0], [0.0, 5.0]])[:, None]
    found = dc_nas.select(
        jax.random.key(0), np.arange(4)[:, None], groups, lambda a: a[:, 0], lambda a: a[:, 0], 2, (0.0,), np.zeros(4)
    )
    assert found.clusters[0] == found.clusters[1] != found.clusters[2] == found.clusters[3]
    np.testing.assert_array_equal(found.winners, [0, 2])


def test_short_training_as_the_cheap_score(nasbench201_path):
    """A limit that the module states: among few winners, clusters of one-hot choices give up more than they bring."""
    with np.load(nasbench201_path) as archive:
        table = dict(archive)
    space, clusters, regrets = spaces.nasbench201(), 8, {"clusters": [], "cheapest": []}
    for seed in range(20):
        rows = np.random.default_rng(seed).choice(len(table["choices"]), 500, replace=False)
        archs, cheap, accurate = (table[name][rows] for name in ("choices", "error_valid_12ep", "error_valid"))
        found = selected((archs, cheap, accurate, np.zeros(len(archs))), clusters, seed, penalties=(0.0,), space=space)
        assert len(found.winners) == clusters
        regrets["clusters"].append(found.losses.min() - accurate.min())
        regrets["cheapest"].append(accurate[np.argsort(cheap)[:clusters]].min() - accurate.min())
    means = {name: np.mean(values) for name, values in regrets.items()}
    assert means["cheapest"] < means["clusters"] < 0.001  # the best cell errs by 8 percent


def test_bad_input_is_named(candidates):
    for clusters in (0, len(candidates[0]) + 1):
        with pytest.raises(ValueError, match="clusters must be from 1"):
            selected(candidates, clusters)
    archs, cheap, _, costs = candidates
    with pytest.raises(ValueError, match="cheap must give a finite loss"):
        selected((archs, np.full_like(cheap, np.nan), cheap, costs), 3)
    with pytest.raises(ValueError, match="no supernet"):
        dc_nas.parameters_of(task().space, {}, 0, 0)


@pytest.mark.parametrize("name", ["cell", pytest.param("mbconv", marks=pytest.mark.slow)])
def test_the_change_of_parameters(name):
    space = {
        "mbconv": spaces.nasbench_macro(width=0.125, image_size=16),
        "cell": spaces.nasbench201(channels=4, cells=1, image_size=8),
    }[name]
    before = supernet.build(space).init_params(jax.random.key(0))
    same = dc_nas.parameter_change(jax.random.key(1), space, before, before)
    after = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.abs(leaf), before)
    change = dc_nas.parameter_change(jax.random.key(1), space, before, after)
    for d, count in enumerate(space.num_choices):
        for choice in range(count):
            parameters = jax.tree.leaves(dc_nas.parameters_of(space, before, d, choice))
            assert np.any(change[d, choice])
            if parameters:
                assert not np.any(same[d, choice])
                length = np.linalg.norm(change[d, choice])
                assert 0.05 < length < 0.2  # projections keep lengths, here 0.1, but for chance
            else:
                np.testing.assert_array_equal(change[d, choice], same[d, choice])
                assert change[d, choice, dc_nas.RANK + choice] == 1
        assert not np.any(change[d, count:])


def test_gram_features_compare_images_whatever_the_channels():
    features = [jnp.ones((2, 4, 4, 3)), jnp.stack([jnp.zeros((2, 2, 5)), jnp.ones((2, 2, 5))])]
    np.testing.assert_allclose(dc_nas.gram_features(features), [[3, 3, 3, 3], [0, 0, 0, 5]])
