"""The networks of the chapters. Any other module does as well."""

from metanotes.nets.networks import conv4, conv_decoder, conv_encoder, dense4, mlp

__all__ = ["conv4", "conv_decoder", "conv_encoder", "dense4", "mlp"]
