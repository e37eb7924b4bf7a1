"""Paper B's second half: a Transformer on German to English, pruned layer by layer after each t.

Claim: as with images, an early t is best where much is removed and a late one where little is;
random_distance peaks at the best t; between the regimes lies a region where both are as good.
Scores are sacreBLEU's, cased and detokenised, of beam search; see docs/translation.md.

`translation.py`, also `translation.py:numerals`: number words, 0 to 999,999, made on the spot.
Command: python -m earlyprune_jax.main --config=configs/translation.py --workers=2
Cost: a trunk of 8 epochs, 32 forks of 3 and 16 comparisons: 4 min 50 s on 2 cores of an AMD EPYC.
Expected (n = 1): 96.4 % of 500 unseen numbers right, test BLEU 98.7; here late is best throughout.

`translation.py:multi30k_small`: half of Multi30k's 29,000 captions, on a CPU. Its lines lie in
plain files in multi30k/: train.de, train.en, val.de, ..., test_2016_flickr.en, gzipped or not;
elsewhere: --config.data.name="text('DIR', test='test_2016_flickr')".
Command: python -m earlyprune_jax.main --config=configs/translation.py:multi30k_small --workers=2
Cost: a trunk of 20 epochs, 60 forks of 5, 30 comparisons; an epoch takes 20 to 50 s on one core.
Expected of the trunk (n = 1): 33.3 BLEU on test 2016.

`translation.py:multi30k`: the same text, paper B's network and grid; an accelerator is needed.

`translation.py:wmt14`: figures 3b, 7 (second row), 8b: Transformer base on the first 1.28 million
pairs of WMT14, 19 epochs of batches of 1,500 tokens. TFDS prepares them, see docs/translation.md.
The report gives no fork epochs, and no list of prune ratios: these are the densities of the vision
half. "The same schedule" of five epochs may go on where the trunk's is, or start again:
--config.sweep.fork.rates=continue,restart trains both.
"""

from ml_collections import ConfigDict

from . import _forms, digits

PAPER_B = {
    "data.name": "wmt14(first=1280000)",
    "data.num_classes": 0,
    "data.train_fraction": 1.0,
    "data.validation_fraction": 0.0,
    "data.crop_padding": 0,
    "data.mean": (),
    "data.std": (),
    "model.name": "transformer",
    "model.width_multiplier": 1.0,
    "task.name": "translation",
    "train.seeds": (0,),
    "train.num_epochs": 19,
    "train.batch_size": 1500,
    "train.eval_batch_size": 100,
    "optim.name": "adam(b2=0.98, eps=1e-9)",
    "optim.learning_rate": 7e-4,
    "optim.momentum": 0.0,
    "optim.weight_decay": 0.0,
    "schedule.name": "inverse_sqrt",
    "schedule.per": "step",
    "schedule.warmup_steps": 4000,
    "pruning.scopes": ("uniform",),
    "pruning.sparsities": (0.95, 0.94, 0.93, 0.92, 0.9, 0.86, 0.8, 0.6, 0.2),
    "pruning.layers": "",
    "fork.epochs": tuple(range(1, 20, 2)),
    "fork.trigger": "peak(random_distance)",
    "fork.fallback_epoch": 10,
    "fork.retraining": ("custom",),
    "fork.length": 5,
    "fork.rates": "continue",
    "fork.num_replicates": 3,
    "fork.comparisons": ("model_similarity", "disagreement"),
    "signals.names": ("random_distance", "fisher_trace", "kl_uniform"),
    "signals.num_examples": 1000,
    "signals.fisher_layers": "",
    "signals.weight_layers": "",
    "signals.mask_scope": "uniform",
    "signals.mask_sparsity": 0.95,
}

MULTI30K = {"data.name": "text('multi30k', test='test_2016_flickr', vocabulary_size=4000)"}

NUMERALS = {
    "data.name": "numerals(num_pairs=4000, num_held_out=500, vocabulary_size=120, max_tokens=40)",
    "model.name": "transformer(num_layers=2, width=64, num_heads=4, feed_forward_width=128)",
    "task.name": "translation(beam=1, score_every=2)",
    "train.num_epochs": 8,
    "optim.learning_rate": 4e-3,
    "schedule.warmup_steps": 100,
    "pruning.sparsities": (0.95, 0.9, 0.8, 0.5),
    "fork.epochs": (1, 2, 4, 8),
    "fork.fallback_epoch": 4,
    "fork.length": 3,
    "fork.num_replicates": 2,
    "signals.num_examples": 200,
}

FORMS = {
    "": NUMERALS,
    "numerals": NUMERALS,
    "wmt14": {},
    "multi30k": MULTI30K,
    "multi30k_small": {
        "data.name": "text('multi30k', test='test_2016_flickr', vocabulary_size=2000)",
        "data.train_fraction": 0.5,
        "model.name": "transformer(num_layers=2, width=64, num_heads=4, feed_forward_width=256)",
        "task.name": "translation(score_every=10)",
        "train.num_epochs": 20,
        "optim.learning_rate": 4e-3,
        "schedule.warmup_steps": 600,
        "pruning.sparsities": (0.95, 0.9, 0.8, 0.6, 0.2),
        "fork.epochs": (1, 2, 4, 8, 14, 20),
        "fork.fallback_epoch": 8,
        "fork.num_replicates": 2,
        "signals.num_examples": 200,
    },
}


def get_config(form: str = "") -> ConfigDict:
    """Gives digits.py with the keys above; a form changes some more."""
    config = digits.get_config()
    config.update_from_flattened_dict(PAPER_B)
    return _forms.in_form(config, form, FORMS)
