"""The settings tree: each setting on the command line, in config.json, in the check on resume and in the help."""

import dataclasses
import functools
import json
import re
import typing
from pathlib import Path

import pytest

from experiments import cifar_search, cli, imagenet_search, retrain
from jaxnas.results import settings_tree
from jaxnas.results.workdir import open_workdir
from jaxnas.search import presets, recipes
from jaxnas.search.config import DEFAULT_METHOD, METHODS, DataSettings, SearchConfig, StreamedConfig
from tests import tiny_search  # noqa: F401 (registers a space)

COMMANDS = {
    "cifar_search": (cifar_search.Config, SearchConfig),
    "imagenet_search": (imagenet_search.Config, StreamedConfig),
}
FIELDS = [
    pytest.param(command, setting, id=f"{command}-{setting.name}")
    for command, (_, tree) in COMMANDS.items()
    for setting in settings_tree.settings(tree).values()
]
PRESETS = [(command, preset) for command, (known, _) in COMMANDS.items() for preset in known.configs]
# What takes the place of another setting; all others may be changed alone.
BESIDES = {"folder": ("dataset",), "budgets": ("penalties",)}


def parse(command, *arguments):
    return cli.parse(COMMANDS[command][0], arguments)


def another(kind, value, choices):
    """A value of the type that differs from the given one."""
    if choices:
        return next(choice for choice in choices if choice != value)
    inner = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in inner if choice != value)
    if typing.get_origin(kind) is tuple:
        return {float: (0.125, 0.5, 0.75), int: (1, 2, 3), str: ("macs=2000000.0", "macs=4000000.0")}[inner[0]]
    kind = Path if Path in inner else inner[0] if inner else kind
    if kind is bool:
        return not value
    if kind in (int, float):
        return kind((value or 0) * 2 + 2) if kind is int else (value or 0.5) / 2
    return kind(Path("elsewhere")) if kind is Path else "elsewhere"


def words(name, value):
    """The option as it is typed."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", *(str(each) for each in (value if isinstance(value, tuple) else [value]))]


def base(command):
    return {"cifar_search": ["--preset=quickstart"], "imagenet_search": ["--preset=smoke"]}[command]


@pytest.fixture(scope="module")
def helps():
    """The help of each command, read once."""
    return {}


def help_of(command, helps, monkeypatch, capsys):
    if command not in helps:
        monkeypatch.setenv("COLUMNS", "120")  # one column of options
        with pytest.raises(SystemExit):
            parse(command, *base(command), "--help")
        helps[command] = "\n".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())
    return helps[command]


@pytest.mark.parametrize(("command", "setting"), FIELDS)
def test_every_setting_is_everywhere(command, setting, helps, tmp_path, monkeypatch, capsys):
    known, tree = COMMANDS[command]
    default = parse(command, *base(command))
    before = settings_tree.values(default)
    choices = known.choices().get(setting.name)
    value = another(setting.type, before[setting.name], choices)

    # On the command line, where it changes nothing but what it takes the place of.
    config = parse(command, *base(command), *words(setting.name, value))
    after = settings_tree.values(config)
    assert after[setting.name] == value
    if setting.name not in ("preset", "batch_size"):  # many others follow from these
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {setting.name, *BESIDES.get(setting.name, ())}

    # In config.json, from which it is read back.
    document = json.loads(json.dumps(settings_tree.to_json(config)))
    assert setting.name in document[setting.group]
    assert settings_tree.from_json(tree, document) == config

    # In the check on resume, or among what does not decide.
    def comparable(document):
        return settings_tree.comparable(tree, document)

    with open_workdir(tmp_path, "search", settings_tree.to_json(default), comparable):
        pass
    alone = {**settings_tree.to_json(default), setting.group: document[setting.group]}
    if setting.decides:
        assert setting.name in settings_tree.to_json(config, decisive=True)[setting.group]
        refused = pytest.raises(ValueError, match=rf"different in .*\b{setting.name} \(")
        with refused, open_workdir(tmp_path, "search", alone, comparable):
            pass
    elif setting.name != "preset":
        assert setting.name not in settings_tree.to_json(config, decisive=True).get(setting.group, {})
        with open_workdir(tmp_path, "search", alone, comparable):
            pass

    # In the help: the option, its value in the preset, and what it means.
    shown = help_of(command, helps, monkeypatch, capsys)
    entry = re.search(rf"^--{setting.name.replace('_', '-')}[ ,](.*?)(?=^--|\Z)", shown, re.DOTALL | re.MULTILINE)
    assert entry is not None
    text = " ".join(entry[1].split())
    default_value = before[setting.name]
    listed = " ".join(str(each) for each in default_value) if isinstance(default_value, tuple) else str(default_value)
    assert f"(default: {'none' if default_value in (None, ()) else listed})" in text
    assert len(text.split("(default")[0].split()) > 2  # beside the kind of value, some words
    for choice in choices or ():
        assert choice in text


def test_a_setting_stands_in_one_place():
    for _, tree in COMMANDS.values():
        declared = [field.name for kind in typing.get_type_hints(tree).values() for field in dataclasses.fields(kind)]
        assert sorted(declared) == sorted(settings_tree.settings(tree))


@pytest.mark.parametrize(("command", "preset"), PRESETS)
def test_a_preset_is_what_it_says_unless_an_option_is_given(command, preset):
    known = COMMANDS[command][0]
    of_preset = settings_tree.replace(known.configs[preset], preset=preset)
    assert parse(command, f"--preset={preset}") == of_preset == known(preset=preset)
    changed = parse(command, f"--preset={preset}", "--momentum=0.5", "--seed=3")
    assert (
        changed == settings_tree.replace(of_preset, momentum=0.5, seed=3) == known(preset=preset, momentum=0.5, seed=3)
    )


def test_a_preset_keeps_its_batching():
    assert parse("imagenet_search", "--preset=smoke").training.batching == "vmap"
    assert parse("imagenet_search", "--preset=smoke", "--batching=auto").training.batching == "auto"


def test_the_preset_follows_from_the_data_set():
    assert parse("cifar_search", "--dataset=digits").run.preset == "quickstart"
    assert parse("cifar_search", "--dataset", "digits").data.image_size == 8
    assert parse("cifar_search").run.preset in ("cpu", "full")
    assert parse("cifar_search", "--dataset=digits", "--preset=cpu").space.width == 0.5


def test_weights_are_shared_by_slices_where_the_space_has_them():
    assert parse("cifar_search", "--preset=cpu").space.sharing == "slices"
    assert parse("cifar_search", "--preset=cpu", "--space=mbconv_cifar10").space.sharing == "slices"
    assert parse("cifar_search", "--preset=cpu", "--space=nasbench201").space.sharing == "separate"
    assert parse("cifar_search", "--preset=cpu", "--sharing=separate").space.sharing == "separate"


def test_the_batch_size_is_that_of_both_splits_unless_both_are_given():
    assert parse("cifar_search", "--preset=quickstart").training.valid_batch_size == 120
    assert parse("cifar_search", "--preset=quickstart", "--batch-size=64").training.valid_batch_size == 64
    both = parse("cifar_search", "--preset=quickstart", "--batch-size=16", "--valid-batch-size=40").training
    assert (both.batch_size, both.valid_batch_size) == (16, 40)


def test_the_learning_rate_of_streams_grows_with_the_batch_size_unless_it_is_given():
    assert parse("imagenet_search", "--preset=smoke").training.learning_rate == 0.000125
    assert parse("imagenet_search", "--preset=smoke", "--batch-size=256").training.learning_rate == 0.001
    given = parse("imagenet_search", "--preset=smoke", "--batch-size=256", "--learning-rate=0.5").training
    assert given.learning_rate == 0.5
    assert parse("cifar_search", "--preset=quickstart", "--batch-size=32").training.learning_rate == 0.1


def test_budgets_take_the_place_of_penalties():
    config = parse("cifar_search", "--budgets", "30e6", "macs=6e7")
    assert config.method.penalties == ()
    assert config.method.budgets == ("macs=30000000.0", "macs=60000000.0")
    with pytest.raises(ValueError, match="either penalties or budgets"):
        parse("cifar_search", "--budgets", "30e6", "--penalties", "0.1")
    assert parse("cifar_search", "--penalties", "0.5", "0.1").method.penalties == (0.1, 0.5)


def test_a_folder_of_images_is_the_data_set():
    assert parse("imagenet_search", "--folder=own").data.dataset == presets.FOLDER
    with pytest.raises(ValueError, match="either a folder"):
        parse("imagenet_search", "--folder=own", "--dataset=imagenet2012")


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("preset", presets.MEMORY.configs),
        ("dataset", ("cifar10", "digits")),
        ("space", ("nasbench_macro", "tiny")),
        ("method", METHODS),
        ("cost", ("macs", "params", "latency")),
        ("batching", ("auto", "vmap", "map")),
        ("precision", ("float32", "bfloat16")),
    ],
)
def test_a_wrong_choice_is_one_line_that_names_the_choices(option, choices, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda config: None, cifar_search.Config, [f"--{option}=neither"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in (option, "neither", *choices)), message


def test_an_unknown_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda config: None, cifar_search.Config, ["--preset=cpu", "--temperature=3"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "temperature" in message


def test_the_presets_search_with_the_shared_model():
    assert DEFAULT_METHOD == "shared_model"
    searches = [*presets.MEMORY.configs.values(), presets.STREAMED.configs["small"], presets.STREAMED.configs["full"]]
    assert all(preset.method.method == DEFAULT_METHOD for preset in searches)


def document(**changes):
    """config.json of quickstart, with some groups changed."""
    written = json.loads(json.dumps(settings_tree.to_json(presets.MEMORY(preset="quickstart"))))
    for group, values in changes.items():
        written[group] |= values
    return written


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": {"penalties": "many"}}, "penalties must be of type"),
        ({"method": {"penalties": ["many"]}}, "penalties must be of type float"),
        ({"training": {"batch_size": 1.5}}, "batch_size must be of type int, got 1.5"),
        ({"training": {"batch_size": True}}, "batch_size must be of type int, got True"),
        ({"training": {"batching": "both"}}, "batching must be one of auto, vmap, map"),
        ({"training": {"batch_size": 0}}, "batch_size must be at least 1"),
        ({"run": {"temperature": 1}}, "not known here: temperature"),
        ({"run": {"batch_size": 1}}, "not known here: batch_size"),
    ],
)
def test_a_bad_configuration_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        settings_tree.from_json(SearchConfig, document(**changes))


def test_a_configuration_that_lacks_a_value():
    written = document()
    del written["method"]["penalties"], written["data"]["dataset"]
    with pytest.raises(ValueError, match="lacks dataset, penalties"):
        settings_tree.from_json(SearchConfig, written)


def test_a_configuration_from_before_a_setting():
    written = document()
    del written["training"]["accumulate"], written["run"]["tensorboard"]
    assert settings_tree.from_json(SearchConfig, written) == presets.MEMORY(preset="quickstart")


@pytest.mark.parametrize(
    "written", [{}, {"method": "importance_plain", "seed": 0, "weight_steps": 3}, {"training": {}}, [1], {"run": 3}]
)
def test_what_is_no_configuration_is_refused(written):
    with pytest.raises(ValueError, match="configuration"):
        settings_tree.from_json(SearchConfig, written)


def test_a_folder_of_an_earlier_version_is_named_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"method": "importance_plain", "space": "tiny", "seed": 0}))
    refused = pytest.raises(ValueError, match="config.json cannot be compared.*of an earlier version.*another folder")
    compare = functools.partial(settings_tree.comparable, SearchConfig)
    with refused, open_workdir(tmp_path, "search", document(), compare):
        pass


def test_contents_of_files_are_compared_too():
    first, second = (settings_tree.comparable(SearchConfig, {**document(), "inputs": {"data": name}}) for name in "ab")
    assert {name for name in first if first[name] != second[name]} == {"data"}


def test_names_are_unique():
    @dataclasses.dataclass(frozen=True)
    class Twice:
        data: DataSettings
        again: DataSettings

    with pytest.raises(ValueError, match="two settings called 'dataset'"):
        settings_tree.settings(Twice)


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match="no setting called temperature; choose from preset"):
        presets.MEMORY(preset="cpu", temperature=3)


RESULT = {
    "method": DEFAULT_METHOD, "space": "mbconv_digits", "dataset": "digits", "seed": 0, "config": {}, "versions": {},
    "evaluations": 1, "wall_seconds": 1.0, "architectures": [],
}  # fmt: skip


@pytest.fixture
def result(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    return f"--result={path}"


def test_retraining_starts_from_the_recipe_of_the_data_set(result):
    assert cli.parse(retrain.Config, [result]).training == recipes.RECIPES["digits"]
    changed = cli.parse(retrain.Config, [result, "--epochs=3", "--momentum=0.5", "--seed=2"])
    assert changed.training == dataclasses.replace(recipes.RECIPES["digits"], epochs=3, momentum=0.5)
    assert (changed.seed, changed.index) == (2, "all")


def test_cropping_in_retraining_follows_the_image_size_unless_it_is_given(result):
    training = cli.parse(retrain.Config, [result, "--image-size=16"]).training
    assert (training.crop_padding, training.cutout) == (2, 8)
    training = cli.parse(retrain.Config, [result, "--image-size=16", "--crop-padding=3"]).training
    assert (training.crop_padding, training.cutout) == (3, 8)


def test_every_setting_of_retraining_is_an_option(result, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        cli.parse(retrain.Config, [result, "--help"])
    shown = capsys.readouterr().out
    for name in settings_tree.settings(retrain.Config):
        assert f"--{name.replace('_', '-')} " in shown or f"--{name.replace('_', '-')}," in shown
    assert "--augmentation {standard,cutout,randaugment}" in shown
    assert re.search(r"--epochs INT .*\(default: 60\)", shown)


def test_a_result_without_a_recipe_or_that_is_none(tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**RESULT, "dataset": "flowers"}))
    for argument, said in ((path, "dataset 'flowers' has no recipe"), (tmp_path / "absent.json", "no search result")):
        with pytest.raises(SystemExit) as stopped:
            cli.run(retrain.main, retrain.Config, [f"--result={argument}"])
        assert stopped.value.code == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert said in message
