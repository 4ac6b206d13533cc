"""What must hold for any bytes, as functions of bytes: each returns in one word how it ended, or raises `Finding`.

`wire_format` holds the reader that leaves large tensors in the file against protobuf's own parser, `folding` every way
to fold against "a fold, kept nodes, or a refusal in words", `meaning` the folded model against the one it was made of.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto
from onnx.external_data_helper import uses_external_data

import bnfold
from bnfold.errors import BnfoldError, CheckFailed, ModelProblem
from bnfold.folding import driver
from bnfold.folding.pipeline import Options, fold_file
from bnfold.graph import view
from bnfold.model import onnx_io, wire
from bnfold.process.native import Failed, guarded
from bnfold.system.limits import alarm
from tests.fuzz.survival import tried

FEW, ALL = 72, 1 << 40  # bytes from which a tensor stays in the file, so that many do, or none
INFERRED = 8  # elements up to which shape inference is given values: none of those that stay
SECONDS = 30  # for one execution
INTERNAL = 70  # exit code of a defect
OPTIONS = Options(verify="off", force=True)

Target = Callable[[bytes], str]


class Finding(AssertionError):
    """What must hold does not."""


@contextmanager
def placed(data: bytes, large: int = FEW) -> Iterator[Path]:
    """A file of these bytes, alone in a folder in memory, for a while in which tensors of `large` bytes stay in it."""
    memory = Path("/dev/shm")
    with (
        mock.patch.object(wire, "DETACHED_FROM", large),
        mock.patch.object(view, "STUB_ABOVE", INFERRED),
        tempfile.TemporaryDirectory(prefix="bnfold-fuzz-", dir=memory if memory.is_dir() else None) as folder,
    ):
        path = Path(folder, "m.onnx")
        path.write_bytes(data)
        yield path


def refusal(problem: BnfoldError) -> str:
    """The word for a refusal, which must be one that bnfold can answer for."""
    if problem.exit_code >= INTERNAL or isinstance(problem, CheckFailed):
        raise Finding(f"{type(problem).__name__}: {problem}") from problem
    if not str(problem) or not problem.hint:
        raise Finding(f"a refusal without words: {problem!r}")
    return f"refused ({problem.exit_code})"


def require(sound: object, words: str) -> None:
    if not sound:
        raise Finding(words)


def wire_format(data: bytes) -> str:
    """Read and written without its large tensors, a file is what protobuf reads; or it is refused, as protobuf does."""
    with placed(data) as path:
        try:
            model, storage = onnx_io.detached(path)
        except ModelProblem as problem:
            require(_refuses(path), f"refused, but read whole: {problem}")
            return refusal(problem)
        require(not _refuses(path), "accepted, but not when it is read whole")
        target = path.with_name("o.onnx")
        onnx_io.write(model, storage, target, onnx_io.KEEP)
        again = target.read_bytes()
        require(_plain(ModelProto.FromString(again)) == _plain(ModelProto.FromString(data)), "another model")
        entries = filter(None, map(storage.entry, onnx_io.all_tensors(model)))
        spans = [entry.message for entry in entries]
        require(all(data[start:end] in again for start, end in spans), "a message in the file was not copied as it is")
        return "read, tensors in the file" if spans else "read"


def _refuses(path: Path) -> bool:
    try:
        onnx_io.load(path)
    except ModelProblem:
        return True
    return False


def _plain(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def folding(data: bytes) -> str:
    """Folded with its tensors in the file, with none there, and in memory, a model becomes one and the same valid model.

    Or it is refused; in memory, where it is not checked first, what is not valid may be folded as well.
    """
    ended, made = _folded(data, FEW)
    require((ended, made) == _folded(data, ALL), "another result where tensors stay in the file")
    model = ModelProto()
    try:
        model.ParseFromString(data)
        with mock.patch.object(view, "STUB_ABOVE", INFERRED):
            result = driver.fold(model)
    except (DecodeError, BnfoldError) as problem:
        require(made is None or _is_apart(model), f"folded in a file, but not in memory: {problem}")
        return refusal(problem) if isinstance(problem, BnfoldError) else ended
    finally:
        require(_unchanged(model, data), "the model in memory was changed")
    if result.folded and made is not None and not _is_apart(model):
        require(_plain(result.model) == made, "another result in memory")
        require_valid(made, data)
    return ended


def _is_apart(model: ModelProto) -> bool:
    """Whether data lies in a file, which in memory nobody looks for before it is needed."""
    return any(map(uses_external_data, onnx_io.all_tensors(model)))


def _unchanged(model: ModelProto, data: bytes) -> bool:
    try:
        return _plain(model) == _plain(ModelProto.FromString(data))
    except DecodeError:
        return True


def _folded(data: bytes, large: int) -> tuple[str, bytes | None]:
    """How folding ended, and the model that it made, as protobuf writes it."""
    with placed(data, large) as path:
        target = path.with_name("o.onnx")
        try:
            report = fold_file(path, target, OPTIONS)
        except BnfoldError as problem:
            require([*path.parent.iterdir()] == [path], f"something is left of a refusal: {problem}")
            return refusal(problem), None
        require(path.read_bytes() == data, "the input was changed")
        again = ModelProto.FromString(target.read_bytes())  # tensors that stayed keep the order of their fields
        return ("folded" if report.result.folded else "kept"), _plain(again)


def require_valid(made: bytes, data: bytes) -> None:
    """Outputs without a shape are folded, though onnx's checker refuses them: nothing else it may have against either."""
    if (why := _against(made)) and why != _against(data):
        raise Finding(f"the folded model is not valid: {why}")


def _against(data: bytes) -> str:
    try:
        guarded("onnx's checker", lambda: onnx.checker.check_model(data))
    except Failed as why:
        return str(why)
    return ""


def meaning(data: bytes) -> str:
    """What onnxruntime makes of the original, it makes of the folded model too: as verify has it where it is not plain."""
    with placed(data) as path:
        target = path.with_name("o.onnx")
        try:
            report = fold_file(path, target, OPTIONS)
        except BnfoldError:
            return "refused"
        if not report.result.folded:
            return "kept"
        from tests.fuzz import running

        answer = running.compared(path, target)
        if answer != "different":
            require(answer != "the folded model does not run", answer)
            return answer
        return judged(path, target, report.result.sites)


def judged(path: Path, target: Path, sites: tuple[str, ...] | None) -> str:
    with suppress(BnfoldError):
        told = bnfold.verify(path, target, untouched=True if sites is None else sites)
        require(told.verdict != "FAIL", f"verify fails: {'; '.join(told.reasons)}")
        return f"verify: {told.verdict.lower()}"
    return "verify: refused"


def verification(data: bytes) -> str:
    """Fold and verify, as `bnfold fold` does: nothing but a pass, a refusal, or what could not be decided."""
    with placed(data) as path:
        try:
            report = fold_file(path, path.with_name("o.onnx"), Options(force=True))
        except BnfoldError as problem:
            return refusal(problem)
        return "passed" if report.verification else "kept"


TARGETS: dict[str, Target] = {t.__name__: t for t in (wire_format, folding, meaning, verification)}


def run(target: Target, data: bytes) -> str:
    """One execution; anything but an answer or a `Finding` is a finding, too."""
    try:
        with alarm(SECONDS, Finding(f"it took longer than {SECONDS} s")), tried(data):
            return target(data)
    except Finding:
        raise
    except Exception as defect:
        raise Finding(f"{type(defect).__name__}: {defect}"[:500]) from defect
