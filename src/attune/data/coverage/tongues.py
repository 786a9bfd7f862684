"""Which language a text is in, at two prices: by its script and little words, or by a model of 140 languages."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

SAMPLE = 300  # characters that the cheap guess looks at
_FULL = 400  # characters that the model looks at, of each end

# Words that make up much of any text in their language, and in English those of requests.
_LITTLE_WORDS = {
    "en": "the and of that it are with you this have not from which your they would what how can their there "
    "been has when who why where should we our if by about these those its into than them could some such "
    "more each is be was will does did make use as or any other most while then give write create "
    "describe explain generate following find please to for an in on a also two three first new used many only "
    "very through between his she him he list name identify design provide suggest improve rewrite compare",
    "de": "der die das was in an und ist nicht ein eine zu den mit von für auf im dem sich des auch wie ich sie "
    "wird sind oder werden bei aus einer dass kann wenn nach über haben einen nur wir ihr durch zum zur "
    "welche als es dieser diese eines mehr einem vom hat sein seine ihre können bitte warum",
    "fr": "le la les de à on des est et une un dans pour que qui sur pas avec par sont du au ce il elle vous "
    "nous je ne plus cette être ou mais comme aux leur ces ses son sa quel quelle peut ont votre d'un "
    "d'une c'est l'on se en",
    "es": "el la los las de que en un una es por con para del se su al como más lo son pero sus este esta está "
    "también cómo qué ser fue puede entre cuando muy desde hay sobre y ha cuál tiene nos",
    "it": "il di in che è la un una per con non sono del della si le dei nel gli alla come anche più questo lo "
    "ma delle cosa ha nella degli essere può dal dalla ed sua suo loro questa quali perché",
    "pt": "o a os as de que em um uma é para com não do da na por mais dos das se como são ao seu sua ou você "
    "também pelo pela foi ser pode quando muito isso está à nos entre qual",
    "nl": "de is in het een van dat niet zijn op te met voor aan er ook als maar om door naar wordt worden bij "
    "uit ik je deze dit en hoe kan wat nog kunnen hebben heeft waarom tussen tot",
    "sv": "och i att det som är på för av med inte den till har ett om från eller vi jag när så kan en detta "
    "deras var sig hur vad också mycket vara genom mellan bli",
    "da": "og at det er på i for af med ikke den til har et som om fra eller vi jeg når så kan en de hvad "
    "hvordan også blev være mellem sig gennem meget bliver hvorfor",
    "no": "og å det er på i for av med ikke den til har et som om fra eller vi jeg når så kan en de hva hvordan "
    "også ble være mellom seg gjennom mye blir hvorfor",
    "fi": "ja on ei se että oli ovat kun mutta tai myös hän joka sen kuin voi olla mitä ole sekä niin jotka "
    "tämä siitä hänen miten",
    "pl": "nie to na się do jest że jak od po przez dla są oraz który która które ale może tym jego co czy ich "
    "lub być jako tego w z i",
    "cs": "je se na že jako pro jsou ale jak které nebo při také který která byl by od až jeho než aby může v s z k",
    "hu": "az és hogy nem is egy ez van meg volt mint vagy csak ha már lehet azt ezt nagyon kell mert amely",
    "ro": "și în pe cu nu este că din mai pentru ce sunt sau care prin unui unei lui fi poate la de o ale această",
    "tr": "ve bir bu için ile olarak çok daha olan gibi kadar değil olduğu veya nasıl ne ise sonra göre var",
    "id": "yang dan di untuk dengan dari ini itu adalah pada tidak ke dalam akan atau juga saya oleh dapat anda",
    "vi": "và của là có cho không được các một trong người với những này để khi như từ đến",
}
_SHARED = frozenset(("is", "to", "for", "an", "in", "on", "was", "as", "will", "so", "a", "also"))
ENGLISH = frozenset(_LITTLE_WORDS["en"].split()) - _SHARED  # said by no other language of the table
LITTLE_WORDS = {language: frozenset(words.split()) for language, words in _LITTLE_WORDS.items()}
# Said in some other language, and hardly ever in an English text. So many words of another language hold some of them.
_FOREIGN = frozenset(word for words in LITTLE_WORDS.values() for word in words if len(word) > 1) - LITTLE_WORDS["en"]
_FOREIGN -= {"at", "be", "by", "care", "come", "die", "do", "door", "from", "he", "me", "men", "met", "mint", "no"}
_FOREIGN -= {"not", "of", "one", "par", "per", "plus", "pro", "so", "son", "the", "till", "van", "volt", "we"}
_ENOUGH_WORDS = 12
_SPOKEN: dict[str, list[str]] = {}
for _language, _words in LITTLE_WORDS.items():
    for _word in _words:
        _SPOKEN.setdefault(_word, []).append(_language)

# Languages that little words or the model confuse, or that are written almost alike: no difference between them counts.
_ALIKE = (
    ("en", "pcm"),
    ("ru", "uk", "be", "bg", "mk", "sr", "kk", "ky", "mn", "tg", "tt", "ba"),
    ("ar", "fa", "ur", "ps", "ug", "sdh", "arz", "ary", "ku"),
    ("hi", "mr", "ne", "sa", "gom"),
    ("zh", "yue", "wuu"),
    ("no", "nn", "da", "sv", "fo"),
    ("hr", "bs", "sr", "sl"),
    ("cs", "sk"),
    ("id", "ms", "jv"),
    ("es", "gl", "ca", "an", "ext", "oc"),
    ("pt", "gl"),
    ("nl", "af", "fy"),
    ("it", "vec", "lij"),
    ("de", "lb"),
    ("fr", "wa", "gcr", "gcf"),
)
NAMES = {
    "ar": "Arabic",
    "bn": "Bengali",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}

# Letters of scripts other than Latin (U+1E00 to U+1EFF are Latin: Vietnamese).
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1cff\u1f00-\u1fff\u2e80-\u2fff\u3040-\ud7ff\uf900-\ufaff]")
_SCRIPTS = (  # the first character after a script, and the language that stands for it
    ("\u0400", "el"),
    ("\u0530", "ru"),
    ("\u0590", "hy"),
    ("\u0600", "he"),
    ("\u0780", "ar"),
    ("\u0900", ""),
    ("\u0980", "hi"),
    ("\u0a00", "bn"),
    ("\u0a80", "pa"),
    ("\u0b00", "gu"),
    ("\u0b80", "or"),
    ("\u0c00", "ta"),
    ("\u0c80", "te"),
    ("\u0d00", "kn"),
    ("\u0d80", "ml"),
    ("\u0e00", "si"),
    ("\u0e80", "th"),
    ("\u0f00", "lo"),
    ("\u1000", ""),
    ("\u10a0", "my"),
    ("\u1100", "ka"),
    ("\u1200", "ko"),
    ("\u1f00", ""),
    ("\u2000", "el"),
    ("\u3040", "zh"),
    ("\u3100", "ja"),
    ("\uac00", "zh"),
    ("\ud800", "ko"),
    ("\uffff", "zh"),
)
_WORD = re.compile(r"[^\W\d_]+")
DENSE = frozenset({"zh", "ja", "ko"})  # one character says as much as about three letters


def guess(text: str) -> str:
    """Return the language of a text's beginning by script and little words, such as "en"; "" where they do not tell.

    A script stands for its commonest language: all Cyrillic is "ru", all Arabic script "ar". Takes 3 to 15 us.
    """
    text = text[:SAMPLE]
    if not text.isascii():
        script = script_of(text)
        if script:
            return script
    words = set(text.lower().split())
    english = len(words & ENGLISH)
    if english * 10 >= len(words) + 20:  # most texts: at least three, and one word in ten
        return "en"
    if len(words) >= _ENOUGH_WORDS and words.isdisjoint(_FOREIGN):
        return "en" if english >= max(2, len(words) // 10) else ""
    words = set(_WORD.findall(text.lower()))
    spoken = [_SPOKEN[word] for word in words if word in _SPOKEN]
    counts = Counter([language for languages in spoken for language in languages])
    return _clear_winner(counts, fewest=max(2, len(words) // 10))


def _clear_winner(counts: Counter[str], fewest: int) -> str:
    """Return the language with the most little words; "" where they are few, or another has nearly as many."""
    best = counts.most_common(4)
    if not best or best[0][1] < fewest:
        return ""
    language, most = best[0]
    rival = max((count for other, count in best[1:] if not are_alike(language, other)), default=0)
    return language if most >= rival + 2 else ""


def script_of(text: str) -> str:
    """Return the language that stands for the script of most letters; "" for Latin letters."""
    letters = () if text.isascii() else _OTHER_SCRIPT.findall(text)
    if not letters:
        return ""
    counts = Counter(_script(letter) for letter in letters)
    weight = sum(count * 3 if script in DENSE else count for script, count in counts.items() if script)
    latin = sum(letter.isalpha() for letter in text) - len(letters)
    if weight <= latin:
        return ""
    if counts["ja"] * 10 >= counts["ja"] + counts["zh"] > 0:  # Japanese is written with Chinese characters, too
        counts["ja"] += counts.pop("zh", 0)
    return max(counts, key=lambda script: (counts[script], script))


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    return next(language for end, language in _SCRIPTS if letter < end)


def has_signs(text: str, language: str) -> bool:
    """Return whether a text holds little words that are plainly of a language: two, or one of English alone."""
    words = set(_WORD.findall(text.lower()))
    if language == "en":
        return not ENGLISH.isdisjoint(words) or (words.isdisjoint(_FOREIGN) and not words.isdisjoint(_SHARED))
    held = words & LITTLE_WORDS.get(language, frozenset())
    return len(held) >= 2 and any(len(_SPOKEN[word]) == 1 for word in held)


def hits(text: str, language: str, other: str = "") -> int:
    """Return how many different little words of a language a text holds that `other` does not share.

    For a language of another script, a third of its letters.
    """
    if language in LITTLE_WORDS:
        own = LITTLE_WORDS[language] - LITTLE_WORDS.get(other, frozenset())
        return len(own.intersection(_WORD.findall(text.lower())))
    return sum(are_alike(_script(letter), language) for letter in _OTHER_SCRIPT.findall(text)) // 3


def are_alike(one: str, other: str) -> bool:
    """Return whether two languages are the same, or so close that a difference between them is not worth a word."""
    return one == other or any(one in group and other in group for group in _ALIKE)


def name_of(language: str) -> str:
    """Return the name of a language, or its code where it has none here."""
    return NAMES.get(language, language)


class LanguageModel:
    """py3langid's naive Bayes model of 140 languages: half a second to load, 0.2 ms for a text."""

    def __init__(self) -> None:
        self._identifier: Any = _identifier()

    def judge(self, text: str) -> tuple[str, float]:
        """Return the likeliest language of a text and its probability."""
        if len(text) > 2 * _FULL:
            text = f"{text[:_FULL]} {text[-_FULL:]}"
        language, probability = self._identifier.classify(text)
        return str(language), float(probability)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """Return the model, loaded once in a process: it never changes."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
