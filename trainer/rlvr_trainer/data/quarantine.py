"""What was read, and the rows that are not used: each with its place, the reason and an excerpt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlvr_trainer.errors import DataError
from rlvr_trainer.tasks import Split

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

EXCERPT_CHARACTERS = 200
NUM_REPORTED = 5


@dataclass
class Quarantine:
    """What was read from where, and the rows that were found unusable."""

    sources: dict[str, str] = field(default_factory=dict)
    num_read: Counter[str] = field(default_factory=Counter)
    locations: dict[str, tuple[Split, str]] = field(default_factory=dict)
    """Row id → the source it was read for, and its place there."""
    quarantined: list[dict[str, str]] = field(default_factory=list)
    num_unusable: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    """Row id → why it is not used."""

    def found(self, id: str, split: Split, location: str) -> None:
        """Count a row that was read."""
        self.num_read[split] += 1
        self.locations[id] = (split, location)

    def add(self, id: str, reason: str, detail: str, excerpt: str) -> None:
        """Set a row that was found aside."""
        split, location = self.locations[id]
        self.num_unusable[split] += 1
        self.reasons[id] = reason
        self.quarantined.append(
            {
                "id": id,
                "location": location,
                "reason": reason,
                "detail": detail[:EXCERPT_CHARACTERS],
                "excerpt": excerpt[:EXCERPT_CHARACTERS],
            }
        )

    def describe(self) -> str:
        """The sources, for a message."""
        return " and ".join(sorted(set(self.sources.values())))

    def check(self, recipe: Recipe) -> None:
        """Raise DataError when more rows are unusable than the recipe allows, in any source."""
        allowed = recipe.data.max_quarantined_fraction
        for split, source in self.sources.items():
            bad, total = self.num_unusable[split], self.num_read[split]
            if bad <= allowed * total:
                continue
            quarantined = [
                each for each in self.quarantined if self.locations[each["id"]][0] == split
            ]
            reasons = Counter(each["reason"] for each in quarantined)
            counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
            first = "\n".join(
                f"  {each['location']}: {each['reason']}"
                + (f" ({each['detail']})" if each["detail"] else "")
                for each in quarantined[:NUM_REPORTED]
            )
            raise DataError(
                f"{bad:,} of {total:,} rows of {source} are unusable ({bad / total:.1%}), "
                f"data.max_quarantined_fraction allows {allowed:.1%}: {counts}. The first are\n"
                f"{first}\nRepair the rows, or raise data.max_quarantined_fraction"
            )
