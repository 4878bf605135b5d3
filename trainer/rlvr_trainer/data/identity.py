"""Hash the content of everything that a recipe names."""

from __future__ import annotations

import hashlib
import json

from rlvr_trainer.data.sources import source_digest
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.tasks import Split


def files_identity(recipe: Recipe) -> str:
    """Return sixteen hex digits of the content that the recipe names: rows, code, a local model.

    Rows on the hub have a revision. Raises DataError and ConfigError if rows cannot be read.
    """
    content = file_digests(recipe)
    sources: dict[Split, str] = {"train": recipe.data.train, "test": recipe.data.test}
    for split, source in sources.items():
        if source and not source.startswith("hub://") and f"data.{split}" not in content:
            content[f"data.{split}"] = source_digest(source, split)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
