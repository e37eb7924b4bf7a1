"""Parallel text as a source: pairs of a sentence and its translation, as token ids.

    text('DIR', source='de', target='en', train='train', validation='val', test='test', first=0)
    numerals(num_pairs=20000, num_held_out=1000, seed=0)
    wmt14(first=0)

`corpora` says what they hold, and all of their arguments; max_tokens, vocabulary_size and joint
belong to each.

The rows of a split: `source` and `target`, token ids [N, max_tokens + 1], the sentence's end behind
each, padded with 0; and `line`, the pair's place in the corpus, from 0. Vocabularies are trained
when the data are read, on the training text: on 200,000 pairs at even distances where there are
more. The source's assets are the vocabularies, `source.model` and `target.model` (the same bytes
where they are joint), and the untouched lines that translations are compared with,
`validation.target` and `test.target`, of which only a line feed ends one.

Pairs with an empty side, or with more than max_tokens tokens on one, are left out of training. Of
validation and test nothing is left out: longer sentences are cut, empty ones stay. All of this is
counted, and so are tokens of characters that the vocabulary has not seen: `data.usage` says it.
"""

from collections.abc import Mapping

import jax
import numpy as np

from earlyprune_jax import references
from earlyprune_jax.data import vocabulary
from earlyprune_jax.data.corpora import CORPORA, SPLITS, Corpus, Pairs
from earlyprune_jax.data.source import Source
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import gathering, refuse, unexpected

VOCABULARY_PAIRS = 200_000
"""Pairs that a vocabulary is trained on at most."""


def outline(spec: DataSpec) -> Source:
    """Counts pairs, of which some may turn out to be left out; trains no vocabulary.

    Raises:
        InvalidInput: every problem that is found on the way.
    """
    corpus = _corpus(spec)
    dtype = vocabulary.ids_dtype(corpus.vocabulary_size)

    def not_read(num: int) -> dict[str, jax.ShapeDtypeStruct]:
        ids = jax.ShapeDtypeStruct((num, corpus.max_tokens + 1), dtype)
        return {"source": ids, "target": ids, "line": jax.ShapeDtypeStruct((num,), np.int32)}

    sizes = corpus.sizes(spec)
    train, validation, test = (not_read(sizes[split]) for split in SPLITS)
    return Source(train, test, validation=validation)


def load(spec: DataSpec) -> Source:
    """Reads the text, trains its vocabularies and encodes it; call after `outline`.

    Raises:
        InvalidInput: files that turn out damaged, a vocabulary that cannot be filled, or no pair
            left to train on.
    """
    corpus = _corpus(spec)
    pairs = {split: corpus.pairs(spec, split) for split in SPLITS}
    models = _vocabularies(corpus, pairs["train"])
    splits, remarks = {}, []
    for split, (sources, targets) in pairs.items():
        encoded = {
            side: vocabulary.Vocabulary(model).encode(lines, corpus.max_tokens + 1)
            for (side, model), lines in zip(models.items(), (sources, targets), strict=True)
        }
        splits[split], said = _rows(corpus, split, encoded)
        remarks += said
    assets = {f"{side}.model": model for side, model in models.items()}
    for split in ("validation", "test"):
        assets[f"{split}.target"] = "\n".join(pairs[split][1]).encode()
    return Source(
        splits["train"],
        splits["test"],
        validation=splits["validation"],
        assets=assets,
        remarks=tuple(remarks),
    )


def _corpus(spec: DataSpec) -> Corpus:
    corpus: Corpus = references.load("data.name", spec.name, CORPORA)()
    refuse(corpus.problems())
    vocabulary.require(*corpus.PACKAGES)
    return corpus


def _vocabularies(corpus: Corpus, pairs: Pairs) -> dict[str, bytes]:
    """Trains the vocabulary of each side, source and target."""
    num, most = len(pairs[0]), min(len(pairs[0]), VOCABULARY_PAIRS)
    shown = [[lines[row * num // most] for row in range(most)] for lines in pairs]
    texts = dict(zip((corpus.source, corpus.target), shown, strict=True))
    if corpus.joint:
        texts = {f"{corpus.source} and {corpus.target}": [*shown[0], *shown[1]]}
    models, problems = [], []
    for language, lines in texts.items():
        found: list[str] = []
        with gathering(found):
            models.append(vocabulary.train(lines, corpus.vocabulary_size))
        problems += [f"data.name, {language}: {problem}" for problem in found]
    refuse(problems)
    return {"source": models[0], "target": models[-1]}


def _rows(
    corpus: Corpus, split: str, encoded: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Makes the rows of a split, and says what of it was left out or is not as it was written.

    Args:
        corpus: whose limit holds.
        split: its name.
        encoded: side -> ids and lengths, of `Vocabulary.encode`.

    Raises:
        InvalidInput: no row is left.
    """
    lengths = np.stack([length for _, length in encoded.values()], axis=1)
    is_empty, limit = (lengths == 0).any(axis=1), corpus.max_tokens
    is_long = (lengths > limit).any(axis=1) & ~is_empty
    is_kept = ~is_empty & ~is_long if split == "train" else np.ones(len(lengths), bool)
    if not is_kept.any():
        allowed = f"to leave a training pair of {len(lengths):,}"
        remedy = f"{is_empty.sum():,} have an empty side, {is_long.sum():,} are longer."
        raise unexpected("max_tokens of data.name", limit, allowed, remedy)
    rows = {side: ids[is_kept] for side, (ids, _) in encoded.items()}
    empty, long = ("left out",) * 2 if split == "train" else ("kept", "cut")
    counts = {
        f"pairs with an empty side {empty}": is_empty.sum(),
        f"pairs longer than max_tokens={limit} {long}": is_long.sum(),
        "unknown tokens": sum(np.count_nonzero(ids == vocabulary.UNKNOWN) for ids in rows.values()),
    }
    said = [f"{num:,} {what}" for what, num in counts.items() if num]
    of_all = [f"{split} ({len(lengths):,} pairs): {', '.join(said)}"] if said else []
    return {**rows, "line": np.flatnonzero(is_kept).astype(np.int32)}, of_all
