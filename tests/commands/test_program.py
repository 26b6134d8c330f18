"""Properties that the three programs share: one line per error, exit codes, help that lists everything, old names."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest

import con360av_jax.cli
import convert.cli
import preprocess.cli
from con360av_jax.commands.options import read_command
from con360av_jax.commands.program import run_program
from con360av_jax.config.files import leaves, load_config, to_dict
from con360av_jax.errors import ConfigError

PROGRAMS = {"con360av": con360av_jax.cli, "convert": convert.cli, "preprocess": preprocess.cli}
ALL = [(name, command) for name, program in PROGRAMS.items() for command in program.COMMANDS]
# The last options name the config whose defaults are shown.
CONFIGURED = [
    ["init", "--config", "debug"],
    ["train", "--config", "debug"],
    ["plan", "debug"],
    ["bench", "train", "debug"],
]


@dataclass(frozen=True, kw_only=True)
class Ends:
    """A command that ends as it is told."""

    if_interrupted: ClassVar = "the same command goes on"
    how: str = ""

    def execute(self) -> int | None:
        ways: dict[str, BaseException] = {
            "user": ConfigError("two\nlines"),
            "system": OSError(28, "No space left on device"),
            "stop": KeyboardInterrupt(),
            "saved": KeyboardInterrupt("the run is saved"),
        }
        if self.how in ways:
            raise ways[self.how]
        return int(self.how) if self.how else None


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("", 0, ""),
        ("1", 1, ""),
        ("user", 2, "ends: error: two lines\n"),
        ("system", 2, "ends: error: [Errno 28] No space left on device\n"),
        ("stop", 130, "ends: interrupted: the same command goes on\n"),
        ("saved", 130, "ends: interrupted: the run is saved\n"),
    ],
)
def test_every_end_of_a_command_has_its_exit_code_and_at_most_one_line(how: str, code: int, line: str, capsys):
    assert run_program("python -m ends", "", {"end": Ends, "other": Ends}, ["end", "--how", how]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(("name", "program"), PROGRAMS.items())
def test_a_wrong_command_is_one_line_with_all_commands(name: str, program, capsys: pytest.CaptureFixture[str]):
    commands = ", ".join(program.COMMANDS)
    for arguments, line in (([], "no command was given"), (["dance"], "unknown command 'dance'")):
        assert program.main(arguments) == 2
        assert capsys.readouterr() == ("", f"{name}: error: {line}: give one of {commands}\n")
    first = next(iter(program.COMMANDS))
    assert program.main([f"{first}x"]) == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {first}?\n")


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "100")

    def show(program: str, *arguments: str) -> str:
        assert PROGRAMS[program].main([*arguments, "--help"]) == 0
        return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())

    return show


@pytest.mark.parametrize(("program", "command"), ALL)
def test_every_option_says_what_it_is(program: str, command: str, help_of: Callable[..., str]):
    shown = help_of(program, command)
    assert re.findall(r"--[\w.-]*\w [^a-z ]*\s?\((?:default|required|repeatable)[^)]*\)", shown) == []


@pytest.mark.parametrize("arguments", CONFIGURED)
def test_help_lists_every_setting_with_its_unit_and_the_default_of_the_config(
    arguments: list[str], help_of: Callable[..., str]
):
    shown = help_of("con360av", *arguments)
    # Those of pretraining belong to `con360av pretrain`, and its recipes stand there in place of the options of train.
    settings = [path for path in leaves(to_dict(load_config("debug"))) if not path.startswith("pretrain.")]
    assert len(settings) > 100
    for path in settings:
        # A tuple of numbers is one option.
        option = re.sub(r"(?<!levels)\.\d+$", "", path).replace("_", "-")
        assert re.search(rf"--config\.{re.escape(option)}\b", shown), option
    assert re.search(r"--config.clip.height INT Height of the view \(pixels\)[^(]*\(default: 64\)", shown)
    assert re.search(r"--config.train.steps INT [^(]*\(default: 48\)", shown)


def test_help_without_a_config_shows_published(help_of: Callable[..., str]):
    assert re.search(r"--config.train.steps INT [^(]*\(default: 10000\)", help_of("con360av", "train"))


@pytest.mark.parametrize("config", ["debug", "paper_a100x4"])  # the one gives steps, the other epochs
@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        ("--config.train.epochs 5", 0, 5),
        ("--config.train.epochs=5", 0, 5),
        ("--config.train.steps 100", 100, 0),
        ("--config.train.epochs 0 --config.train.steps 100", 100, 0),
        ("--config.train.steps 0 --config.train.epochs 5", 0, 5),
    ],
)
def test_a_length_in_steps_or_in_epochs_takes_the_place_of_the_config_s(
    config: str, options: str, steps: int, epochs: int
):
    arguments = ["init", "--config", config, "--out", "x", *options.split()]
    command: Any = read_command("con360av", "", con360av_jax.cli.COMMANDS, arguments)
    assert (command.config.train.steps, command.config.train.epochs) == (steps, epochs)


@pytest.mark.parametrize("config", ["debug", "paper_a100x4"])
def test_two_lengths_are_refused(config: str, capsys: pytest.CaptureFixture[str]):
    both = ["--config.train.steps", "100", "--config.train.epochs", "5"]
    assert con360av_jax.cli.main(["init", "--config", config, "--out", "x", *both]) == 2
    assert capsys.readouterr().err == ("con360av: error: steps=100 and epochs=5 are both given: set one of them to 0\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("init --config debug --out x --config.train.stepz 3", "unknown option --config.train.stepz; did you mean "
                                                               "--config.train.steps?"),
        ("init --config debug --out x --steps 3", "unknown option --steps; did you mean "
                                                   "--config.sampler.steps or --config.train.steps?"),
        ("init --config debug --out x --colour red", "unknown option --colour"),
        ("init --config debug --out x y", "unexpected argument 'y'"),
        ("init --config debug --out x --config.clip.height", "--config.clip.height needs a value: INT"),
        ("init --config debug --out x --config.clip.height q", "--config.clip.height takes INT: invalid literal for "
                                                               "int() with base 10: 'q'"),
        ("init --config debug --out x --config.train.remat q", "--config.train.remat q: give one of none, products, "
                                                               "blocks"),
        ("init --config.train.steps 3", "--config, --out must be given"),
        ("train --base x --distibuted", "unknown option --distibuted; did you mean --distributed?"),
        ("evaluate --run x --draw 2", "unknown option --draw; did you mean --draws?"),
        ("evaluate --run x --mesh.dat 2", "unknown option --mesh.dat; did you mean --mesh.data?"),
        ("sample --checkpoint x --out y --mesh.dat 2", "unknown option --mesh.dat; did you mean --mesh.data?"),
        ("plan --devices 2", "CONFIG must be given"),
        ("bench dance", "dance: give one of loader, train, sample"),
        ("sample --checkpoint x --out y --solver euler", "--solver euler: give one of ddim, dpmpp_2m, unipc"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_that_names_it(arguments: str, line: str, capsys: pytest.CaptureFixture[str]):
    assert con360av_jax.cli.main(arguments.split()) == 2
    assert capsys.readouterr() == ("", f"con360av: error: {line}\n")


@pytest.mark.parametrize(
    ("program", "arguments", "line"),
    [
        ("preprocess", "run videos --output data", "--output is now --out"),
        ("preprocess", "run videos --out data --encode base", "--encode is now --base"),
        ("preprocess", "list videos --output=videos.csv", "--output is now --out"),
        ("preprocess", "features --videos v --out f --protocol small --batch 2", "--batch is now --batch-size"),
        ("convert", "export run --output torch", "--output is now --out"),
        ("con360av", "report run --output page.html", "--output is now --out"),
        ("con360av", "synth --out s --encode x", "unknown option --encode; did you mean --seconds?"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(program: str, arguments: str, line: str, capsys):
    assert PROGRAMS[program].main(arguments.split()) == 2
    assert capsys.readouterr() == ("", f"{program}: error: {line}\n")


def test_one_name_for_one_thing_in_all_programs():
    """Output is --out, the folder of frozen weights --base; no option is called otherwise."""
    names = {option.name for name, command in ALL for option in fields(PROGRAMS[name].COMMANDS[command])}
    assert {"out", "base", "config", "dataset", "device", "batch_size"} <= names
    assert not {"output", "encode", "batch", "pretrained"} & names
