"""Pretrained encoders: images and text → sequences of tokens.

`image_encoder` and `text_encoder` take a name: one whose weights come with Python packages ("efficientnet-lite0",
"efficientnet-lite2", or both side by side, "efficientnet-lite0+2"; "minilm", "mpnet"), or any Hugging Face model of
that kind, by its name on the hub or its folder (ResNet, ViT, CLIP; BERT, RoBERTa, DeBERTa). Each has `encode(items,
cache=folder)`, which returns `Tokens`: the encoder is frozen, its tokens are computed once and kept on disk. `Encoder`
is one that learns inside a model.
"""

from .cache import Tokens
from .encoder import Encoder, EncoderConfig
from .images import depth_colours, depth_image, image_encoder
from .text import INSTALL, MiniLM, text_encoder, token_ids
