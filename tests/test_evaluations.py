"""`evaluations.npz`: small, checked, and exact after a resume."""

import dataclasses
import io
import json

import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.results import evaluations
from jaxnas.results.evaluations import About, Evaluations, EvaluationsLog, read_evaluations
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import loop
from jaxnas.search.execute import EvaluationsKeeper
from tests import regression_search

pytestmark = pytest.mark.long

SPACE = spaces.nasbench_macro()
ABOUT = About.of(SPACE, {"seed": 0, "penalties": (0.1, 0.2)})


def random_evaluations(steps, samples=4, seed=0):
    rng = np.random.default_rng(seed)
    archs = SPACE.sample_uniform(rng, steps * samples).reshape(steps, samples, -1)
    return Evaluations.of(archs, rng.normal(size=(steps, samples)))


def assert_equal(found, expected):
    for each in dataclasses.fields(Evaluations):
        np.testing.assert_array_equal(getattr(found, each.name), getattr(expected, each.name), err_msg=each.name)


def test_what_is_written_is_read(tmp_path):
    kept = random_evaluations(7)
    kept.losses[2, 1] = np.nan
    kept.write(tmp_path / "e.npz", ABOUT)
    found, about = read_evaluations(tmp_path / "e.npz", ABOUT)
    assert_equal(found, kept)
    assert about == ABOUT
    assert about.run == {"seed": 0, "penalties": [0.1, 0.2]}
    assert evaluations.space_of(about, "e.npz") == SPACE
    assert found.archs.dtype == np.uint8
    assert len(found) == 28


def test_a_million_evaluations_of_the_largest_space_are_small(tmp_path):
    space = spaces.mbconv_imagenet()
    archs = space.sample_uniform(np.random.default_rng(0), 10**6).reshape(-1, 16, len(space.decisions))
    Evaluations.of(archs, np.zeros(archs.shape[:2])).write(tmp_path / "e.npz", About.of(space))
    assert (tmp_path / "e.npz").stat().st_size < 40e6


def test_many_choices_take_two_bytes(tmp_path):
    about = About("wide", (300, 2))
    kept = Evaluations.of(np.array([[[299, 1]]]), np.zeros((1, 1)))
    kept.write(tmp_path / "e.npz", about)
    assert_equal(read_evaluations(tmp_path / "e.npz")[0], kept)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def arrays_of(kept, about=ABOUT, **changes):
    document = {"format": evaluations.FORMAT, **dataclasses.asdict(about)} | changes.pop("document", {})
    text = changes.pop("text", json.dumps(document).encode())
    fields = {each.name: getattr(kept, each.name) for each in dataclasses.fields(kept)}
    fields["archs"] = fields["archs"].astype(np.uint8)
    return fields | {"about": np.frombuffer(text, np.uint8)} | changes


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no npz file",
        npz(**arrays_of(random_evaluations(3)))[:-40],
        npz(archs=np.zeros((1, 1, 8), np.uint8)),
        npz(**arrays_of(random_evaluations(3), losses=np.array([[{}]], object))),
        npz(**arrays_of(random_evaluations(3), losses=np.zeros((3, 5), np.float32))),
        npz(**arrays_of(random_evaluations(3), archs=np.full((3, 4, 8), 3, np.uint8))),
        npz(**arrays_of(random_evaluations(3), steps=np.array([1, 3, 3], np.int32))),
        npz(**arrays_of(random_evaluations(3), joint=np.zeros(2, bool))),
        npz(**arrays_of(random_evaluations(3), text=b"\xff")),
        npz(**arrays_of(random_evaluations(3), text=b"[]")),
        npz(**arrays_of(random_evaluations(3), document={"format": "jaxnas evaluations 2"})),
        npz(**arrays_of(random_evaluations(3), document={"num_choices": [3, 0]})),
        npz(**arrays_of(random_evaluations(3), document={"num_choices": [3] * 7})),
    ],
)
def test_damaged_files_are_one_line_that_names_the_file(tmp_path, content):
    path = tmp_path / "e.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} holds no evaluations of a search, or is damaged: [^\n]+$"):
        read_evaluations(path)
    log = EvaluationsLog(path, ABOUT, samples=4)
    with pytest.raises(ValueError, match=f"^{path} [^\n]+; move it away to go on"):
        log.resume(2)
    assert path.read_bytes() == content


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="e.npz is missing"):
        read_evaluations(tmp_path / "e.npz")


def test_files_of_another_run_space_or_version_are_refused(tmp_path):
    path = tmp_path / "e.npz"
    random_evaluations(2).write(path, ABOUT)
    other_run = About.of(SPACE, {"seed": 1, "penalties": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r"e.npz is of another search, different in seed \(0 there, 1 here\)$"):
        read_evaluations(path, other_run)
    with pytest.raises(ValueError, match="different in description"):
        read_evaluations(path, About.of(spaces.nasbench_macro(width=0.5), ABOUT.run))
    newer = About.of(SPACE, {"seed": 0, "penalties": [0.1, 0.2], "new_setting": 3})
    assert len(read_evaluations(path, newer)[0]) == 8  # a setting that the file's version did not have
    random_evaluations(2).write(path, dataclasses.replace(ABOUT, description={"name": "unknown"}))
    with pytest.raises(ValueError, match="e.npz is of a space that cannot be built: [^\n]+$"):
        evaluations.space_of(read_evaluations(path)[1], path)
    changed = dataclasses.replace(ABOUT, space="other")
    with pytest.raises(ValueError, match="use the version that searched"):
        evaluations.space_of(changed, path)


class Killed(Exception):
    pass


class KilledAt:
    """Ends the run without warning after a step."""

    def __init__(self, step):
        self.step = step

    def on_start(self, start):
        self.first = start.step

    def on_steps(self, records):
        if records[-1]["step"] >= self.step:
            raise Killed

    def on_end(self):
        pass


def run(workdir, **options):
    search = regression_search.in_memory()
    keeper = EvaluationsKeeper(search, workdir, {"seed": 0})
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        loop.run(search, search.init(0), workdir, checkpoints, keeper=keeper, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, checkpoint_seconds=1e9)
    return read_evaluations(workdir / evaluations.NAME)[0]


def test_a_search_keeps_what_its_distributions_saw(undisturbed):
    settings, search = regression_search.SETTINGS, regression_search.in_memory()
    phases = [settings.phase(step)[0] for step in range(settings.total_steps)]
    steps = [step + 1 for step, phase in enumerate(phases) if phase != "weights"]
    assert undisturbed.steps.tolist() == steps
    assert undisturbed.joint.tolist() == [phases[step - 1] == "joint" for step in steps]
    np.testing.assert_array_equal(undisturbed.minibatches, np.arange(len(steps)) * settings.accumulate)
    assert undisturbed.archs.shape == (len(steps), 4, len(search.strategy.space.decisions))
    # In the last phase the weights stand still, and an architecture that is there twice in a step has one loss.
    last, state = undisturbed, search.init(0)
    for reached, _, _ in search.run(state):
        state = reached
    shared = search.evaluate(state.params, last.archs[-1]).loss
    assert np.corrcoef(shared, last.losses[-1])[0, 1] > 0.5


@pytest.mark.parametrize("step", [3, 6, 9])
@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
def test_a_search_killed_and_resumed_keeps_the_same(undisturbed, tmp_path, step, checkpoint_seconds):
    with pytest.raises(Killed):
        run(tmp_path, checkpoint_seconds=checkpoint_seconds, listeners=[KilledAt(step)])
    run(tmp_path, checkpoint_seconds=1e9)
    assert_equal(read_evaluations(tmp_path / evaluations.NAME)[0], undisturbed)


def test_what_is_beyond_the_checkpoint_is_cut(tmp_path):
    log = EvaluationsLog(tmp_path / "e.npz", ABOUT, samples=4)
    whole = random_evaluations(6)
    log.append(whole)
    log.write()
    resumed = EvaluationsLog(tmp_path / "e.npz", ABOUT, samples=4)
    resumed.resume(4)
    assert_equal(resumed.evaluations, whole.until(4))
    assert whole.until(4).steps.tolist() == [1, 2, 3, 4]
    fresh = EvaluationsLog(tmp_path / "e.npz", ABOUT, samples=4)
    fresh.resume(0)
    assert len(fresh.evaluations) == 0
