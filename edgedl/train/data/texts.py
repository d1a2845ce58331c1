"""Texts with a label: a table, or a folder of text files a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.runtime.process import Processing
from edgedl.runtime.process.files import open_files
from edgedl.runtime.process.table import is_missing
from edgedl.runtime.process.text import Text, tokenizers
from edgedl.train.data.dataset import Found, Prepared, Task
from edgedl.train.data.labels import group_numbers, is_regression, to_classes, to_values
from edgedl.train.data.rows import prepared
from edgedl.train.data.settings import Data, Vocabulary
from edgedl.train.data.table import label_column
from edgedl.train.data.table_files import Columns, joined, read_table

INPUT = "input_ids"
USUAL = ("text", "sentence", "body", "message")
PADDING, UNKNOWN = "[PAD]", "[UNK]"
LENGTH = 128


def find(settings: Data, *, progress: Progress = silent) -> Found:  # noqa: ARG001
    """The texts that the settings name.

    Raises:
        BadSamples: they cannot be read, or one has no label. Missing: `tokenizers` is not
            installed.
    """
    assert settings.text is not None
    table = _table(Path(settings.text))
    test = None
    if settings.test is not None:
        tested = _table(Path(settings.test))
        test = np.arange(len(table) + len(tested)) >= len(table)
        table = joined(table, tested)
    label = label_column(table, settings)
    column = _text_column(table, settings, label)
    texts = table.column(column)
    doubts: tuple[str, ...] = ()
    empty = [i for i, text in enumerate(texts) if is_missing(text)]
    if empty and settings.missing != "drop":
        message = f"row {table.lines[empty[0]]} has no text in column `{column}`"
        raise BadSamples(message, where=table.where, hint="`missing: drop` leaves it out")
    if empty:
        left = sorted(set(range(len(table))) - set(empty))
        doubts = (f"{len(empty)} of {len(table)} rows have no text and were dropped",)
        table, test = table.take(left), None if test is None else test[left]
    assert label is not None
    groups = group_numbers(table.column(settings.group)) if settings.group else None
    texts = [str(text) for text in table.column(column)]
    return from_texts(
        texts, table.column(label), settings, table.where, test=test, groups=groups,
        doubts=doubts, label=label,
    )  # fmt: skip


def from_texts(
    texts: list[str],
    cells: list[Any],
    settings: Data,
    where: str,
    *,
    test: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    doubts: tuple[str, ...] = (),
    label: str = "label",
) -> Found:
    """Texts, and a cell with the label of each.

    Raises:
        BadSamples: one has no label. Missing: `tokenizers` is not installed.
    """
    tokenizers()
    regress = not settings.classes and is_regression(cells)
    task: Task = settings.task or ("regression" if regress else "classification")
    if task == "reconstruction":
        message = "texts are not reconstructed"
        raise BadSamples(message, where=where, hint="`task: classification`, or `regression`")
    classes: tuple[str, ...] = ()
    if task == "regression":
        labels = to_values(cells, where, label)
    else:
        labels, classes = to_classes(cells, settings.classes, where, label)

    def prepare(train: np.ndarray) -> Prepared:
        return prepared(texts, INPUT, text_of([texts[i] for i in train], settings, where), where)

    return Found(
        count=len(texts),
        prepare=prepare,
        labels=labels,
        task=task,
        outputs=len(classes) or 1,
        where=where,
        classes=classes,
        groups=groups,
        test=test,
        doubts=doubts,
    )


def text_of(texts: list[str], settings: Data, where: str) -> Text:
    """The pre-processing of texts: a tokenizer from a file, or trained on these.

    Raises:
        BadSamples: the file is damaged. Missing: `tokenizers` is not installed.
    """
    words = settings.vocabulary
    length = settings.length or LENGTH
    if words.file is None:
        return Text(trained(texts, words), length)
    try:
        content = Path(words.file).read_text(encoding="utf-8")
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        message = f"the tokenizer cannot be read ({str(error)[:100]})"
        raise BadSamples(message, where=words.file, hint="a `tokenizer.json`") from error
    given = document.get("padding") if isinstance(document, dict) else None
    found = Text(content, length, padding=int(given["pad_id"]) if given else 0)
    found.apply(texts[0] if texts else where)
    return found


def trained(texts: list[str], settings: Vocabulary) -> str:
    """A tokenizer that these texts trained, as its JSON; the same for the same texts.

    Raises:
        Missing: `tokenizers` is not installed.
    """
    library = tokenizers()
    models, trainers = library.models, library.trainers
    special = [PADDING, UNKNOWN]
    shared = {"special_tokens": special, "show_progress": False}
    if settings.kind == "words":
        model = models.WordLevel(unk_token=UNKNOWN)
        trainer = trainers.WordLevelTrainer(
            vocab_size=settings.size, min_frequency=settings.least, **shared
        )
    else:
        model = models.BPE(unk_token=UNKNOWN)
        trainer = trainers.BpeTrainer(
            vocab_size=settings.size, min_frequency=settings.least, **shared
        )
    found = library.Tokenizer(model)
    steps = [library.normalizers.NFKC()]
    steps += [library.normalizers.Lowercase()] if settings.lowercase else []
    found.normalizer = library.normalizers.Sequence(steps)
    found.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    found.train_from_iterator(texts, trainer)
    return str(found.to_str())


def _table(path: Path) -> Columns:
    """Texts and labels in columns `text` and `label`, or whatever the table calls them."""
    if not path.is_dir():
        return read_table(path)
    stub = Text('{"model": {}}', 1)
    samples = open_files(path, Processing(stub))
    if samples.labels is None:
        message = "there are no folders of classes in it"
        raise BadSamples(message, where=str(path), hint="a folder of .txt files for each class")
    texts = [samples.load(i)[1] for i in range(len(samples))]
    labels = [samples.classes[i] for i in samples.labels]
    return Columns({"text": texts, "label": labels}, range(1, len(texts) + 1), str(path))


def _text_column(table: Columns, settings: Data, label: str | None) -> str:
    if settings.columns:
        if len(settings.columns) > 1:
            message = f"{len(settings.columns)} columns of texts"
            raise BadSamples(message, where=table.where, hint="`columns: [NAME]`, one of them")
        table.column(settings.columns[0])
        return settings.columns[0]
    others = [name for name in table.cells if name not in (label, settings.group)]
    found = next((name for name in USUAL if name in others), None)
    if found is None and len(others) == 1:
        found = others[0]
    if found is None:
        message = "which column has the texts?"
        hint = f"`columns: [NAME]`, one of {', '.join(others[:20])}"
        raise BadSamples(message, where=table.where, hint=hint)
    return found
