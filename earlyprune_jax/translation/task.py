"""Translation with a Transformer: token cross-entropy in training, translated text on the host.

An example is a pair of sentences, a prediction a token of the target. tr(F) is then the mean over
sentences of the squared gradient of log p(target | source), all its tokens together, which are
sampled one by one given the reference before them; KL_uniform and the similarity of networks are
means over tokens.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, PRNGKey, Variables
from earlyprune_jax.data.vocabulary import END, PAD, Vocabulary
from earlyprune_jax.metrics import Metric
from earlyprune_jax.models import forward
from earlyprune_jax.signals.signal import Network
from earlyprune_jax.tasks.batching import bucketed, padded_batches
from earlyprune_jax.tasks.task import HostMeasurement, Task
from earlyprune_jax.translation import buckets as shapes
from earlyprune_jax.translation import decoding, scores
from earlyprune_jax.validate import expected, refuse, unexpected, unknown_choice, within

LOSS = Metric("loss", "nats", larger_is_better=False)
PERPLEXITY = Metric("perplexity", larger_is_better=False)
METRICS = (LOSS, PERPLEXITY)
SIDES = ("source", "target")
RANGES = {
    "label_smoothing": within(0, 1, open_high=True),
    "beam": within(1, 1000),
    "length_penalty": within(0),
    "extra_length": within(0, 10_000),
}
"""Of the numbers that `translation` takes."""
WHOLE = ("beam", "extra_length")
"""Those that are counts."""
STEPS_TOGETHER = 20
"""Steps of one bucket that follow one another at most: few enough that lengths are mixed."""
DECODED_TOGETHER = 100
"""Sentences that are translated at once."""


def translation(
    splits: Mapping[str, Any],
    model: Callable[..., Any],
    *,
    batch_size: int,
    precision: str,
    assets: Mapping[str, bytes],
    label_smoothing: float = 0.1,
    beam: int = 5,
    length_penalty: float = 0.6,
    extra_length: int = 50,
    score_every: int = 1,
    primary: str = "bleu",
) -> Task:
    """Makes the task of translating sentences.

    Args:
        splits: name -> {"source": ids [N, S], "target": ids [N, T], "line": int32 [N]}; see
            `data.text`.
        model: (source_size, target_size, dtype) -> a Linen module such as
            `models.transformer.Transformer`.
        batch_size: tokens of a training batch: sentences times the longer padded side.
        precision: compute type of training and evaluation, `float32` or `bfloat16`.
        assets: the vocabularies, `source.model` and `target.model`, and the lines to compare with.
        label_smoothing: the part of the target that is spread evenly over all tokens.
        beam: hypotheses a sentence; 1 = greedy.
        length_penalty: of beam search, see `decoding.search`.
        extra_length: tokens that a translation may have more than its source.
        score_every: epochs between translations of validation and test; the last epoch of a run
            is always translated.
        primary: the metric that forks are compared by.

    Returns:
        The task. The loss is the smoothed cross-entropy, and the perplexity exp of that without
        smoothing, both over the tokens that are no padding, END included.

    Raises:
        InvalidInput: the splits hold no pairs of sentences, or an option is out of range.
    """
    search = {"beam": beam, "length_penalty": length_penalty, "extra_length": extra_length}
    refuse(_option_problems(primary, label_smoothing=label_smoothing, **search))
    train = splits["train"]
    if not isinstance(train, Mapping) or not {*SIDES, "line"} <= set(train):
        given = sorted(train) if isinstance(train, Mapping) else type(train).__name__
        remedy = "Take data.name=text(...), numerals(...) or wmt14(...)."
        raise unexpected("data of task translation", given, "to be pairs of sentences", remedy)
    vocabularies = {side: Vocabulary(assets[f"{side}.model"]) for side in SIDES}
    module, probe = (network(model, vocabularies, dtype) for dtype in (precision, "float32"))
    lengths = {name: _lengths(rows) for name, rows in splits.items()}
    longest = np.max([each.max(axis=0) for each in lengths.values()], axis=0)
    chosen = shapes.choose(lengths["train"], batch_size, longest=tuple(longest.tolist()))
    kinds = {f"{bucket.source}x{bucket.target}": bucket for bucket in chosen}
    parted = {name: _parted(rows, lengths[name], kinds) for name, rows in splits.items()}

    def train_sums(params, model_state, batch, key):
        logits, new_state = forward.train(module, params, model_state, _pair(batch), key)
        return _sums(logits, batch["target"], jnp.ones(len(logits)), label_smoothing), new_state

    def eval_sums(params, model_state, batch):
        logits = forward.evaluate(module, {"params": params, **model_state}, _pair(batch))
        return _sums(logits, batch["target"], batch["weights"], label_smoothing)

    def probed(model_state):
        def apply(variables, batch, **linen_options):
            return forward.evaluate(probe, variables, _pair(batch), **linen_options)

        def sums(params, batch):
            logits = apply({"params": params, **model_state}, batch)
            return _sums(logits, batch["target"], batch["weights"], label_smoothing)

        return Network(
            apply,
            model_state,
            is_linen=True,
            sums=sums,
            counts=lambda batch: batch["target"] != PAD,
        )

    decode = decoder(module, **search)

    def measure(variables, split):
        return _measured(decode, variables, parted[split], vocabularies["target"], assets, split)

    return Task(
        splits=parted,
        batching=bucketed(
            parted,
            {kind: bucket.batch_size for kind, bucket in kinds.items()},
            _take,
            chunk=STEPS_TOGETHER,
        ),
        init=functools.partial(init, module),
        train_sums=train_sums,
        eval_sums=eval_sums,
        metrics=METRICS,
        primary=primary,
        sums=("loss", "count", "nll"),
        values=_values,
        network=probed,
        host=(HostMeasurement(scores.METRICS, measure, score_every),),
        layers="dense_kernels",
        optimizer="adam(b2=0.98, eps=1e-09)",
        assets={
            **{f"{side}.model": assets[f"{side}.model"] for side in SIDES},
            "signatures.json": json.dumps(scores.signatures(), indent=2).encode(),
        },
        remarks=(
            f"Batches of {batch_size:,} tokens, padded to {', '.join(kinds)} (source x target): "
            f"{100 * shapes.waste(lengths['train'], chosen)[0]:.1f} % of the tokens are padding.",
        ),
    )


def _option_problems(primary: str, **numbers: float) -> list[str]:
    """Lists options of a wrong type or out of range, before anything is trained with them."""
    found = []
    for name, value in numbers.items():
        kinds, kind = ((int,), "whole ") if name in WHOLE else ((int, float), "")
        if allowed := RANGES[name](value) if type(value) in kinds else f"to be a {kind}number":
            found.append(expected(f"{name} of task.name", value, allowed))
    names = [metric.name for metric in (*METRICS, *scores.METRICS)]
    if primary not in names:
        found.append(unknown_choice("primary of task.name", primary, names))
    return found


def network(
    model: Callable[..., Any], vocabularies: Mapping[str, Vocabulary], precision: str
) -> Any:
    """Makes the module for two vocabularies.

    Args:
        model: as of `translation`.
        vocabularies: side -> vocabulary.
        precision: compute type.
    """
    sizes = {f"{side}_size": len(vocabularies[side]) for side in SIDES}
    return model(**sizes, dtype=jnp.dtype(precision))


def init(module: Any, key: PRNGKey) -> Variables:
    """Makes the variables of a new network."""
    ids = jnp.full((1, 2), END)
    return forward.init(module, key, {"source": ids, "target": ids})


Decode = Callable[[Variables, Array], tuple[Array, Array]]
"""(variables, ids [B, S]) -> ids of the translations and their scores, as `decoding.translate`."""


def decoder(module: Any, beam: int, length_penalty: float, extra_length: int) -> Decode:
    """Makes a compiled search for translations; arguments as of `translation`."""
    options = {"width": beam, "alpha": length_penalty, "extra_length": extra_length}
    return jax.jit(functools.partial(decoding.translate, module, **options))


def _lengths(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Counts the tokens of each pair, END included: int [N, 2]."""
    return np.stack([np.count_nonzero(rows[side] != PAD, axis=1) for side in SIDES], axis=1)


def _parted(
    rows: Mapping[str, np.ndarray], lengths: np.ndarray, kinds: Mapping[str, shapes.Bucket]
) -> dict[str, dict[str, np.ndarray]]:
    """Parts pairs into buckets, each of the bucket's shape."""
    places = shapes.assign(lengths, list(kinds.values()))
    parted = {}
    for place, (kind, bucket) in enumerate(kinds.items()):
        here = np.flatnonzero(places == place)
        sides = {side: rows[side][here, : getattr(bucket, side)] for side in SIDES}
        parted[kind] = {side: ids.astype(np.int32) for side, ids in sides.items()}
        parted[kind]["line"] = rows["line"][here]
    return parted


def _take(kind: str, split: Any, indices: Array, weights: Any, key: Any) -> dict[str, Any]:
    """Takes pairs; the target is what the empirical estimator calls labels."""
    del key
    batch = {side: split[kind][side][indices] for side in SIDES}
    batch["labels"] = batch["target"]
    return batch if weights is None else {**batch, "weights": weights}


def _pair(batch: Mapping[str, Array]) -> dict[str, Array]:
    return {side: batch[side] for side in SIDES}


def _sums(logits: Array, target: Array, weights: Array, smoothing: float) -> dict[str, Array]:
    """Adds up over the tokens that count.

    (1 - smoothing) -log p(token) + smoothing mean over all tokens of -log p, as
    torch.nn.CrossEntropyLoss(label_smoothing=).
    """
    # No array of log p, and no gather, whose gradient is a scatter: a tenth of a step's time.
    is_token = jax.nn.one_hot(target, logits.shape[-1], dtype=bool)
    total = jax.nn.logsumexp(logits, axis=-1)
    nll = total - jnp.sum(jnp.where(is_token, logits, 0.0), axis=-1)
    losses = (1 - smoothing) * nll + smoothing * (total - jnp.mean(logits, axis=-1))
    counted = weights[:, None] * (target != PAD)
    # where, not a product: what does not count must not count even if it is nan.
    added = {"loss": losses, "nll": nll}
    sums = {name: jnp.sum(jnp.where(counted > 0, counted * x, 0.0)) for name, x in added.items()}
    return {**sums, "count": jnp.sum(counted)}


def _values(sums: Mapping[str, float]) -> dict[str, float]:
    with np.errstate(over="ignore"):  # inf: the run has diverged
        perplexity = float(np.exp(sums["nll"] / sums["count"]))
    return {"loss": sums["loss"] / sums["count"], "perplexity": perplexity}


def _measured(
    decode: Decode,
    variables: Variables,
    parts: Mapping[str, Mapping[str, np.ndarray]],
    vocabulary: Vocabulary,
    assets: Mapping[str, bytes],
    split: str,
) -> dict[str, float]:
    """Translates a split and compares it with its references."""
    translated, wanted, lines = list[Sequence[int]](), list[Sequence[int]](), list[int]()
    for rows in parts.values():
        if len(rows["line"]):
            translated += decoded(decode, variables, rows["source"])
            wanted += [ids[(ids != PAD) & (ids != END)].tolist() for ids in rows["target"]]
            lines += rows["line"].tolist()
    texts = assets[f"{split}.target"].decode().split("\n")
    return scores.score(
        vocabulary.decode(translated), [texts[line] for line in lines], translated, wanted
    )


def decoded(
    decode: Decode, variables: Variables, source: Any, together: int = DECODED_TOGETHER
) -> list[list[int]]:
    """Translates sentences in batches of one shape.

    Args:
        decode: of `decoder`.
        variables: of the network.
        source: ids [N, S], padded on the right.
        together: sentences of a batch.

    Returns:
        For each sentence the ids of its translation, without END.
    """
    found: list[list[int]] = []
    for indices, weights in zip(*padded_batches(np.arange(len(source)), together), strict=True):
        ids = np.asarray(decode(variables, source[indices])[0])[weights > 0]
        found += [row[(row != PAD) & (row != END)].tolist() for row in ids]
    return found
