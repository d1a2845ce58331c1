"""Models for a GPU that is not here: made, compared with float, built ahead of time, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgedl.backends.emulated import AS_WRITTEN, RUNNER, Emulated
from edgedl.backends.ort_gpu import NO_INT8
from edgedl.core.errors import EdgeError, EngineFailed, Unsupported
from edgedl.core.model import Model
from edgedl.core.registry import installed
from edgedl.passes.graph import quantized_already, rewrite, to_ship
from edgedl.passes.sparse import two_of_four
from edgedl.runtime.tensorrt.build import built as build_engine
from edgedl.runtime.tensorrt.build import module
from edgedl.runtime.tensorrt.layers import Layer
from edgedl.runtime.tensorrt.refusals import Refused
from edgedl.runtime.tensorrt.settings import Build, profile_seen
from edgedl.search.candidates import Candidate, Refusal, Trial, in_half, stored_weights
from edgedl.search.memory import judge
from edgedl.search.ways import REST_IN_HALF, Ways, int8_of, planned

BUILDER = "tensorrt_rtx"
# What plans are built for ahead of time: Turing, Ampere, Ada and Blackwell.
CAPABILITIES = ("SM75", "SM86", "SM89", "SM120")
TOLD = "SM86"
AS_WELL_DB = 1.0
NEVER_TIMED = (
    "it was never timed: this machine lacks {needs}; answers are onnxruntime's, of the same graph"
    " (`edgedl bench` on the device tells its speed)"
)


@dataclass(frozen=True)
class Proof:
    """What NVIDIA's own parser and builder say of a model, ahead of time.

    Attributes:
        builder: its name and version; None where it is not installed.
        refused: by GPU, why it was not built.
        layers: of the engine for one GPU.
    """

    builder: str | None
    bytes: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()

    def products(self) -> Counter[str]:
        """How many products the engine computes in each precision, where layers were told."""
        return Counter(layer.precision for layer in self.layers if layer.is_product)


def proven(
    data: bytes, build: Build | None = None, capabilities: Sequence[str] = CAPABILITIES
) -> Proof:
    """An ONNX file parsed, and built for each of these GPUs, by TensorRT-RTX where it is installed.

    Raises:
        Refused: its parser takes an operator not.
    """
    if not installed(BUILDER):
        return Proof(None)
    library = module(BUILDER)
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    layers: tuple[Layer, ...] = ()
    for name in capabilities:
        asked = replace(build or Build(), compute_capabilities=(name,))
        try:
            found = build_engine(data, asked, library=library, layers=name == TOLD)
        except Refused:
            raise
        except EngineFailed as error:
            refused[name] = error.message
            continue
        sizes[name] = len(found.plan)
        layers = found.layers or layers
    return Proof(f"TensorRT-RTX {library.__version__}", sizes, refused, layers)


@dataclass(frozen=True, eq=False)
class Untimed:
    """What was found: the trial that ships with its proof and its build, and all that was tried."""

    winner: Trial
    proof: Proof
    build: Build
    trials: tuple[Trial, ...]
    refusals: tuple[Refusal, ...]


def find_untimed(standing: Emulated, ways: Ways) -> Untimed:
    """The int8 model with the rest in float16, or in float32, or the float16 model: the first that
    keeps the limits and, where int8 was not asked to drop by a limit, answers faithfully.

    Raises:
        EngineFailed: none of them is parsed and answers. Unsupported: what was asked for cannot be
            judged without the GPU.
    """
    made = list(_candidates(standing, ways))
    refusals = [one for one in made if isinstance(one, Refusal)]
    trials: list[tuple[Trial, Proof, Build]] = []
    hints: list[str | None] = []
    for candidate in made:
        if isinstance(candidate, Refusal):
            continue
        ways.progress(f"checking {candidate.label}", len(trials), len(made))
        try:
            build = build_for(candidate.model, ways)
            data, names = to_ship(candidate.model)
            try:
                proof = proven(data, build) if standing.parsed else Proof(None)
            except Refused as refused:
                raise refused.named(names) from refused
            if proof.refused and not proof.bytes:
                raise EngineFailed(next(iter(proof.refused.values())))
            trials.append((judge(candidate, ways.expected, ways.threads), proof, build))
        except EdgeError as error:
            refusals.append(Refusal(candidate.name, error.message))
            hints.append(error.hint)
    if not trials:
        reasons = [one.reason for one in refusals] or ["there is no such model"]
        raise EngineFailed(
            f"nothing was made for {standing.stands_for}: {reasons[0]}",
            hint=next(filter(None, hints), "`--target cpu` has further ways"),
        )
    winner, proof, build = next(
        (one for one in trials if _keeps(one[0], ways)),
        max(trials, key=lambda one: -one[0].drop),
    )
    return Untimed(winner, proof, build, tuple(one[0] for one in trials), tuple(refusals))


def build_for(model: Model, ways: Ways) -> Build:
    """How an engine of a model is to be built: for the shapes that were seen, with sparse kernels
    where its weights have them."""
    seen = [{name: array.shape for name, array in feed.items()} for feed in ways.expected.feeds]
    return Build(profile_seen(model.signature, seen), sparse=two_of_four(model))


def _keeps(trial: Trial, ways: Ways) -> bool:
    broken = replace(ways.limits, max_latency_ms=None).broken_by(trial, 0.0)
    if broken:
        return False
    freely = ways.limits.max_drop is None and ways.ask in ("int8", "auto")
    return not freely or trial.candidate.precision != "int8" or trial.agreement.is_faithful


def _candidates(standing: Emulated, ways: Ways) -> Iterator[Candidate | Refusal]:
    """What is worth a look, the fastest guess first."""
    if ways.ask in ("bf16", "float32", "dynamic"):
        raise Unsupported(
            f"--{ways.ask} cannot be judged without {standing.needs}",
            hint="--int8, --weights int8 and --fp16 can: onnxruntime computes what they write",
        )
    if ways.ask == "weights":
        stored = rewrite(ways.clean, stored_weights(standing.scheme))
        named = Candidate(
            RUNNER, "float16", "float16, 8-bit weights", stored, AS_WRITTEN, stored=True
        )
        yield _half(named, named)
        return
    if ways.plan is not None:
        whole: Candidate | Refusal | None = planned(
            standing, ways.clean, ways.calibration, ways.plan, ways.progress
        )
    elif ways.ask in ("int8", "auto") and not standing.scheme.operators:
        whole = Refusal(f"{standing.stands_for} int8", NO_INT8)
    elif ways.ask in ("int8", "auto"):
        whole = int8_of(standing, ways)
    else:
        whole = None
    if isinstance(whole, Refusal):
        yield whole
    elif whole is not None:
        yield _half(replace(whole, label=f"{whole.label}, {REST_IN_HALF}"), whole)
        yield whole
    if ways.plan is None:
        given = quantized_already(ways.clean)
        as_given = Candidate(RUNNER, "int8", "as given", ways.clean, AS_WRITTEN)
        if given and ways.ask in ("int8", "auto"):
            yield as_given
        plain = Candidate(RUNNER, "float16", "float16", ways.clean, AS_WRITTEN)
        yield _half(plain, plain)


def _half(named: Candidate, of: Candidate) -> Candidate | Refusal:
    """A candidate in half precision, under a label of its own."""
    try:
        return replace(in_half(of), label=named.label)
    except EdgeError as error:
        return Refusal(named.name, error.message)


def fallback(winner: Trial, ways: Ways) -> Candidate:
    """The same model as onnxruntime answers it meanwhile: by its int8 kernels where these answer as
    well, else as it is written."""
    chosen = winner.candidate
    fused = replace(chosen, settings={"unfused": AS_WRITTEN["unfused"][:1]})
    try:
        trial = judge(fused, ways.expected, ways.threads)
    except EdgeError:
        return chosen
    near = trial.agreement.sqnr_db >= winner.agreement.sqnr_db - AS_WELL_DB
    return fused if near and trial.drop <= winner.drop else chosen


def doubts_of(standing: Emulated, found: Untimed) -> list[str]:
    """What a reader must know of a model that was never on its device."""
    told = [NEVER_TIMED.format(needs=standing.needs)]
    if not standing.parsed:
        return told
    if found.proof.builder is None:
        told.append(
            "NVIDIA's parser has not seen it: pip install 'edgedl[tensorrt-rtx]', which parses and"
            " builds without a GPU"
        )
    if found.build.profiles:
        told.append(
            "its axes are not fixed: the engine takes the shapes that the samples have"
            f" ({found.build.profiles[0]}); --shape fixes them"
        )
    for name, reason in found.proof.refused.items():
        told.append(f"{found.proof.builder} does not build it for {name}: {reason}")
    return told


def reasons_of(found: Untimed) -> list[str]:
    """What the builder made of it, in a sentence."""
    products = found.proof.products()
    if found.proof.builder is None or not products:
        return []
    count = ", ".join(f"{number} in {name}" for name, number in products.most_common())
    rest = len(found.proof.layers) - sum(products.values())
    return [
        f"{found.proof.builder} parsed it and built it for {', '.join(found.proof.bytes)};"
        f" its products: {count}; {rest} other kernels ({TOLD})"
    ]
