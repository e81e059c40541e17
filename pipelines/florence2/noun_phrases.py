"""Finds the noun phrases of a caption, and compares them with a description. Pure functions for plain English.

A phrase goes from a determiner, a number or the word after a preposition to the word before the next function word.
Phrases that name no thing of their own, such as `the left`, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_NUMBER = 12
"""Largest number that counts; of more things nobody counts each."""
MAX_LETTERS = 60
"""Longest phrase; what is longer is no English, and would not fit into a prompt."""
_TOKEN = re.compile(r"[^\W\d_]+(?:['\u2019\-][^\W\d_]+)*|\d+|\S")
_LIST = re.compile(r"[,;]|\b(?:and|or)\b", re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = {
    word: number
    for number, word in enumerate(
        ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
_A, _THE = _words("a an another each every"), _words("the this that his her its their")
_DETERMINERS = _A | _THE | _words("these those my your our some any several many few other both all")
_OPENERS = _words("""
    of in on at by with without near under over above below behind beside between among around across along against
    through into onto inside outside from toward towards off up down past like as to for and or but while next
    shows show showing has have having wears wearing holds holding carries carrying rides riding contains containing
    includes including features featuring
""")
"""Words after which a phrase may begin without a determiner."""
_OTHERS = _words("""
    is are was were be been being am do does did can could will would may might must should seems seem appears appear
    looks stands sits walks runs lies hangs stand sit walk run lie hang there here it he she they we you i them him us
    me itself themselves which who whom whose what where when that not very also only just too so than then still
    visible present together apart away out if because although however
""")
"""Words that end a phrase and begin none."""
_PLACES = _words("""
    left right top bottom front back middle centre center side sides corner corners edge end background foreground
    distance left-hand right-hand image picture photo photograph scene view frame camera
""")
_GENERIC = _words("""
    object objects thing things item items group groups pair couple bunch row rows line lot lots number set piece pieces
    part parts kind type variety each other others one ones something someone anything day time way color colour colors
    colours design style pattern
""")
"""Words that name no particular thing."""
_SIZES = _words("large small big little tiny huge tall short long wide medium-sized small-sized large-sized")
_COLOURS = _words("""
    red green blue yellow orange purple white black brown grey gray pink beige tan silver gold golden
""")
_KINDS = {
    "person": _words("human man woman boy girl child kid lady guy player worker"),
    "man": _words("guy boy"),
    "woman": _words("lady girl"),
    "child": _words("kid boy girl"),
    "vehicle": _words("car truck van bus taxi suv pickup lorry automobile"),
    "car": _words("automobile taxi suv pickup van"),
    "truck": _words("lorry pickup van"),
}
"""Words for the same thing in more detail: a man is a person, but no woman."""
_NO_VERBS = _words("building ceiling clothing painting railing awning string spring")
"""Nouns that look like participles."""
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "mice": "mouse",
    "buses": "bus", "leaves": "leaf", "knives": "knife", "scarves": "scarf",
    "tomatoes": "tomato", "potatoes": "potato",
}  # fmt: skip


class _Token(NamedTuple):
    word: str
    """Lower case."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun phrase of a text."""

    start: int
    end: int
    """Place in the text."""
    article: str
    """`a`, `the` or empty: the article in a question about the thing."""
    number: int | None
    """Number of things, if the phrase counts them; 0 for `no`."""
    words: tuple[str, ...]
    """Lower-case words without determiner, number and size; the noun is last, in the singular if it is counted."""

    @property
    def noun(self) -> str:
        return singular(self.words[-1])

    @property
    def colours(self) -> frozenset[str]:
        return _COLOURS.intersection(self.words[:-1])

    @property
    def question(self) -> str:
        """The phrase as a prompt about one thing: a model that looks for `two red cars` finds less."""
        article = "an" if self.article == "a" and self.words[0][0] in "aeiou" else self.article
        return " ".join(filter(None, (article, *self.words)))


def noun_phrases(text: str) -> list[NounPhrase]:
    """Return the noun phrases of a text that name things, in order."""
    return [phrase for tokens in _chunks(text) if (phrase := _phrase(tokens)) is not None]


def searched_things(text: str) -> list[NounPhrase]:
    """Return the things that a text searches for: the first one of each part between commas, `and` and `or`."""
    parts = (noun_phrases(part) for part in _LIST.split(text))
    return [phrases[0] for phrases in parts if phrases]


def singular(noun: str) -> str:
    """Return a noun in the singular, by the rules of English spelling; an unknown irregular plural stays."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if len(noun) < 4 or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("elves", "olves")):  # no noun ends with elve or olve
        return noun[:-3] + "f"
    return noun[:-2] if noun.endswith(("sses", "xes", "ches", "shes")) else noun[:-1]


def describes(text: str, phrase: NounPhrase) -> bool:
    """Return whether a text names the thing of a phrase, and does not give it another colour."""
    named = [other for other in noun_phrases(text) if _same_thing(phrase.noun, other.words)]
    colours = frozenset[str]().union(*(other.colours for other in named))
    return bool(named) and not (phrase.colours and colours and phrase.colours.isdisjoint(colours))


def _same_thing(noun: str, words: Sequence[str]) -> bool:
    others = {singular(word) for word in words}
    kinds = _KINDS.get(noun, frozenset())
    return noun in others or bool(kinds & others) or any(noun in _KINDS.get(other, ()) for other in others)


def _tokens(text: str) -> list[_Token]:
    return [_Token(match[0].lower(), *match.span()) for match in _TOKEN.finditer(text)]


def _chunks(text: str) -> Iterator[list[_Token]]:
    """Yield the tokens of each phrase, with its determiner and number."""
    chunk: list[_Token] = []
    may_begin = True
    for token in _tokens(text):
        opens = token.word in _DETERMINERS or token.word in _NUMBERS or token.word.isdecimal()
        if opens and chunk and not _is_opening(chunk):
            # Between a noun and the next determiner is a verb: `a man walks a dog`.
            yield chunk[:-1] if len(chunk) > 1 and not _is_opening(chunk[:-1]) else chunk
            chunk = []
        if opens:
            chunk.append(token)
        elif not token.word[0].isalpha() or token.word in _OPENERS or token.word in _OTHERS or _is_adverb(token.word):
            yield chunk
            chunk, may_begin = [], token.word not in _OTHERS and not _is_adverb(token.word)
            continue
        elif chunk or may_begin:
            chunk.append(token)
        may_begin = False
    yield chunk


def _is_opening(chunk: list[_Token]) -> bool:
    """Return whether there is no word yet but determiners and numbers."""
    return all(token.word in _DETERMINERS or token.word in _NUMBERS or token.word.isdecimal() for token in chunk)


def _is_adverb(word: str) -> bool:
    return len(word) > 5 and word.endswith("ly") and word not in ("family", "butterfly", "assembly")


def _is_participle(word: str) -> bool:
    return len(word) > 4 and word.endswith(("ing", "ed")) and word not in _NO_VERBS


def _phrase(chunk: list[_Token]) -> NounPhrase | None:
    """Return the phrase of these tokens; None if it names no thing."""
    first = next((i for i, token in enumerate(chunk) if not _is_opening([token])), len(chunk))
    opening, rest = chunk[:first], chunk[first:]
    # A participle after the noun is a verb: `a man riding`, `a table covered`.
    while rest and _is_participle(rest[-1].word) and not (opening and len(rest) == 1):
        rest = rest[:-1]
    words = [token.word for token in rest if token.word not in _SIZES]
    if not words or words[-1] in _PLACES or words[-1] in _GENERIC:
        return None
    determiners = {token.word for token in opening}
    number = next((count for token in opening if (count := _number(token.word)) is not None), None)
    if number is not None:
        words[-1] = singular(words[-1])
    article = "a" if number is not None or determiners & _A else "the" if determiners & _THE else ""
    phrase = NounPhrase((opening or rest)[0].start, rest[-1].end, article, number, tuple(words))
    return phrase if len(phrase.question) <= MAX_LETTERS else None


def _number(word: str) -> int | None:
    number = int(word) if word.isdecimal() and len(word) < 3 else _NUMBERS.get(word)
    return None if number is None or number > MAX_NUMBER else number
