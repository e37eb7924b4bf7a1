"""Networks by name, as Linen modules: for small images, and `transformer.Transformer`.

    build       name -> module with apply(variables, images, train=...) -> logits
    names       the names build knows
    check       the problems of a name, as text
    BUILTINS    these names, and transformer -> what makes the module
    factory     a built-in's name, or module:Class of the user's -> a function that makes the module
    from_torch  a published PyTorch state dict (numpy arrays) -> variables
    to_torch    the inverse

In networks for images modules whose names contain `conv` hold one 4-D leaf `kernel`, those with
`norm` the norms' `scale` and `bias`, and `classifier` a 2-D `kernel` and its `bias`, e.g.
params["stage1_block0"]["conv1"]["kernel"] of shape [3, 3, in, out].
"""

from earlyprune_jax.models.catalog import (
    BUILTINS,
    build,
    check,
    factory,
    from_torch,
    names,
    to_torch,
)

__all__ = ["BUILTINS", "build", "check", "factory", "from_torch", "names", "to_torch"]
