"""Whom to ask for judgements, and how."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from act_eval.errors import InputError, SettingError

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_DEFAULT_ARGUMENTS = {"temperature": 0, "max_tokens": 2048}
_NO_KEY = "none"


@dataclass(frozen=True)
class JudgeSettings:
    """Whom to ask, and how.

    Args:
        model: the judge's name at the endpoint.
        base_url: of the endpoint, up to `/v1`.
        key_variable: the environment variable that holds the API key. The key itself is nowhere but there.
        arguments: what else goes into each request.
        concurrency: requests that are under way at once.
        timeout: seconds to wait for an answer.
        retries: how often a request that failed on the way is sent again.
        retry_missing: ask again where an earlier run got no judgement.

    Raises:
        InputError: a setting is out of range, the URL is none or holds a password, OpenAI's own endpoint is asked without a
            key, or the key cannot be sent.
    """

    model: str
    base_url: str = DEFAULT_URL
    key_variable: str = DEFAULT_KEY_VARIABLE
    arguments: Mapping[str, Any] = field(default_factory=lambda: dict(_DEFAULT_ARGUMENTS))
    concurrency: int = 8
    timeout: float = 120
    retries: int = 6
    retry_missing: bool = False

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if "@" in url.netloc:
            raise SettingError(
                "judge_base_url", "holds a user name or password: leave it out, and put a key into the environment."
            )
        if url.scheme not in ("http", "https") or not url.netloc:
            raise SettingError("judge_base_url", f"{self.base_url!r} is not a URL such as http://localhost:8000/v1.")
        if self.concurrency < 1:
            raise SettingError("concurrency", f"must be at least 1, not {self.concurrency}.")
        if not self.timeout > 0:
            raise SettingError("timeout", f"must be above 0 seconds, not {self.timeout:g}.")
        if self.retries < 0:
            raise SettingError("retries", f"must be at least 0, not {self.retries}.")
        if self.base_url == DEFAULT_URL and self.key == _NO_KEY:
            raise InputError(f"{self.key_variable} is not set: put the API key there, or name another judge_base_url.")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise InputError(f"{self.key_variable} holds what no API key has, such as a space: set it anew.")

    @property
    def key(self) -> str:
        """The API key; a word in its place for endpoints that need none."""
        return os.environ.get(self.key_variable, "").strip() or _NO_KEY

    def without_key(self, text: str) -> str:
        """Hide the key in a text that the endpoint sent."""
        return text if self.key == _NO_KEY else text.replace(self.key, "***")
