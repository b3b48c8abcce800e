"""The networks of the chapters. Any other module does as well.

Each function makes an `nn.Sequential` from a seed of its own, so that two runs start alike, and
leaves the global random state as it was. With `ways=` (or `outputs=`) its last module is a linear
head; with None there is none, and what is left is the body, with the same weights.
"""

from metanotes.nets.attention import Attention
from metanotes.nets.convolutional import conv4, conv_decoder, conv_encoder
from metanotes.nets.cosine import CosineHead
from metanotes.nets.features import feature_count
from metanotes.nets.fully_connected import dense4, mlp
from metanotes.nets.masked_word_model import MaskedWordModel
from metanotes.nets.positions import sinusoids
from metanotes.nets.recurrent import lstm
from metanotes.nets.residual import ResidualBlock, resnet
from metanotes.nets.split_attention import SplitAttention, resnest
from metanotes.nets.token_transformer import TokenBody, token_transformer
from metanotes.nets.transformer import Mean, TransformerBody, transformer
from metanotes.nets.translator import Translator
from metanotes.nets.universal_embedding import UniversalEmbedding
from metanotes.nets.vision_transformer import vit

__all__ = [
    "Attention",
    "CosineHead",
    "MaskedWordModel",
    "Mean",
    "ResidualBlock",
    "SplitAttention",
    "TokenBody",
    "TransformerBody",
    "Translator",
    "UniversalEmbedding",
    "conv4",
    "conv_decoder",
    "conv_encoder",
    "dense4",
    "feature_count",
    "lstm",
    "mlp",
    "resnest",
    "resnet",
    "sinusoids",
    "token_transformer",
    "transformer",
    "vit",
]
