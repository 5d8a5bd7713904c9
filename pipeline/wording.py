"""Numbers as text, in reports and model cards."""


def percent(share: float, digits: int = 1) -> str:
    """Format a share: `98.3%`."""
    return f"{share:.{digits}%}"


def amount(number: float) -> str:
    """Format a number: `1.12 million`; below a million, with all digits."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Format a duration: `2 h 05 min`, `3 min 20 s` or `4.2 s`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"
