"""Keys and passwords. All of them are drawn here: no line of this file looks like one."""

from __future__ import annotations

import random
import string

import pytest

from attune.data.lint.secrets import _PATTERNS, entropy, find_sample_key, find_secret, mask, suspect

MIXED = string.ascii_letters + string.digits
DASHES = "-" * 5


def drawn(length: int, alphabet: str = MIXED) -> str:
    """Random characters, the same for each length."""
    dice = random.Random(length)
    return "".join(dice.choice(alphabet) for _ in range(length))


def seen(text: str) -> str | None:
    """What is found in a text."""
    return find_secret(text, text.encode())


REAL = {
    "AWS": "The key is AKIA" + drawn(16, string.ascii_uppercase + "234567"),
    "GitHub": "Use ghp_" + drawn(36),
    "GitHub fine-grained": f"github_pat_{drawn(22)}_{drawn(59)}",
    "GitLab": "glpat-" + drawn(20),
    "OpenAI": "sk-" + drawn(48),
    "OpenAI project": "sk-proj-" + drawn(60),
    "Anthropic": "sk-ant-api03-" + drawn(80),
    "Slack": f"xoxb-{drawn(12, string.digits)}-{drawn(24)}",
    "Google": "AIza" + drawn(35),
    "Hugging Face": "hf_" + drawn(34),
    "npm": "npm_" + drawn(36),
    "Stripe": "sk_live_" + drawn(24),
    "PEM": f"{DASHES}BEGIN RSA PRIVATE KEY{DASHES}\n{drawn(64)}\n{DASHES}END RSA PRIVATE KEY{DASHES}",
    "JWT": f"eyJhbGciOiJIUzI1NiJ9.eyJ1aWQiOj{drawn(20)}.{drawn(43)}",
    "address": f"postgres://admin:{drawn(12)}@db.acme.io:5432/x",
    "password": f'password = "{drawn(16)}"',
    "spoken": f"My password is {drawn(8)}!{drawn(6)}",
    "setting": "DB_SECRET=" + drawn(32),
    "JSON": f'"api_key": "{drawn(32, "0123456789abcdef")}"',
    "bearer": "Authorization: Bearer " + drawn(40),
}
NO_SECRETS = (
    "AKIAIOSFODNN7" + "EXAMPLE",
    'api_key = "YOUR_API_KEY"',
    'password = os.environ["DB_PASSWORD_1"]',
    "token = tokenizer.encode(text_2024)",
    'secret = hashlib.sha256(b"abc123").hexdigest()',
    "sk-" + "x" * 32,
    "hf_" + "x" * 34,
    "password: mypassword123",
    "password: MyP@ssw0rd!",
    'password = input("Enter your password1: ")',
    "token=get_token(user_id1)",
    "task-force-sk-management-of-things",
    "http://user:password@example.com",
    "the secret: persistence_and_hard_work_2_ways",
    "access key: Alt+Shift+F10+Enter",
    "api_key=settings.API_KEY_V2_PROD",
    f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n...\n{DASHES}END PRIVATE KEY{DASHES}",
    "The secret of a good soup is time; the key is patience.",
    "a-very-long-name-of-a-page-2024-final-version",
)


@pytest.mark.parametrize("kind", list(REAL))
def test_keys_and_passwords_are_found(kind: str) -> None:
    """Tokens of the usual services, private keys, and random values given to a password or key."""
    assert seen(f"Please note. {REAL[kind]} Thank you.")


@pytest.mark.parametrize("kind", list(REAL))
def test_the_first_look_loses_no_key(kind: str) -> None:
    """Every shape that fits a key is among those that the cheap first look leaves to be searched for."""
    text = f"Please note. {REAL[kind]} Thank you."
    left = suspect(text, text.encode()).patterns
    assert all(known in left for known in _PATTERNS if known[2].search(text))


def test_the_shortest_key_is_suspected() -> None:
    """A Slack token of fifteen characters, the shortest of all keys, passes the first look, as an example does."""
    text = "It is xoxb-" + "exampletok"
    assert find_sample_key(text, suspect(text, text.encode()))


@pytest.mark.parametrize("text", NO_SECRETS)
def test_samples_code_and_words_are_let_be(text: str) -> None:
    """Sample keys of manuals, slots, names in code and plain words are no secrets."""
    assert seen(text) is None


@pytest.mark.parametrize("kind", list(REAL))
def test_what_is_shown_is_masked(kind: str) -> None:
    """No run of more than eight characters of the secret is shown."""
    shown = str(seen(REAL[kind]))
    secret = max(REAL[kind].replace("\n", " ").split(), key=len)
    assert not any(secret[at : at + 9] in shown for at in range(5, len(secret) - 9))


def test_mask_and_entropy() -> None:
    """A mask shows four characters and the length; entropy is that of the characters, in bits."""
    assert mask("abcdefgh") == "abcd*** (8 characters)"
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
