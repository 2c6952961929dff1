"""Text encoders: texts -> one vector a token, which of them count, and one vector a text."""

from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.text_encoder.clip import CLIPTextEncoder
from diffusion.text_encoder.pretrained import PretrainedTextEncoder
from diffusion.text_encoder.sd3 import SD3TextEncoder
from diffusion.text_encoder.sdxl import SDXLTextEncoder
from diffusion.text_encoder.sentence import SentenceTextEncoder
from diffusion.text_encoder.t5 import T5TextEncoder
from diffusion.text_encoder.words import WordsTextEncoder

__all__ = [
    "CLIPTextEncoder",
    "Encoded",
    "PretrainedTextEncoder",
    "SD3TextEncoder",
    "SDXLTextEncoder",
    "SentenceTextEncoder",
    "T5TextEncoder",
    "TextEncoder",
    "WordsTextEncoder",
]
