"""Keys that look like secrets, and their values masked in what is written or sent."""

import re
from collections.abc import Sequence
from typing import Any

#: What stands in the place of a secret.
MASK = "***"
_SECRET = re.compile(
    r"(?:^|_)(?:token|password|passwd|pwd|passphrase|secret|credential|credentials|apikey|authorization)s?(?:_|$)"
    r"|(?:^|_)(?:api|access|private|secret|account|auth|license|encryption|signing|ssh)_keys?(?:_|$)"
)
_KEY = re.compile(r"(?:^|_)key$")
#: What a key of a batch, a column or a dictionary looks like, as in ``source_key: image``.
_NAME = re.compile(r"[A-Za-z_.]{0,24}")
_WORD = re.compile(r"(?P<start>[+~]*(?P<key>[\w.@/-]+)=)(?P<value>.*)", re.DOTALL)


def is_secret(key: str, value: Any) -> bool:
    """Whether a value of a configuration is a secret, by the name of its key.

    Args:
        key: The last part of its name.
        value: The value; numbers, truth values, references and what is empty are none.

    Example:
        >>> [is_secret(key, "x1-y2") for key in ("api_key", "wandbToken", "my_key", "keys", "num_tokens_x")]
        [True, True, True, False, False]
        >>> is_secret("source_key", "image"), is_secret("token", "${oc.env:TOKEN}"), is_secret("class_token", True)
        (False, False, False)
    """
    if not isinstance(value, str) or value in ("", "???", "null") or re.fullmatch(r"\$\{[^{}]*\}", value):
        return False
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_")
    if name.startswith(("num_", "n_", "max_")):
        return False
    return _SECRET.search(name) is not None or (_KEY.search(name) is not None and not _NAME.fullmatch(value))


def masked(value: Any, mask: str = MASK, key: str = "", inside: bool = False) -> Any:
    """Copy mappings and lists that lie inside each other, with every secret masked.

    Args:
        value: Plain values.
        mask: What stands in the place of a secret.
        key: Key of the value.
        inside: Whether it lies below a key that looks like a secret, such as ``credentials``.

    Example:
        >>> masked({"a": {"password": "x", "user": "y"}, "credentials": ["p", {"q": "r"}]})
        {'a': {'password': '***', 'user': 'y'}, 'credentials': ['***', {'q': '***'}]}
    """
    if isinstance(value, dict):
        return {name: masked(each, mask, str(name), inside or is_secret(key, "-")) for name, each in value.items()}
    if isinstance(value, list):
        return [masked(each, mask, key, inside) for each in value]
    if is_secret(key, value) or (inside and is_secret("secret", value)):
        return mask
    return value


def masked_words(words: Sequence[str]) -> list[str]:
    """Copy the words of a command line, with every secret masked.

    Example:
        >>> masked_words(["seed=1", "+logger.wandb.api_key=abc", "x={token:abc,y:1}"])
        ['seed=1', '+logger.wandb.api_key=***', 'x={token:***,y:1}']
    """
    return [_masked_word(word) for word in words]


def _masked_word(word: str) -> str:
    found = _WORD.fullmatch(word)
    if found is None:
        return word
    parts, value = re.split(r"[./@]", found["key"]), found["value"]
    if is_secret(parts[-1], value) or any(is_secret(part, "-") and is_secret("secret", value) for part in parts[:-1]):
        return found["start"] + MASK
    inner = r"(?P<key>[\w-]+)(?P<colon>['\"]?\s*:\s*)(?P<value>'[^']*'|\"[^\"]*\"|[^\s,{}\[\]'\"$][^,{}\[\]]*)"

    def hidden(part: re.Match[str]) -> str:
        secret = is_secret(part["key"], part["value"].strip("'\""))
        return part["key"] + part["colon"] + (MASK if secret else part["value"])

    return found["start"] + (re.sub(inner, hidden, value) if value.startswith(("{", "[")) else value)
