"""A model behind an OpenAI-compatible endpoint: keys of `serving`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from launch.study.presets import Positive, Strict, Text, Whole

ENGINE = "openai"
RATE = (
    30.0  # tokens per second of each request in flight, where nothing says it: typical of models from 30B on
)
VARIABLE = r"^[A-Za-z_]\w*$"


def _base(url: str) -> str:
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError(f"found {url!r}; http://HOST or https://HOST is needed, mostly with /v1 at its end")
    if found.username or found.password or found.query:
        raise ValueError(
            "a URL with a password or a query would be shown to all: put the key into a secret ('key')"
        )
    if found.path.rstrip("/").endswith("/completions"):
        raise ValueError(f"found {url!r}; the part before /completions and /chat is needed, mostly up to /v1")
    return url.rstrip("/")


Url = Annotated[Text, AfterValidator(_base), Field(json_schema_extra={"pattern": "^https?://"})]


class Endpoint(Strict):
    """Keys of an endpoint; `Serving` has them beside those of the local engines."""

    engine: Literal["auto", "vllm", "transformers", "openai"] = "auto"
    """Engine; `auto` takes vLLM if it is installed and can run the model, else transformers. `openai` asks an
    OpenAI-compatible endpoint, for teachers served elsewhere; the keys from `url` to `body` are for it."""
    url: Url | None = None
    """Base of the endpoint's paths. Example: `https://inference.example.org/v1`."""
    model: Text | None = None
    """The model's name at the endpoint; without it, `model` of the preset, whose weights these are: rows are
    not made again when this name changes. Example: `qwen3-235b`."""
    key: Annotated[Text, Field(pattern=VARIABLE, json_schema_extra={"pattern": VARIABLE})] | None = None
    """Name of the secret that holds the endpoint's key: a variable of the environment, or of
    ~/.config/scale-or-reason/secrets. Example: `INFERENCE_KEY`."""
    requests: Annotated[Whole, Field(gt=0, le=10_000)] = 64
    """Requests in flight at the endpoint, of all `workers` together."""
    per_minute: Positive | None = None
    """Requests that start in a minute, of all `workers` together; without it, no limit. Example: `600`."""
    tokens_per_second: Positive | None = None
    """Tokens that the endpoint generates in a second, in all; only estimates use it. Without it, 30 for each
    of `requests`. Example: `4000`."""
    prompt: Literal["tokens", "chat"] = "tokens"
    """How prompts are sent: `tokens` sends token IDs to /completions, which vLLM, SGLang and llama.cpp's
    server take: as if the model were here. `chat` sends the question and `chat_template_kwargs` to
    /chat/completions."""
    body: dict[str, Any] = Field(default={})
    """More keys of each request; null removes one, and a text `$NAME` is the value of NAME in the mode's
    `chat_template_kwargs`. Example: `{reasoning: {enabled: $enable_thinking}}`."""

    @model_validator(mode="after")
    def _an_endpoint(self) -> Endpoint:
        if self.engine != ENGINE:
            # A recorded study names all keys, so one with its default counts as left out.
            fields = Endpoint.model_fields
            if given := sorted(key for key in KEYS if getattr(self, key) != fields[key].default):
                raise ValueError(f"'{given[0]}' is for 'engine: openai'")
        elif self.url is None:
            raise ValueError("'engine: openai' needs a 'url', such as https://inference.example.org/v1")
        return self

    @property
    def speed(self) -> float:
        """Tokens a second of all requests together, for estimates."""
        return self.tokens_per_second or RATE * self.requests


KEYS = Endpoint.model_fields.keys() - {"engine"}  # that only an endpoint has
