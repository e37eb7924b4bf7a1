"""What is wrong with the arguments of the Fisher functions, all of it at once, before anything
runs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import taps
from earlyprune_jax.array_types import Array, Params, Variables
from earlyprune_jax.pruning import select
from earlyprune_jax.pruning.scores.gradients import weights_of
from earlyprune_jax.pruning.scores.weights import require_key
from earlyprune_jax.pruning.trees import is_weight, named_leaves, repeated_paths
from earlyprune_jax.signals.fisher_squares import ESTIMATORS, METHODS
from earlyprune_jax.validate import InvalidInput, expected, shortened, unexpected, unknown_choice


def check_options(estimator: str, method: str) -> list[str]:
    """The problems of an estimator and a method, none if they go together.

    Example:
        >>> check_options("sampled", "batch"), check_options("exact", "layerwise")
        ([], [])
        >>> check_options("exact", "batch")[0].split(". ")[0]
        "Expected estimator='exact' to be sampled with method batch"
    """
    problems = []
    if estimator not in ESTIMATORS:
        problems.append(unknown_choice("estimator", estimator, ESTIMATORS))
    if method not in METHODS:
        problems.append(unknown_choice("method", method, METHODS))
    if method == "batch" and estimator in ESTIMATORS and estimator != "sampled":
        remedy = (
            "Only labels drawn from the model make the cross terms between examples vanish: with others "
            "this is no estimate of the trace. Use method layerwise or vmap."
        )
        problems.append(expected("estimator", estimator, "to be sampled with method batch", remedy))
    return problems


def require_arguments(
    model: Any,
    variables: Any,
    images: Any,
    *,
    key: Any,
    estimator: str,
    method: str,
    microbatch_size: Any,
    labels: Any,
    layers: Any,
    apply_options: Mapping[str, Any],
) -> None:
    """Raises every problem that can be seen without running the model."""
    problems = [*check_options(estimator, method), *_image_problems(images)]
    problems += _problems_of(lambda: require_key(key))
    if microbatch_size is not None and not _is_count(microbatch_size):
        problems.append(
            expected("microbatch_size", microbatch_size, "to be an integer of at least 1")
        )
    problems += [] if problems else _label_problems(labels, estimator, num_examples(images))
    if not callable(model) and not taps.is_linen(model):
        allowed = "to be a Linen module or a function (params, images) -> logits"
        problems.append(expected("model", type(model).__name__, allowed))
    if taps.is_linen(model):
        problems += taps.interceptor_problems() + taps.option_problems(apply_options)
        problems += _collection_problems(variables)
    params = variables["params"] if taps.is_linen(model) and _has_params(variables) else variables
    if not taps.is_linen(model) or _has_params(variables):
        problems += _params_problems(params, layers)
        problems += _nonfinite_problems(
            "variables" if taps.is_linen(model) else "params", variables
        )
    if problems:
        raise InvalidInput(problems)


def require_logits(shapes: Any, estimator: str, labels: Any) -> int:
    """C, the number of classes, from the shape of the logits of two images."""
    shape, size = getattr(shapes, "shape", None), 2
    if shape is None or len(shape) != 2 or shape[0] != size or shape[1] == 0:
        given = type(shapes).__name__ if shape is None else shape
        remedy = "Return the logits alone, one row for every image."
        allowed = f"to be [B, C], C classes of B={size} images"
        raise unexpected("logits, their shape,", given, allowed, remedy)
    problems, num_classes = [], shape[1]
    if not jnp.issubdtype(shapes.dtype, jnp.floating):
        problems.append(expected("logits, their type,", str(shapes.dtype), "to be a float type"))
    if num_classes < 2:
        remedy = "A classifier with one class has p = 1 whatever its parameters: its trace is 0 by definition."
        problems.append(expected("number of classes", num_classes, "to be at least 2", remedy))
    if estimator == "empirical":
        outside = np.flatnonzero((np.asarray(labels) < 0) | (np.asarray(labels) >= num_classes))
        if len(outside):
            where = f"labels[{outside[0]}]" + (
                f" and {len(outside) - 1} more" if len(outside) > 1 else ""
            )
            given = int(np.asarray(labels)[outside[0]])
            problems.append(expected(where, given, f"in [0, {num_classes}), as the logits have"))
    if problems:
        raise InvalidInput(problems)
    return num_classes


def require_finite_squares(
    finite: np.ndarray,
    values: np.ndarray,
    names: list[str],
    start: int,
    nonfinite_layer: Callable[[int], str | None],
    images_finite: Callable[[int], bool],
) -> None:
    """Refuses logits or gradients that are not finite, saying where.

    Args:
        finite: [B] whether each example's logits are.
        values: [weights, units] squared gradients.
        names: of the weights.
        start: the place of the batch's first example in `images`.
        nonfinite_layer: place of an example -> the first layer whose output is not finite.
        images_finite: place of an example -> whether the image itself is.
    """
    if finite.all() and np.isfinite(values).all():
        return
    if not finite.all():
        bad = start + np.flatnonzero(~finite)
        place = int(bad[0])
        if not images_finite(place):
            where = "That image itself is not finite."
        elif layer := nonfinite_layer(place):
            where = f"The first output that is not finite is that of the layer {layer}."
        else:
            where = "No single layer could be named: it is no Linen module, or the layer is inside nn.scan."
        others = f" and of {len(bad) - 1} more near it" if len(bad) > 1 else ""
        raise unexpected(f"logits of images[{place}]{others}", "not finite", "to be finite", where)
    rows, units = np.nonzero(~np.isfinite(values))
    place = start + int(units[0]) if values.shape[1] > 1 else start
    shown = shortened([names[row] for row in sorted(set(rows))], at_most=8)
    remedy = f"First for images[{place}], or with images near it; its logits are finite."
    raise unexpected(f"gradient at {', '.join(shown)}", "not finite", "to be finite", remedy)


def num_examples(images: Any) -> int:
    """N, the length of the leading axis."""
    return int(np.shape(jax.tree.leaves(images)[0])[0])


def _image_problems(images: Any) -> list[str]:
    leaves = named_leaves(images)
    if not leaves:
        return [expected("images", images, "to hold at least one array")]
    problems = []
    for name, leaf in leaves:
        thing = f"images at {name}" if name else "images"
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not (
            jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
        ):
            given = type(leaf).__name__ if dtype is None else str(dtype)
            problems.append(
                expected(f"{thing}, its type,", given, "to be an array of floats or integers")
            )
        elif np.ndim(leaf) < 2:
            remedy = "Axis 0 is the example; add it to a single image."
            problems.append(
                expected(f"{thing}, its shape,", np.shape(leaf), "to be [N, ...]", remedy)
            )
        elif np.shape(leaf)[0] == 0:
            remedy = "The mean over no image is not defined."
            problems.append(
                expected(f"{thing}, its shape,", np.shape(leaf), "to hold at least 1 image", remedy)
            )
    sizes = {name or "the root": np.shape(leaf)[0] for name, leaf in leaves if np.ndim(leaf)}
    if not problems and len(set(sizes.values())) > 1:
        problems.append(expected("number of images", sizes, "to be the same in every array"))
    return problems


def _label_problems(labels: Any, estimator: str, size: int) -> list[str]:
    if estimator != "empirical":
        return []
    remedy = "The empirical estimator takes the data's labels."
    if labels is None:
        return [expected("labels", labels, f"to be [{size}] integers, one an image", remedy)]
    array = np.asarray(labels)
    if array.shape != (size,) or not np.issubdtype(array.dtype, np.integer):
        given = f"{array.dtype}{list(array.shape)}"
        return [expected("labels", given, f"to be [{size}] integers, one an image", remedy)]
    return []


def _has_params(variables: Any) -> bool:
    return isinstance(variables, Mapping) and "params" in variables


def _collection_problems(variables: Any) -> list[str]:
    if _has_params(variables):
        return []
    given = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
    remedy = "Give what module.init returned, not a part of it."
    return [expected("variables", given, 'to be {"params": ..., "batch_stats": ...}', remedy)]


def _params_problems(params: Params, layers: Any) -> list[str]:
    problems = repeated_paths(params) + _problems_of(lambda: weights_of(params))
    if layers is not None and not problems:
        problems += _problems_of(lambda: select(params, layers))
    return problems


def _nonfinite_problems(thing: str, tree: Variables) -> list[str]:
    named = [(name, leaf) for name, leaf in named_leaves(tree) if is_weight(leaf)]
    flags = jax.device_get(_all_finite([leaf for _, leaf in named]))
    remedy = "Measure a network that has not diverged."
    return shortened(
        [
            expected(f"{thing} at {name or 'the root'}", "not finite", "to be finite", remedy)
            for (name, _), finite in zip(named, flags, strict=True)
            if not finite
        ]
    )


@jax.jit
def _all_finite(arrays: list[Array]) -> list[Array]:
    return [jnp.isfinite(array).all() for array in arrays]


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _problems_of(check: Callable[[], Any]) -> list[str]:
    try:
        check()
    except InvalidInput as error:
        return list(error.problems)
    return []
