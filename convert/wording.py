"""How error messages about files shorten what others wrote."""


def some(words: list[str], separator: str = ", ") -> str:
    """The first eight, and how many more there are."""
    return separator.join(words[:8]) + (f"{separator}and {len(words) - 8} more" if len(words) > 8 else "")


def first_line(error: BaseException) -> str:
    """What another library's error says, in one short line."""
    return (str(error).strip() or repr(error)).splitlines()[0][:160]
