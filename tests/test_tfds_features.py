"""A data folder is not code: a Python class that it names is not imported unless it is one of TFDS's own features."""

import json
import shutil
import sys

import pytest

from experiments import make_images
from jaxnas.data import tfds_features
from jaxnas.data.datasets import DatasetNotFoundError, open_tfds

OWN = "tensorflow_datasets.core.features."
IMAGE = {"pythonClassName": f"{OWN}image_feature.Image", "image": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    make_images.main(make_images.Config(out=out, classes=2, images=4, smallest=8, largest=8))
    return out


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported."""
    (tmp_path / "payload_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Feature: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("payload_module", None)


@pytest.mark.parametrize(
    "evil",
    [
        {"pythonClassName": "payload_module.Feature"},
        {"python_class_name": "payload_module.Feature"},
        {"type": "payload_module.Feature", "content": {}},
        {"pythonClassName": f"{OWN}sequence_feature.Sequence", "sequence": {"feature": {"pythonClassName": "os.path"}}},
        {"type": f"{OWN}features_dict.FeaturesDict", "content": json.dumps({"python_class_name": "payload_module.X"})},
        {"pythonClassName": f"{OWN}text_feature.Text\npayload_module.Feature"},
    ],
)
def test_a_payload_is_refused_before_anything_is_built(made, payload, tmp_path, evil):
    folder = tmp_path / "data" / "imagenet2012" / "5.1.0"
    shutil.copytree(next((made / "imagenet2012").iterdir()), folder)
    document = json.loads((folder / "features.json").read_text())
    document["featuresDict"]["features"]["more"] = evil
    (folder / "features.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"features.json .*; prepare the data set yourself") as raised:
        open_tfds("imagenet2012", tmp_path / "data", ("train",))
    assert "\n" not in str(raised.value)
    assert not payload.exists()


@pytest.mark.parametrize("damage", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"a": 1e999}', b"\xff"])
def test_damaged_descriptions_are_one_error(made, tmp_path, damage, content):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob(f"imagenet2012/*/{damage}")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|is stored as|has no split") as raised:
        open_tfds("imagenet2012", tmp_path, ("train",))
    assert "\n" not in str(raised.value) or isinstance(raised.value, DatasetNotFoundError)


def test_all_of_tfds_own_classes_can_be_named(made, tmp_path):
    tfds_features.check(next((made / "imagenet2012").iterdir()))
    inner = {"pythonClassName": f"{OWN}sequence_feature.Sequence", "sequence": {"feature": IMAGE}}
    legacy = {"type": f"{OWN}features_dict.FeaturesDict", "content": {"type": {**IMAGE}, "x": inner}}
    (tmp_path / "features.json").write_text(json.dumps(legacy))
    tfds_features.check(tmp_path)
