"""What people mistype in YAML, told at the line where it stands: the parser stumbles a line or more below."""

import re

import yaml

_START = r"^(?P<start> *(?:- +)*)"
_KEY = r"(?P<key>[\w.]+)"
# Of a line without its comment: what is wrong with it, and how it is written.
_SLIPS = (
    (re.compile(_START + _KEY + r":(?P<value>[^\s/].*)$"), "no space after the colon", "{key}: {value}"),
    (re.compile(_START + r"-(?P<value>[^\s-].*)$"), "no space after the dash", "- {value}"),
    (re.compile(_START + _KEY + r" *= *(?P<value>\S.*)$"), "'=' instead of a colon", "{key}: {value}"),
    (re.compile(_START + _KEY + r": +(?P<value>[^\s'\"{\[|>&*].*:( .*|))$"), "a colon in the text", "{key}: '{value}'"),
)  # fmt: skip
_WORDS = {
    "found character '\\t' that cannot start any token": "a tab; put spaces in its place",
    "that cannot start any token": "a sign that means something else in YAML; put the value in quotes",
    "found undefined alias": "a * begins an alias; put the value in quotes",
    "found unexpected end of stream": "what begins here has no end; close its quotes",
    "expected <block end>": "not indented as the lines before it; put it below them",
    "mapping values are not allowed here": "does not go with the line before it; mind the indentation of both",
    "could not find expected ':'": "neither a key with a colon nor an item with a dash",
}


def slip(line: str) -> str:
    """What is mistyped in a line, and the remedy; '' for a line that looks well."""
    line = re.sub(r"(^|\s)#.*", "", line).rstrip()
    for pattern, what, way in _SLIPS:
        if found := pattern.match(line):
            parts = {name: value[:60] for name, value in found.groupdict().items()}
            if "'" in way:
                parts["value"] = parts["value"].replace("'", "''")
            return f"{what}; write `{way.format(**parts)}`"
    return ""


def fault(text: str, error: yaml.MarkedYAMLError) -> tuple[int | None, str]:
    """The line, from 1, and what is wrong there, in words."""
    marks = [mark.line for mark in (error.problem_mark, error.context_mark) if mark]
    if not marks:
        return None, error.problem or error.context or "not valid YAML"
    lines = text.splitlines()
    # A value goes on in the next line where no colon ends it: what lacks one stands above what the parser met.
    above = next((number for number in range(marks[0] - 1, -1, -1) if lines[number : number + 1] != [""]), marks[0])
    problem = error.problem or ""
    if "\\t" not in problem:
        for number in (*reversed(marks), above):
            if number < len(lines) and (said := slip(lines[number])):
                return number + 1, said
    for words, said in _WORDS.items():
        if words in problem:
            begins = words in ("found unexpected end of stream", "could not find expected ':'")
            return marks[-1 if begins else 0] + 1, said
    return marks[0] + 1, problem or error.context or "not valid YAML"
