"""Every family against a PyTorch network written here, with the published key names; the
Transformer against PyTorch's layers."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from earlyprune_jax import models
from earlyprune_jax.data.vocabulary import BEGIN
from earlyprune_jax.models import forward
from earlyprune_jax.models.transformer import Transformer

torch: Any = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.slow


class TorchBasicBlock(nn.Module):
    def __init__(self, inputs, width, stride, conv_shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.changes = stride != 1 or inputs != width
        self.quarter = width // 4
        if self.changes and conv_shortcut:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        elif self.changes:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.quarter, self.quarter))
        return F.relu(residual + x)


class TorchPreActivationBlock(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        out = 4 * width if bottleneck else width
        shapes = [(inputs, width, 3, stride), (width, out, 3, 1)]
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        self.num_layers = len(shapes)
        for i, (channels, features, size, step) in enumerate(shapes, start=1):
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels))
            convolution = nn.Conv2d(channels, features, size, step, padding=size // 2, bias=False)
            self.add_module(f"conv{i}", convolution)
        if stride != 1 or inputs != out:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False))

    def forward(self, x):
        residual = x
        for i in range(1, self.num_layers + 1):
            residual = getattr(self, f"conv{i}")(F.relu(getattr(self, f"bn{i}")(residual)))
        return residual + (self.downsample(x) if hasattr(self, "downsample") else x)


class TorchNetwork(nn.Module):
    def __init__(self, widths, blocks, make_block, expansion, preactivation):
        super().__init__()
        self.preactivation, self.num_stages = preactivation, len(widths)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        channels = widths[0]
        for stage, width in enumerate(widths, start=1):
            layers = []
            for block in range(blocks):
                layers.append(make_block(channels, width, 2 if stage > 1 and block == 0 else 1))
                channels = width * expansion
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.add_module(
            "bn" if preactivation else "bn1",
            nn.BatchNorm2d(channels if preactivation else widths[0]),
        )
        self.add_module("fc" if preactivation else "linear", nn.Linear(channels, 10))

    def forward(self, x):
        x = self.conv1(x)
        if not self.preactivation:
            x = F.relu(self.bn1(x))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        if self.preactivation:
            return self.fc(F.relu(self.bn(x)).mean((2, 3)))
        return self.linear(x.mean((2, 3)))


def resnet(widths, blocks, conv_shortcut):
    return TorchNetwork(
        widths, blocks, lambda i, w, s: TorchBasicBlock(i, w, s, conv_shortcut), 1, False
    )


def preresnet(blocks, bottleneck):
    expansion = 4 if bottleneck else 1
    return TorchNetwork(
        (16, 32, 64),
        blocks,
        lambda i, w, s: TorchPreActivationBlock(i, w, s, bottleneck),
        expansion,
        True,
    )


NETWORKS = {
    "resnet20": lambda: resnet((16, 32, 64), 3, conv_shortcut=False),
    "resnet18": lambda: resnet((64, 128, 256, 512), 2, conv_shortcut=True),
    "preresnet20": lambda: preresnet(3, bottleneck=False),
    "preresnet44_rethinking": lambda: preresnet(4, bottleneck=True),
    "preresnet44_lottery": lambda: preresnet(7, bottleneck=True),
}


def random_network(name):
    """A network in which no norm is an identity."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for positive in (module.weight, module.running_var):
                nn.init.uniform_(positive, 0.5, 1.5)
            for centred in (module.bias, module.running_mean):
                nn.init.normal_(centred, 0, 0.2)
    return network


def as_arrays(network):
    return {key: value.detach().numpy().copy() for key, value in network.state_dict().items()}


def torch_logits(network, images):
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def values_per_channel(network, images):
    """n of every norm: batch * height * width of what reaches it, by the norm's name."""
    counts = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def note(_, inputs, name=name):
                counts[name] = inputs[0].numel() // inputs[0].shape[1]

            module.register_forward_pre_hook(note)
    torch_logits(network.eval(), images)
    return counts


def with_biased_variances(before, after, counts):
    """torch's state after one step, had it averaged the biased variance: its step times (n - 1) /
    n."""
    arrays = dict(after)
    for name, n in counts.items():
        key = f"{name}.running_var"
        arrays[key] = 0.9 * before[key] + (after[key] - 0.9 * before[key]) * (n - 1) / n
    return arrays


@pytest.mark.parametrize("size", [32, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_running_statistics_equal_pytorchs(name, size):
    network, module = random_network(name), models.build(name, num_classes=10)
    images = np.random.default_rng(0).normal(size=(16, size, size, 3)).astype(np.float32)
    before, counts = as_arrays(network), values_per_channel(network, images)
    variables = models.from_torch(name, before)

    evaluate: Any = jax.jit(functools.partial(module.apply, train=False))
    np.testing.assert_allclose(
        evaluate(variables, images), torch_logits(network.eval(), images), rtol=1e-4, atol=1e-4
    )
    train: Any = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    logits, updates = train(variables, images)
    np.testing.assert_allclose(logits, torch_logits(network.train(), images), rtol=1e-4, atol=1e-4)

    wanted = models.from_torch(name, with_biased_variances(before, as_arrays(network), counts))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        updates["batch_stats"],
        wanted["batch_stats"],
    )


TRANSFORMER: dict[str, Any] = {
    "num_layers": 3,
    "width": 32,
    "num_heads": 4,
    "feed_forward_width": 64,
}


def transformer(norm):
    """A module in which no norm is an identity and no bias is 0, and its parameters by path."""
    module = Transformer(50, 40, norm=norm, **TRANSFORMER)
    batch = {"source": np.ones((1, 2), int), "target": np.ones((1, 2), int)}
    shapes = jax.eval_shape(lambda: forward.init(module, jax.random.key(0), batch))["params"]
    rng, params = np.random.default_rng(0), {}
    flat: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    for path, leaf in flat.items():
        centre, std = (1, 0.2) if path.endswith("scale") else (0, 0.25)
        params[path] = rng.normal(centre, std, leaf.shape).astype(np.float32)
    return module, params


def torch_stack(kind, params, norm):
    """PyTorch's stack of encoder or decoder layers, with our parameters."""
    is_pre = norm == "pre"
    make = nn.TransformerEncoderLayer if kind == "encoder" else nn.TransformerDecoderLayer
    options = {"batch_first": True, "norm_first": is_pre, "layer_norm_eps": 1e-6, "dropout": 0.0}
    last = nn.LayerNorm(32, eps=1e-6) if is_pre else None
    if kind == "encoder":
        layer = make(32, 4, 64, **options)
        stack = nn.TransformerEncoder(layer, 3, last, enable_nested_tensor=False)
    else:
        stack = nn.TransformerDecoder(make(32, 4, 64, **options), 3, last)

    def copy(target, path):
        is_norm = f"{path}/scale" in params
        weight = params[f"{path}/scale"] if is_norm else params[f"{path}/kernel"].T
        target.weight.copy_(torch.from_numpy(weight.copy()))
        target.bias.copy_(torch.from_numpy(params[f"{path}/bias"]))

    def copy_attention(target, path):
        inputs = [f"{path}/{name}" for name in ("query", "key", "value")]
        kernels = [params[f"{name}/kernel"].T for name in inputs]
        target.in_proj_weight.copy_(torch.from_numpy(np.concatenate(kernels)))
        biases = [params[f"{name}/bias"] for name in inputs]
        target.in_proj_bias.copy_(torch.from_numpy(np.concatenate(biases)))
        copy(target.out_proj, f"{path}/output")

    with torch.no_grad():
        for index, layer in enumerate(stack.layers):
            path = f"{kind}_{index}"
            copy_attention(layer.self_attn, f"{path}/self_attention")
            copy(layer.linear1, f"{path}/feed_forward_in")
            copy(layer.linear2, f"{path}/feed_forward_out")
            norms = ["self_attention_norm", "feed_forward_norm"]
            if kind == "decoder":
                copy_attention(layer.multihead_attn, f"{path}/source_attention")
                norms.insert(1, "source_attention_norm")
            for number, name in enumerate(norms, start=1):
                copy(getattr(layer, f"norm{number}"), f"{path}/{name}")
        if is_pre:
            copy(stack.norm, f"{kind}_norm")
    return stack.eval()


def torch_embedded(embedding, ids):
    """sqrt(width) times the embedding, plus the sinusoids of the paper in a loop."""
    x = embedding[ids] * np.float32(np.sqrt(32))
    for position in range(ids.shape[1]):
        for i in range(16):
            angle = position / 10_000 ** (2 * i / 32)
            x[:, position, 2 * i] += np.sin(angle)
            x[:, position, 2 * i + 1] += np.cos(angle)
    return torch.from_numpy(x)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_logits_of_a_padded_batch_equal_those_of_pytorchs_transformer_layers(norm):
    module, params = transformer(norm)
    rng, lengths = np.random.default_rng(1), np.array([[9, 7], [4, 7], [1, 2], [6, 3]])
    source, target = (
        np.where(
            np.arange(size)[None] < lengths[:, column, None], rng.integers(4, 40, (4, size)), 0
        )
        for column, size in enumerate((9, 7))
    )
    shifted = np.concatenate([np.full((4, 1), BEGIN), target[:, :-1]], axis=1)
    causal = torch.triu(torch.ones(7, 7, dtype=torch.bool), diagonal=1)
    padding = {"source": torch.from_numpy(source == 0), "target": torch.from_numpy(shifted == 0)}
    with torch.no_grad():
        memory = torch_stack("encoder", params, norm)(
            torch_embedded(params["source_embedding/embedding"], source),
            src_key_padding_mask=padding["source"],
        )
        outputs = torch_stack("decoder", params, norm)(
            torch_embedded(params["target_embedding/embedding"], shifted),
            memory,
            tgt_mask=causal,
            tgt_key_padding_mask=padding["target"],
            memory_key_padding_mask=padding["source"],
        )
    wanted = outputs.numpy() @ params["output/kernel"] + params["output/bias"]

    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    logits = forward.evaluate(module, variables, {"source": source, "target": target})
    is_token = np.arange(7)[None] < lengths[:, 1, None]
    np.testing.assert_allclose(logits[is_token], wanted[is_token], rtol=1e-4, atol=1e-4)
    assert np.abs(wanted[is_token]).max() > 1
