"""What the page says beside its pictures. Braces are filled in with figures of the model."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: Of its picture's file and its place on the page.
        title: Its heading.
        text: Paragraphs, HTML.
        sources: Where to read more.
    """

    name: str
    title: str
    text: tuple[str, ...]
    sources: tuple[str, ...] = ()


INTRODUCTION = (
    "A language model is a few hundred matrices of numbers, its <em>weights</em>. To write one "
    "token, a processor reads every one of them from memory. On a robot's computer that reading "
    "is most of the time and much of the energy, so a weight that takes 4 bits instead of 32 is "
    "not only smaller: it arrives sooner. <em>Quantization</em> is the art of storing fewer "
    "numbers than there are, and choosing them so that the model still says the same.",
    "This page shows it on one real model, the bundle <strong>{bundle}</strong> ({source}, "
    "{parameters:.0f} million weights, {layers} layers), and on measurements of {rows} on "
    "{machine}. Every figure on it was measured, none is an estimate; where nothing measured, it "
    "says so.",
)

GLOSSARY = (
    ("weight", "a number that the model learned; a layer multiplies its inputs with them"),
    ("activation", "a number that arises while the model runs: what goes into a layer"),
    ("level", "a value that a quantized number can have; with b bits there are 2<sup>b</sup>"),
    ("code", "the number of a level, which is what is stored"),
    ("scale", "the distance of two levels; code × scale is the value (plus a zero point, if any)"),
    ("block", "neighbouring weights that share a scale"),
    ("bits per weight", "all that is stored, codes and scales, divided by the number of weights"),
    (
        "post-training quantization",
        "rounding a finished model; calibration may choose how, on a few hundred texts",
    ),
    (
        "quantization-aware training (QAT)",
        "training with the rounding in the loop, so that the weights come to terms with it",
    ),
    (
        "KL divergence",
        "how far the predictions of the next token are from the unquantized model's, in nats; "
        "0: the same",
    ),
    (
        "perplexity",
        "how surprised a model is by a text: among how many equally likely tokens it seems to "
        "choose",
    ),
    ("everything right", "the right skills in the right order, every argument, and the status"),
)

STAIRCASE = Section(
    "staircase",
    "Rounding: 16 steps for a million weights",
    (
        "The upper half of the picture shows, in grey, how often each value occurs among the "
        "weights of one matrix of the model. 4 bits can name 16 values. The plainest choice is an "
        "even grid that just reaches the largest weight (<em>min-max, symmetric</em>): value = "
        "code × scale. The lower half "
        "is the staircase that follows: whatever lies on one tread is stored as its height. The "
        "shaded gap is the error, at most half a step.",
        "The weights are bunched around zero, and a few large ones stretch the grid. So most "
        "of the levels stand where there is hardly a weight. Everything after this is about that "
        "mismatch: a grid for fewer weights at a time, levels that are not even, a range that "
        "clips, or weights that are trained to fit.",
    ),
    (
        "Jacob et al. 2018, «Quantization and Training of Neural Networks for Efficient "
        "Integer-Arithmetic-Only Inference», section 2.1",
        "Nagel et al. 2021, «A White Paper on Neural Network Quantization», arXiv:2106.08295, "
        "section 2.2",
    ),
)

GRANULARITY = Section(
    "granularity",
    "Sharing a scale: the fewer, the better",
    (
        "The same matrix at 4 bits, with one scale for everything, for each row, and for ever "
        "smaller blocks of a row. A block with no large weight gets fine steps. The price are the "
        "scales themselves: a 32-bit scale for 32 weights adds a bit to each of them, so 4-bit "
        "codes cost 5 bits.",
    ),
    (
        "Nagel et al. 2021, section 2.4 (quantization granularity)",
        "Dettmers et al. 2023, «QLoRA», arXiv:2305.14314, section 3 (block-wise quantization)",
    ),
)

RANGES = Section(
    "ranges",
    "Activations: every token has its own range",
    (
        "Weights are known beforehand; the inputs of a layer are not. Here a command runs through "
        "the model, and for each of its tokens the picture shows the largest input of one layer, "
        "on a logarithmic scale. They differ by a factor of {spread:.0f}.",
        "A <em>static</em> range, fixed by calibration, has to reach the widest token. Then a "
        "typical token uses {levels:.0f} of the 127 positive levels of 8 bits. <em>Dynamic</em> "
        "quantization measures the range of each token while the model runs, which costs one "
        "pass over the inputs and gives every token all levels. SmoothQuant goes another way: it "
        "moves the width from the activations into the weights, where it does less harm.",
    ),
    (
        "Yao et al. 2022, «ZeroQuant», arXiv:2206.01861, section 4.1 (token-wise quantization)",
        "Xiao et al. 2023, «SmoothQuant», arXiv:2211.10438, section 4",
        "Sun et al. 2024, «Massive Activations in Large Language Models», arXiv:2402.17762",
    ),
)

CLUSTERS = Section(
    "clusters",
    "Clusters: put the levels where the weights are",
    (
        "The levels need not be even. <em>Clustering</em> looks for the 16 values to which the "
        "weights are nearest on the whole: k-means in one dimension. Stripes in the histogram are "
        "the weights of one cluster. The levels gather in the middle, and the error falls from "
        "{even:.1%} to {clustered:.1%} with the same 4 bits and one table for the whole matrix. "
        "Its price: a table look-up in place of a multiplication, for which few runtimes have "
        "fast code.",
    ),
    (
        "Han et al. 2016, «Deep Compression», arXiv:1510.00149, section 3",
        "Lloyd 1982, «Least squares quantization in PCM», IEEE Transactions on Information Theory",
        "Kim et al. 2024, «SqueezeLLM», arXiv:2306.07629, section 4.1 (weighted by sensitivity)",
    ),
)

ERRORS = Section(
    "errors",
    "Error by layer",
    (
        "What the bundle's own recipe does to each matrix: the root mean square of the rounding "
        "error, relative to the weights. What stands out from the page is much. A row that "
        "stands out is a kind of matrix with wide tails, a column a layer that was trained to "
        "extremes.",
        "An error of the weights is not yet an error of the model: that depends on what the "
        "layer's inputs are and on what comes after it. The next picture asks the model itself.",
    ),
    ("Frantar et al. 2023, «GPTQ», arXiv:2210.17323, section 2 (layer-wise error)",),
)

SENSITIVITY = Section(
    "sensitivity",
    "Sensitivity: which part of the model minds",
    (
        "One part of the model is quantized and everything else left as it is; the point shows "
        "how far the predictions move. A few parts mind much more than the others. "
        "<em>Mixed precision</em> gives those more bits: <code>quant_llm search</code> looks for "
        "the mixture of least divergence within a budget of size, time or energy.",
    ),
    (
        "Dong et al. 2019, «HAWQ», arXiv:1905.03696, section 3",
        "Wang et al. 2019, «HAQ: Hardware-Aware Automated Quantization with Mixed Precision», "
        "arXiv:1811.08886, section 3",
        "Akiba et al. 2019, «Optuna», arXiv:1907.10902",
    ),
)

TRAINING = Section(
    "training",
    "Training with the rounding in the loop",
    (
        "Post-training quantization rounds and hopes; its loss is a level. Quantization-aware "
        "training rounds the weights in every forward pass and lets the gradient through as if "
        "nothing had been rounded (the <em>straight-through estimator</em>), or learns the steps "
        "too (<em>LSQ</em>). The fewer bits, the more it gains.",
    ),
    (
        "Bengio et al. 2013, «Estimating or Propagating Gradients Through Stochastic Neurons», "
        "arXiv:1308.3432, section 4",
        "Esser et al. 2020, «Learned Step Size Quantization», arXiv:1902.08153, section 2",
        "Hinton et al. 2015, «Distilling the Knowledge in a Neural Network», arXiv:1503.02531",
    ),
)

ACCURACY = Section(
    "accuracy",
    "Accuracy against bits",
    (
        "Every recipe of the sweep, on {n} sentences with known meaning: how many of the "
        "decisions had everything right. Down to some width nothing happens; then it falls, and "
        "where it falls depends on the method. With this number of sentences a difference below "
        "{noise:.1f} points may be chance (twice the standard error at the best recipe).",
    ),
    (
        "Dettmers and Zettlemoyer 2023, «The case for 4-bit precision: k-bit Inference Scaling "
        "Laws», arXiv:2212.09720, section 4",
    ),
)

FRONT = Section(
    "front",
    "Size, speed, accuracy: choose one of the blue ones",
    (
        "A recipe is on the <em>front</em>, in blue, if no other is at least as good in size, "
        "time of a decision and accuracy and better in one of them. For every grey one there is a "
        "blue one that costs nothing more. Fewer bits are not always faster: a width for which "
        "the runtime has no kernel is unpacked before it is multiplied.",
    ),
)

ENERGY = Section(
    "energy",
    "Energy of a decision",
    (
        "What the whole machine used while it decided, divided by the number of decisions, from "
        "its own sensor: {sensor}. Idle power is included.",
    ),
)

CONFUSION = Section(
    "confusion",
    "Where it errs",
    (
        "The recipe <strong>{recipe}</strong> on the sentences of the sweep: the kinds of "
        "sentences with the most errors, and what was mistaken for what. A quantized model rarely "
        "says nonsense, since a grammar makes every answer a valid list of calls; it takes the "
        "neighbour: the other skill, or one call fewer.",
    ),
)

LATENCY = Section(
    "latency",
    "From text to decision",
    (
        "The same {n} sentences, decided with more and more of what makes a decision fast, and by "
        "other runtimes where they were measured; where their decisions are not those of plain "
        "decoding, it says so. {said}",
        "A token written one after the other costs a pass of the model each. Keeping the prompt, "
        "taking tokens that the grammar forces along for nothing, and checking a whole guessed "
        "answer at once leaves about one pass.",
    ),
    (
        "Leviathan et al. 2023, «Fast Inference from Transformers via Speculative Decoding», "
        "arXiv:2211.17192",
    ),
)

PASSES = Section(
    "passes",
    "One pass, many tokens",
    (
        "What a pass of the model costs by the number of tokens that are new to it. {said} That "
        "is why a guess that is checked in the same pass as the sentence is cheap.",
    ),
    (
        "Williams et al. 2009, «Roofline: an insightful visual performance model», "
        "Communications of the ACM 52(4)",
    ),
)

GROWTH = Section(
    "growth",
    "How the time of a decision grows",
    (
        "With what a robot can do, knows, hears and serves, and with the size of its model; the "
        "horizontal axes are logarithmic. Medians: {said}.",
    ),
)

TABLE = Section(
    "table",
    "All recipes",
    ("What was measured, row by row. A dash means that nothing measured it.",),
)
