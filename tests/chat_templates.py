"""Chat templates of the kinds that models have, in minimal form, and tokenizers with their tokens.

Written for these tests after the structure of the originals: where the special tokens are, what is
trimmed, what is refused, and what becomes of a system message and of earlier answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.small_model import small_tokenizer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

_ALTERNATE = """\
{%- for message in messages if message['role'] != 'system' -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- endfor -%}
"""

LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "\n\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

QWEN_2_5 = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

QWEN_3 = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

SMOLLM2 = """\
{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

GEMMA = (
    """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{{ raise_exception('System role not supported') }}
{%- endif -%}
"""
    + _ALTERNATE
    + """\
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
)

MISTRAL = (
    """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
"""
    + _ALTERNATE
    + """\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
)


@dataclass(frozen=True)
class Kind:
    """A family of chat models."""

    template: str
    end_of_turn: str
    tokens: tuple[str, ...]
    """Tokens of the template beside `end_of_turn` and those of the beginning and the end."""
    bos: str = ""
    eos: str = "<end>"
    adds_bos: bool = False
    """True if the tokenizer puts BOS before every text, as the template does in a chat."""
    options: tuple[tuple[str, Any], ...] = ()
    puts_system: bool = True


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
KINDS = {
    "llama-3": Kind(
        LLAMA_3, "<|eot_id|>", _HEADERS, "<|begin_of_text|>", "<|eot_id|>", True,
        (("date_string", "26 Jul 2024"),),
    ),
    "qwen-2.5": Kind(QWEN_2_5, "<|im_end|>", ("<|im_start|>",), "", "<|im_end|>"),
    "qwen-2.5-base": Kind(QWEN_2_5, "<|im_end|>", ("<|im_start|>",)),
    "qwen-3": Kind(QWEN_3, "<|im_end|>", ("<|im_start|>",), "", "<|im_end|>"),
    "qwen-3-silent": Kind(
        QWEN_3, "<|im_end|>", ("<|im_start|>",), "", "<|im_end|>",
        options=(("enable_thinking", False),),
    ),
    "smollm2": Kind(SMOLLM2, "<|im_end|>", (), "<|im_start|>", "<|im_end|>"),
    "gemma": Kind(
        GEMMA, "<end_of_turn>", ("<start_of_turn>",), "<bos>", "<eos>", True, puts_system=False
    ),
    "mistral": Kind(MISTRAL, "</s>", ("[INST]", "[/INST]"), "<s>", "</s>", True),
}  # fmt: skip


def chat_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Return the repository's small tokenizer with the special tokens and template of a kind."""
    own = Tokenizer.from_str(small_tokenizer().backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, eos_token=kind.eos, pad_token="<end>")
    special = {kind.end_of_turn, kind.eos, *kind.tokens, *([kind.bos] if kind.bos else [])}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(special)})
    if kind.bos:
        tokenizer.bos_token = kind.bos
    if kind.adds_bos:
        bos = (kind.bos, tokenizer.convert_tokens_to_ids(kind.bos))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{kind.bos} $A", special_tokens=[bos]
        )
    tokenizer.chat_template = kind.template
    return tokenizer
