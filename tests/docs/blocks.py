"""Code of a page of docs/, as files and as parameters: what it tells its readers to write."""

import re
from pathlib import Path
from typing import Any

import yaml

_FILE = re.compile(r"`([\w/]+\.py)`[^`\n]*\n\n```python\n(.*?)```", re.DOTALL)
_YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def files_of(page: Path) -> dict[str, str]:
    """Name → text, of each block of Python below a line whose last name in code is that of its file."""
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


def write_files(page: Path, folder: Path) -> None:
    """They, and an empty ``__init__.py`` in each folder of theirs."""
    for name, text in files_of(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for above in path.parents:
            if above == folder:
                break
            (above / "__init__.py").touch()


def put_in(page: Path, params: Path) -> None:
    """The page's only block of YAML in place of what the parameter file has under the same keys; the rest stays."""
    [block] = _YAML.findall(page.read_text(encoding="utf-8"))
    text = params.read_text(encoding="utf-8")
    for key in yaml.safe_load(block):
        part = re.compile(rf"^{key}:.*\n(?:(?: .*)?\n)*", re.MULTILINE)
        new: Any = part.search(block + "\n")
        assert new and part.search(text)
        text = part.sub(lambda _, new=new: new[0] + "\n", text, count=1)  # type: ignore[misc]
    params.write_text(text)
