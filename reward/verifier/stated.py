"""Decides whether a sentence states an option that it mentions: `It is a square.`, not `It lies to the left of the square.`"""

import re

MARK = "\0"
"""Character that stands for the option in a plain text."""
_OPEN = r"(?:an? |the )?[\"'*($]*"
_CONCLUDING = r"(?:so|thus|therefore|hence|then|overall|in conclusion|i think|i would say|i choose|i pick)\b[,:]? (?:that )?"
_STATING = (
    r"(?:is|are|was|were|(?:must|would|will|should) be|it's|that's|becomes?|represents?|shows?|indicates?|means|equals|called|named"
    r"|made (?:of|from)|departs from|arrives at|answer|choice|option|choose|select|pick|conclude)"
    r"(?: that)?(?: (?:also|most likely|probably|clearly))?[,:]? "
)
_STATED = re.compile(rf"(?:^|[,;] )(?:{_CONCLUDING})?{_OPEN}{MARK}|\b{_STATING}{_OPEN}{MARK}|[:=] ?{_OPEN}{MARK}")
_ENDS = re.compile(
    r"[\"'*)$]*(?:\s*$|\s*[.,;:!(\u2013\u2014]| (?:because|since|due|which|that|at|in|on|for|with|from|by|of|and|so|based|given|the"
    r"|ones?|options?|bars?|lines?|curves?|columns?|groups?|regions?|objects?)\b)"
)
_PLAIN = re.compile(rf"(?:so,? |thus,? |therefore,? |hence,? )?(?:the|it|they|this)\b([^,;:{MARK}]*) (\w+) {MARK}\W*$")
_OTHER_CLAUSE = re.compile(r"\b(?:is|are|was|were|be|if|when|as|while)\b")
_LEADS_ELSEWHERE = re.compile(
    r"an?|the|of|to|than|like|but|not|in|at|on|from|with|near|behind|beside|inside|opposite|only|seldom|never|be|\w+ly"
)
_VERB = r"(?:is|are|was|were|has|have|had|did|does|can|will|\w+s|\w+ed|sold|made|spent|won|got|ran|paid|ate|read|grew|took|bought)"
_COMPARES = re.compile(
    rf"(?:^|[,;:] ){_CONCLUDING}{_OPEN}{MARK}[*\"')]* {_VERB}\b"
    rf"|(?:^|[,;:] ){_CONCLUDING}{_OPEN}{MARK} (?:[\w']+ ){{0,6}}(?:more|most|less|least|fewer|fewest)\b"
    rf"|^{_OPEN}{MARK}[*\"')]* {_VERB} (?:\w+ ){{0,4}}?(?:more|most|less|least|fewer|fewest|correct|\w{{3,}}e(?:r|st))\b"
)
_NEIGHBOUR = re.compile(
    r"\b(?:(?:left|right|north|south|east|west|top|bottom|front|outside|inside) of|next to|opposite|beside|behind|near|inside"
    rf"|consider|look at|likes?|than|if) {_OPEN}{MARK}|{MARK}'s neighbou?r"
)


def mentions_neighbour(words: str) -> bool:
    """Return whether the marked option only locates another thing, is compared with it, or is a thing to look at."""
    return _NEIGHBOUR.search(words) is not None


def is_stated(words: str) -> bool:
    """Return whether the text states the marked option. Three forms count:

    - The option begins the text or follows `is` and the like, and other words do not continue it (`square metres`).
    - A plain statement ends with the option (`The pressure increases.`).
    - A conclusion or comparison is about the option (`So Emily has more.`).
    """
    if any(_ENDS.match(words, found.end()) for found in _STATED.finditer(words)) or _COMPARES.search(words):
        return True
    plain = _PLAIN.match(words)
    return plain is not None and not _OTHER_CLAUSE.search(plain[1]) and not _LEADS_ELSEWHERE.fullmatch(plain[2])
