"""Stage-Wise NAS: the released path, the properties of its score, and a growth on a tiny supernet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, supernet
from jaxnas.selection import stage_wise


def scripted(rises):
    """Scores of three stages that rise as told, round by round: the set of stages for each trial network."""
    rounds, calls = iter(rises), []

    def scores_of(depths):
        calls.append(depths)
        is_trial = len(calls) % 2 == 0  # after the network itself: the start, or a candidate
        rising = np.isin(np.arange(3), next(rounds)) if is_trial else np.zeros(3)
        return np.where(rising, 1.1, 0.9 if is_trial else 1.0)

    return scores_of, calls


def test_the_released_path():
    scores_of, calls = scripted([[0, 1], [0, 1], [2], [1]])
    growth = stage_wise.grow(scores_of, (6, 8, 6), step=2, rounds=4, caps=(99, 99, 99))
    assert growth.depths == ((6, 8, 6), (8, 10, 6), (10, 12, 6), (10, 12, 8), (10, 14, 8))
    assert growth.networks == len(calls) == 1 + 2 * 4
    assert calls[1] == (8, 10, 8)  # the trial deepens all stages


def test_it_stops_where_nothing_grew_and_at_the_caps():
    flat = stage_wise.grow(lambda depths: np.ones(2), (1, 1), 1, 5, (3, 3))
    assert (flat.depths, flat.networks) == (((1, 1),), 2)  # equal is not more
    full = stage_wise.grow(lambda depths: np.asarray(depths, float), (1, 1), 2, 9, (2, 4))
    assert full.depths == ((1, 1), (2, 3), (2, 4))
    for bad in ({"step": 0}, {"rounds": 0}, {"start": (4, 1)}):
        arguments = {"start": (1, 1), "step": 1, "rounds": 2, "caps": (3, 3), **bad}
        with pytest.raises(ValueError, match="step and rounds|start"):
            stage_wise.grow(lambda depths: np.ones(2), **arguments)


def vip_by_nipals(features, labels):
    """VIP from NIPALS by hand, for the mean of squares."""
    from sklearn.cross_decomposition import PLSRegression

    fitted = PLSRegression(2).fit(features, np.eye(labels.max() + 1)[labels])
    ss = [float((t @ t) * (q @ q)) for t, q in zip(fitted.x_scores_.T, fitted.y_loadings_.T)]
    w = fitted.x_weights_
    return np.array(
        [np.sqrt(len(w) * sum(s * w[j, a] ** 2 for a, s in enumerate(ss)) / sum(ss)) for j in range(len(w))]
    )


def test_importance_is_the_mean_of_vip_whose_squares_average_to_one():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=90)
    features = rng.normal(size=(90, 12)) + labels[:, None] * (np.arange(12) < 3)
    vip = vip_by_nipals(features, labels)
    assert (vip**2).mean() == pytest.approx(1)
    assert stage_wise.importance(features, labels) == pytest.approx(vip.mean())
    assert 1 / np.sqrt(12) <= vip.mean() <= 1


def test_importance_measures_evenness_not_information():
    """As the card of the method warns: noise without labels scores more than a signal in few of many features."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    noise = rng.normal(size=(400, 64))
    signal = noise.copy()
    signal[:, :4] += 5 * np.eye(4)[labels]
    few, none = stage_wise.importance(signal, labels), stage_wise.importance(noise, labels)
    assert few < 0.6 < 0.8 < none
    shuffled = stage_wise.importance(signal, rng.permutation(labels))
    assert shuffled > few
    with_dead = np.concatenate([signal, np.zeros((400, 64))], axis=1)
    assert stage_wise.importance(with_dead, labels) < few
    with pytest.raises(ValueError, match="do not vary"):
        stage_wise.importance(np.ones((5, 3)), np.arange(5))


@pytest.mark.filterwarnings("ignore:y residual is constant")
def test_importance_where_one_component_explains_the_labels():
    labels = np.arange(40) % 2
    even = np.stack([labels, labels, 1 - labels], axis=1).astype(float)
    assert stage_wise.importance(even, labels) == pytest.approx(1)  # three features, equally important
    with_dead = np.concatenate([even, np.ones((40, 9))], axis=1)  # 3 of 12 carry it all: VIP 2, 2, 2, 0, ...
    assert stage_wise.importance(with_dead, labels) == pytest.approx(0.5)


def test_depths_are_layers_from_the_first_of_each_stage():
    macro = spaces.nasbench_macro()
    skip = macro.decisions[0].choices.index("skip")
    assert stage_wise.stages(macro) == ((0, 1), (2, 3, 4), (5, 6, 7))
    arch = stage_wise.architecture(macro, (1, 3, 2), operation=2)
    np.testing.assert_array_equal(arch, [2, skip, 2, 2, 2, 2, 2, skip])
    digits = spaces.mbconv_digits()  # its first layer cannot be skipped
    assert stage_wise.stages(digits) == ((1, 2, 3, 4, 5),)


def test_pooling_by_hand():
    feature = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(stage_wise.pooled(feature, 2), [[2.5, 4.5, 10.5, 12.5]])
    np.testing.assert_allclose(stage_wise.pooled(feature, 8), [[7.5]])


def test_a_growth_on_a_supernet():
    space = spaces.nasbench_macro(width=0.125, image_size=16)
    net = supernet.build(space)
    params = net.init_params(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (40, 16, 16, 3))
    labels = np.arange(40) % 4
    features_of = jax.jit(lambda arch: net.apply({"params": params}, images, arch, method="apply_with_features")[1])
    archs, networks = stage_wise.search(space, features_of, labels, operation=1, rounds=2)
    assert 2 <= networks <= 1 + 2 * 2
    skip = space.decisions[0].choices.index("skip")
    depths = (archs != skip).sum(1)
    assert depths[0] == 3  # one layer a stage
    assert np.all(np.diff(depths) > 0)
    for arch in archs:
        space.validate(arch)
    with pytest.raises(ValueError, match="no skip"):
        stage_wise.search(space, features_of, labels, operation=skip)
    with pytest.raises(ValueError, match="cannot grow"):
        stage_wise.search(spaces.nasbench201(), features_of, labels, operation=1)
