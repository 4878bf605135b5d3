"""Record the rows that were read, and those that are unusable with reason and excerpt."""

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
    """The rows that were read, and those that are unusable."""

    sources: dict[str, str] = field(default_factory=dict)
    num_read: Counter[str] = field(default_factory=Counter)
    locations: dict[str, tuple[Split, str]] = field(default_factory=dict)
    """Row id → split and location in its source."""
    quarantined: list[dict[str, str]] = field(default_factory=list)
    num_unusable: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    """Row id → reason why it is not used."""
    oddities: dict[Split, Counter[str]] = field(default_factory=dict)
    """Split → oddities that were read over in its files."""

    def count(self, id: str, split: Split, location: str) -> None:
        """Count a row that was read."""
        self.num_read[split] += 1
        self.locations[id] = (split, location)

    def add(self, id: str, reason: str, detail: str, excerpt: str) -> None:
        """Quarantine a row that was counted."""
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
        """Return the sources, for a message."""
        return " and ".join(sorted(set(self.sources.values())))

    def check(self, recipe: Recipe) -> None:
        """Raise DataError if more rows are unusable than the recipe allows, in any source."""
        allowed = recipe.data.max_quarantined_fraction
        for split, source in self.sources.items():
            bad, total = self.num_unusable[split], self.num_read[split]
            if bad <= allowed * total:
                continue
            quarantined = [row for row in self.quarantined if self.locations[row["id"]][0] == split]
            reasons = Counter(row["reason"] for row in quarantined)
            counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
            first = "\n".join(
                f"  {row['location']}: {row['reason']}"
                + (f" ({row['detail']})" if row["detail"] else "")
                for row in quarantined[:NUM_REPORTED]
            )
            raise DataError(
                f"{bad:,} of {total:,} rows of {source} are unusable ({bad / total:.1%}), "
                f"data.max_quarantined_fraction allows {allowed:.1%}: {counts}. The first are\n"
                f"{first}\nRepair the rows, or raise data.max_quarantined_fraction"
            )
