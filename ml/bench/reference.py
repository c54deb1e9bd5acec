"""The other side of `ayni-worker lab transformers`, `bench generate` and of the golden logits.

    reference.py formula                     golden logits of ml/tests/it/models.rs
    reference.py make FOLDER KIND SIZE       a checkpoint with random weights, its tokenizer, logits
    reference.py logits FOLDER               logits of the model in FOLDER for FOLDER/tokens.json
    reference.py generate FOLDER THREADS TOKENS
                                             reads a line, generates, prints the seconds; again

Each prints one JSON object per answer. KIND: llama, llama-tied, gpt2, gpt2-untied.
SIZE: tiny (for equality) or small (for speed).
"""

import json
import pathlib
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

transformers.logging.set_verbosity_error()
torch.manual_seed(1)


def config(kind, size, vocabulary):
    tied = kind in ("llama-tied", "gpt2")
    tiny = size == "tiny"
    if kind.startswith("llama"):
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64 if tiny else 512,
            intermediate_size=176 if tiny else 1408,
            num_hidden_layers=2 if tiny else 8,
            num_attention_heads=4 if tiny else 8,
            num_key_value_heads=2 if tiny else 4,
            max_position_embeddings=64 if tiny else 512,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=64 if tiny else 512,
        n_layer=2 if tiny else 8,
        n_head=4 if tiny else 8,
        n_positions=64 if tiny else 512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )


def number(name, index):
    """Value `index` of a tensor: whole numbers over 512, so that no rounding differs."""
    seed = sum((position + 1) * ord(letter) for position, letter in enumerate(name)) % 1009
    return ((index * 37 + index // 127 * 11 + seed) % 127 - 63) / 512


def fill(model):
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            values = torch.tensor([number(name, index) for index in range(tensor.numel())])
            norm = tensor.dim() == 1 and name.endswith("weight")
            tensor.copy_(values.view(tensor.shape) + (1 if norm else 0))


def formula():
    result = {}
    for kind in ("llama", "llama-tied", "gpt2", "gpt2-untied"):
        settings = config(kind, "tiny", 300)
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
        fill(model)
        tokens = torch.tensor([[(7 * index + 3) % 300 for index in range(12)]])
        with torch.no_grad():
            result[kind] = model(tokens).logits[0, -1, :8].tolist()
    return result


def tokenizer(folder, vocabulary):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = (folder / "text").read_text()
    made.train_from_iterator([text], trainer)
    made.save(str(folder / "tokenizer.json"))
    return made


def make(folder, kind, size):
    folder = pathlib.Path(folder)
    vocabulary = 400 if size == "tiny" else 8192
    encoder = tokenizer(folder, 400)
    model = AutoModelForCausalLM.from_config(config(kind, size, vocabulary), dtype=torch.float32)
    # Larger than the usual beginning, so that a wrong detail shows in the logits.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    shard = "150KB" if size == "tiny" else "50MB"
    model.save_pretrained(folder, max_shard_size=shard)
    text = (folder / "text").read_text()
    tokens = encoder.encode(text).ids[:96]
    rows = [tokens[:48], tokens[48:96]]
    (folder / "tokens.json").write_text(json.dumps(rows))
    probe = "Rivers carry stones; naïve ¿qué? 12 345\n\n  end"
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "files": sorted(path.name for path in folder.glob("*.safetensors")),
        "probe": probe,
        "probe_tokens": encoder.encode(probe).ids,
        **logits(folder),
    }


def logits(folder):
    folder = pathlib.Path(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = torch.tensor(json.loads((folder / "tokens.json").read_text()))
    with torch.no_grad():
        values = model(rows).logits
        loss = torch.nn.functional.cross_entropy(
            values[:, :-1].flatten(0, 1), rows[:, 1:].flatten()
        )
    return {"logits": values.flatten().tolist(), "loss": loss.item()}


def generate(folder, threads, count):
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = torch.tensor([json.loads((pathlib.Path(folder) / "tokens.json").read_text())[0]])
    settings = dict(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0
    )
    for _ in sys.stdin:
        with torch.no_grad():
            started = time.perf_counter()
            answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
            seconds = time.perf_counter() - started
        tokens = answer[0, prompt.shape[1] :].tolist()
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


def main():
    command, *rest = sys.argv[1:]
    if command == "formula":
        print(json.dumps(formula()))
    elif command == "make":
        print(json.dumps(make(*rest)))
    elif command == "logits":
        print(json.dumps(logits(*rest)))
    elif command == "generate":
        generate(rest[0], int(rest[1]), int(rest[2]))
    else:
        sys.exit(f"unknown command {command}")


main()
