"""Packing, rounding and merging: what training computes is what the bundle will compute."""

import copy
import json
import subprocess

import pytest
from safetensors.torch import load_file, save_file
from scripted import make_tokenizer, SKILLS_PATH
import torch

from quant_llm_ros import cli
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.errors import CheckpointError, RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.methods.learned import STEPS
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.training.adapter_files import save_whole
from quant_llm_ros.training.averaging import average_adapters
from quant_llm_ros.training.packing import pack, use_packed_attention
from quant_llm_ros.training.qat import make_simulation
from quant_llm_ros.training.reconstruction import train_layers
from quant_llm_ros.training.settings import FinetuneSettings


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Give a small tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def tiny_llama(vocab_size):
    """Make a small random model."""
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
        )
    ).eval()


def test_a_pack_is_the_same_as_its_sentences_alone(tokenizer):
    """Sentences behind one prompt have the logits that each has by itself."""
    model = tiny_llama(tokenizer.vocab_size)
    prompt = Prompt(SkillRegistry.load(SKILLS_PATH), tokenizer, examples=False)
    examples = [
        ("go to the hall", "go_to(place=hall)", ()),
        ("hello", "unknown", ()),
        ("and there", "dock()", [("go home", "go_to(place=home)")]),
    ]
    batch = pack(prompt, tokenizer, examples)
    packed = copy.deepcopy(model)
    use_packed_attention(packed)
    with torch.no_grad():
        together = packed(
            input_ids=batch.tokens[None], position_ids=batch.positions[None], pack=batch
        ).logits[0, batch.asked]
        for index, (text, answer, before) in enumerate(examples):
            reply = [*tokenizer.encode(answer), tokenizer.turn_end]
            whole = [*prompt.prefix, *prompt.after_prefix(text, before), *reply]
            alone = model(input_ids=torch.tensor([whole])).logits[0, -len(reply) - 1 : -1]
            mine = batch.owner == index
            assert batch.labels[mine].tolist() == reply
            torch.testing.assert_close(together[mine], alone, rtol=1e-4, atol=1e-5)


def test_rounding_keeps_the_merged_weight_on_the_grid(tmp_path):
    """After a refresh the frozen part and the update add up to the quantized weight."""
    import peft

    from quant_llm_ros.training.rounding import lora_layers, Rounding

    recipe_path = tmp_path / "recipe.yaml"
    recipe_path.write_text(
        "{name: t, checkpoint: {path: none.gguf}, context_length: 64, quantize: {method: uniform, "
        "bits: 4, block: 32, range: minmax}}"
    )
    recipe = Recipe.load(recipe_path)
    model = peft.get_peft_model(
        tiny_llama(100), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    )
    layers = lora_layers(model)
    assert len(layers) == 4
    before = {name: layer.base_layer.weight.clone() for name, layer in layers.items()}
    rounding = Rounding(model, recipe)
    for seed in (1, 2):
        torch.manual_seed(seed)
        for layer in layers.values():
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.02)
        rounding.refresh()
        for name, layer in layers.items():
            update = layer.get_delta_weight("default")
            expected = recipe.quantizer(name)(before[name] + update).dequantize()
            torch.testing.assert_close(layer.base_layer.weight + update, expected)


def test_layers_learn_one_by_one(tokenizer, tmp_path):
    """Each learns to give what the unquantized model has at its place, and so does the whole."""
    recipe_path = tmp_path / "recipe.yaml"
    recipe_path.write_text(
        "{name: t, checkpoint: {path: none.gguf}, context_length: 64, quantize: {method: learned, "
        "bits: 2, block: 32, range: mse}}"
    )
    model = tiny_llama(tokenizer.vocab_size)
    use_packed_attention(model)
    prompt = Prompt(SkillRegistry.load(SKILLS_PATH), tokenizer, examples=False)
    sentences = [["go to the hall", "hello"], ["dock", "what is there"]]
    packs = [pack(prompt, tokenizer, [(s, "dock()", ()) for s in group]) for group in sentences]

    def layers_give(pack_):
        """Hidden states behind each layer, and the logits."""
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            result = model(
                input_ids=pack_.tokens[None],
                position_ids=pack_.positions[None],
                pack=pack_,
                output_hidden_states=True,
            )
        return [*result.hidden_states[1:-1], result.logits]

    def error(got, wanted):
        squares = (got - wanted).float().square().sum(-1) / wanted.float().square().sum(-1)
        return float(squares.mean())

    exact = [layers_give(p) for p in packs]
    simulation = make_simulation("lsq", model, Recipe.load(recipe_path))
    simulation.refresh()
    rounded = [layers_give(p) for p in packs]
    reports = []
    train_layers(
        model,
        simulation,
        packs,
        passes=30,
        learning_rate=1e-3,
        seed=1,
        device="cpu",
        on_layer=reports.append,
    )
    paused = layers_give(packs[0])
    simulation.refresh()
    trained = [layers_give(p) for p in packs]
    assert not torch.equal(paused[0], trained[0][0])
    assert [report.layer for report in reports] == [0, 1]
    assert all(report.after < 0.8 * report.before for report in reports)
    first = [sum(error(got[p][0], exact[p][0]) for p in (0, 1)) / 2 for got in (rounded, trained)]
    assert reports[0].before == pytest.approx(first[0], rel=0.02)
    assert reports[0].after == pytest.approx(first[1], rel=0.02)
    for place in (0, 1):
        assert error(trained[place][-1], exact[place][-1]) < 0.8 * error(
            rounded[place][-1], exact[place][-1]
        )


def write_adapter(folder, tensors, **config):
    """Write an adapter's files."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config})
    )
    return folder


def test_merging_is_what_peft_computes(tmp_path):
    """Our merge of peft's files gives peft's merged weights."""
    import peft

    model = peft.get_peft_model(
        tiny_llama(100), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["k_proj", "down_proj"])
    )
    plain = {n: p.clone() for n, p in tiny_llama(100).named_parameters()}
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    merged = dict(model.merge_and_unload().named_parameters())
    adapter = Adapter.load(tmp_path / "adapter")
    assert len(adapter.pairs) == 4
    for name, weight in plain.items():
        torch.testing.assert_close(adapter.merge(name, weight), merged[name])


@pytest.mark.parametrize(
    ("keys", "config", "says"),
    [
        (["a.lora_A.weight"], {}, "has no matching lora_B"),
        (["a.lora_A.weight", "a.lora_B.weight", "a.bias"], {}, "tensors that are not of a LoRA"),
        (["a.lora_A.weight", "a.lora_B.weight"], {"peft_type": "IA3"}, "only plain LoRA"),
        (["a.lora_A.weight", "a.lora_B.weight"], {"use_dora": True}, "only plain LoRA"),
        (["a.lora_A.weight", "a.lora_B.weight"], {"rank_pattern": {"a": 8}}, "has rank_pattern"),
        (["a.lora_A.weight", "a.lora_B.weight"], {"r": None}, "r and lora_alpha must be numbers"),
    ],
)
def test_adapters_that_cannot_be_merged(tmp_path, keys, config, says):
    """An adapter of another kind is refused with the reason."""
    tensors = {f"base_model.model.{key}": torch.zeros(2, 2) for key in keys}
    with pytest.raises(CheckpointError, match=says):
        Adapter.load(write_adapter(tmp_path / "adapter", tensors, **config))


def test_adapter_files_that_are_missing_damaged_or_of_another_model(tmp_path):
    """The message names the file and what an adapter is."""
    with pytest.raises(CheckpointError, match="an adapter is a folder with adapter_config"):
        Adapter.load(tmp_path / "none")
    pair = {
        "base_model.model.a.lora_A.weight": torch.zeros(2, 8),
        "base_model.model.a.lora_B.weight": torch.zeros(4, 2),
    }
    folder = write_adapter(tmp_path / "adapter", pair)
    with pytest.raises(CheckpointError, match="it was trained for another model"):
        Adapter.load(folder).merge("a.weight", torch.zeros(4, 4))
    (folder / "adapter_model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="damaged adapter"):
        Adapter.load(folder)


def pair(down, up, name="a"):
    """Give the factors of one layer, filled with a number each."""
    prefix = f"base_model.model.{name}"
    return {
        f"{prefix}.lora_A.weight": torch.full((2, 8), down, dtype=torch.bfloat16),
        f"{prefix}.lora_B.weight": torch.full((4, 2), up, dtype=torch.bfloat16),
    }


def test_the_mean_of_adapters(tmp_path, capsys):
    """The factors are averaged in their own type, and the result is an adapter."""
    folders = [write_adapter(tmp_path / f"{i}", pair(float(i), 10.0 * i)) for i in range(3)]
    arguments = ["average", *map(str, folders), "--output", str(tmp_path / "mean")]
    assert cli.main(arguments) == 0
    assert "mean of 3 adapters" in capsys.readouterr().out
    down, up = Adapter.load(tmp_path / "mean").pairs["a.weight"]
    assert (down == 1.0).all() and (up == 10.0).all()
    saved = load_file(tmp_path / "mean" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}


def test_the_mean_of_weights_trained_whole_has_their_steps(tmp_path):
    """Weights and step sizes are averaged alike; where one run has none, there is no mean."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, value in zip(folders, (1.0, 2.0), strict=True):
        save_whole({"model.layers.0.mlp.up_proj.weight": torch.full((4, 8), value)}, folder)
        save_file({"model.layers.0.mlp.up_proj.weight": torch.full((4, 1), value)}, folder / STEPS)
    average_adapters(folders, tmp_path / "mean")
    (weight,) = Adapter.load(tmp_path / "mean").whole.values()
    (steps,) = load_file(tmp_path / "mean" / STEPS).values()
    assert (weight == 1.5).all() and (steps == 1.5).all()
    (folders[1] / STEPS).unlink()
    with pytest.raises(CheckpointError, match=r"b/steps.safetensors cannot be read"):
        average_adapters(folders, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("second", "config", "output", "says"),
    [
        (pair(1, 1, "b"), {}, "mean", "differ in rank, scale or the layers"),
        (pair(1, 1), {"lora_alpha": 8}, "mean", "differ in rank, scale or the layers"),
        (pair(1, 1), {}, "first", "is one of the adapters; choose another --output"),
        (None, {}, "mean", "needs two adapters or more"),
    ],
)
def test_adapters_that_have_no_mean(tmp_path, second, config, output, says):
    """What was not trained in one line is refused, and nothing is written."""
    folders = [write_adapter(tmp_path / "first", pair(1, 1))]
    if second is not None:
        folders.append(write_adapter(tmp_path / "second", second, **config))
    with pytest.raises(CheckpointError, match=says):
        average_adapters(folders, tmp_path / output)
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "must be a mapping"),
        ("{}", "recipe must name a quantization recipe"),
        ("{recipe: r.yaml, step: 1}", "unknown setting 'step'; did you mean 'steps'?"),
        ("{recipe: r.yaml, steps: many}", "steps must be a whole number"),
        ("{recipe: r.yaml, steps: 0}", "steps must be at least 1"),
        ("{recipe: r.yaml, warmup: 2}", "warmup must be between 0 and 1"),
        ("{recipe: [", "not readable as YAML"),
    ],
)
def test_malformed_settings_are_named(tmp_path, text, says):
    """A mistake in the settings is found before anything is loaded."""
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        FinetuneSettings.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_finetune_runs_resumes_and_saves(tmp_path, repository, scripts):
    """A run on the real model that is cut short goes on and ends with an adapter peft can read."""
    settings = tmp_path / "settings.yaml"
    recipe = repository / "config" / "recipes" / "default.yaml"
    settings.write_text(
        f"{{recipe: {recipe}, steps: 3, group_size: 2, report_every: 1, held_out_groups: 1, "
        "rounding_from: 0.5, rank: 2, alpha: 4, human_share: 1.0}"
    )
    human = tmp_path / "human.jsonl"
    call = {"skill": "go_to", "args": {"place": {"any_of": ["kitchen"]}}}
    human.write_text(json.dumps({"id": "1", "text": "to the kitchen", "calls": [call]}))
    output = tmp_path / "adapter"
    command = [
        scripts / "quant_llm", "finetune", "--settings", settings, "--output", output,
        "--data", human,
    ]  # fmt: skip
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in first.stderr:
            if "step 1:" in line:
                first.terminate()
                break
        first.wait()
    finally:
        first.kill()
    assert not (output / "adapter_model.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    assert "step 3:" in done.stderr
    assert "rounded" in done.stderr
    assert len(load_file(output / "adapter_model.safetensors")) == 2 * 7 * 30
    assert len(Adapter.load(output).pairs) == 7 * 30
    leaking = subprocess.run(
        [*command, "--measured", human], capture_output=True, text=True, check=False
    )
    assert leaking.returncode == 1
    assert "is kept for measuring; take it out of the training data" in leaking.stderr


def test_an_adapter_takes_over_what_another_learnt(tmp_path):
    """In the precision of the file; one of another rank is refused."""
    import peft

    from quant_llm_ros.training.adapter_files import save_low_rank, take_over
    from quant_llm_ros.training.rounding import TARGETS

    def adapted(rank):
        config = peft.LoraConfig(r=rank, lora_alpha=8, target_modules=list(TARGETS))
        return peft.get_peft_model(tiny_llama(100), config)

    first, second = adapted(4), adapted(4)
    for name, parameter in first.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    save_low_rank(first, 4, 8, tmp_path / "adapter")
    assert len(Adapter.load(tmp_path / "adapter").pairs) == 2 * 7
    take_over(second, tmp_path / "adapter")
    learnt = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        if "lora_" in name:
            assert torch.equal(learnt[name], parameter.bfloat16().float())
    with pytest.raises(CheckpointError, match="begin with an adapter of rank 2 for"):
        take_over(adapted(2), tmp_path / "adapter")
