"""The columns of a source of pairs."""

from __future__ import annotations

from launch.study.presets import Strict, Text


class Columns(Strict):
    """Names of the columns of pairs. A column holds texts, chats (lists of messages with `role` and
    `content`, or `from` and `value`), or lists of texts, of which the first counts."""

    prompt: Text = "prompt"
    """Column of the prompts. Example: `problem`."""
    reasoning: Text = "reasoning"
    """Column of the answers with their reasoning, which stands between the thinking tags, or in a field
    `reasoning_content`, `reasoning` or `thinking` of the message. Example: `messages`."""
    ift: Text = "ift"
    """Column of the plain answers. Example: `solution`."""
