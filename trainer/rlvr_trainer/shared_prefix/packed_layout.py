"""The layout of a packed row: the tokens that sequences share, and the position of each token.

A batch of prompts and completions becomes one row:

    header | question 0 | question 1 | … | completions of question 0 | completions of question 1 | …

The header is the longest common prefix of all prompts, a question the rest of a distinct prompt. A
completion's last token predicts nothing, so it is not in the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Segment:
    """The half-open range of packed positions `[start, start + length)`."""

    start: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class Run:
    """`count` adjacent segments of the same `length`, which can be attended to as one batch."""

    start: int
    length: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.length * self.count


@dataclass(frozen=True)
class Layout:
    """The segments of a packed row."""

    header_length: int
    questions: tuple[Segment, ...]
    answers: tuple[Segment, ...]  # answers[i]: all completions of questions[i], adjacent
    completions: tuple[Segment, ...]  # in packed order

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + sum(s.length for s in self.completions)

    @property
    def num_prompt_tokens(self) -> int:
        return self.header_length + sum(s.length for s in self.questions)


@dataclass(frozen=True)
class PackedBatch:
    """One packed row, and the position that predicts each scored token."""

    layout: Layout
    input_ids: list[int]  # (N,)
    position_ids: list[int]  # (N,)
    predictors: list[int]  # (T,) packed position whose logits score the token
    targets: list[int]  # (T,) the token
    rows: list[int]  # (T,) its row in the batch
    columns: list[int]  # (T,) its column in the completion


def common_prefix_length(prompts: Sequence[list[int]]) -> int:
    """Return the length of the longest common prefix that leaves each prompt a token."""
    first, last = min(prompts), max(prompts)  # no other pair differs earlier
    limit = min(map(len, prompts)) - 1
    for i in range(limit):
        if first[i] != last[i]:
            return i
    return max(limit, 0)


def pack(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> PackedBatch:
    """Pack B prompts and completions; a row without a completion token is left out.

    Raises ValueError if no row has both a prompt and a completion token.
    """
    live = [i for i, (p, c) in enumerate(zip(prompts, completions, strict=True)) if p and c]
    if not live:
        raise ValueError("no row has a prompt and a completion; give at least one row to score")
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in live:
        groups.setdefault(tuple(prompts[i]), []).append(i)
    header_length = common_prefix_length([list(p) for p in groups])

    first = next(iter(groups))
    ids, positions = list(first[:header_length]), list(range(header_length))

    def append(tokens: Sequence[int], position: int) -> Segment:
        segment = Segment(len(ids), len(tokens))
        ids.extend(tokens)
        positions.extend(range(position, position + len(tokens)))
        return segment

    questions = tuple(append(prompt[header_length:], header_length) for prompt in groups)
    answers: list[Segment] = []
    segments: list[Segment] = []
    predictors: list[int] = []
    targets: list[int] = []
    rows: list[int] = []
    columns: list[int] = []
    for (prompt, members), question in zip(groups.items(), questions, strict=True):
        start = len(ids)
        for i in sorted(members, key=lambda i: len(completions[i])):
            completion = completions[i]
            segment = append(completion[:-1], len(prompt))
            segments.append(segment)
            predictors += [question.stop - 1, *range(segment.start, segment.stop)]
            targets += completion
            rows += [i] * len(completion)
            columns += range(len(completion))
        answers.append(Segment(start, len(ids) - start))
    layout = Layout(
        header_length, questions, tuple(answers), tuple(s for s in segments if s.length)
    )
    return PackedBatch(layout, ids, positions, predictors, targets, rows, columns)


def runs(segments: Sequence[Segment]) -> list[Run]:
    """Join adjacent segments of equal length."""
    joined = []
    for length, members in groupby(segments, key=lambda s: s.length):
        same = list(members)
        joined.append(Run(same[0].start, length, len(same)))
    return joined
