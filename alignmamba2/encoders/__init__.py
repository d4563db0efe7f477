"""Pretrained encoders: images and text → sequences of tokens.

`image_encoder` and `text_encoder` give one by its name. It has `encode(items, cache=folder)`, which returns `Tokens`:
the encoder is frozen, its tokens are computed once and kept on disk. `Encoder` is one that learns inside a model.
"""

from .cache import Tokens
from .encoder import Encoder, EncoderConfig
from .images import ImageEncoder as image_encoder
from .images import depth_colours, depth_image
from .text import INSTALL, MiniLM, text_encoder, token_ids
