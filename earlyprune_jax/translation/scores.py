"""What translations are compared with their references by: BLEU, chrF, and how many are equal.

`bleu` and `chrf` are sacreBLEU's, of detokenised, cased text. `token_bleu` is the BLEU of the
vocabulary's own tokens, as papers report it that tokenise before. Of the same output the two are
different numbers: neither may be compared with the other.
"""

from collections.abc import Sequence

from earlyprune_jax.data.vocabulary import require
from earlyprune_jax.metrics import PERCENT, Metric

METRICS = (
    Metric("bleu"),
    Metric("chrf"),
    Metric("token_bleu"),
    Metric("exact_match", PERCENT),
)
"""Of a corpus; the first three lie in [0, 100]."""


def score(
    translations: Sequence[str],
    references: Sequence[str],
    translated_tokens: Sequence[Sequence[int]],
    reference_tokens: Sequence[Sequence[int]],
) -> dict[str, float]:
    """Compares a corpus with its references.

    Args:
        translations: N sentences.
        references: likewise.
        translated_tokens: the same sentences as token ids, without what ends them.
        reference_tokens: likewise.

    Returns:
        The value of each of `METRICS`.

    Example:
        >>> lines, tokens = ["a small red house"], [[4, 5, 6, 7]]
        >>> {name: round(value) for name, value in score(lines, lines, tokens, tokens).items()}
        {'bleu': 100, 'chrf': 100, 'token_bleu': 100, 'exact_match': 1}
    """
    bleu, chrf, of_tokens = _measures()
    tokens = [
        [" ".join(map(str, row)) for row in rows] for rows in (translated_tokens, reference_tokens)
    ]
    equal = sum(a == b for a, b in zip(translations, references, strict=True))
    return {
        "bleu": bleu.corpus_score(translations, [references]).score,
        "chrf": chrf.corpus_score(translations, [references]).score,
        "token_bleu": of_tokens.corpus_score(tokens[0], [tokens[1]]).score,
        "exact_match": equal / len(references),
    }


def signatures() -> dict[str, str]:
    """Names metric -> how exactly it is computed, as sacreBLEU writes it.

    Example:
        >>> signatures()["bleu"].partition("|version")[0]
        'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp'
    """
    made = {}
    for name, measure in zip(("bleu", "chrf", "token_bleu"), _measures(), strict=True):
        measure.corpus_score(["a"], [["a"]])  # Without it a signature does not know its references.
        made[name] = str(measure.get_signature())
    return made


def _measures():
    require("sacrebleu")
    from sacrebleu import BLEU, CHRF  # pyright: ignore[reportMissingImports]

    # Without smoothing, as nltk's corpus_bleu.
    return BLEU(), CHRF(), BLEU(tokenize="none", smooth_method="none", force=True)
