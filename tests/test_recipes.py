import pytest

from alignmamba2 import AlignMamba2Config
from alignmamba2.datasets import names as datasets
from alignmamba2.recipes import Recipe, RecipeError, names


@pytest.mark.parametrize("name", names())
def test_every_recipe_reads_and_marks_every_value(name):
    recipe = Recipe.load(name)
    assert recipe.dataset in datasets()
    encoders = {m: {"name": "a name that the data set gives", **s} for m, s in recipe.model.get("encoders", {}).items()}
    modalities = dict.fromkeys(("text", "audio", "video", "image", "depth"), 1)
    AlignMamba2Config.from_dict({"modalities": modalities, **recipe.model, "encoders": encoders})
    from alignmamba2.recipes import FOLDER

    section = ""
    for line in (FOLDER / f"{name}.toml").read_text("utf-8").splitlines():
        section = line if line.startswith("[") else section
        if " = " in line and section in ("[model]", "[training]") and not line.startswith(("#", "swap")):
            assert "# [O]" in line or "# [T]" in line, f"{name}: no provenance: {line}"


def test_overrides_change_one_key():
    recipe = Recipe.load("mini-mosi", {"model.d_model": 7, "training.max_epochs": 3, "data.seed": 5})
    assert (recipe.model["d_model"], recipe.training.max_epochs, recipe.data["seed"]) == (7, 3, 5)
    assert recipe.training.batch_size == Recipe.load("mini-mosi").training.batch_size
    encoders = Recipe.load("mosi-standard", {"model.encoders.text.neighbours": 1}).model["encoders"]
    assert encoders == {"text": {"train": 6, "neighbours": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset = ", "r.toml"),
        ("[model]", 'expected dataset = "..."'),
        ('dataset = "mini-mosi"\n[modle]', r"unknown \['modle'\]"),
        ('dataset = "mini-mosi"\n[training]\nepochs = 3', r"\[training\] has unknown keys \['epochs'\]"),
        ('dataset = "mini-mosi"\n[training]\nbatch_size = 0', "training.batch_size: found 0"),
        ('dataset = "mini-mosi"\n[training]\nlearning_rate = "fast"', "training.learning_rate: found 'fast'"),
        ('dataset = "mini-mosi"\n[training]\nlearning_rate = nan', "training.learning_rate: found nan"),
        ('dataset = "mini-mosi"\n[training]\nmonitor = 5', "training.monitor: found 5"),
        ('dataset = "mini-mosi"\n[training]\naugment = 5', "training.augment: found 5"),
        ('dataset = "mini-mosi"\ntraining = 5', r"unknown \['training'\], or of another kind"),
        ("dataset = 5", r"unknown \['dataset'\], or of another kind"),
        (f"a = {'[' * 30_000}", "recursion"),
        (f"{'a.' * 30_000}a = 1", "64 dots in a line"),
        ("a = 1\n" * 20_000, "65536 characters"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, says):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        Recipe.load(path)


@pytest.mark.parametrize("key", ["d_model", "modle.d_model", "model.", "training.max_epochs.x"])
def test_a_wrong_override_is_named(key):
    with pytest.raises(RecipeError, match="override"):
        Recipe.load("mini-mosi", {key: 1})


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"'moi': not found; there are .*mini-mosi"):
        Recipe.load("moi")


def test_a_weight_given_as_lambda_takes_the_place_of_a_share(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('dataset = "mini-mosi"\n[model]\nshare_ot = 0.1\nshare_mmd = 0.2\n')
    assert Recipe.load(path, {"model.lambda_ot": 1.0}).model == {"lambda_ot": 1.0, "share_mmd": 0.2}
    both = {"model.lambda_ot": 1.0, "model.share_ot": 0.3}
    assert Recipe.load(path, both).model == {"lambda_ot": 1.0, "share_ot": 0.3, "share_mmd": 0.2}
