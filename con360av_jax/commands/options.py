"""Options of all three programs, read by tyro: every setting of a config is an option, and an error is one line.

tyro's public interface prints what is wrong in a box. Its hook `tyro._errors.on_parse_error` gives it as data, but may
change with any release: pyproject.toml therefore bounds tyro's version.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Union

import tyro
from tyro import _errors as events

from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.errors import Con360Error, ConfigError

if TYPE_CHECKING:
    from tyro._arguments import ArgumentDefinition

# Options of earlier versions.
RENAMED = {"--output": "--out", "--encode": "--base", "--batch": "--batch-size"}
# Share of two names that is the same (difflib's ratio) from which one is offered for the other.
SIMILAR = 0.7
# The config whose defaults --help shows, unless the other options name one.
SHOWN_CONFIG = "published"


class Command(Protocol):
    """A command: a dataclass whose fields are options.

    If it has a method `starting_config() -> Config`, every setting of that config becomes an option, and `execute` gets
    the config with the given options applied: `execute(config)`.
    """

    def execute(self) -> int | None:
        """Runs the command; returns the exit code, None for 0."""
        ...


class OptionError(ConfigError):
    """An option is unknown or missing, or its value does not fit."""

    config: str = ""
    """The config that the other options name, if any."""


def read_command(
    program: str, about: str, commands: Mapping[str, type[Command]], arguments: Sequence[str]
) -> Command | None:
    """The command that `arguments` name, with its options; None if they ask for help, which is then shown.

    Raises:
        ConfigError: the command, an option or a value is unknown or missing, in one line.
    """
    name, settings = arguments[0] if arguments else "", None
    kinds: dict[str, type] = {key: tyro.conf.FlagCreatePairsOff[kind] for key, kind in commands.items()}
    if name not in commands and not name.startswith("-"):
        problem = f"unknown command {name!r}" if name else "no command was given"
        raise OptionError(f"{problem}: give one of {', '.join(commands)}{_did_you_mean(name, commands)}")
    if hasattr(commands.get(name), "starting_config"):
        settings = _with_one_length(_starting_config(kinds[name], arguments[1:]), arguments)
        kinds[name] = _with_settings(kinds[name], settings)
    # The list of commands shows one line of each; --help of a command shows its docstring.
    texts = {key: inspect.getdoc(kind) or "" for key, kind in commands.items()}
    texts = {key: text if key == name else text.partition("\n")[0] for key, text in texts.items()}
    union: Any = Union[  # noqa: UP007
        tuple(Annotated[kind, tyro.conf.subcommand(key, description=texts[key])] for key, kind in kinds.items())
    ]
    known = [*_option_names(commands.get(name)), *_option_names(settings, "config")]
    try:
        with events.on_parse_error(lambda event: _refuse(event, known)):
            return tyro.cli(union, prog=program, description=about, args=arguments, config=(tyro.conf.DisallowNone,))
    except BrokenPipeError:
        return None  # `--help | head`
    except SystemExit as stop:
        if stop.code:
            raise  # tyro has shown an error of a kind that `_refuse` does not know
        return None


def _starting_config(kind: type, arguments: Sequence[str]) -> Config:
    """The config whose settings are options: the command's own, or `SHOWN_CONFIG` for --help and incomplete options."""
    complete = [word for word in _without_settings(arguments) if word not in ("-h", "--help")]
    try:
        with events.on_parse_error(lambda event: _refuse(event, ())):
            command, _ = tyro.cli(kind, args=complete, return_unknown_args=True, add_help=False)
        return command.starting_config()
    except OptionError as error:
        # Reading all options finds the same error, and knows the settings.
        return load_config(error.config or SHOWN_CONFIG)
    except Con360Error:
        if "-h" not in arguments and "--help" not in arguments:
            raise
        return load_config(SHOWN_CONFIG)


def _without_settings(arguments: Sequence[str]) -> Iterator[str]:
    """`arguments` without settings, whose values would count as positional arguments of the command."""
    is_value = False
    for word in arguments:
        if word.startswith("--config."):
            is_value = "=" not in word
        elif is_value and not word.startswith("--"):
            is_value = False
        else:
            is_value = False
            yield word


def _with_one_length(config: Config, arguments: Sequence[str]) -> Config:
    """The config without its own length of training if `arguments` give a length in the other unit.

    train.steps and train.epochs exclude each other: the one that is given takes the place of the other. Where both are
    given, `TrainConfig` refuses them.
    """
    given = {name: _value_of(f"--config.train.{name}", arguments) for name in ("steps", "epochs")}
    match given:
        case {"steps": None, "epochs": str(epochs)} if epochs != "0" and config.train.steps:
            return replace(config, train=replace(config.train, steps=0, epochs=1))
        case {"steps": str(steps), "epochs": None} if steps != "0" and config.train.epochs:
            return replace(config, train=replace(config.train, steps=1, epochs=0))
    return config


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option as it was typed; None if it was not given or has no value."""
    for word, following in zip_longest(arguments, arguments[1:]):
        name, mark, value = word.partition("=")
        if name == option:
            return value if mark else following
    return None


def _with_settings(kind: type, config: Config) -> type:
    """A command with the options of `kind`, and all settings of `config` as --config.path.to.setting."""

    def execute(self) -> int | None:
        return self.command.execute(self.config)

    options = [("command", Annotated[kind, tyro.conf.arg(name="")]), ("config", Config, field(default=config))]
    return make_dataclass("Configured", options, namespace={"execute": execute}, frozen=True)


def _refuse(event: events.ParseErrorEvent, known: Sequence[str]) -> None:
    """Raises an OptionError that says what tyro found; returns for kinds of errors that later versions may add."""
    match event:
        case events.UnrecognizedArgs(tokens=words) | events.MissingArgs(unrecognized_tokens=[_, *_] as words):
            text = _unknown(words, known)
        case events.MissingArgs(missing_arguments=missing):
            text = f"{', '.join(_shown(context.arg) for context in missing)} must be given"
        case events.InvalidChoice(argument=argument, value=value, choices=choices):
            option = "" if argument.is_positional() else f"{_shown(argument)} "
            if "None" in choices:  # of an option that may be left out; tyro gives them in any order
                choices = sorted({*choices} - {"None"})
            text = f"{option}{value}: give one of {', '.join(choices)}"
        case events.BadValue(argument=argument):
            text = f"{_shown(argument)} needs a value: {argument.lowered.metavar}"
        case events.InstantiationFailure(message=text, argument=argument):
            if argument is not None:
                text = f"{_shown(argument)} takes {argument.lowered.metavar}: {text}"
        case _:
            return
    error = OptionError(text)
    given = getattr(event, "partial_output", {}).get("config")
    if isinstance(given, list):  # words of the command line; tyro.MISSING where there are none
        error.config = "".join(given)
    raise error


def _shown(argument: "ArgumentDefinition") -> str:
    """Name of an option or of a positional argument, as --help shows it."""
    return str(argument.lowered.metavar) if argument.is_positional() else argument.display_name()


def _unknown(words: Sequence[str], known: Sequence[str]) -> str:
    option = next((word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")), "")
    if not option:
        return f"unexpected argument {words[0]!r}"
    if RENAMED.get(option) in known:
        return f"{option} is now {RENAMED[option]}"
    return f"unknown option {option}{_did_you_mean(option, known)}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = [name for name in known if name.endswith(f".{word.strip('-')}")] or get_close_matches(
        word, known, 1, SIMILAR
    )
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


def _option_names(value: object, name: str = "") -> Iterator[str]:
    """Names of the options that tyro makes of `value`: a dataclass (a type or an instance), or a part called `name`."""
    if isinstance(value, tuple) and any(map(is_dataclass, value)):
        for number, part in enumerate(value):
            yield from _option_names(part, f"{name}.{number}")
    elif not is_dataclass(value):
        yield f"--{name}"
    else:
        for option in fields(value):
            markers = getattr(option.type, "__metadata__", ())
            if tyro.conf.Positional not in markers and tyro.conf.Suppress not in markers:
                path = f"{name}.{option.name}".strip(".").replace("_", "-")
                renamed = any(getattr(marker, "name", None) == "" for marker in markers)  # tyro.conf.arg(name="")
                omitted = renamed or tyro.conf.OmitArgPrefixes in markers
                yield from _option_names(getattr(value, option.name, None), name if omitted else path)
