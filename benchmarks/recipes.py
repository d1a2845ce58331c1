"""What each recipe comes to, beside the simplest thing that scikit-learn does on the same split.

    python benchmarks/recipes.py [NAME ...] [--results DIR]

Needs `scikit-learn` beside edgedl's `[all]`. Every recipe goes down the whole line (what is in the
store is kept), and a baseline learns from the same training rows and is scored on the same test
rows by the same metric: logistic regression, a ridge, means of each user and item, a last value,
or an isolation forest. Writes `benchmarks/results/recipes.md` and `recipes.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.benchmark.accuracy import metric_for
from edgedl.core.progress import silent
from edgedl.core.samples import Samples
from edgedl.core.store import default_store
from edgedl.core.units import format_bytes, format_ms
from edgedl.line.make import make
from edgedl.recipe import Recipe, read_recipe
from edgedl.report.table import markdown
from edgedl.train.data.load import load
from edgedl.train.data.settings import seen_from

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Needs a folder of the user's own.
NOT_RUN = {"inspect_parts", "segmentation"}
MOST_ROWS = 20_000
MOST_ITERATIONS = 200
Predict = Callable[[list[dict[str, np.ndarray]]], np.ndarray]


def rows(samples: Samples, most: int = MOST_ROWS) -> list[dict[str, np.ndarray]]:
    return [samples.feed(i) for i in range(min(most, len(samples)))]


def flat(feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    [name] = feeds[0]
    return np.concatenate([feed[name].reshape(1, -1) for feed in feeds])


def bag(feeds: list[dict[str, np.ndarray]], words: int) -> Any:
    """How often each token occurs, sparse."""
    from scipy.sparse import csr_matrix

    [name] = feeds[0]
    ids = np.concatenate([feed[name].reshape(1, -1) for feed in feeds])
    line = np.repeat(np.arange(len(ids)), ids.shape[1])
    ones = (ids.reshape(-1) != 0).astype(np.float32)
    return csr_matrix((ones, (line, ids.reshape(-1))), shape=(len(ids), words))


def classifier(train: Samples) -> tuple[str, Predict]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    feeds = rows(train)
    labels = train.chosen_labels
    assert labels is not None
    [name] = feeds[0]
    words = int(max(feed[name].max() for feed in feeds)) + 1
    tokens = np.issubdtype(feeds[0][name].dtype, np.integer)

    def features(some: list[dict[str, np.ndarray]]) -> Any:
        return bag(some, words) if tokens else flat(some)

    model = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=MOST_ITERATIONS))
    model.fit(features(feeds), labels[: len(feeds)])
    count = int(labels.max()) + 1

    def predict(some: list[dict[str, np.ndarray]]) -> np.ndarray:
        made = np.full((len(some), count), -1e9, np.float32)
        made[:, model[-1].classes_] = model.predict_log_proba(features(some))
        return made

    return "logistic regression" + (" on token counts" if tokens else ""), predict


def regressor(train: Samples) -> tuple[str, Predict]:
    from sklearn.linear_model import Ridge

    feeds = rows(train)
    labels = train.chosen_labels
    assert labels is not None
    model = Ridge().fit(flat(feeds), labels[: len(feeds)])
    return "ridge regression", lambda some: np.asarray(model.predict(flat(some)), np.float32)


def means(train: Samples) -> tuple[str, Predict]:
    """The mean of all, and by how much each user and each item differs from it, shrunk."""
    feeds = rows(train, len(train))
    labels = train.chosen_labels
    assert labels is not None
    users, items = (np.array([int(f[name].reshape(-1)[0]) for f in feeds]) for name in feeds[0])
    mean = float(labels.mean())
    rest = labels.reshape(-1) - mean

    def shrunk(ids: np.ndarray, values: np.ndarray) -> dict[int, float]:
        sums = np.bincount(ids, values)
        return dict(enumerate(sums / (np.bincount(ids) + 10)))

    of_item = shrunk(items, rest)
    of_user = shrunk(users, rest - np.array([of_item[i] for i in items]))

    def predict(some: list[dict[str, np.ndarray]]) -> np.ndarray:
        pairs = [[int(one.reshape(-1)[0]) for one in feed.values()] for feed in some]
        found = [mean + of_user.get(u, 0.0) + of_item.get(i, 0.0) for u, i in pairs]
        return np.array(found, np.float32)[:, None]

    return "means of users and items", predict


def forest(train: Samples) -> tuple[str, Callable[[list[dict[str, np.ndarray]]], np.ndarray]]:
    """Scores of how odd a row is; the metric of an autoencoder takes reconstructions, not scores,
    so that the area under the curve is computed here."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(random_state=0).fit(flat(rows(train)))
    return "isolation forest", lambda some: -model.score_samples(flat(some))


def baseline(recipe: Recipe, cache: Path) -> dict[str, Any]:
    """The name of the baseline, and its figure on the test rows."""
    data = load(seen_from(recipe.data, ROOT / "recipes"), seed=recipe.seed, cache=cache)
    test, labels = data.test, data.test.chosen_labels
    if recipe.data.set == "tree_boxes":
        return {"name": "none", "figure": None}
    feeds = rows(test, len(test))
    if data.task == "reconstruction":
        from sklearn.metrics import roc_auc_score

        name, odd = forest(data.train)
        return {"name": name, "figure": float(roc_auc_score(labels != 0, odd(feeds)))}
    make_it = classifier if data.task == "classification" else regressor
    name, predict = (means if len(feeds[0]) > 1 else make_it)(data.train)
    metric = metric_for(test, recipe.train.metric)
    assert metric is not None
    assert labels is not None
    made = predict(feeds)
    if data.standard is not None:
        made, labels = data.standard.undone(made), data.standard.undone(labels)
    answered = zip(({"output": row[None]} for row in made), labels, feeds, strict=True)
    return {"name": name, "figure": float(metric.total(metric.rows(answered)))}


def run(name: str, folder: Path) -> dict[str, Any]:
    path = ROOT / "recipes" / f"{name}.yaml"
    recipe = read_recipe(path)
    began = time.perf_counter()
    made = make(path, output=folder / f"{name}.edl", progress=silent).to_json()
    seconds = time.perf_counter() - began
    told = {key: made[key] for key in ("stages", "history", "compressed", "bench", "doubts")}
    told["bench"] = told["bench"] and {key: told["bench"][key] for key in ("pairs", "noise_floor")}
    for pair in (told["bench"] or {"pairs": []})["pairs"]:
        pair |= {side: Path(pair[side]).name for side in ("a", "b")}
    told["compressed"] = {
        k: v for k, v in told["compressed"].items() if k not in ("plan", "output")
    }
    simple = baseline(recipe, default_store().root / "data")
    row = {"recipe": name, "network": recipe.network.name, "seconds": seconds, **told}
    return {**row, "baseline": simple}


def line(row: dict[str, Any]) -> list[str]:
    found = row["compressed"]
    accuracy, size = found["accuracy"], found["bytes"]
    simple = row["baseline"]["figure"]
    shown = ("", "", "", "")
    if accuracy is not None:
        figure = accuracy["figure"]
        shown = (
            accuracy["figure"]["name"],
            "" if simple is None else f"{simple:.4f} ({row['baseline']['name']})",
            f"{figure['baseline']:.4f}",
            f"{figure['result']:.4f}",
        )
    before, after = (found["latency_ms"][key]["p50"] for key in ("baseline", "result"))
    return [
        f"`{row['recipe']}`", row["network"], *shown,
        f"{format_ms(before)} to {format_ms(after)}, {found['speedup']['ratio']:.2f}x",
        f"{format_bytes(found['baseline_bytes'])} to {format_bytes(size)}",
        f"{found['engine']}, {found['precision']}",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    every = sorted(p.stem for p in (ROOT / "recipes").glob("*.yaml") if p.stem not in NOT_RUN)
    parser.add_argument("names", nargs="*", default=every)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--bundles", type=Path, default=Path("build"))
    given = parser.parse_args()
    given.bundles.mkdir(parents=True, exist_ok=True)
    given.results.mkdir(parents=True, exist_ok=True)
    kept = given.results / "recipes.json"
    found = {row["recipe"]: row for row in json.loads(kept.read_text())} if kept.exists() else {}
    for name in given.names:
        found[name] = run(name, given.bundles)
        print(line(found[name]), file=sys.stderr, flush=True)
        kept.write_text(json.dumps([found[key] for key in sorted(found)], indent=1) + "\n")
    head = [
        "recipe",
        "network",
        "metric",
        "baseline",
        "float32",
        "result",
        "p50",
        "bytes",
        "runs as",
    ]
    table = markdown([head, *(line(found[name]) for name in sorted(found))])
    (given.results / "recipes.md").write_text(table + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
