"""Export: contents of the artefact, gates that can fail, and no trace of a failed export."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from bench import calibration, ood_scores, robustness
from limelight.artifact.manifest import Manifest
from limelight.artifact.store import Artifact, ArtifactError, load_artifact, newest_version
from limelight.runtime.engine import Engine
from models.calibrator import Calibrator
from models.ood_scores import Energy
from models.serving_graph import ServingGraph, find_layercam_stage
from pipeline.atomic_files import UnwritableError
from pipeline.data.registry import load_dataset
from pipeline.data.served_images import as_served
from pipeline.errors import GateError, PipelineError, RunError
from pipeline.evaluation.calibration import calibrate
from pipeline.exporting.export import export
from pipeline.exporting.model_card import card
from pipeline.exporting.naming import default_name, next_version
from pipeline.exporting.parity import (
    EXACT,
    FP16,
    Runtime,
    TorchRuntime,
    check_parity,
    measure_parity,
)
from pipeline.exporting.serialization import without_metadata
from pipeline.runs.exported import rebuild_run
from pipeline.runs.run import Run, read_run
from pipeline.training.inference import evaluate
from pipeline.training.teacher import Teacher
from tests.artefact_bytes import contents
from tests.full_disk import file_size_limit

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def test_artefact_is_complete_and_verified(artifact_folder: Path) -> None:
    artifact = load_artifact(artifact_folder)
    manifest = artifact.manifest
    files = {path.name for path in artifact_folder.iterdir()}
    assert files == {
        *("manifest.json", "README.md"),
        *("model.onnx", "model.layercam.onnx", "model.ts", "model.pt2", "model.safetensors"),
        "golden.npz",
    }
    assert set(manifest.files) == files - {"manifest.json", "README.md"}
    assert set(manifest.parity) == set(manifest.files) - {"model.safetensors", "golden.npz"}
    assert (manifest.name, manifest.version) == ("digits8", "1")
    assert manifest.classes == tuple("0123456789")
    assert manifest.cam_shape == (2, 2)
    assert manifest.data.test_images == manifest.metrics.images == 360
    assert manifest.training["recipe"] == "digits8"
    assert manifest.libraries["torch"] == torch.__version__.partition("+")[0]


@dataclass
class Counted:
    """An artefact with a float16 graph, and what its export read, hashed and split."""

    artifact: Artifact
    hashed: Counter[str]
    """Number of times that each file was read to be hashed."""
    sizes_in_memory: list[int]
    """Sizes of what was hashed in memory."""
    splits: list[int]
    """Numbers of the images that were split."""


@pytest.fixture(scope="module")
def counted(digits8_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    file_digest, split = hashlib.file_digest, StratifiedShuffleSplit.split
    hashed, sizes_in_memory, splits = Counter[str](), list[int](), list[int]()

    def hashing_file(file: BufferedReader, digest: str) -> Any:
        hashed[Path(file.name).name] += 1
        return file_digest(file, digest)

    def hashing_memory(content: bytes = b"", **options: Any) -> Any:
        sizes_in_memory.append(len(content))
        return hashlib.new("sha256", content, **options)

    def splitting(self: StratifiedShuffleSplit, *arguments: Any) -> Any:
        splits.append(len(arguments[0]))
        return split(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "file_digest", hashing_file)
        patch.setattr(hashlib, "sha256", hashing_memory)
        patch.setattr(StratifiedShuffleSplit, "split", splitting)
        run, root = read_run(digits8_run.folder), tmp_path_factory.mktemp("counted")
        folder = export(run, root, layercam=False, fp16=True)
    return Counted(load_artifact(folder), hashed, sizes_in_memory, splits)


def test_files_are_hashed_when_written_and_at_the_end_and_graphs_also_when_run(
    counted: Counted,
) -> None:
    files = counted.artifact.manifest.files
    assert {name: counted.hashed[name] for name in files} == dict.fromkeys(files, 2)
    # ONNX Runtime gets the bytes that were verified, so they are hashed in memory.
    graphs = {file.bytes for file in files.values() if file.format.startswith("onnx")}
    assert {file.bytes for file in files.values()} & {*counted.sizes_in_memory} == graphs
    assert counted.sizes_in_memory.count(files["model.onnx"].bytes) == 1


def test_export_splits_the_training_images_once(counted: Counted) -> None:
    data = counted.artifact.manifest.data
    assert counted.splits == [data.train_images + data.validation_images]


def test_final_verification_rejects_a_file_that_changed_after_it_was_described(
    digits8_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(manifest: Manifest) -> str:
        (staging,) = (tmp_path / "digits8").iterdir()
        with (staging / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        return card(manifest)

    monkeypatch.setattr("pipeline.exporting.export.card", damaging)
    with pytest.raises(ArtifactError, match=r"model\.safetensors has SHA-256"):
        export(digits8_run, tmp_path, layercam=False)
    assert not any(tmp_path.iterdir())


def test_measurements_are_in_the_manifest_and_on_the_card(artifact_folder: Path) -> None:
    manifest = load_artifact(artifact_folder).manifest
    assert manifest.methods == ("cam", "contrast", "layercam", "occlusion", "scorecam")
    assert manifest.faithfulness is not None
    assert manifest.out_of_distribution is not None
    assert manifest.abstention is not None
    shown = manifest.faithfulness.methods
    assert shown.keys() == {"random", "cam", "layercam", "occlusion", "scorecam"}
    assert manifest.faithfulness.chance is None
    text = (artifact_folder / "README.md").read_text()
    assert f"| {manifest.metrics.accuracy:.2%} | {manifest.metrics.log_loss:.4f} |" in text
    for kind, found in manifest.out_of_distribution.against.items():
        assert f"| {kind} | 40 | {found.auroc:.4f} | {found.fpr95:.1%} |" in text
    for method in ("cam", "layercam", "occlusion", "scorecam"):
        figures = shown[method]
        assert f"| {method} | {figures.deletion:.3f} | {figures.insertion:.3f} |" in text
    assert "|\n\n|" not in text


def test_card_says_how_probabilities_are_calibrated(artifact_folder: Path) -> None:
    manifest = load_artifact(artifact_folder).manifest
    for exponent, shown in ((1.0, False), (1.25, True)):
        calibration = manifest.calibration.model_copy(
            update={"temperature": 1.5, "exponent": exponent, "interval": (1.2, 1.9)}
        )
        text = card(manifest.model_copy(update={"calibration": calibration}))
        assert "95 % interval 1.200 to 1.900), fitted to" in text
        assert ("Temperature 1.500 (95 % interval" in text) != shown
        assert ("Temperature 1.500 (at this exponent, 95 % interval" in text) == shown
        assert ("calibrated to exp(-(-ln p)^1.250 / temperature)" in text) == shown


def test_robustness_is_measured_on_test_images_and_printed_alike_by_the_command(
    artifact_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_artifact(artifact_folder).manifest.robustness
    assert found is not None
    assert (found.images, found.severities, found.parameters) == (20, 1, "CIFAR-10-C")
    assert found.clean_accuracy > found.mean_accuracy > 0.1
    assert len(found.corruptions) == 15
    # On 20 images, each corruption has one answer for each.
    shares = 20 * np.array([*found.corruptions.values(), found.jpeg_75, found.jpeg_50])
    np.testing.assert_allclose(shares, np.rint(shares), atol=1e-9)
    text = (artifact_folder / "README.md").read_text()
    assert f"| **mean of the corruptions** | **{found.mean_accuracy:.1%}** ±" in text
    assert f"| as JPEG of quality 50, 4:2:0 | {found.jpeg_50:.1%} |" in text
    for name, accuracy in found.corruptions.items():
        assert f"| {name.replace('_', ' ')} | {accuracy:.1%} |" in text
    assert robustness.measure(artifact_folder, images=None, severities=1) == found
    assert robustness.main([str(artifact_folder), "--images", "20"]) == 0
    assert f"| mean of the corruptions | {found.mean_accuracy:.1%} |" in capsys.readouterr().out


def test_command_compares_the_calibrations_that_an_export_chooses_from(
    artifact_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.from_numpy(rebuild_run(artifact_folder).data.validation.labels)
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(len(labels), 10, generator=rng)
    # Sure and right, or unsure: no temperature fits both.
    logits[torch.arange(len(labels)), labels] += 6 * torch.rand(len(labels), generator=rng).round()
    monkeypatch.setattr(calibration, "evaluate", lambda *_: logits)
    assert calibration.main([str(artifact_folder)]) == 0
    rows = [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in capsys.readouterr().out.splitlines()[2:]
    ]
    assert [row[0] for row in rows] == ["none", "temperature", "temperature and exponent"]
    found = calibrate(logits, labels)
    assert rows[0][3:] == [f"{found.log_loss_before:.4f}", f"{found.ece_before:.2%}"]
    assert [
        f"{found.temperature:.3f}",
        f"{found.exponent:.3f}",
        f"{found.log_loss_after:.4f}",
        f"{found.ece_after:.2%}",
    ] == min(rows, key=lambda row: float(row[3]))[1:]
    with pytest.raises(SystemExit, match="neither a run nor an artefact"):
        calibration.main([str(artifact_folder / "missing")])


def test_ood_scores_of_the_command_are_those_of_the_export(
    artifact_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_artifact(artifact_folder).manifest.out_of_distribution
    assert found is not None
    assert ood_scores.main([str(artifact_folder)]) == 0
    cells = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    mean = {name.removeprefix("| "): float(auroc) for name, auroc, *_ in cells}
    assert {*found.auroc_when_chosen} >= {"energy", "max-logit", "knn", "knn-norm"}
    for name, auroc in found.auroc_when_chosen.items():
        assert mean[name] == pytest.approx(auroc, abs=1e-3)
    assert mean["knn, 300 images, neighbour 5"] == mean["knn"]
    assert mean["knn, 1000 images, neighbour 1"] != mean["knn"]


def test_command_refuses_an_artefact_of_other_images(artifact_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifact_folder, tmp_path / "digits8" / "1")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["data"]["name"] = "my photos"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit) as stopped:
        robustness.main([str(folder)])
    assert "my photos is no published data set" in str(stopped.value)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_shipped_card_is_that_of_its_manifest(name: str) -> None:
    folder = newest_version(ROOT / "zoo" / name)
    manifest = load_artifact(folder).manifest
    assert (folder / "README.md").read_text(encoding="utf-8") == card(manifest)


def test_flag_rates_equal_those_of_the_engine(artifact_folder: Path, digits8_run: Run) -> None:
    artifact = load_artifact(artifact_folder)
    abstention = artifact.manifest.abstention
    ood = artifact.manifest.out_of_distribution
    assert abstention is not None
    assert ood is not None
    test = load_dataset("digits8").test
    images = as_served(test.images[:], artifact.manifest.image)
    outputs = Engine(artifact, device="cpu").run(images, ["probabilities", "ood_score"])
    kept = outputs["probabilities"].max(1) >= abstention.threshold
    correct = outputs["probabilities"].argmax(1) == test.labels
    assert abstention.coverage == pytest.approx(kept.mean())
    assert abstention.accuracy == pytest.approx(correct[kept].mean())
    assert ood.flagged == pytest.approx((outputs["ood_score"] > ood.threshold).mean())


def test_files_are_readable_by_all_users(artifact_folder: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o444 for file in artifact_folder.iterdir()}
    assert modes == dict.fromkeys(modes, 0o444)


def test_engine_has_the_accuracy_of_the_manifest_and_of_eager_torch(
    artifact_folder: Path, digits8_run: Run
) -> None:
    artifact = load_artifact(artifact_folder)
    test = load_dataset("digits8").test
    images = as_served(test.images[:], artifact.manifest.image)
    served = Engine(artifact, device="cpu").run(images, ["probabilities"])["probabilities"]
    logits = evaluate(digits8_run.network, images, digits8_run.config.normalisation, CPU)
    calibrated = Calibrator.of(artifact.manifest.calibration)(logits).softmax(1)
    np.testing.assert_allclose(served, calibrated, atol=1e-5)
    accuracy = float((served.argmax(1) == test.labels).mean())
    assert accuracy == pytest.approx(artifact.manifest.metrics.accuracy, abs=1e-12)


def test_multiply_accumulates_equal_hand_computed_value(artifact_folder: Path) -> None:
    # digits8: 8x8 images, widths 8-16-16-32, 3x3 kernels; maps of 8x8, 4x4, 2x2 positions.
    by_hand = 9 * 64 * (1 * 8 + 8 * 16)
    by_hand += 9 * 16 * (2 * 16 * 16 + 16 * 16)
    by_hand += 9 * 4 * (2 * 16 * 16 + 16 * 32 + 2 * 32 * 32)
    by_hand += 32 * 10
    assert load_artifact(artifact_folder).manifest.network.multiply_accumulates == by_hand


def test_export_that_ends_second_is_the_next_version_and_keeps_the_first(
    artifact_folder: Path, tmp_path: Path
) -> None:
    first = tmp_path / "small" / "1"
    files = {path.name: path.read_bytes() for path in artifact_folder.iterdir()}

    def other_export(step: str, *_: object) -> None:
        if step == "measuring the maps" and not first.exists():
            shutil.copytree(artifact_folder, first)

    second = export(
        rebuild_run(artifact_folder), tmp_path, name="small", layercam=False, progress=other_export
    )
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["1", "2"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == files
    before, again = (load_artifact(folder).manifest for folder in (artifact_folder, second))
    assert (again.name, again.version) == ("small", "2")
    assert again.methods == ("cam", "contrast", "occlusion", "scorecam")
    assert again.files["model.safetensors"] == before.files["model.safetensors"]
    assert again.metrics == before.metrics
    assert again.training == before.training
    assert again.calibration == before.calibration
    assert again.network == before.network


def test_layercam_maps_are_computed_only_on_request(artifact_folder: Path) -> None:
    def layers(file: str) -> tuple[int, list[str]]:
        graph = onnx.load(artifact_folder / file).graph
        return len(graph.node), [output.name for output in graph.output]

    plain, layercam = layers("model.onnx"), layers("model.layercam.onnx")
    assert layercam[1] == [*plain[1], "layercams"]
    assert layercam[0] > 1.5 * plain[0]
    artifact = load_artifact(artifact_folder)
    assert artifact.manifest.expensive_outputs == {"layercams"}
    engine = Engine(artifact, device="cpu")
    engine.warm_up()
    # More images than one batch of the LayerCAM graph.
    images = load_dataset("digits8").test.images[:20]
    names = ["cams", "probabilities", "layercams"]
    expensive, cheap = engine.run(images, names), engine.run(images, names[:2])
    for name in names[:2]:
        np.testing.assert_allclose(expensive[name], cheap[name], atol=1e-5)
    assert expensive["layercams"].shape[0] == 20


def test_fp16_graph_is_exported_on_request_and_compared(counted: Counted) -> None:
    artifact = counted.artifact
    assert artifact.fp16_path == artifact.folder / "model.fp16.onnx"
    parity = artifact.manifest.parity
    # float16 has 11 significant bits, float32 has 24.
    assert parity["model.fp16.onnx"].max_probability_error > 1e-5
    assert parity["model.onnx"].max_probability_error < 1e-5
    graph = onnx.load(artifact.fp16_path).graph
    weights = [each for each in graph.initializer if len(each.dims) == 4 and each.dims[2] == 3]
    assert weights
    assert {each.data_type for each in weights} == {onnx.TensorProto.FLOAT16}
    images = load_dataset("digits8").test.images[:50]
    fp16 = Engine(artifact, device="cpu", precision="float16").run(images, ["cams", "features"])
    exact = Engine(artifact, device="cpu").run(images, ["cams", "features"])
    np.testing.assert_allclose(fp16["cams"], exact["cams"], atol=0.1)
    assert not np.array_equal(fp16["features"], exact["features"])


def test_serving_graph_rejects_layercam_maps_in_fp16(digits8_run: Run) -> None:
    with pytest.raises(ValueError, match="LayerCAM maps need float32"):
        ServingGraph(
            digits8_run.network, digits8_run.config.normalisation, Calibrator(), stage=1, fp16=True
        )


def test_fp16_has_its_own_bounds(digits8_run: Run) -> None:
    graph, images = _graph(digits8_run), load_dataset("digits8").test.images[:70]
    parity = measure_parity(TorchRuntime(graph, graph.outputs), graph, images)
    rounded = {"max_probability_error": 0.01, "max_cam_error": 0.1, "images": 1000}
    check_parity("fp16", parity.model_copy(update=rounded | {"top1_disagreements": 3}), FP16)
    for wrong, message in (
        ({"max_probability_error": 0.06}, "probabilities differ"),
        ({"max_cam_error": 0.6}, "maps differ"),
        ({"max_ood_error": 0.06}, "OOD scores differ"),
        ({"top1_disagreements": 4}, "4 predicted classes of 1000 images.*at most 3 may"),
    ):
        with pytest.raises(GateError, match=message):
            check_parity("fp16", parity.model_copy(update=rounded | wrong), FP16)


def _graph(run: Run) -> ServingGraph:
    images = torch.from_numpy(load_dataset("digits8").test.images[:2])
    stage = find_layercam_stage(run.network, run.config.normalisation, images)
    return ServingGraph(run.network, run.config.normalisation, Calibrator(1.3), stage=stage).eval()


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("probabilities", 2e-5, r"probabilities differ from eager torch by 2\.\d+e-05"),
        ("cams", 2e-4, r"maps differ from eager torch by [12]\.\d+e-04"),
        ("probabilities", np.nan, "differ from eager torch by nan"),
        ("cams", np.nan, "maps differ from eager torch by nan"),
        ("ood_score", 2e-3, r"OOD scores differ from eager torch by \d\.\d+e-0[34] of the largest"),
        ("ood_score", np.nan, "OOD scores differ from eager torch by nan of the largest"),
        ("layercams", 0.1, r"LayerCAM maps differ from eager torch by \d\.\d+e-0[0-2] of"),
        ("layercams", np.nan, "LayerCAM maps differ from eager torch by nan of their mean"),
    ],
)
def test_gate_rejects_wrong_outputs_and_names_the_error(
    output: str, error: float, message: str, digits8_run: Run
) -> None:
    graph, images = _graph(digits8_run), load_dataset("digits8").test.images[:70]
    exact = TorchRuntime(graph, graph.outputs)
    check_parity("model", measure_parity(exact, graph, images))

    def wrong(batch: Images) -> dict[str, Outputs]:
        outputs = dict(exact(batch))
        return outputs | {output: outputs[output] + np.float32(error)}

    with pytest.raises(GateError, match=message):
        check_parity("model", measure_parity(wrong, graph, images))


class LargeScores(Energy):
    """OOD scores of several thousand, whose float32 rounding alone is up to 5e-4."""

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return 1000 * super().forward(features, logits)


def test_error_of_ood_scores_is_relative_to_their_scale(digits8_run: Run) -> None:
    network, normalisation = digits8_run.network, digits8_run.config.normalisation
    graph = ServingGraph(network, normalisation, Calibrator(1.3), ood_score=LargeScores()).eval()
    exact, images = TorchRuntime(graph, graph.outputs), load_dataset("digits8").test.images[:70]

    def off_by(error: float) -> Runtime:
        return lambda batch: {**(out := exact(batch)), "ood_score": out["ood_score"] + error}

    assert exact(images)["ood_score"].min() < -1000
    check_parity("model", measure_parity(off_by(1e-2), graph, images))
    with pytest.raises(GateError, match="OOD scores differ"):
        check_parity("model", measure_parity(off_by(10), graph, images))


def test_gate_rejects_different_predicted_classes(digits8_run: Run) -> None:
    graph, images = _graph(digits8_run), load_dataset("digits8").test.images[:70]
    parity = measure_parity(TorchRuntime(graph, graph.outputs), graph, images)
    with pytest.raises(GateError, match="3 predicted classes of 70 images"):
        check_parity("model", parity.model_copy(update={"top1_disagreements": 3}))


def test_one_swapped_prediction_is_counted_at_each_batch_size(digits8_run: Run) -> None:
    graph, images = _graph(digits8_run), load_dataset("digits8").test.images[:70]
    target = images[33]

    def swapped(batch: Images) -> dict[str, Outputs]:
        outputs = {
            name: values.copy()
            for name, values in TorchRuntime(graph, graph.outputs)(batch).items()
        }
        for index in np.flatnonzero((batch == target).all((1, 2, 3))):
            outputs["probabilities"][index] = outputs["probabilities"][index, ::-1]
        return outputs

    assert measure_parity(swapped, graph, images).top1_disagreements == 3


def test_failed_gate_leaves_no_files(
    digits8_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.exporting.formats.EXACT", replace(EXACT, probability=0.0))
    with pytest.raises(GateError, match="probabilities differ"):
        export(digits8_run, tmp_path, layercam=False)
    assert not any(tmp_path.iterdir())


# TorchScript is written first, torch.export's format next; the latter is larger.
@pytest.mark.parametrize("unwritable", ["model.ts", "model.pt2"])
def test_full_disk_is_an_error_that_leaves_no_files(
    unwritable: str, digits8_run: Run, artifact_folder: Path, tmp_path: Path
) -> None:
    limit = (artifact_folder / unwritable).stat().st_size - 1000
    advice = "make room, or choose another --to"
    words = rf"{tmp_path}/digits8 cannot be written: File too large; {advice}"
    steps = list[str]()
    with file_size_limit(limit), pytest.raises(UnwritableError, match=words):
        export(
            digits8_run,
            tmp_path,
            layercam=False,
            progress=lambda step, *_: steps.append(step),
        )
    assert steps[-1] == f"writing {unwritable}"
    assert not any(tmp_path.iterdir())


def test_onnx_checker_is_a_gate(
    digits8_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = onnx.load

    def damaged(file: Path) -> onnx.ModelProto:
        model = load(file)
        model.graph.node[0].op_type = "NoSuchOperator"
        return model

    monkeypatch.setattr(onnx, "load", damaged)
    with pytest.raises(GateError, match=r"model\.onnx: the ONNX checker rejects it"):
        export(digits8_run, tmp_path, layercam=False)
    assert not any(tmp_path.iterdir())


def test_data_that_changed_since_training_is_rejected(digits8_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits8_run.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data_sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"has changed since .* was trained"):
        export(read_run(folder), tmp_path / "artifacts")


@pytest.mark.parametrize("missing", ["config.json", "epochs.jsonl", "checkpoint.safetensors"])
def test_incomplete_run_names_the_missing_file(
    missing: str, digits8_run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits8_run.folder, folder)
    (folder / missing).unlink()
    with pytest.raises(RunError, match=f"is not a run: {missing} is missing"):
        read_run(folder)


def test_truncated_checkpoint_is_rejected(digits8_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits8_run.folder, folder)
    checkpoint = folder / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(RunError, match="cannot be read"):
        read_run(folder)


@pytest.mark.parametrize("name", ["../elsewhere", "My Model", "", "-x", "a" * 64])
def test_invalid_model_name_is_rejected_before_anything_is_written(
    name: str, digits8_run: Run, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match="a model's name is lower-case letters"):
        export(digits8_run, tmp_path / "artifacts", name=name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("folder", "name"), [("My Photos!", "my-photos"), ("Été", "t")])
def test_model_name_is_derived_from_the_folder_name(folder: str, name: str) -> None:
    assert default_name(folder) == name


def test_mnist_models_are_named_digits() -> None:
    assert default_name("mnist") == "digits"


def test_folder_name_without_ascii_letters_is_rejected() -> None:
    with pytest.raises(PipelineError, match="pass --name"):
        default_name("写真")


def test_next_version_follows_the_highest_number(tmp_path: Path) -> None:
    assert next_version(tmp_path) == "1"
    for folder in ("2", "10", ".staging-99", "9-old"):
        (tmp_path / folder).mkdir()
    assert next_version(tmp_path) == "11"


@pytest.fixture(scope="module")
def distilled_artifact(digits8_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact of a run that began from a model, and learned from one, in absolute folders."""
    network, folder = digits8_run.config.recipe.network, str(digits8_run.folder)
    teacher = Teacher(name=folder, network=network, normalisation=digits8_run.config.normalisation)
    config = digits8_run.config.model_copy(update={"teachers": (teacher,), "pretrained": folder})
    return export(
        replace(digits8_run, config=config), tmp_path_factory.mktemp("distilled"), layercam=False
    )


@pytest.mark.parametrize("folder", ["artifact_folder", "distilled_artifact"])
def test_no_byte_of_an_artefact_names_a_folder_of_the_machine_that_exported(
    folder: str, digits8_run: Run, request: pytest.FixtureRequest
) -> None:
    artifact = request.getfixturevalue(folder)
    machine = (ROOT, Path.home(), Path(torch.__file__).parents[1], digits8_run.folder.parent)
    paths = [str(path).encode() for path in machine] + [b"site-packages"]
    searched = 0
    for file in artifact.iterdir():
        for name, content in contents(file):
            searched += 1
            assert [path for path in paths if path in content] == [], name
    assert searched > 50  # files and the members of the two archives


def test_models_that_a_run_learned_from_keep_their_names(distilled_artifact: Path) -> None:
    training = load_artifact(distilled_artifact).manifest.training
    assert training["pretrained"] == "digits8"
    assert [teacher["name"] for teacher in training["teachers"]] == ["digits8"]  # type: ignore[index,union-attr,call-overload]


def test_metadata_is_removed_from_every_part_of_an_onnx_graph() -> None:
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="/home/ada/net.py")],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    node = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1], "/home/ada")
    graph = onnx.helper.make_graph([node], "main", [value], [value], doc_string="/home/ada")
    function = onnx.helper.make_function("ada", "f", ["x"], ["y"], [branch.node[0]], [])
    model = onnx.helper.make_model(graph, functions=[function], doc_string="/home/ada")
    for part in (model, graph, graph.input[0], graph.output[0], branch, function):
        part.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/ada/net.py")
    weight = model.graph.initializer.add(name="w", doc_string="/home/ada")
    weight.metadata_props.add(key="path", value="/home/ada")
    assert model.SerializeToString().count(b"/home/ada") > 8
    cleaned = without_metadata(model)
    assert b"/home/ada" not in cleaned.SerializeToString()
    assert [each.op_type for each in cleaned.graph.node] == ["If"]
    assert len(cleaned.graph.node[0].attribute) == 2
