"""Bundles: building them whole or not at all, and refusing damaged ones."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import os
from pathlib import Path
import resource
import shutil
import subprocess
from typing import Any

import numpy as np
import peft
import pytest
from tiny_models import build_tiny, CONTEXT_LENGTH, make_folder, recipe_text, SKILLS
import torch
import transformers
import yaml

from quant_llm_ros.engine.bundle import Bundle, REQUIRED_FILES
from quant_llm_ros.errors import BundleError, CheckpointError, QuantLlmError, RecipeError
from quant_llm_ros.quantize import build as building
from quant_llm_ros.quantize.build import build_bundle
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.staging import staged_folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("checkpoint") / "llama")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Bundle:
    return build_tiny(tmp_path_factory.mktemp("bundle"), checkpoint)


def test_a_bundle_says_what_it_is(bundle: Bundle) -> None:
    assert (bundle.name, bundle.format_version, bundle.target) == ("tiny", 1, "ort")
    assert (bundle.model.layers, bundle.model.vocab_size) == (2, 320)
    assert (bundle.model.context_length, bundle.model.eos_token_id) == (CONTEXT_LENGTH, 2)
    # Two layers of 64 x (64 + 32 + 32 + 64 + 3 * 96) weights, 5 norms, one tied embedding.
    assert bundle.model.parameters == 2 * 64 * 480 + 5 * 64 + 320 * 64
    assert bundle.recipe["quantize"]["bits"] == 4
    assert not bundle.skills_fixed
    assert bundle.file("skills.yaml").read_bytes() == SKILLS.read_bytes()
    assert set(os.listdir(bundle.path)) == {"bundle.yaml", *REQUIRED_FILES}
    assert bundle.size_bytes == sum((bundle.path / n).stat().st_size for n in REQUIRED_FILES)
    assert bundle.sha256 == hashlib.sha256((bundle.path / "bundle.yaml").read_bytes()).hexdigest()


def test_figures_are_measured(bundle: Bundle) -> None:
    figures = bundle.figures
    assert 0 <= figures["decoder_relative_error"] < 1e-5
    assert 0 < figures["export_relative_error"] < 1e-5
    assert figures["export_relative_error"] < figures["engine_relative_error"] < 0.1
    assert 0 < figures["kl_divergence_nats"] < 2
    assert 0.1 < figures["top1_agreement"] <= 1
    assert 5 < figures["bits_per_weight"] < 5.2
    for name in ("size_mb", "load_ms", "prefill_ms_per_token", "decode_ms_per_token", "build_s"):
        assert figures[name] > 0


def test_the_same_recipe_gives_the_same_bytes(
    tmp_path: Path, checkpoint: Path, bundle: Bundle
) -> None:
    again = build_tiny(tmp_path, checkpoint)
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json", "skills.yaml"):
        assert again.files[name] == bundle.files[name], name


def test_an_adapter_is_merged_before_quantization(tmp_path: Path, checkpoint: Path) -> None:
    """Base and adapter give the bundle that the model merged by peft gives."""
    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(base, config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    shutil.copytree(checkpoint, merged)
    model.merge_and_unload().save_pretrained(merged)
    adapted = build_tiny(tmp_path, checkpoint, adapter="adapter")
    expected = build_tiny(tmp_path, merged, "expected")
    plain = build_tiny(tmp_path, checkpoint, "plain")
    got, want, without = (
        np.load(b.file("reference.npz"))["logits"] for b in (adapted, expected, plain)
    )
    scale = np.abs(want).max()
    assert np.abs(got - want).max() < 0.01 * scale
    assert np.abs(without - want).max() > 0.05 * scale
    assert (adapted.prompt_examples, plain.prompt_examples) == ("other", "always")


def test_progress_only_grows(tmp_path: Path, checkpoint: Path) -> None:
    recipe = Recipe.load(_written(tmp_path / "recipe.yaml", recipe_text(checkpoint)))
    told: list[tuple[str, float]] = []
    build_bundle(
        recipe, tmp_path / "out", skills=SKILLS, progress=lambda *stage: told.append(stage)
    )
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], told[-1]) == (0.0, ("done", 1.0))
    assert len({stage for stage, _ in told}) >= 6


def test_more_files_belong_to_the_bundle(tmp_path: Path, checkpoint: Path) -> None:
    recipe = Recipe.load(_written(tmp_path / "recipe.yaml", recipe_text(checkpoint)))

    def note(path: Path) -> None:
        path.write_text("hello")

    bundle = build_bundle(
        recipe,
        tmp_path / "out",
        skills=SKILLS,
        progress=lambda *_: None,
        more_files={"notes.txt": note},
    )
    assert bundle.file("notes.txt").read_text() == "hello"
    bundle.file("notes.txt").write_text("hallo")
    with pytest.raises(BundleError, match=r"notes\.txt has sha256"):
        Bundle.load(bundle.path)


def _edit(key: str, value: Any) -> Callable[[Path], None]:
    """Replace (or, with ``...``, remove) a value of bundle.yaml at a dotted path."""

    def change(folder: Path) -> None:
        path = folder / "bundle.yaml"
        fields = yaml.safe_load(path.read_text())
        *parents, leaf = key.split("/")
        place = fields
        for name in parents:
            place = place[name]
        if value is ...:
            del place[leaf]
        else:
            place[leaf] = value
        path.write_text(yaml.safe_dump(fields))

    return change


def _flip(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def _link_out(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    (folder / "tokenizer.json").rename(outside)
    (folder / "tokenizer.json").symlink_to(outside)


WRONG: list[tuple[Callable[[Path], Any], str]] = [
    (shutil.rmtree, "does not exist; build it with `make bundle` or `quant_llm quantize`"),
    (lambda f: (f / "bundle.yaml").unlink(), "is no bundle: it has no bundle.yaml"),
    (lambda f: (f / "bundle.yaml").write_text("{"), "not valid YAML"),
    (lambda f: (f / "bundle.yaml").write_bytes(b"\xff\xfe\x00"), "not valid YAML"),
    (lambda f: (f / "bundle.yaml").write_text("- a"), "does not hold a mapping"),
    (lambda f: (f / "bundle.yaml").write_text(""), "does not hold a mapping"),
    (
        lambda f: (f / "bundle.yaml").write_text("!!python/object/apply:os.getcwd []"),
        "not valid YAML",
    ),
    (_edit("format_version", 2), "format_version 2, this program reads 1"),
    (_edit("format_version", "1"), "format_version is '1', expected int"),
    (_edit("format_version", True), "format_version is True, expected int"),
    (_edit("name", ...), "name is missing"),
    (_edit("model", []), r"model is \[\], expected dict"),
    (_edit("model/layers", ...), "model.layers is missing"),
    (_edit("model/layers", "30"), "model.layers is '30', expected int"),
    (_edit("model/bos_token_id", ...), "model.bos_token_id is missing"),
    (_edit("model/eos_token_id", None), "model.eos_token_id is None, expected int"),
    (_edit("skills/fixed", "no"), "skills.fixed is 'no', expected bool"),
    (_edit("files/model.onnx", 1), "files.model.onnx is not a mapping"),
    (_edit("files/model.onnx", ...), "files.model.onnx is missing"),
    (_edit("files/model.onnx/bytes", ...), "files.model.onnx.bytes is missing"),
    (_edit("files/..\\a", {}), "leaves the bundle"),
    (_edit("model/rope_thetas", ...), "model.rope_thetas is missing; rebuild"),
    (_edit("model/rope_thetas", [1e4, 10]), "rope_thetas is .*, expected numbers above 1"),
    (_edit("model/rope_thetas", [1e4]), "rope_thetas has 1 numbers for 2 layers"),
    (_edit("files/model.onnx/sha256", "00"), "model.onnx has sha256 .*, expected 00"),
    (lambda f: _edit("files", {"../a": {"sha256": "", "bytes": 1}})(f), "'../a' leaves"),
    (lambda f: _edit("files", {"/etc/passwd": {"sha256": "", "bytes": 1}})(f), "leaves the b"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing; rebuild"),
    (_link_out, "tokenizer.json is a link out of the bundle"),
    (_flip("model.onnx.data"), "model.onnx.data has sha256 .*…, expected .*…; rebuild the bundle"),
    (_flip("reference.npz"), "reference.npz has sha256"),
    (lambda f: (f / "model.onnx").write_bytes(b""), "model.onnx has 0 bytes, expected"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG)
def test_damaged_bundle(
    tmp_path: Path, bundle: Bundle, damage: Callable[[Path], Any], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    damage(copy)
    with pytest.raises(BundleError, match=message):
        Bundle.load(copy)


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.load(tmp_path / "file")


def test_loading_without_verifying_reads_no_weights(tmp_path: Path, bundle: Bundle) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    _flip("model.onnx.data")(copy)
    assert Bundle.load(copy, verify=False).name == "tiny"


def test_unknown_file(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"lists no file engine.plan"):
        bundle.file("engine.plan")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"context_length": 512}, RecipeError, "512, but .* was trained for 256"),
        (
            {"quantize": {"method": "uniform", "layers": {"*.wq.*": {"bits": 8}}}},
            RecipeError,
            r"'\*\.wq\.\*' matches no weight",
        ),
        ({"quantize": {"method": "uniform", "block": 128}}, RecipeError, "64 inputs are not a"),
        ({"checkpoint": {"path": "/no/such/model"}}, CheckpointError, "does not exist"),
    ],
)
def test_a_recipe_that_does_not_fit_leaves_nothing(
    tmp_path: Path,
    checkpoint: Path,
    changes: dict[str, Any],
    error: type[QuantLlmError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        build_tiny(tmp_path, checkpoint, **changes)
    assert os.listdir(tmp_path) == ["bundle.yaml"]  # the recipe


def test_another_checkpoint_than_the_recipe_names(tmp_path: Path, checkpoint: Path) -> None:
    wrong = {"path": str(checkpoint), "sha256": "12" * 32}
    with pytest.raises(RecipeError, match=r"has sha256 .*…, the recipe expects 121212121212…"):
        build_tiny(tmp_path, checkpoint, checkpoint=wrong)


def test_missing_skills(tmp_path: Path, checkpoint: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text(checkpoint))
    with pytest.raises(BundleError, match=r"none.yaml does not exist"):
        build_bundle(
            Recipe.load(recipe),
            tmp_path / "out",
            skills=tmp_path / "none.yaml",
            progress=lambda stage, part: None,
        )


@pytest.mark.parametrize("stage", ["checking the decoder", "quantizing and exporting"])
def test_ctrl_c_leaves_the_old_bundle(
    tmp_path: Path, checkpoint: Path, bundle: Bundle, stage: str
) -> None:
    shutil.copytree(bundle.path, tmp_path / "out")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text(checkpoint))

    def interrupt(now: str, part: float) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bundle(Recipe.load(recipe), tmp_path / "out", skills=SKILLS, progress=interrupt)
    assert sorted(os.listdir(tmp_path)) == ["out", "recipe.yaml"]
    assert Bundle.load(tmp_path / "out").sha256 == bundle.sha256


def test_a_full_disk_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    recipe = Recipe.load(_written(tmp_path / "recipe.yaml", recipe_text(checkpoint)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to make any file of this process larger: EFBIG instead of ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(BundleError, match=r"cannot write the bundle .*out: File too large"):
            build_bundle(recipe, tmp_path / "out", skills=SKILLS, progress=lambda *_: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_a_decoder_that_differs_is_no_bundle(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "EXACT_LIMIT", 1e-12)
    with pytest.raises(CheckpointError, match=r"differ from transformers' by .*e-"):
        build_tiny(tmp_path, checkpoint)
    assert not (tmp_path / "bundle").exists()


def test_a_new_bundle_replaces_the_old(tmp_path: Path, checkpoint: Path, bundle: Bundle) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    built = build_tiny(
        tmp_path, checkpoint, quantize={"method": "uniform", "bits": 8, "block": 32}
    )
    assert built.recipe["quantize"]["bits"] == 8
    assert sorted(os.listdir(tmp_path)) == ["bundle", "bundle.yaml"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.write_text("x"), "is not a folder"),
        (lambda path: path.symlink_to("elsewhere"), "is not a folder"),
        (lambda path: (path.mkdir(), (path / "thesis.txt").touch()), "is no bundle, it would be"),
    ],
)
def test_other_things_are_not_overwritten(
    tmp_path: Path, prepare: Callable[[Path], Any], message: str
) -> None:
    prepare(tmp_path / "out")
    with pytest.raises(BundleError, match=message), staged_folder(tmp_path / "out"):
        pass


def test_leftovers_of_killed_builds_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f".out.building-{ended.pid}", f".out.building-{os.getppid()}", ".out.other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").touch()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "bundle.yaml").touch()
    assert set(os.listdir(tmp_path)) == {f".out.building-{os.getppid()}", ".out.other", "out"}


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.bundle
def test_the_default_bundle_keeps_its_promises(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    assert sum(path.stat().st_size for path in bundle_path.iterdir()) <= 110e6
    assert bundle.model.parameters == 134_515_008
    assert bundle.figures["decoder_relative_error"] < 1e-4
    assert bundle.figures["export_relative_error"] < 1e-4
    assert bundle.figures["peak_memory_mb"] <= 4000
    with np.load(bundle.file("reference.npz"), allow_pickle=False) as reference:
        assert reference["logits"].shape == (len(reference["offsets"]) - 1, 49152)
