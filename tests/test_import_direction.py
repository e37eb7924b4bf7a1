"""Imports run one way, as docs/design.md says."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "earlyprune_jax"
LAYERS = [
    {
        "leaving",
        "validate",
        "array_types",
        "metrics",
        "references",
        "user_code",
        "xla_flags",
        "spec_sections",
        "spec",
        "storage",
        "assets",
        "records",
        "run_records",
        "triggers",
        "analysis",
        "published",
        "__init__",
    },
    {"pruning", "data", "models"},
    {"layer_hooks"},
    {"signals"},
    {"tasks", "translation"},
    {"training"},
    {"grid", "progress"},
    {"config_checks", "config_help", "workspace", "status", "verify", "translate"},
    {"config_files", "config", "config_json"},
    {"experiment"},
    {"slurm"},
    {"main"},
    {"cli", "completion", "__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
BASE = LAYERS[0] - {"analysis", "published"}


def imported(path: Path) -> set[str]:
    """The first-level modules of this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("earlyprune_jax"):
            rest = (node.module or "").split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith("earlyprune_jax.")
            }
    return {name if name in RANK else "__init__" for name in found}


def owner(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_no_module_imports_from_a_later_layer():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        for name in imported(path)
        if RANK[name] > RANK[owner(path)]
    ]
    assert not wrong


def test_analysis_reads_files_only():
    wrong = [
        f"{path.name} imports {name}"
        for path in (PACKAGE / "analysis").rglob("*.py")
        for name in imported(path) - BASE - {"analysis"}
    ]
    assert not wrong


def test_only_the_checkpoint_module_imports_orbax_and_only_models_and_layer_hooks_import_flax():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {
            a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
        }
        tops = {module.split(".")[0] for module in modules}
        assert "orbax" not in tops or path.name == "checkpoint.py", path
        assert "flax" not in tops or owner(path) in ("models", "layer_hooks"), path


def test_every_module_has_its_layer():
    assert {owner(path) for path in PACKAGE.rglob("*.py")} == set(RANK)
