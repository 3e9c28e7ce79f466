"""Pages that are partly rendered: what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"


def block(page: str, name: str) -> str:
    """What a page has between its marks."""
    begin, end = _marks(name)
    return page.split(begin)[1].split(end)[0]


def replaced(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its marks."""
    begin, end = _marks(name)
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]
