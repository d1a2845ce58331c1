"""The suite through edgedl and through every setting of its peers, into one table.

    python benchmarks/peers.py [NAME ...] --peers PYTHON ... [--engines ...] [--threads ...]
        [--seconds 10] [--isa avx2_vnni] [--only-edgedl] [--cold] [--cache DIR] [--limit 600]

PYTHON is an interpreter with what `requirements-peers.txt` lists, and `--peers` may be given again
for one with what `requirements-aimet.txt` lists: a setting is made by the first that has its
packages. All calibrate on the same samples, the first 128 or half of them, each in a process of its
own; edgedl is given those and nothing else.
Answers are compared on samples that were held back, with those of the float model on onnxruntime.
What answers and is not hopelessly slow runs in one interleaved contest of fresh processes; the
fastest then run once more on new rounds, which give the ratios. The engine `cpu` stands for
`--target cpu`, beside `quantize_static` as documented and the best peers of both engines.

Peers' files and answers are kept in the cache by setting, samples and versions. `--only-edgedl`
makes edgedl's bundles anew and times them beside the fastest of the files that are kept, by the
times of the row that stands there. Writes `benchmarks/results/peers.json`, `peers.md` and
`peers_summary.md` row after row; a row that is run again replaces the old one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peer_make import HERE, Case, Made, compress, interpreter, make_peer, prepare
from peer_settings import BF16, DEFAULT, F32, SETTINGS
from peer_table import document, short, table
from peer_time import OURS, Candidate, candidates, cell
from readme import README, fill
from zoo import RECIPES, fetch

from edgedl.benchmark.machine import this_machine
from edgedl.core.isa import ISA_CAPS, ISA_VARIABLE

RESULTS = HERE / "results"
ENGINES = ("onnxruntime", "openvino", "cpu")
COMPRESS_SECONDS = 10.0


class Suite:
    """The options of a run, and the rows so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.work = given.cache.expanduser().resolve() / "peers"
        self.interpreters = [interpreter(python) for python in given.peers]
        self.precisions = openvino_precisions()
        path = given.results / "peers.json"
        self.rows: list[dict[str, Any]] = (
            json.loads(path.read_text())["rows"] if path.exists() else []
        )

    def run(self, name: str) -> None:
        """All cells of a model."""
        case = prepare(fetch(name, self.given.cache), self.work)
        engines = [e for e in self.given.engines if not self.given.isa or e == "openvino"]
        needed = [n for n, s in SETTINGS.items() if s.is_made and self._needs(n, engines)]
        peers = {setting: self._peer(case, setting) for setting in needed}
        for engine in engines:
            for threads in self.given.threads:
                ours = self._bundle(case, engine, threads)
                found = self._candidates(case, engine, threads, peers)
                place = (name, engine, threads, self.given.isa)
                times = self._earlier(place) if self.given.only_edgedl else {}
                row = cell(case, engine, threads, ours, found, self.given.seconds, times)
                row["isa"] = self.given.isa
                self.keep(row)
                print(table([row]).splitlines()[-1], flush=True)

    def _needs(self, setting: str, engines: Sequence[str]) -> bool:
        default = setting == DEFAULT and "cpu" in engines
        return default or any(engine in SETTINGS[setting].engines for engine in engines)

    def _peer(self, case: Case, setting: str) -> Made:
        given = self.given
        made = make_peer(case, setting, self.interpreters, given.limit, only_kept=given.only_edgedl)
        said = made.problem or f"{made.seconds:.1f} s"
        print(f"  {case.entry.name} {setting}: {said}", file=sys.stderr, flush=True)
        return made

    def _bundle(self, case: Case, engine: str, threads: int) -> Candidate:
        given = self.given
        seconds = min(given.seconds, COMPRESS_SECONDS)
        made = compress(case, engine, threads, given.isa, seconds, given.limit, cold=given.cold)
        said = made.problem or f"{made.seconds:.1f} s"
        print(f"  {case.entry.name} {OURS}, {engine}: {said}", file=sys.stderr, flush=True)
        files = tuple(case.folder / file for file in made.files)
        return Candidate(OURS, OURS, made.told.get("engine", engine), F32, files, made)

    def _candidates(
        self, case: Case, engine: str, threads: int, peers: Mapping[str, Made]
    ) -> list[Candidate]:
        if engine != "cpu":
            return candidates(case, engine, peers, self.precisions)
        found = []
        for runs in ("onnxruntime", "openvino"):
            rows = [r for r in self.rows if key(r) == (case.entry.name, runs, threads, "")]
            best = rows[0].get("best") if rows else None
            wanted = {"float32", best, *([DEFAULT] if runs == "onnxruntime" else [])}
            for one in candidates(case, runs, peers, self.precisions):
                if one.name in wanted:
                    name = f"{one.name} on {runs}"
                    found.append(
                        Candidate(name, one.setting, runs, one.precision, one.files, one.made)
                    )
        return found

    def _earlier(self, place: tuple[str, str, int, str]) -> dict[str, float]:
        """The peers' times in the row that stands there."""
        rows = [row for row in self.rows if key(row) == place]
        return {e["name"]: e["p50_ms"] for r in rows for e in r["peers"] if e["p50_ms"] is not None}

    def keep(self, row: dict[str, Any]) -> None:
        """Put a row in its place, and write everything."""
        models, isas = list(RECIPES), ["", *ISA_CAPS]
        self.rows = [old for old in self.rows if key(old) != key(row)]
        self.rows.append(row)
        self.rows.sort(
            key=lambda r: (
                isas.index(r["isa"]),
                models.index(r["model"]) if r["model"] in models else len(models),
                ENGINES.index(r["engine"]),
                r["threads"],
            )
        )
        folder = self.given.results
        folder.mkdir(parents=True, exist_ok=True)
        machine = {**this_machine().to_json(), "isa_cap": None}
        about = {name: setting.about for name, setting in SETTINGS.items()}
        lines = [
            f'{{"machine": {json.dumps(machine)}',
            f'"versions": {json.dumps([one.versions for one in self.interpreters])}',
            f'"settings": {json.dumps(about)}',
            '"rows": [\n' + ",\n".join(json.dumps(row) for row in self.rows) + "\n]}",
        ]
        put(folder / "peers.json", ",\n".join(lines) + "\n")
        put(folder / "peers.md", document(self.rows) + "\n")
        put(folder / "peers_summary.md", short(self.rows) + "\n")
        if folder == RESULTS:
            put(README, fill(README.read_text()))


def key(row: Mapping[str, Any]) -> tuple[str, str, int, str]:
    return row["model"], row["engine"], row["threads"], row["isa"]


def put(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def openvino_precisions() -> tuple[str, ...]:
    """What OpenVINO may give its float operators here, under the cap that is set."""
    code = "from edgedl.runtime import engine; print(*engine('openvino').precisions())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return (F32, *([BF16] if "bf16" in done.stdout.split() else []))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(RECIPES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two contests")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        action="append",
        default=[],
        help="an interpreter that has peers; give it again for another",
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds to make one file")
    parser.add_argument("--isa", choices=list(ISA_CAPS), default="", help="OpenVINO only")
    parser.add_argument("--only-edgedl", action="store_true", help="make no peer's file")
    parser.add_argument("--cold", action="store_true", help="an empty store for every bundle")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    if given.isa:
        os.environ[ISA_VARIABLE] = ISA_CAPS[given.isa]
    suite = Suite(given)
    failed = False
    for name in given.names:
        try:
            suite.run(name)
        except Exception as error:
            traceback.print_exc()
            print(f"error: {name}: {error}; its other cells are left out", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
