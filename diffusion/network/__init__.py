"""Networks: (x, c_noise, cond) -> tensor. They know neither schedule nor target."""

from diffusion.network.attention import CrossAttention, SelfAttention
from diffusion.network.base import Network
from diffusion.network.blocks import AttentionBlock, Context, CrossAttentionBlock, Downsample, ResBlock, Stage, Upsample
from diffusion.network.classifier import AttentionPool, Classifier
from diffusion.network.dit import DiT, DiTBlock
from diffusion.network.edm2_unet import EDM2Block, EDM2UNet
from diffusion.network.embedding import Embedding, NumberEmbedding
from diffusion.network.fir import Fir
from diffusion.network.magnitude import MagnitudeConv, MagnitudeFourier
from diffusion.network.mlp import MLP, MLPBlock
from diffusion.network.mmdit import MMDiT, MMDiTBlock, Stream
from diffusion.network.prior import PriorBlock, PriorTransformer
from diffusion.network.song_blocks import ResidualInput, SongAttentionBlock, SongEmbedding, SongResBlock
from diffusion.network.song_unet import SongUNet
from diffusion.network.transformer import SpatialTransformer, TransformerBlock
from diffusion.network.unet import UNet

__all__ = [
    "MLP",
    "AttentionBlock",
    "AttentionPool",
    "Classifier",
    "Context",
    "CrossAttention",
    "CrossAttentionBlock",
    "DiT",
    "DiTBlock",
    "Downsample",
    "EDM2Block",
    "EDM2UNet",
    "Embedding",
    "Fir",
    "MLPBlock",
    "MMDiT",
    "MMDiTBlock",
    "MagnitudeConv",
    "MagnitudeFourier",
    "Network",
    "NumberEmbedding",
    "PriorBlock",
    "PriorTransformer",
    "ResBlock",
    "ResidualInput",
    "SelfAttention",
    "SongAttentionBlock",
    "SongEmbedding",
    "SongResBlock",
    "SongUNet",
    "SpatialTransformer",
    "Stage",
    "Stream",
    "TransformerBlock",
    "UNet",
    "Upsample",
]
