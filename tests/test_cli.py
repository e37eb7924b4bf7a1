"""The program `earlyprune`: its commands, help, and completions."""

import os
import subprocess
import sys

import pytest

import earlyprune_jax
from configs import digits
from earlyprune_jax import cli, config, main, records, spec_sections


def test_each_command_of_the_table_is_in_the_help_and_explains_itself(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    for name in cli.COMMANDS:
        assert f"earlyprune {name} " in text
        usage = cli.module(name).parser().format_usage()
        assert usage.startswith(f"usage: earlyprune {name} ")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("statsu", "Did you mean 'status'?"),
        ("--config=digits", "Did you mean 'run --config=digits'?"),
        ("qqqq", "'qqqq'. Commands: run, "),
    ],
)
def test_an_unknown_command_gets_the_nearest_and_exit_2(given, words, capsys):
    assert cli.main([given]) == 2
    assert words in capsys.readouterr().err


def test_run_is_the_main_of_before(capsys):
    assert cli.main(["run", "--confg=digits"]) == main.main(["--confg=digits"]) == 2
    first, second = capsys.readouterr().err.split("earlyprune_jax: ")[1:]
    assert first == second and "Unknown argument --confg=digits. Did you mean '--config'?" in first


def test_the_package_is_a_program_too():
    command = [sys.executable, "-m", "earlyprune_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == f"earlyprune_jax {earlyprune_jax.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("status {} >&-", 0),
        ("run --help >&-", 0),
        ("status none 2>&-", 2),
        ("status {} >/dev/full", 0),
        ("status none 2>/dev/full", 2),
        ("status {} | true", 0),
    ],
)
def test_a_closed_or_full_stream_changes_no_exit_code_and_is_no_stack_trace(typed, code, tmp_path):
    study = {"format": records.FORMAT, "metrics": [{"name": "loss"}], "primary": "loss"}
    records.write_of_study(tmp_path, records.STUDY, study)
    command = f"{sys.executable} -m earlyprune_jax {typed.format(tmp_path)}"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (code, "")


def test_of_processes_that_a_launcher_has_numbered_the_first_alone_says_what_it_does(
    monkeypatch, capsys
):
    def told(*flags):
        main.main(["--config=digits", "--bogus", *flags])
        return "starting JAX" in capsys.readouterr().err

    for launcher in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        with monkeypatch.context() as environment:
            environment.setenv(launcher, "1")
            assert told() and not told("--distributed")
            environment.setenv(launcher, "0")
            assert told("--distributed") and not told("--distributed", "--process_id=1")


def test_files_of_the_current_directory_are_found_as_with_python_m(tmp_path):
    package = os.path.dirname(os.path.dirname(cli.__file__))  # noqa: PTH120
    script = tmp_path / "bin" / "earlyprune"
    script.parent.mkdir()
    script.write_text(
        f"import sys\nsys.path.append({package!r})\nfrom earlyprune_jax import cli\n"
        "try:\n    cli.program()\nexcept SystemExit:\n    import nets\n    print(nets.NAME)\n"
    )
    (tmp_path / "nets.py").write_text("NAME = 'found here'")
    command = [sys.executable, str(script), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("found here\n"), done.stderr


def test_help_has_one_screen_before_the_keys_and_the_type_and_value_of_each(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert next(i for i, line in enumerate(lines) if line.startswith("config keys")) <= 24
    assert [line for line in lines if line.startswith(tuple(f"{s}: " for s in SECTIONS))]
    values = digits.get_config().to_dict()
    flowing = " ".join(text.split())
    for name, field in spec_sections.KEYS.items():
        section, key = name.split(".")
        told = flowing.partition(f" {name} {spec_sections.type_name(field.type)}; ")[2]
        shown = told.partition(f" {spec_sections.MEANINGS[name]}")[0]
        assert told, name
        value = config.parse({"''": "", "()": ""}.get(shown, shown), field.type)
        assert value == values[section][key], name


SECTIONS = tuple(spec_sections.SECTIONS)


@pytest.mark.parametrize(
    ("typed", "some"),
    [
        ("", {"run", "status", "regimes"}),
        ("run --config=two_regime:d", {"depth_small", "data_small"}),
        ("run --config.optim.w", {"--config.optim.weight_decay"}),
        ("status --w", {"--watch"}),
    ],
)
def test_the_shell_completes_commands_configs_forms_and_keys(typed, some, tmp_path):
    pytest.importorskip("argcomplete")
    line = f"earlyprune {typed}"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"),
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " =:",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "earlyprune_jax"], env=environment, check=True)
    answers = {answer.strip() for answer in (tmp_path / "answer").read_text().splitlines()}
    assert some <= answers
