"""The encoder-decoder Transformer of Vaswani et al. (2017), "Attention Is All You Need".

Every linear layer is an `nn.Dense` with a kernel [in, out] of rank 2 and a bias; heads are made by
reshaping. Names of parameters: encoder_0/self_attention/query/kernel, .../key, .../value,
.../output; decoder_0/source_attention/...; encoder_0/feed_forward_in, feed_forward_out;
encoder_0/self_attention_norm, source_attention_norm, feed_forward_norm; source_embedding,
target_embedding, output. `norm="pre"` has encoder_norm and decoder_norm at the ends of the stacks;
"post", the original, does not. Tied embeddings leave no `output`, and so its bias out.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from earlyprune_jax.array_types import Array
from earlyprune_jax.data.vocabulary import BEGIN, END, PAD
from earlyprune_jax.models import forward
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.validate import expected, fraction, one_of, refuse

Memory = tuple[Array, Array]
"""Keys and values [B, heads, T, features of a head] that queries attend to. With heads
first a step's products read them as they lie, which takes half the time on CPU."""

Encoded = tuple[tuple[Memory, ...], Array]
"""The source's keys and values for each layer of the decoder, and which of its tokens are no
padding: bool [B, 1, 1, S]."""


class Attention(nn.Module):
    """Scaled dot-product attention with several heads.

    Attributes:
        width: features of tokens, of queries, keys and values of all heads together.
        num_heads: number of heads.
        dtype: compute type.
    """

    width: int
    num_heads: int
    dtype: Any

    def setup(self) -> None:
        self.query, self.key, self.value, self.output = (
            dense(self.width, self.dtype) for _ in range(4)
        )

    def memory(self, x: Array) -> Memory:
        """Computes the keys and values of tokens x [B, T, width]."""
        return self._split(self.key(x), x.shape[0]), self._split(self.value(x), x.shape[0])

    def _split(self, x: Array, num_rows: int) -> Array:
        """Splits tokens [N, T, width] into heads [rows, H, N T / rows, features of a head]."""
        heads = x.reshape(num_rows, -1, self.num_heads, self.width // self.num_heads)
        return jnp.swapaxes(heads, 1, 2)

    def __call__(self, x: Array, memory: Memory, mask: Array) -> Array:
        """Attends from x [N, T, width] to a memory of B rows; each serves N / B rows of x."""
        keys, values = memory
        # Rows that share a memory, such as hypotheses of one sentence, are further queries to it.
        queries = self._split(self.query(x), keys.shape[0])
        accurate = at_least_float32(self.dtype)
        scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=accurate)
        # Not -inf: where all is padding, the weights are finite.
        scores = jnp.where(mask, scores / math.sqrt(keys.shape[-1]), jnp.finfo(accurate).min)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        return self.output(jnp.einsum("bhqk,bhkd->bqhd", weights, values).reshape(x.shape))


class Layer(nn.Module):
    """A layer of the encoder, or of the decoder: attention to itself, to the source, feed-forward.

    Attributes:
        attends_to_source: whether it is the decoder's. The others are those of `Transformer`.
    """

    attends_to_source: bool
    width: int
    num_heads: int
    feed_forward_width: int
    norm: str
    dropout: float
    dtype: Any

    def setup(self) -> None:
        attention = functools.partial(Attention, self.width, self.num_heads, self.dtype)
        layer_norm = functools.partial(nn.LayerNorm, dtype=self.dtype)
        self.self_attention, self.self_attention_norm = attention(), layer_norm()
        if self.attends_to_source:
            self.source_attention, self.source_attention_norm = attention(), layer_norm()
        self.feed_forward_in = dense(self.feed_forward_width, self.dtype)
        self.feed_forward_out = dense(self.width, self.dtype)
        self.feed_forward_norm = layer_norm()
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Array,
        mask: Array,
        source: tuple[Memory, Array] | None = None,
        cache: Memory | None = None,
        position: Any = 0,
        *,
        train: bool = False,
    ) -> tuple[Array, Memory]:
        """Runs the layer.

        Args:
            x: [N, T, width].
            mask: which tokens may be attended to: bool [N or 1, 1, T or 1, T or length].
            source: the source's keys and values for this layer, and their mask.
            cache: keys and values [N, heads, length, ...] of earlier tokens, if x holds later ones
                only.
            position: where those of x are written in it.
            train: whether dropout is on.

        Returns:
            The layer's output, and the keys and values that x attended to.
        """
        residual = functools.partial(self._residual, train=train)
        memory: Any = cache

        def attend(y: Array) -> Array:
            nonlocal memory
            new = self.self_attention.memory(y)
            memory = new if cache is None else _written(cache, new, position)
            return self.self_attention(y, memory, mask)

        x = residual(x, attend, self.self_attention_norm)
        if source is not None:
            x = residual(x, lambda y: self.source_attention(y, *source), self.source_attention_norm)
        return residual(x, self._feed_forward, self.feed_forward_norm), memory

    def _feed_forward(self, x: Array) -> Array:
        return self.feed_forward_out(nn.relu(self.feed_forward_in(x)))

    def _residual(
        self, x: Array, sublayer: Callable[[Array], Array], norm: nn.Module, *, train: bool
    ) -> Array:
        added = sublayer(norm(x) if self.norm == "pre" else x)
        x = x + self.drop(added, deterministic=not train)
        return x if self.norm == "pre" else norm(x)


class Transformer(nn.Module):
    """Encoder, decoder, and logits of the next token; by default of base size.

    `module.apply(variables, batch, train=...)` maps ids {"source": [B, S], "target": [B, T]} to
    logits [B, T, target_size]: those at t are of target token t, given the source and the
    earlier ones, and 0 where that is padding. Both are padded on the right. Padding of the
    source is never attended to; that of the target comes after all that is read.

    Attributes:
        source_size: number of token ids of the source language.
        target_size: likewise of the target language.
        num_layers: layers of the encoder, and of the decoder.
        width: features of a token; even, and a multiple of `num_heads`.
        num_heads: heads of each attention.
        feed_forward_width: features between the two feed-forward layers.
        norm: `pre` normalises what enters a sublayer, `post` the sum that leaves it.
        tied: `none`: two embeddings and an output layer; `output`: the target's embedding is the
            output layer too; `all`: one matrix is all three.
        dropout: rate on the embedded tokens and on what each sublayer adds, as in the paper.
        dtype: compute type of the layers. Embeddings, softmax and logits are float32 at least,
            parameters float32.

    Raises:
        InvalidInput: when made, with the problems of the arguments.

    Example:
        >>> module = Transformer(10, 12, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
        >>> batch = {"source": jnp.array([[4, 3, 0]]), "target": jnp.array([[5, 6, 3, 0]])}
        >>> variables = module.init(jax.random.key(0), batch, train=False)
        >>> module.apply(variables, batch, train=False).shape
        (1, 4, 12)
        >>> encoded = module.apply(variables, batch["source"], method="encode")
        >>> cache = module.empty_cache(num_rows=1, length=4)
        >>> step = functools.partial(module.apply, variables, method="step")
        >>> logits, cache = step(jnp.array([BEGIN]), 0, cache, encoded)
        >>> logits.shape
        (1, 12)
    """

    source_size: int
    target_size: int
    num_layers: int = 6
    width: int = 512
    num_heads: int = 8
    feed_forward_width: int = 2048
    norm: str = "pre"
    tied: str = "none"
    dropout: float = 0.1
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        refuse(_problems(self))
        super().__post_init__()

    def setup(self) -> None:
        accurate = at_least_float32(self.dtype)
        shared = ("width", "num_heads", "feed_forward_width", "norm", "dropout", "dtype")
        layer = functools.partial(Layer, **{name: getattr(self, name) for name in shared})
        self.encoder = [layer(attends_to_source=False) for _ in range(self.num_layers)]
        self.decoder = [layer(attends_to_source=True) for _ in range(self.num_layers)]
        if self.norm == "pre":
            self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
            self.decoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.source_embedding = nn.Embed(self.source_size, self.width, accurate)
        if self.tied != "all":
            self.target_embedding = nn.Embed(self.target_size, self.width, accurate)
        if self.tied == "none":
            self.output = dense(self.target_size, accurate)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, batch: Any, *, train: bool) -> Array:
        target = batch["target"][:, :-1]
        shifted = jnp.pad(target, ((0, 0), (1, 0)), constant_values=BEGIN)
        logits = self.decode(shifted, self.encode(batch["source"], train=train), train=train)
        return jnp.where((batch["target"] != PAD)[..., None], logits, 0.0)

    def encode(self, source: Array, *, train: bool = False) -> Encoded:
        """Computes what the decoder attends to, of ids [B, S]."""
        mask = (source != PAD)[:, None, None]
        x = self._embedded(self.source_embedding, source, 0, train)
        for layer in self.encoder:
            x, _ = layer(x, mask, train=train)
        x = self.encoder_norm(x) if self.norm == "pre" else x
        return tuple(layer.source_attention.memory(x) for layer in self.decoder), mask

    def decode(self, target: Array, encoded: Encoded, *, train: bool = False) -> Array:
        """Computes the logits of the tokens after each of [B, T] ids, of which the first is BEGIN.

        Args:
            target: ids [B, T].
            encoded: of `encode`.
            train: whether dropout is on.

        Returns:
            Logits [B, T, target_size]; those at t depend on ids 0 ... t.
        """
        length = target.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        nothing = [None] * self.num_layers
        return self._decoded(target, 0, causal, nothing, encoded, train=train)[0]

    def step(
        self, ids: Array, position: Any, cache: Sequence[Memory], encoded: Encoded
    ) -> tuple[Array, tuple[Memory, ...]]:
        """Computes the logits of one more token of each row, as `decode` would.

        Args:
            ids: [N], the tokens at `position`; N is a multiple of the number of sources, the rows
                of one source lie together.
            position: from 0 on; every earlier one has been given.
            cache: of `empty_cache` with N rows, or of the step before.
            encoded: of `encode`.

        Returns:
            Logits [N, target_size], and the cache with this position written.
        """
        mask = (jnp.arange(cache[0][0].shape[2]) <= position)[None, None, None]
        logits, cache = self._decoded(ids[:, None], position, mask, cache, encoded)
        return logits[:, 0], cache

    @nn.nowrap
    def empty_cache(self, num_rows: int, length: int) -> tuple[Memory, ...]:
        """Makes the decoder's own keys and values before the first step.

        Args:
            num_rows: how many sequences are decoded at once.
            length: how many positions there are.

        Returns:
            For each layer keys and values [num_rows, num_heads, length, features of a head].
        """
        shape = num_rows, self.num_heads, length, self.width // self.num_heads
        zeros = jnp.zeros(shape, self.dtype)
        return ((zeros, zeros),) * self.num_layers

    def _decoded(
        self,
        ids: Array,
        position: Any,
        mask: Array,
        cache: Sequence[Memory | None],
        encoded: Encoded,
        *,
        train: bool = False,
    ) -> tuple[Array, tuple[Memory, ...]]:
        """Runs the decoder on ids [N, T] from a position on: logits, and each layer's memory."""
        memories, source_mask = encoded
        embedding = self.source_embedding if self.tied == "all" else self.target_embedding
        x, written = self._embedded(embedding, ids, position, train), []
        for layer, memory, earlier in zip(self.decoder, memories, cache, strict=True):
            x, now = layer(x, mask, (memory, source_mask), earlier, position, train=train)
            written.append(now)
        x = self.decoder_norm(x) if self.norm == "pre" else x
        x = x.astype(at_least_float32(self.dtype))
        return self.output(x) if self.tied == "none" else embedding.attend(x), tuple(written)

    def _embedded(self, embedding: nn.Embed, ids: Array, position: Any, train: bool) -> Array:
        places = sinusoids(position + jnp.arange(ids.shape[1]), self.width)
        x = math.sqrt(self.width) * embedding(ids) + places[None]
        return self.drop(x.astype(self.dtype), deterministic=not train)


def dense(features: int, dtype: Any) -> nn.Dense:
    """Makes a linear layer: Glorot's uniform kernel, a bias of zeros."""
    glorot = nn.initializers.glorot_uniform()
    return nn.Dense(features, dtype=dtype, kernel_init=glorot, dot_general=forward.flat_product)


def at_least_float32(dtype: Any) -> Any:
    """Returns the type in which softmax and logits are computed."""
    return jnp.promote_types(dtype, jnp.float32)


def sinusoids(positions: Array, width: int) -> Array:
    """Encodes positions [T] as [T, width]: sines at even features, cosines at odd ones.

    sin(p / 10000^(2 i / width)) at 2 i, the cosine of the same at 2 i + 1.

    Example:
        >>> sinusoids(jnp.array([0]), 4).tolist()
        [[0.0, 1.0, 0.0, 1.0]]
    """
    rates = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angles = positions[:, None] * rates[None]
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(-1, width)


def _written(cache: Memory, new: Memory, position: Any) -> Memory:
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=2)
    return jax.tree.map(lambda old, update: write(old, update, position), cache, new)


def _problems(given: Transformer) -> list[str]:
    problems = count_problems(END + 1, source_size=given.source_size, target_size=given.target_size)
    sizes = ("num_layers", "width", "num_heads", "feed_forward_width")
    problems += count_problems(1, **{name: getattr(given, name) for name in sizes})
    if problems:
        return problems
    width, heads = given.width, given.num_heads
    checks = {
        "norm": one_of("pre", "post")(given.norm),
        "tied": one_of("none", "output", "all")(given.tied),
        "dropout": fraction(open_high=True)(given.dropout),
        "width": f"to be even and a multiple of num_heads={heads}"
        * bool(width % 2 or width % heads),
    }
    if given.tied == "all" and given.source_size != given.target_size:
        checks["target_size"] = f"to be source_size={given.source_size} where tied='all'"
    return [
        expected(name, getattr(given, name), allowed) for name, allowed in checks.items() if allowed
    ]
