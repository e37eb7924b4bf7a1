"""What cached decoding saves against recomputing every earlier token; training beside PyTorch.

    python benchmarks/translation.py [--num_layers 6] [--width 512] [--num_sentences 8]
    python benchmarks/translation.py training [--num_layers 6] [--width 512] [--data multi30k]

Decoding: a Transformer with random weights, made never to end early, so that both ways take the
same steps: greedy search by `translation.decoding.search` to outputs of 60 tokens, of sources of
60. One way decodes a token a step by the cache; the other decodes all tokens so far, of which there
are 60 places. The source is encoded once either way. Outputs are compared.

Training: the engine's own step of task `translation`, as a study runs it, beside PyTorch's
`nn.Transformer` of the same size (norms first, fused Adam, dropout also on attention weights and
inside the feed-forward layers, where ours has none) on the same batches, with as many threads. The
text is that of files train.de, train.en, val.de, ..., test_2016_flickr.en in the folder `--data`;
without one, random ids of lengths such as theirs. A round trains `--num_steps` steps of every
bucket. Tokens are those that the budget counts, a batch's pairs times the longer padded side; the
last line is of a whole epoch, by the buckets' numbers of steps. PyTorch is to be installed beside
this package (`pip install torch`).

What is compared takes turns in one process. Prints medians, and the median of the ratios of
neighbouring runs with their quartiles.
"""

import argparse
import functools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import translation as translation_config
from earlyprune_jax import config, data, tasks
from earlyprune_jax.data.vocabulary import BEGIN, END, PAD, train
from earlyprune_jax.grid import options
from earlyprune_jax.models import forward
from earlyprune_jax.models.transformer import Transformer, sinusoids
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import state
from earlyprune_jax.translation import buckets, decoding
from earlyprune_jax.xla_flags import avoid_miscompilation

LENGTH = 60
RATE = 1e-4


def never_ending(module: Transformer, source) -> dict:
    """Makes random parameters under which END is never the likeliest token."""
    init = jax.jit(functools.partial(forward.init, module))
    params = init(jax.random.key(0), {"source": source, "target": source})["params"]
    bias = params["output"]["bias"].at[END].set(-1e9)
    return {"params": {**params, "output": {**params["output"], "bias": bias}}}


def recomputed(module: Transformer, variables, source):
    """Searches as `decoding.translate` does, each step from all tokens so far."""
    apply = functools.partial(module.apply, variables)
    encoded = apply(source, method="encode")

    def step(ids, position, earlier):
        earlier = jax.lax.dynamic_update_index_in_dim(earlier, ids, position, axis=1)
        logits = apply(earlier, encoded, method="decode")
        latest = jax.lax.dynamic_index_in_dim(logits, position, axis=1, keepdims=False)
        return jax.nn.log_softmax(latest), earlier

    limits = jnp.full(len(source), LENGTH)
    return decoding.search(step, jnp.zeros_like(source), limits, length=LENGTH)


def race(ways: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, list[float]]:
    """Runs ways in turns: name -> the seconds of every round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds):
        # In turns first and second: what runs second meets warm caches.
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(above: list[float], below: list[float]) -> str:
    """Says the median of the ratios of neighbouring runs, and their quartiles."""
    pairs = zip(above, below, strict=True)
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})"


def circumstances(arguments: argparse.Namespace) -> str:
    """Says what was run where."""
    layers, cores = arguments.num_layers, len(os.sched_getaffinity(0))
    return (
        f"{layers} + {layers} layers of {arguments.width}, n = {arguments.num_rounds}; "
        f"{platform.processor() or platform.machine()}, {cores} cores, "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, load {os.getloadavg()[0]:.1f}"
    )


def compare_decoding(arguments: argparse.Namespace, sizes: dict[str, Any]) -> None:
    module = Transformer(arguments.vocabulary_size, arguments.vocabulary_size, **sizes)
    shape = arguments.num_sentences, LENGTH
    source = jax.random.randint(jax.random.key(1), shape, END + 1, arguments.vocabulary_size)
    variables = never_ending(module, source)
    ways = {
        "cached": jax.jit(functools.partial(decoding.translate, module, extra_length=0)),
        "recomputed": jax.jit(functools.partial(recomputed, module)),
    }
    outputs = {name: np.asarray(way(variables, source)[0]) for name, way in ways.items()}
    assert np.all(outputs["cached"][:, :-1] > END)

    def run(way):
        return lambda: jax.block_until_ready(way(variables, source))

    seconds = race({name: run(way) for name, way in ways.items()}, arguments.num_rounds)
    same = np.mean(outputs["cached"] == outputs["recomputed"])
    print(f"{arguments.num_sentences} sentences of {LENGTH} tokens, {circumstances(arguments)}")
    print("| greedy decoding | s | tokens/s |")
    print("| --- | --- | --- |")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {arguments.num_sentences * LENGTH / middle:.0f} |")
    print(f"recomputed / cached: {ratios(seconds['recomputed'], seconds['cached'])}")
    print(f"tokens that are the same: {100 * same:.1f} %")


def engine_of(arguments: argparse.Namespace, sizes: dict[str, Any]) -> engines.Engine:
    """Makes the engine of a study of translation."""
    name = f"text({arguments.data!r}, test='test_2016_flickr', vocabulary_size={{}})"
    changes = {
        "data.name": name.format(arguments.vocabulary_size) if arguments.data else "numerals",
        "train.batch_size": str(arguments.num_tokens),
    }
    made = translation_config.get_config("multi30k_small")
    spec = config.resolve(made, list(changes.items()))
    splits, assets = text_of(spec) if arguments.data else random_text(arguments.vocabulary_size)

    def model(source_size, target_size, dtype):
        del source_size, target_size  # of random ids there is no text
        vocabularies = (arguments.vocabulary_size,) * 2
        return Transformer(*vocabularies, **sizes, dropout=arguments.dropout, dtype=dtype)

    task = tasks.TASKS["translation"](
        splits, model, batch_size=arguments.num_tokens, precision="float32", assets=assets
    )
    return engines.Engine(spec, task)


def text_of(spec):
    """Reads the splits of files, and their vocabularies."""
    source = data.read(spec.data)
    return data.split(source, spec.data), source.assets


def random_text(vocabulary_size: int, num_pairs: int = 20_000):
    """Draws ids in place of text, about as long as Multi30k's captions: 5 to 60 tokens a side."""
    rng = np.random.default_rng(0)
    means = 15 * np.exp(0.3 * rng.standard_normal(num_pairs))
    rows: dict[str, np.ndarray] = {"line": np.arange(num_pairs, dtype=np.int32)}
    for side in ("source", "target"):
        lengths = np.clip(means + 2 * rng.standard_normal(num_pairs), 5, 60).astype(int)
        ids = rng.integers(END + 1, vocabulary_size, (num_pairs, 60), np.int32)
        places = np.arange(60)[None] - lengths[:, None]
        rows[side] = np.where(places < -1, ids, np.where(places == -1, END, PAD))
    few = {name: values[:10] for name, values in rows.items()}
    model = train(["a b c"] * 10, 10)
    return {"train": rows, "validation": few, "test": few}, dict.fromkeys(
        ("source.model", "target.model"), model
    )


def torch_trainer(arguments: argparse.Namespace, sizes: dict[str, Any]):
    """Makes a function (source [B, S], target [B, T]) that trains PyTorch's network one step."""
    # Threads that wait for one another sleep: on a machine that does other work, too, PyTorch
    # takes 20 times as long where they spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    width, vocabulary = sizes["width"], arguments.vocabulary_size
    parts = torch.nn.ModuleDict(
        {
            "source": torch.nn.Embedding(vocabulary, width),
            "target": torch.nn.Embedding(vocabulary, width),
            "layers": torch.nn.Transformer(
                width,
                sizes["num_heads"],
                sizes["num_layers"],
                sizes["num_layers"],
                sizes["feed_forward_width"],
                arguments.dropout,
                batch_first=True,
                norm_first=True,
            ),
            "output": torch.nn.Linear(width, vocabulary),
        }
    )
    places = torch.from_numpy(np.array(sinusoids(jnp.arange(200), width)))
    adam = torch.optim.Adam(parts.parameters(), RATE, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def embedded(side, ids):
        x = math.sqrt(width) * parts[side](ids) + places[: ids.shape[1]]
        return torch.nn.functional.dropout(x, arguments.dropout)

    def step(source, target):
        source, target = torch.from_numpy(source).long(), torch.from_numpy(target).long()
        shifted = torch.nn.functional.pad(target[:, :-1], (1, 0), value=BEGIN)
        length, padding = target.shape[1], source == PAD
        outputs = parts["layers"](
            embedded("source", source),
            embedded("target", shifted),
            tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        loss = torch.nn.functional.cross_entropy(
            parts["output"](outputs).flatten(0, 1),
            target.flatten(),
            ignore_index=PAD,
            label_smoothing=0.1,
        )
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step, f"torch {torch.__version__}"


def rows_of_every_bucket(engine: engines.Engine) -> dict[str, np.ndarray]:
    """Takes an epoch's batches apart by bucket: kind -> rows [steps, B]."""
    found: dict[str, list[np.ndarray]] = {}
    for batches in engine.epoch_batches(jax.random.PRNGKey(0), 0, engine.steps_per_epoch):
        found.setdefault(batches.kind, []).append(batches.indices)
    return {kind: np.concatenate(found[kind]) for kind in engine.task.batching.kinds}


def engine_trainer(engine: engines.Engine) -> Callable[[str, np.ndarray], None]:
    """Makes a function (bucket, rows [steps, B]) that trains our network, as an epoch does."""
    sums = state.zero_train_sums(engine.task.sum_names)
    carry = engine.place((engine.new_state(0), sums))

    def run(kind, rows):
        nonlocal carry
        inputs = ((rows, None), np.full(len(rows), RATE, np.float32))
        carry = engine.runners["train_step", kind](carry, inputs, engine.splits["train"])
        jax.block_until_ready(carry)

    return run


def compare_training(arguments: argparse.Namespace, sizes: dict[str, Any]) -> None:
    options.keep_freed_memory()
    engine = engine_of(arguments, sizes)
    train_ours = engine_trainer(engine)
    train_in_torch, versions = torch_trainer(arguments, sizes)
    num_steps, num_tokens, epoch = arguments.num_steps, 0, {"ours": 0.0, "PyTorch": 0.0}
    print(f"{circumstances(arguments)}, {versions}; vocabularies of {arguments.vocabulary_size}")
    print("| bucket | pairs | steps an epoch | ours, ms | PyTorch, ms | PyTorch / ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, rows in rows_of_every_bucket(engine).items():
        split, taken = engine.task.splits["train"][kind], np.resize(rows, (num_steps, len(rows[0])))
        batches = [(split["source"][own], split["target"][own]) for own in taken]

        def ours(kind=kind, taken=taken):
            train_ours(kind, taken)

        def in_torch(batches=batches):
            for batch in batches:
                train_in_torch(*batch)

        for way in (ours, in_torch):
            way()  # compiles
        seconds = race({"ours": ours, "PyTorch": in_torch}, arguments.num_rounds)
        middle = {name: statistics.median(values) / num_steps for name, values in seconds.items()}
        epoch = {name: epoch[name] + len(rows) * middle[name] for name in epoch}
        num_tokens += rows.size * max(split[side].shape[1] for side in ("source", "target"))
        print(
            f"| {kind} | {rows.shape[1]} | {len(rows)} | {1e3 * middle['ours']:.0f} | "
            f"{1e3 * middle['PyTorch']:.0f} | {ratios(seconds['PyTorch'], seconds['ours'])} |",
            flush=True,
        )
    speeds = {name: num_tokens / seconds for name, seconds in epoch.items()}
    print(
        f"an epoch of {num_tokens:,} tokens: ours {speeds['ours']:.0f} tokens/s, PyTorch "
        f"{speeds['PyTorch']:.0f}, ours / PyTorch {speeds['ours'] / speeds['PyTorch']:.2f}; "
        f"load {os.getloadavg()[0]:.1f} at the end"
    )
    print(padding(engine))


def padding(engine: engines.Engine) -> str:
    """Says what part of an epoch's tokens is padding."""
    parts = engine.task.splits["train"]
    lengths = np.concatenate(
        [
            np.stack([(rows[side] != PAD).sum(axis=1) for side in ("source", "target")], axis=1)
            for rows in parts.values()
        ]
    )
    shapes = [
        buckets.Bucket(rows["source"].shape[1], rows["target"].shape[1], 0)
        for rows in parts.values()
    ]
    of_budget, of_both = buckets.waste(lengths, shapes)
    return (
        f"padding: {100 * of_budget:.1f} % of the tokens that the budget counts, "
        f"{100 * of_both:.1f} % of source and target together"
    )


def main() -> None:
    avoid_miscompilation()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=PARTS, default="decoding")
    parser.add_argument("--num_layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--num_heads", type=int, default=8)
    parser.add_argument("--vocabulary_size", type=int, default=8000)
    parser.add_argument("--num_rounds", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=0, help="0 = one for every core")
    parser.add_argument("--num_sentences", type=int, default=8, help="of decoding")
    parser.add_argument("--data", default="", help="of training: folder of Multi30k's files")
    parser.add_argument("--num_tokens", type=int, default=1500, help="of training: of a batch")
    parser.add_argument("--num_steps", type=int, default=3, help="of training: of a round")
    parser.add_argument("--dropout", type=float, default=0.1, help="of training")
    arguments = parser.parse_args()
    if arguments.num_threads:
        # Both libraries start as many threads as there are cores to run on.
        os.sched_setaffinity(0, options.usable_cores()[: arguments.num_threads])
    sizes = {name: getattr(arguments, name) for name in ("num_layers", "width", "num_heads")}
    PARTS[arguments.part](arguments, {**sizes, "feed_forward_width": 4 * arguments.width})


PARTS = {"decoding": compare_decoding, "training": compare_training}

if __name__ == "__main__":
    main()
