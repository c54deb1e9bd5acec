"""The peer of `ayni-worker bench train`: the same model, weights, data order and hyperparameters in
PyTorch, written as its users write it: scaled_dot_product_attention, fused AdamW, CPU autocast for
bfloat16. Prints one JSON object: the loss of every step and tokens per second after the warm-up."""

import argparse
import json
import math
import struct
import time

import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    """A pre-norm block."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = torch.nn.LayerNorm(width)
        self.norm2 = torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(torch.nn.Module):
    """The byte-level GPT."""

    def __init__(self, layers, width, heads, context):
        super().__init__()
        self.token = torch.nn.Embedding(256, width)
        self.position = torch.nn.Embedding(context, width)
        self.blocks = torch.nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, 256, bias=False)

    def forward(self, tokens):
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def names(self):
        """Names of the tensors in a checkpoint, and the parameters that they are."""
        yield "embed.token", self.token.weight
        yield "embed.position", self.position.weight
        yield "final_norm.weight", self.norm.weight
        yield "final_norm.bias", self.norm.bias
        yield "head.weight", self.head.weight
        for i, block in enumerate(self.blocks):
            parts = {
                "attention.qkv": block.qkv,
                "attention.out": block.out,
                "mlp.up": block.up,
                "mlp.down": block.down,
                "norm1": block.norm1,
                "norm2": block.norm2,
            }
            for name, part in parts.items():
                yield f"blocks.{i:02}.{name}.weight", part.weight
                yield f"blocks.{i:02}.{name}.bias", part.bias


def load(model, path):
    """Reads a safetensors checkpoint: a header of JSON, then the values."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    names = dict(model.names())
    assert header.keys() == names.keys(), "the checkpoint is of another model"
    for name, parameter in names.items():
        start, end = (8 + length + at for at in header[name]["data_offsets"])
        values = torch.frombuffer(bytearray(content[start:end]), dtype=torch.float32)
        parameter.data.copy_(values.view(header[name]["shape"]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=["f32", "bf16"], required=True)
    options = parser.parse_args()
    with open(options.config) as file:
        config = json.load(file)
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)

    context, batch, steps = config["context"], config["batch"], config["steps"]
    model = Gpt(config["layers"], config["width"], config["heads"], context)
    load(model, config["checkpoint"])
    with open(config["windows"], "rb") as file:
        windows = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    windows = windows.view(steps, batch, context + 1).long()

    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)
    warmup = max(steps // 10, 1)
    losses = []
    started = time.perf_counter()
    for step in range(steps):
        if step == config["warmup"]:
            started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config["learning_rate"] * min(step + 1, warmup) / warmup
        tokens, targets = windows[step][:, :-1], windows[step][:, 1:]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(tokens)
            loss = F.cross_entropy(logits.float().view(-1, 256), targets.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        losses.append(loss.item())
        assert math.isfinite(losses[-1])
    elapsed = time.perf_counter() - started
    speed = (steps - config["warmup"]) * batch * context / elapsed
    print(json.dumps({"losses": losses, "tokens_per_second": speed, "torch": torch.__version__}))


main()
