"""Text: the protobuf text format, as far as configurations use it.

    message  = { field }
    field    = name ( ":" ( scalar | "[" scalars "]" ) | [":"] ( message | "[" messages "]" ) ) [ "," | ";" ]
    scalar   = string { string } | number | word

The parser does not know the types of fields: a message maps each field to all values that it was given.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

DEPTH = 64  # messages within messages

TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?|inf(?:inity)?\b|nan\b))
    |(?P<word>[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<symbol>[{}<>\[\]:,;])""",
    re.VERBOSE,
)


class TextError(ValueError):
    """Text that is not in the format, with its line."""


class Word(str):
    """A bare word: an enumeration's value, true or false."""

    __slots__ = ()


Scalar = str | Word | int | float
Message = dict[str, "list[Value]"]
Value = Scalar | Message


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    line: int


def parse(text: str) -> Message:
    """Parse a message. Raises TextError."""
    return Reader(tokens(text)).message("")


def tokens(text: str) -> list[Token]:
    found: list[Token] = []
    position, line = 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise TextError(f"line {line}: {text[position : position + 20].split(chr(10))[0]!r} is not understood")
        if match.lastgroup != "blank":
            found.append(Token(match.lastgroup or "", match.group(), line))
        line += match.group().count("\n")
        position = match.end()
    return [*found, Token("end", "", line)]


class Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _skip(self, *texts: str) -> bool:
        token = self._peek()
        found = token.kind == "symbol" and token.text in texts
        self._next += found
        return found

    def message(self, end: str) -> Message:
        """Return the fields up to the symbol ``end``, or to the end of the text where that is empty."""
        fields: Message = {}
        while True:
            token = self._take()
            if token.text == end and token.kind in ("symbol", "end"):
                return fields
            if token.kind not in ("word", "number"):
                raise TextError(f"line {token.line}: expected a field's name, found {token.text or 'the end'!r}")
            fields.setdefault(token.text, []).extend(self._values())
            self._skip(",", ";")

    def _values(self) -> list[Value]:
        colon = self._skip(":")
        if self._skip("["):
            return self._list()
        return [self._value(colon)]

    def _list(self) -> list[Value]:
        values: list[Value] = []
        while not self._skip("]"):
            values.append(self._value(True))
            if not self._skip(",") and self._peek().text != "]":
                raise TextError(f"line {self._peek().line}: expected a comma or ], found {self._peek().text!r}")
        return values

    def _value(self, scalar: bool) -> Value:
        token = self._take()
        if token.kind == "symbol" and token.text in "{<":
            return self._nested("}" if token.text == "{" else ">", token)
        if not scalar or token.kind not in ("string", "number", "word"):
            raise TextError(f"line {token.line}: expected a value, found {token.text or 'the end'!r}")
        if token.kind == "string":
            return self._string(token)
        return Word(token.text) if token.kind == "word" else number(token)

    def _nested(self, end: str, token: Token) -> Message:
        self._depth += 1
        if self._depth > DEPTH:
            raise TextError(f"line {token.line}: more than {DEPTH} messages within each other")
        message = self.message(end)
        self._depth -= 1
        return message

    def _string(self, token: Token) -> str:
        parts = [unquote(token)]
        while self._peek().kind == "string":
            parts.append(unquote(self._take()))
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise TextError(f"line {token.line}: a string that is no UTF-8") from None


def unquote(token: Token) -> bytes:
    """Return a string's bytes. Its escapes are those of C, which Python's bytes share; other characters are UTF-8."""
    plain = "".join(one if one.isascii() else "".join(f"\\x{byte:02x}" for byte in one.encode()) for one in token.text)
    try:
        value = ast.literal_eval(f"b{plain}")
    except (ValueError, SyntaxError):
        raise TextError(f"line {token.line}: {token.text[:40]} has an escape that is not understood") from None
    assert isinstance(value, bytes)
    return value


def number(token: Token) -> int | float:
    text = token.text.lower()
    try:
        if "x" in text:
            return int(text, 16)
        if text.lstrip("-").isdigit():
            return int(text, 8 if text.lstrip("-").startswith("0") and text.lstrip("-") != "0" else 10)
        return float(text.rstrip("f") if "inf" not in text else text)
    except ValueError:
        raise TextError(f"line {token.line}: {token.text[:100]!r} is no number") from None
