"""Own images through the real commands: what a start prints, what files hold, bad images, and networks in use."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxnas
from experiments import cli, export, imagenet_search, predict, retrain
from jaxnas.data import parts
from jaxnas.data.folders import FolderSource
from jaxnas.search import build, execute, presets
from tests import tiny_search  # noqa: F401 (registers the space)

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[1]
SEARCH = ["--preset=smoke", "--space=tiny", "--batching=map", "--batch-size=8", "--image-size=8", "--candidates=0"]
SEARCH += ["--joint-steps=0", "--weight-steps=1", "--distribution-steps=2"]


def run(capsys, module, *arguments, code=0):
    """Output and errors of a command in this process."""
    if code:
        with pytest.raises(SystemExit) as stopped:
            cli.run(module.main, module.Config, [str(argument) for argument in arguments])
        assert stopped.value.code == code
    else:
        cli.run(module.main, module.Config, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return captured.out, captured.err


def make(folder, names=("cat", "dog", "owl"), count=12, bad=()):
    """Classes of grey levels that a network can learn, under noise."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(40 + 80 * label + generator.normal(0, 10, (12, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02}.jpg")
    for name in bad:
        (folder / name).write_text("no image")
    return folder


@pytest.fixture
def stopped(monkeypatch):
    """A search that ends when its images are found: what is printed needs no step."""

    def stop(*arguments):
        raise ValueError("enough")

    monkeypatch.setattr(execute, "build", stop)


ALL = "24 images of 3 classes (cat 8, dog 8, owl 8)"
CASES = [
    ("split", ["weights learn on: ", f"split/train: {ALL}", "distributions learn on: ", f"split/val: {ALL}"]),
    ("mac", ["16 images of 2 classes", "1 helper files or folders of other programs (__MACOSX)", "2 hidden (cat/.DS_"]),
    ("kinds", [ALL]),
    ("links", [ALL]),
    ("hidden", ["16 images of 2 classes (cat 8, dog 8)", "left out: 1 hidden (cat/.ipynb_checkpoints)"]),
    ("digits", ["32 images of 2 classes (mirrored six 16, six 16)"]),
]


@pytest.mark.parametrize(("case", "words"), CASES)
def test_each_start_prints_classes_images_and_what_is_left_out(made_cases, stopped, capsys, tmp_path, case, words):
    arguments = [*SEARCH, "--folder", made_cases / "folders" / case, "--workdir", tmp_path / "run"]
    out, err = run(capsys, imagenet_search, *arguments, code=2)
    assert err == "error: enough\n"
    assert all(word in out for word in words), out


@pytest.mark.slow
@pytest.mark.parametrize(("case", "words"), CASES)
def test_made_folders_are_searched_to_the_end(made_cases, tmp_path, case, words):
    """Exit code, summary and result of the real command in a process of its own."""
    command = [sys.executable, "-m", "tests.tiny_imagenet_search", *SEARCH, "--test-fraction=0.2"]
    command += [f"--folder={made_cases / 'folders' / case}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    count = {"digits": 16}.get(case, 8) * (2 if case == "split" else 1)
    names = {"digits": ["mirrored six", "six"]}.get(
        case, ["cat", "dog", "owl"][: 2 if case in ("mac", "hidden") else 3]
    )
    assert result["classes"] == names
    assert result["images"] == dict.fromkeys(names, count)
    assert result["test_images"] == (None if case == "split" else round(0.2 * count) * len(names))


def test_an_empty_class_ends_the_start_with_one_line(made_cases, capsys, tmp_path):
    arguments = [*SEARCH, "--folder", made_cases / "folders" / "empty", "--workdir", tmp_path / "run"]
    out, err = run(capsys, imagenet_search, *arguments, code=2)
    assert err.count("\n") == 1
    assert "class 'owl'" in err
    assert "has no images" in err
    assert not (tmp_path / "run").exists()


def test_names_of_classes_are_no_markup(stopped, capsys, tmp_path):
    make(tmp_path / "own", ("[red]cat", "[dog]"))
    out, _ = run(capsys, imagenet_search, *SEARCH, "--folder", tmp_path / "own", code=2)
    assert "([dog] 12, [red]cat 12)" in out


def parse(*arguments):
    return cli.parse(imagenet_search.Config, ["--preset=smoke", *map(str, arguments)]).streams


def test_mirroring_is_off_by_name_and_by_choice(tmp_path):
    assert parse("--dataset=oxford_flowers102").mirror
    assert not parse("--dataset=svhn_cropped").mirror
    assert parse("--dataset=svhn_cropped", "--mirror").mirror
    assert not parse("--dataset=oxford_flowers102", "--no-mirror").mirror
    digits, letters = make(tmp_path / "digits", ("six", "nine")), make(tmp_path / "own" / "train", ("b", "d"), 2)
    assert not parse("--folder", digits).mirror
    assert not parse("--folder", letters.parent).mirror  # single characters, below a split
    assert parse("--folder", make(tmp_path / "mine")).mirror
    assert not parse("--folder", tmp_path / "mine", "--no-mirror").mirror


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mean", "0.5", "0.5"], "mean must be three values"),
        (["--std", "0", "0", "0"], "std must be three values"),
        (["--background", "0", "0", "300"], "background must be three values"),
        (["--valid-folder=absent"], "absent is no folder"),
        (["--dataset=mnist"], "either a folder of images or a dataset"),
    ],
)
def test_bad_settings_are_one_line(capsys, tmp_path, arguments, words):
    _, err = run(capsys, imagenet_search, *SEARCH, "--folder", make(tmp_path / "own"), *arguments, code=2)
    assert err.count("\n") == 1
    assert words in err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search on a folder with one bad image: the folder, and that of the search."""
    root = tmp_path_factory.mktemp("finished")
    own = make(root / "own", bad=["cat/03.jpg"])
    with pytest.raises(SystemExit):  # the limit is reached at once
        cli.run(imagenet_search.main, imagenet_search.Config, arguments(root, "--max-dead-images=0"))
    (own / "cat" / "03.jpg").unlink()
    cli.run(imagenet_search.main, imagenet_search.Config, arguments(root))
    return root


def arguments(root, *others):
    return [*SEARCH, f"--folder={root / 'own'}", f"--workdir={root / 'run'}", *others]


def read(root, name):
    return json.loads((root / "run" / name).read_text())


def records(root):
    return [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_search_goes_on_after_a_bad_image_is_removed(finished, capsys):
    assert read(finished, "bad_images.json") == {"train": [["cat/03.jpg", 8]]}
    out, _ = run(capsys, imagenet_search, *arguments(finished))
    assert "warning: 1 images that could not be read at an earlier start are passed over" in out
    assert len(records(finished)) == 3


def test_a_search_does_not_go_on_after_a_good_image_is_removed(finished, capsys):
    moved = finished / "own" / "cat" / "04.jpg"
    moved.rename(finished / "04.jpg")
    try:
        _, err = run(capsys, imagenet_search, *arguments(finished), code=2)
        assert "holds another search, different in data" in err
    finally:
        (finished / "04.jpg").rename(moved)


def test_classes_and_counts_are_kept(finished):
    counts = {"cat": 12, "dog": 12, "owl": 12}  # the image that was bad is passed over, as before it was removed
    result, config = read(finished, "result.json"), read(finished, "config.json")
    assert (result["classes"], result["images"]) == (["cat", "dog", "owl"], counts)
    assert (config["inputs"]["classes"], config["inputs"]["images"]) == (["cat", "dog", "owl"], counts)
    assert config["streams"]["mirror"] is True
    mean = config["inputs"]["normalization"]["mean"]
    np.testing.assert_allclose(mean, 120 / 255, atol=0.05)  # of the images: ImageNet's are 0.485, 0.456 and 0.406
    assert max(mean) - min(mean) < 0.02


def test_a_search_of_an_earlier_version_goes_on_without_images_for_testing(finished, capsys):
    before, config = records(finished), finished / "run" / "config.json"
    written = config.read_bytes()
    document = json.loads(written)
    del document["streams"]["test_fraction"], document["sha256"]
    config.write_text(json.dumps(document))
    out, _ = run(capsys, imagenet_search, *arguments(finished, "--test-fraction=0.2"))
    assert "keeps no images for testing, and goes on as it began" in out
    assert "tested on images alone that the search reads" in out.replace("\n", " ")
    assert records(finished) == before
    assert read(finished, "result.json")["test_images"] is None
    config.write_bytes(written)


def test_images_for_testing_are_kept_and_counted(tmp_path):
    config = cli.parse(
        imagenet_search.Config, [*SEARCH, "--folder", str(make(tmp_path / "own")), "--test-fraction=0.25"]
    )
    search = build.build(config)
    found = build.inputs(config, search)
    assert found["images"] == {"cat": 12, "dog": 12, "owl": 12}
    assert found["test_images"] == 9
    assert len(search.train) + len(search.valid) == 27
    defaults = {name: preset.streams.test_fraction for name, preset in presets.STREAMED.configs.items()}
    assert defaults == {"smoke": 0.0, "small": 0.2, "full": 0.2}


def test_too_few_images_for_testing_are_said(capsys, tmp_path):
    """Not that a share could be kept: it was asked for."""
    folder = make(tmp_path / "own", count=2)
    arguments = [*SEARCH, "--folder", folder, "--workdir", tmp_path / "run", "--test-fraction=0.2"]
    out, _ = run(capsys, imagenet_search, *arguments)
    assert "images alone that the search reads; each class has too few for test_fraction 0.2" in out


@pytest.mark.parametrize("place", ["own/run", "own", "here"])
def test_results_do_not_lie_among_the_images(capsys, tmp_path, monkeypatch, stopped, place):
    """Their pictures would be a class of the next start; where no folder is given, runs/ is made here."""
    own = make(tmp_path / "own")
    monkeypatch.chdir(own)
    given = [] if place == "here" else [f"--workdir={tmp_path / place}"]
    _, err = run(capsys, imagenet_search, *SEARCH, "--folder=.", *given, code=2)
    lies = own / "runs" if place == "here" else tmp_path / place
    assert err.startswith(f"error: workdir {lies} lies in the folder of images {own}, where")
    assert sorted(path.name for path in own.iterdir()) == ["cat", "dog", "owl"]
    for elsewhere in (own / ".run", tmp_path / "run"):
        assert (
            run(capsys, imagenet_search, *SEARCH, "--folder=.", "--workdir", elsewhere, code=2)[1] == "error: enough\n"
        )


def test_drawn_classes_are_named(capsys, tmp_path):
    folder = make(tmp_path / "own", names=[f"class {number}" for number in range(5)])
    arguments = [*SEARCH, "--folder", folder, "--workdir", tmp_path / "run", "--classes=2", "--images-per-class=8"]
    out, _ = run(capsys, imagenet_search, *arguments)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["classes"]) == 2
    assert f"of these the search draws 16 images of 2 classes ({', '.join(result['classes'])})" in out
    assert "in training a random part of 25% to 100% of the area, else the central square with 0.875" in out


def test_a_finished_search_can_be_extended(finished, capsys):
    before = records(finished)
    out, _ = run(capsys, imagenet_search, *arguments(finished, "--distribution-steps=5"))
    assert "extends the search from 2 to 5 distribution_steps" in out
    after = records(finished)
    assert after[:3] == before[:3]
    assert [record["phase"] for record in after] == ["weights"] + ["distributions"] * 5
    assert read(finished, "config.json")["training"]["distribution_steps"] == 5
    _, err = run(capsys, imagenet_search, *arguments(finished, "--distribution-steps=3"), code=2)
    assert "different in distribution_steps (5 there, 3 now)" in err
    _, err = run(capsys, imagenet_search, *arguments(finished, "--weight-steps=9", "--distribution-steps=5"), code=2)
    assert "different in weight_steps" in err


def test_the_distributions_learn_on_their_own_folder(stopped, capsys, monkeypatch, tmp_path):
    own, other = make(tmp_path / "own"), make(tmp_path / "other", count=10)
    given = [*SEARCH, "--folder", str(own), "--valid-folder", str(other)]
    out, _ = run(capsys, imagenet_search, *given, code=2)
    assert f"weights learn on: {own}: 36 images" in out
    assert f"distributions learn on: {other}: 30 images" in out
    monkeypatch.undo()
    config = cli.parse(imagenet_search.Config, given)
    search = build.build(config)
    assert [len(source) for source in (search.train, search.valid)] == [36, 30]
    found = build.inputs(config, search)
    assert found["images"] == {"cat": 22, "dog": 22, "owl": 22}
    assert found["data"] not in [FolderSource(folder).fingerprint()[:16] for folder in (own, other)]


@pytest.fixture
def searched(tmp_path):
    """A search that kept a quarter of the images for testing, one of which cannot be read, and has not read it."""
    own = make(tmp_path / "own")
    given = [*SEARCH, f"--folder={own}", f"--workdir={tmp_path / 'run'}", "--test-fraction=0.25", "--max-dead-images=0"]
    given += ["--background", "0", "0", "0"]
    cli.run(imagenet_search.main, imagenet_search.Config, given)
    config = cli.parse(imagenet_search.Config, given)
    splits = build.open_images(config)
    source, kept = parts.held_out_part(splits, build.search_parts(config, splits)[0][1], 0.25)
    bad = own / source.describe(kept.indices[0])
    bad.write_bytes(bad.read_bytes()[:200] + bytes(bad.stat().st_size - 200))
    return tmp_path, bad


def test_a_bad_image_that_was_kept_for_testing_can_be_removed(searched, capsys):
    """As the message of the training advises; the same images are kept as before."""
    root, bad = searched
    training = ["--result", root / "run" / "result.json", "--epochs=1", "--batch-size=8", "--index=0"]
    _, err = run(capsys, retrain, *training, code=2)
    assert "more than the 0 that max_dead_images allows" in err
    assert bad.name in err
    assert "remove these images" in err
    bad.unlink()
    out, _ = run(capsys, retrain, *training)
    assert "trained on 27 images" in out
    assert "tested on 9 images of own, which the search did not read" in out
    assert "seed0: test accuracy" in out
    assert jaxnas.load(root / "run" / "retrained" / "k0" / "seed0").description.background == (0, 0, 0)


def test_a_training_does_not_go_on_with_other_images(searched, capsys):
    root, bad = searched
    bad.unlink()  # without a word of the training
    training = ["--result", root / "run" / "result.json", "--epochs=1", "--batch-size=8", "--index=0"]
    run(capsys, retrain, *training)
    shutil.copy(root / "own" / "dog" / "01.jpg", root / "own" / "dog" / "more.jpg")
    _, err = run(capsys, retrain, *training, code=2)
    assert "holds another search, different in data" in err
    config = root / "run" / "retrained" / "k0" / "seed0" / "config.json"
    document = json.loads(config.read_text())
    del document["data"], document["sha256"]
    config.write_text(json.dumps(document))
    out, _ = run(capsys, retrain, *training)  # earlier versions did not note the images
    assert "is trained already" in out


@pytest.mark.slow
def test_networks_found_on_a_folder_are_trained_exported_and_used(finished, capsys):
    result = json.loads((finished / "run" / "result.json").read_text())
    first, second = result["architectures"]
    second["encoding"], second["k"] = first["encoding"], 1  # equal networks
    (finished / "run" / "result.json").write_text(json.dumps(result))
    program = (
        "import jax; from experiments import cli, retrain; from tests import tiny_search\n"
        "assert jax.device_count() == 2\n"
        "cli.run(retrain.main, retrain.Config)"
    )
    training = ["--epochs=40", "--batch-size=8", "--learning-rate=0.1", "--average=0.9"]
    out = subprocess.run(
        [sys.executable, "-c", program, "--result", finished / "run" / "result.json", *training],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"trained on 30 images of {finished / 'own'}, tested on 6 images" in out
    assert "tested on 6 images of own, which the search has read too" in out
    assert "k1/seed0 is the network of" in out
    summary = json.loads((finished / "run" / "retrained" / "retrained.json").read_text())
    assert [network["k"] for network in summary] == [0, 1]
    assert summary[0]["test_accuracy_scratch"] == summary[1]["test_accuracy_scratch"]
    assert [network["macs"] for network in summary] == [first["macs"]] * 2  # the network of the search
    run(capsys, export, "--run", finished / "run", "--index", "0", "--format", "stablehlo")
    exported = finished / "run" / "exports" / "k0"
    description = jaxnas.load(exported).description
    assert description.class_names == ("cat", "dog", "owl")
    assert (description.dataset, description.image_size, description.width) == ("own", 8, 0.25)
    assert "Tested on 6 images of own, which the search has read too." in (exported / "model_card.md").read_text()
    assert "| classes | cat, dog, owl |" in (exported / "model_card.md").read_text()
    more = make(finished / "more", count=5)
    out, _ = run(capsys, predict, "--model", exported, more)
    found = [line.split("\t") for line in out.splitlines()]
    assert len(found) == 15
    right = [pathlib.Path(path).parent.name == name for path, name, _ in found]
    assert np.mean(right) >= 0.9


@pytest.mark.slow
def test_the_tutorial_of_own_images(tmp_path):
    """Every program and command of the page, in its order; the networks are right on images that no search saw."""
    text = (ROOT / "docs" / "tutorials" / "own_data.md").read_text(encoding="utf-8")
    text = text[: text.index("## Images in memory")]
    steps = re.findall(r"^```python\n(.*?)^```|^    (python -m [^\n]*)", text, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAXNAS_CACHE": str(tmp_path / "xla")}
    out = {}
    for program, command in steps:
        words = ["python", "-c", program] if program else shlex.split(command)
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        out[words[2]] = done.stdout
    assert "images: 120 images of 3 classes (bars 40, checks 40, dots 40)" in out["experiments.imagenet_search"]
    assert "24 of these images are kept for testing the networks" in out["experiments.imagenet_search"]
    assert "tested on 24 images of images, which the search did not read" in out["experiments.retrain"]
    lines = [line.split("\t") for line in out["experiments.predict"].splitlines()]
    right = [pathlib.Path(path).parent.name == name for path, name, _ in lines]
    assert len(right) == 30
    assert np.mean(right) >= 0.9
