"""D15, second half: e-mail addresses, telephone, card, account and social security numbers. What is shown is masked."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAIL = re.compile(r"(?<![\w.+/:-])([A-Za-z0-9][\w.+-]{0,63})@((?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,12})\b")
# addresses that reach nobody in particular: kept for examples (RFC 2606), made up in texts, or an office's
_MADE_UP_HOSTS = re.compile(
    r"(?i)(?:^|\.)(?:example|test|invalid|localhost|local|internal)(?:$|\.)|"
    r"^(?:\w*(?:example|sample|dummy|your|fake|acme|contoso|foo|bar)\w*|(?:my)?(?:e?mail|domain|company|website|site|server|host|business|"
    r"organi[sz]ation|school|university|corp|abc|xyz|test|store|shop|some\w*|any\w*|other\w*|provider|address|office))\.\w+(?:\.\w+)?$|@"
)
_MADE_UP_NAMES = re.compile(
    r"(?i)^(?:(?:john|jane|joe)?[._-]?(?:do|ro)e|j\.?doe|(?:john|jane)[._-]?smith|john|jane|alice|bob|charlie|dave|eve)\d*$|"
    r"^(?:your|my|some|any|user|test|example|sample|foo|bar|name|first|last|e?mail|someone|somebody|me|you|abc|xyz|"
    r"info|contact|support|help|admin|sales|service|office|no-?reply|do-?not-?reply|hello|press|media|jobs|careers|hr|"
    r"team|postmaster|webmaster|customer|billing|privacy|security|feedback|enquir(?:y|ies)|inquir(?:y|ies)|marketing|"
    r"events?|news|newsletter|orders?|returns?|git|root|username|yourname|myname|firstname|lastname)(?:[._+-]\w+|\d+)*$"
)
_NUMBER = re.compile(r"[+(\d](?<![\w.,$#/=-].)(?:(?<=\d)|\d)(?:[ .()/-]{0,2}\d){7,18}(?![\w%]|[.,]\d|-\w)")
_PHONE_US = re.compile(r"(?:\+?1[ .-]?)?(?:\(([2-9]\d\d)\) ?|([2-9]\d\d)[ .-])([2-9]\d\d)[ .-](\d{4})")
_PHONE_ABROAD = re.compile(r"\+[1-9]\d{0,2}[ .()-]{0,2}\d[\d .()-]{6,16}\d")
_SOCIAL = re.compile(r"(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}")
_NOT_A_PERSON = frozenset(("800", "833", "844", "855", "866", "877", "888", "900"))
_CARD = re.compile(
    r"(?:4\d{12}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|35\d{14}|3(?:0[0-5]|[68]\d)\d{11})"
)
# numbers that card makers and text books give for tests
_TEST_CARDS = {
    "4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556", "5555555555554444",
    "5105105105105100", "2223003122003222", "5200828282828210", "378282246310005", "371449635398431",
    "378734493671000", "6011111111111117", "6011000990139424", "30569309025904", "38520000023237",
    "3530111333300000", "3566002020360505", "4222222222222", "4539578763621486", "4532015112830366",
    "4916338506082832", "5425233430109903", "4012001037141112", "5500005555555559", "4000000000000002",
    "4000000000000077", "340000000000009", "30000000000004", "6011000000000004", "4532756279624064",
}  # fmt: skip
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_TEST_IBANS = {
    "DE89370400440532013000", "GB29NWBK60161331926819", "GB82WEST12345698765432", "GB33BUKB20201555555555",
    "FR1420041010050500013M02606", "FR7630006000011234567890189", "NL91ABNA0417164300", "ES9121000418450200051332",
    "IT60X0542811101000000123456", "CH9300762011623852957", "AT611904300234573201", "BE68539007547034",
    "DE75512108001245126199", "DE91100000000123456789", "DE12500105170648489890", "PL61109010140000071219812874",
    "SE4550000000058398257466", "NO9386011117947", "DK5000400440116243", "IE29AIBK93115212345678",
    "LU280019400644750000",
}  # fmt: skip
# a cheap first look: digits become 0, what may stand between them goes, and a number is a run of nine
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
_RUN = b"0" * 9


def find_personal(text: str, raw: bytes) -> tuple[str | None, str | None]:
    """Return personal data in a text, and what would be such were it not of the kind that examples use; else None.

    Both are the first of their kind, masked, with what they are. `raw` is the text as UTF-8.
    """
    first: dict[bool, str] = {}
    for what, is_made_up in _found(text, raw):
        first.setdefault(is_made_up, what)
    return first.get(False), first.get(True)


def _found(text: str, raw: bytes) -> Iterator[tuple[str, bool]]:
    """Yield what looks like personal data, masked, with its kind, and whether it is made up."""
    if "@" in text:
        is_example = "@example." in text
        for mail in _MAIL.finditer(text):
            is_made_up = is_example or bool(_MADE_UP_HOSTS.search(mail[2]) or _MADE_UP_NAMES.match(mail[1]))
            yield f"e-mail address: {mail[1][:2]}***@{mail[2][:40]}", is_made_up
    if _RUN not in raw.translate(_DIGITS, b" .()/-"):
        return
    for number in _NUMBER.finditer(text):
        kind, is_made_up = _kind_of_number(number[0])
        if kind:
            yield f"{kind}: {number[0].strip()[:3]}*** ({sum(map(str.isdigit, number[0]))} digits)", is_made_up
    for account in _IBAN.finditer(text):
        plain = account[0].replace(" ", "")
        if _is_account(plain):
            yield f"bank account (IBAN): {account[0][:4]}***", plain in _TEST_IBANS


def _kind_of_number(number: str) -> tuple[str, bool]:
    """Return what a written number is, empty if nothing personal, and whether it is made up."""
    phone = _PHONE_US.fullmatch(number)
    if phone:
        area, exchange, line = phone[1] or phone[2], phone[3], phone[4]
        if area in _NOT_A_PERSON:
            return "", False
        return "telephone number", "555" in (area, exchange) or _is_sequence(area + exchange + line)
    if number[0] == "+":
        plain = re.sub(r"\D", "", number)
        if not _PHONE_ABROAD.fullmatch(number) or not 9 <= len(plain) <= 15:
            return "", False
        return "telephone number", _is_sequence(plain) or "555" in plain[1:7]
    if _SOCIAL.fullmatch(number):
        return "social security number", number in ("123-45-6789", "078-05-1120", "219-09-9999")
    plain = number.replace(" ", "").replace("-", "")
    if _CARD.fullmatch(plain) and _passes_luhn(plain):
        return "card number", plain in _TEST_CARDS or _is_sequence(plain)
    return "", False


def _is_sequence(digits: str) -> bool:
    """Return whether digits were typed in a row or repeat: 1234567890, 0987654321, 4444444444."""
    return len(set(digits)) <= 3 or any(row in digits for row in ("1234567", "9876543", "00000"))


def _passes_luhn(digits: str) -> bool:
    """Return whether the check digit of a card number is right (ISO/IEC 7812-1)."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + at % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_account(iban: str) -> bool:
    """Return whether an account number passes its check (ISO 13616: the rest modulo 97 is 1)."""
    if not 15 <= len(iban) <= 34 or _is_sequence(iban[4:]):
        return False
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
