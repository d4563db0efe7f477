"""Draw the schematics of the README and the course as SVG: notebooks/pictures/*.svg."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from alignmamba2.storage.files import write_text

from .svg import Drawing, Point

FOLDER = Path(__file__).parents[1] / "notebooks" / "pictures"
STEPS = ("project", "align", "order", "fuse", "read-out")  # of the model; the loss is lit with the last


def architecture(lit: str = "") -> Drawing:
    """Draw the whole model; the box of one of `STEPS` may be lit."""
    d, counts = Drawing(960, 470), {"text": 4, "audio": 6, "video": 3}
    for i, (kind, count) in enumerate(counts.items()):
        x, left = 93 + 160 * i, 93 + 160 * i - 11 * (count - 1)
        d.box(x - 67, 100, 134, 56, "project\nwidth D_{m} → d", lit=lit == "project")
        d.draw(f"T {x},28 {kind}; r:{kind} {left},60,22,7,{count}; r:{kind} {left},197,22,7,{count}")
        d.draw(f"a {x},76 {x},100; a {x},156 {x},180; a {x},213 {x},256")
    d.draw("b- 532,50,408,178; t 736,74 in training only")
    words = "align each with the\nanchor, the words:\ntransport L_{OT}\nclouds L_{MMD}"
    d.box(548, 100, 178, 112, words, lit=lit == "align")
    d.box(762, 112, 162, 88, "loss = L_{task}\n+ λ_{OT} L_{OT}\n+ λ_{MMD} L_{MMD}", lit=lit == "read-out")
    d.box(26, 256, 454, 92, lit=lit == "order")
    times = [((2 * i + 1) / (2 * n), kind == "text", kind) for kind, n in counts.items() for i in range(n)]
    d.row(253 - 17 * (len(times) - 1), 320, [kind for *_, kind in sorted(times, key=lambda t: t[:2])], step=34)
    d.box(532, 256, 212, 190, lit=lit == "fuse")
    d.box(776, 292, 148, 56, "read out:\nmean, head", lit=lit == "read-out")
    d.draw("""
        t 253,280 order: by relative time, words last among equals
        t 253,392 one sequence of all tokens, T_{text} + T_{audio} + T_{video} long,|all d wide, padding is squeezed out
        t 638,278 fuse: N layers; b 556,298,164,54 Modality-Aware|Mamba; a 638,352 638,370
        t 638,427 each adds to its input; b- 556,370,164,36 FFN (optional); a- 480,197 548,197; a- 726,156 762,156
        a- 850,292 850,200; a 480,320 532,320; a 744,320 776,320; a 850,348 850,386
        T 850,404 prediction""")
    return d


def _curve(f: Callable[[float], float], x: float, y: float, w: float, h: float, end: float = 1) -> list[Point]:
    return [(x + w * i / 80, y - h * f(end * i / 80)) for i in range(81)]


def _wave(t: float) -> float:
    return 0.15 + 0.85 * math.exp(-((t - 1.1) ** 2) / 0.3) + 0.5 * math.exp(-((t - 3.1) ** 2) / 0.25)


def scan() -> Drawing:
    """Draw a state in continuous time, in discrete steps, and as a recurrence."""
    d = Drawing(960, 400, """
        T 160,28 continuous; a:grid 238,28 358,28; T 480,28 discrete: hold u for Δ; a:grid 598,28 652,28
        t 160,78 h′(t) = A h(t) + B u(t)|y(t) = C h(t)
        t 480,78 h_{t} = e^{ΔA} h_{t−1} + B̄ u_{t}|B̄ = A^{−1}(e^{ΔA} − 1) B ≈ ΔB; T 800,28 recurrent: token by token
        t 800,60 each arrow to the right: × e^{ΔA}; a 652,205 670,205; t 150,372 input u grey, state h blue
        t 480,372 one value of h per step Δ; t 800,372 selective: Δ, B, C from the token; a:grid 30,330 292,330
        a:grid 350,330 612,330""")  # fmt: skip
    states, held, dots = [0.0], [], [(350.0, 330.0)]  # A = −1, B = 1: in small steps, and held for Δ = ½
    for k in range(80):
        states.append(states[-1] + 0.05 * (_wave(0.05 * k) - states[-1]))
    for k in range(8):
        x, u = 350 + 32.5 * k, _wave(0.5 * k + 0.25)
        held += [(x, 330 - 190 * u), (x + 32.5, 330 - 190 * u)]
        before = (330 - dots[-1][1]) / 190
        dots.append((x + 32.5, 330 - 190 * (math.exp(-0.5) * before + (1 - math.exp(-0.5)) * u)))
    d.path(_curve(_wave, 30, 330, 260, 190, 4), arrow=False)
    d.path(_curve(lambda t: states[round(t / 0.05)], 30, 330, 260, 190, 4), "text", 3.5, arrow=False)
    d.path(held, arrow=False)
    d.path(dots, "text", 1.5, arrow=False, dashed=True)
    for x, y in dots[1:]:
        d.token(x, y, "text", size=6)
    for x, t in ((700, "t−1"), (800, "t"), (900, "t+1")):
        d.draw(f"""b:text {x - 30},182,60,46 h_{{{t}}}; t {x},322 u_{{{t}}}; t {x},94 y_{{{t}}}; t< {x + 10},266 ΔB
            a {x},304 {x},228; a {x},182 {x},112; a {x + 30},205 {min(x + 70, 954)},205; t< {x + 10},146 C""")
    return d


def block() -> Drawing:
    """Draw a Mamba layer, with norm, convolution, gate and D."""
    return Drawing(960, 330, """
        T 30,160 x; a 42,160 72,160; b 72,130,70,60 norm; a 142,160 166,160; b 166,130,92,60 in_proj; a 258,160 306,160
        b 306,130,112,60 causal conv|4 taps; a 418,160 442,160; b 442,130,64,60 SiLU; a 506,160 548,160
        b 548,130,146,60 selective scan|Δ, B, C from u; a 694,160 716,160; b 716,148,24,24 +; a 740,160 758,160
        b 758,148,24,24 ×; a 782,160 800,160; b 800,130,92,60 out_proj; a 892,160 906,160; b 906,148,24,24 +
        a 930,160 954,160; a 54,160 54,34 918,34 918,148; t 480,20 residual: what came in is added
        a 526,160 526,84 590,84; b 590,64,62,40 × D; a 652,84 728,84 728,148; t> 292,144 u; t< 292,246 z
        t 640,246 the gate; a 282,160 282,262 442,262; b 442,236,64,52 SiLU; a 506,262 770,262 770,172
        t 212,312 d → 2e, then cut in two; a:grid 212,298 212,192; t 536,312 only conv and scan look at other tokens
        t 846,312 e → d; a:grid 846,298 846,192""")  # fmt: skip


def experts() -> Drawing:
    """Draw two experts in one product, a gate, and the best of several experts."""
    d = Drawing(960, 380, """
        T 160,28 two experts, one product; T 480,28 a gate weighs them; T 800,28 top 1 of 4, not linear
        r:audio 34,130,0,9,1; b 76,76,110,44 W_{shared}; b:audio 76,140,110,44 W_{audio}; b 222,118,24,24 +
        a 48,130 76,98; a 48,130 76,162; a 186,98 222,126; a 186,162 222,136; a 246,130 284,130
        t 160,222 the same, and paid for once:; r:audio 34,272,0,9,1; a 48,272 76,272
        b:audio 76,250,170,44 W_{shared} + W_{audio}; a 246,272 284,272
        t 160,344 words and faces have|W_{text}, W_{video} beside W_{shared}; r:audio 350,166,0,9,1
        b:audio 392,80,92,44 W_{audio}; b 392,144,92,44 W_{1}; b 392,208,92,44 W_{2}; b 552,150,44,32 × K
        a 364,166 392,102; a 364,166 392,166; a 364,166 392,230; a 596,166 624,166; t 512,82 w_{0}; t 522,146 w_{1}
        t 512,238 w_{2}; a 350,180 350,282 392,282; b- 392,262,168,40 w = softmax(G x)
        t 480,344 weights per token, of sum 1|K = 3 experts: even is the plain sum; r:audio 672,166,0,9,1
        a 672,180 672,282 742,282; b- 742,268,168,36 p = softmax(G x); l- 686,166 742,86; l- 686,166 742,136
        a 686,166 742,186; l- 686,166 742,236; a 858,186 900,186; t< 906,186 × p_{3}
        t 800,344 a balance loss keeps all|experts in use""")  # fmt: skip
    for y, weight in ((102, 5), (166, 2), (230, 8)):
        d.path([(484, y), (552, 166 + (y - 166) / 6)], "strong", weight, arrow=False)
    for i in range(4):
        d.box(742, 66 + 50 * i, 116, 40, f"E_{{{i + 1}}}: SwiGLU", lit=i == 2, dashed=i != 2)
    return d


def _plan(sounds: Sequence[float], words: Sequence[float], epsilon: float) -> list[list[float]]:
    """Sinkhorn's plan between points on a line, with even weights and squared distances as the cost."""
    kernel = [[math.exp(-((s - w) ** 2) / epsilon) for w in words] for s in sounds]
    v = [1.0] * len(words)
    for _ in range(2000):
        u = [1 / len(sounds) / sum(k * b for k, b in zip(row, v, strict=True)) for row in kernel]
        v = [1 / len(words) / sum(row[j] * a for row, a in zip(kernel, u, strict=True)) for j in range(len(words))]
    return [[a * k * b for k, b in zip(row, v, strict=True)] for a, row in zip(u, kernel, strict=True)]


def transport() -> Drawing:
    """Draw heaps of sand, holes, and two plans as ribbons: each heap to its nearest hole, and all holes filled."""
    d, sounds, words = Drawing(960, 400), (0.06, 0.2, 0.32, 0.44, 0.93), (0.25, 0.55, 0.85)
    lazy = [[0.2 * (abs(s - w) == min(abs(s - x) for x in words)) for w in words] for s in sounds]
    width, filled = 210, _plan(sounds, words, 0.02)  # pixels for all the sand
    for x, head, plan in (
        (20, "each sound to its nearest word", lazy),
        (500, "transport: every hole is filled", filled),
    ):
        d.draw(f"T {x + 220},28 {head}; t< {x + 4},66 sounds; t< {x + 4},344 words")
        used = [-sum(row[j] for row in plan) / 2 for j in range(3)]
        for i, s in enumerate(sounds):
            at, out = x + 60 + 360 * s, -sum(plan[i]) / 2
            for j, w in enumerate(words):
                mass = plan[i][j]
                start, end = at + width * (out + mass / 2), x + 60 + 360 * w + width * (used[j] + mass / 2)
                out, used[j] = out + mass, used[j] + mass
                if mass > 0.002:
                    d.ribbon(start, 112, end, 290, max(1, width * mass), "audio")
            d.path([(at - 21, 112), (at, 80), (at + 21, 112)], "audio", fill=1, arrow=False)
            d.token(at, 66, "audio", size=8)
        for j, w in enumerate(words):
            at, full = x + 60 + 360 * w, 3 * sum(row[j] for row in plan)
            d.path([(at - 35, 290), (at - 26, 322), (at + 26, 322), (at + 35, 290)], "text", 3, arrow=False)
            d.draw(f"r:text {at},344,0,8,1; t {at},376 {full:.0%} full")
    return d


def kernels() -> Drawing:
    """Draw a hill on every token, the landscapes of two clouds, and the witness."""
    d = Drawing(960, 350, """
        T 160,28 a hill on every token; a 306,150 334,150; T 480,28 two landscapes; a 626,150 654,150
        T 800,28 the witness: their difference; t 160,322 each of them σ wide; t 480,322 the mean of each cloud’s hills
        t 800,322 up: more sounds, down: words; l 24,240 296,240; l 344,240 616,240; l 664,150 936,150""")  # fmt: skip
    clouds = {"audio": (0.14, 0.2, 0.25, 0.33, 0.58), "text": (0.3, 0.5, 0.66, 0.74, 0.8)}

    def mean(m: str, t: float) -> float:
        return sum(math.exp(-((x - t) ** 2) / (2 * 0.09**2)) for x in clouds[m]) / len(clouds[m])

    for m, cloud in clouds.items():
        for t in cloud:
            d.path(_curve(lambda p, t=t: math.exp(-((p - t) ** 2) / (2 * 0.09**2)), 24, 240, 272, 120), m, arrow=False)
            for x in (24, 344, 664):
                d.token(x + 272 * t, 262 if m == "audio" else 284, m, size=6)
        d.path(_curve(lambda t, m=m: mean(m, t), 344, 240, 272, 280), m, 3.5, arrow=False)
        sign = 1 if m == "audio" else -1
        part = _curve(lambda t, s=sign: s * max(0, s * (mean("audio", t) - mean("text", t))), 664, 150, 272, 200)
        d.path([(664, 150), *part, (936, 150)], m, arrow=False, fill=0.55)
    d.path(_curve(lambda t: mean("audio", t) - mean("text", t), 664, 150, 272, 200), "strong", 2.5, arrow=False)
    return d


def batches() -> Drawing:
    """Draw the padding in a file, in batches as they come and by length; and the store."""
    d, lengths, unit = Drawing(960, 390), (3, 8, 2, 7, 3, 8, 2, 7), 22
    boxes = {"in the file: 12 steps each": (lengths, 12, 8), "batches of 4, as they come": (lengths, 0, 4)}
    boxes["batches of 4, by length"] = (sorted(lengths), 0, 4)
    for x, (head, (order, width, size)) in zip((24, 350, 676), boxes.items(), strict=True):
        steps = 0
        for start in range(0, 8, size):
            box = order[start : start + size]
            longest, top = width or max(box), 56 + 22 * start + 14 * (start // size)
            steps += longest * len(box)
            d.box(x, top, longest * unit + 4, 22 * len(box) + 4, style="shade")
            for j, count in enumerate(box):
                d.row(x + 13, top + 13 + 22 * j, ["audio"] * count, step=unit, size=6)
        d.draw(f"T {x + 130},28 {head}; t {x + 130},274 {1 - sum(lengths) / steps:.0%} padding (grey)")
    d.draw("t< 24,318 the store: real tokens only, one sample behind the other, and where each begins")
    for i, count in enumerate((*lengths, 0)):
        x = 30 + unit * sum(lengths[:i])
        d.draw(f"l:strong {x},336 {x},366; r:audio {x + 12},346,{unit},6,{count}; t< {x + 6},371 {sum(lengths[:i])}")
    return d


def _grid(d: Drawing, x: float, y: float, side: float, kind: str, cells: int = 7) -> None:
    d.box(x, y, side, side, "", kind)
    for at in (side * k / cells for k in range(1, cells)):
        d.draw(f"l {x + at},{y} {x + at},{y + side}; l {x},{y + at} {x + side},{y + at}")


def cameras() -> Drawing:
    """Draw why a photograph does not know size and a depth map does; both become tokens."""
    d = Drawing(960, 380, """
        T 250,28 one photograph, two rooms; t 60,226 camera; t 130,94 the same|picture; a:grid 124,120 124,168
        l- 60,190 470,67; l- 60,190 470,313; b:image 122,171,4,38; b:image 210,145,54,90 toy; b:image 410,85,54,210 city
        t 135,274 depth says z; a:depth 60,290 210,290; t 235,326 depth says 2z; a:depth 60,342 410,342
        T 828,84 photograph; t 828,154 49 patches, 49 tokens; r:image 738,119,30,9,7; a 686,119 720,119
        T 828,244 depth map; t 828,314 49 patches, 49 tokens; r:depth 738,279,30,9,7; a 686,279 720,279
        t 744,364 token i of both: the same place""")  # fmt: skip
    d.token(60, 190, "image", size=12)
    _grid(d, 550, 56, 126, "image")
    _grid(d, 550, 216, 126, "depth")
    return d


def _circle(x: float, y: float, radius: float) -> list[Point]:
    return [(x + radius * math.cos(a / 8), y + radius * math.sin(a / 8)) for a in range(51)]


def patches() -> Drawing:
    """Draw how a picture becomes patches, a text words, and both tokens that the plan ties."""
    d = Drawing(960, 366, """
        T 117,28 picture, 7 × 7 patches; T 117,286 text, as words; a 222,147 262,147; a 208,286 270,270
        T 450,28 49 tokens, row by row: 22 to 33; r:image 290,110,29,9,12; t 640,110 …; t 262,110 …
        T 828,28 one sequence; a 676,187 716,187; r:text 742,150,29,9,6; r:image 742,190,29,9,6; t 916,190 …
        t 828,252 words, then patches:|order “concat”
        t 462,338 what one hopes for: the plan ties the four patches that show the ball to “ball”""")  # fmt: skip
    _grid(d, 26, 56, 182, "image")
    d.path(_circle(104, 160, 26), "image", fill=0.9, arrow=False)
    spots = {"a": 312, "lovely": 382, "day": 452, "with": 516, "the": 576, "ball": 640}
    for word, x in spots.items():
        d.draw(f"r:text {x},264,0,9,1; t {x},292 {word}")
    for k, word in (
        (1, "ball"),
        (2, "ball"),
        (8, "ball"),
        (9, "ball"),
        (0, "a"),
        (4, "lovely"),
        (6, "day"),
        (11, "with"),
    ):
        d.ribbon(290 + 29 * k, 124, spots[word], 252, 9 if word == "ball" else 3, "image")
    return d


def missing() -> Drawing:
    """Draw a sequence with all of its tokens, with lost ones, and with missing ones."""
    d = Drawing(960, 352, """
        T< 24,28 what happened; T< 240,28 the sequence that the model reads; T< 610,28 what it is told; t< 24,86 whole
        t< 24,170 lost: set to 0; t< 24,254 missing: masked; t< 610,86 9 tokens
        t< 610,170 9 tokens, three of them zeros|that claim to be tokens
        t< 610,254 3 tokens: padding is squeezed out|before anything is computed; r:text 252,254,36,9,3
        t< 24,326 circles: words · diamonds: sounds · hollow: all features are 0""")  # fmt: skip
    for i, kind in enumerate(["audio", "text", "audio"] * 3):
        d.token(252 + 36 * i, 86, kind)
        d.token(252 + 36 * i, 170, kind, hollow=i in (2, 5, 8))
    for y in (44, 128, 212, 296):
        d.path([(24, y), (936, y)], "grid", arrow=False)
    return d


def splits() -> Drawing:
    """Draw who sees which split: training, the choice of the epoch, and the one look at the test."""
    d = Drawing(960, 340, """
        b:text 24,48,300,56 train; b:audio 344,48,110,56 valid; b:video 474,48,150,56 test; T 174,28 learns
        T 399,28 chooses; T 549,28 looked at once; a- 399,104 399,166; a- 549,104 549,142; b- 500,142,98,44 one score
        t< 660,64 split by video: a voice that|is in two would tell the answer; t< 24,140 loss
        t< 660,204 train still falls|when valid has turned; l 24,290 624,290; t 324,314 epochs
        t< 660,278 the best of twelve scores|is no fair one any more""")  # fmt: skip
    valid = [0.35 + 0.6 * math.exp(-3.2 * t) + 0.42 * max(0, t - 0.35) ** 1.4 for t in (k / 11 for k in range(12))]
    d.path(_curve(lambda t: 0.15 + 0.85 * math.exp(-2.2 * t), 40, 290, 584, 120), "text", 3, arrow=False)
    d.path([(40 + 50 * k, 290 - 120 * y) for k, y in enumerate(valid)], "audio", 1.5, arrow=False, dashed=True)
    best = min(range(12), key=valid.__getitem__)
    for k, y in enumerate(valid):
        d.token(40 + 50 * k, 290 - 120 * y, "audio", size=11 if k == best else 6, hollow=k != best)
    d.path([(40 + 50 * best, 290), (40 + 50 * best, 306 - 120 * valid[best])], "strong", 1.5, arrow=False, dashed=True)
    return d


def paired() -> Drawing:
    """Draw a fair question: the same samples, answered by two models; their difference by video; its interval."""
    d = Drawing(960, 350, """
        T 160,28 the same samples, two models; T 480,28 the difference, video by video; T 800,28 drawn anew 2000 times
        t> 96,84 full; t> 96,124 without; a 326,104 352,104; a 626,180 652,180; l 360,180 616,180; t> 352,180 0
        t 160,188 right: filled · wrong: hollow; t 160,256 only where they differ|is there anything to learn
        t 488,322 up: the part helps, down: it hurts; l 672,290 936,290; l- 800,60 800,300; t 800,330 points
        t 726,100 the interval|holds 0: no|difference|is shown""")  # fmt: skip
    full, without = "110111011011", "110101011111"
    for y, row in ((84, full), (124, without)):
        for i, right in enumerate(row):
            d.token(116 + 17 * i, y, "text", size=6, hollow=right == "0")
    for i, (a, b) in enumerate(zip(full, without, strict=True)):
        if a != b:
            d.draw(f"l {106 + 17 * i},66 {126 + 17 * i},66 {126 + 17 * i},142 {106 + 17 * i},142 {106 + 17 * i},66")
    for k, y in enumerate((14, -22, 6, 40, -30, 0, 18, -8, 52, -44, 10, -4, 26, -16, 30)):
        at = 372 + 16.5 * k
        d.path([(at, 180), (at, 180 - 1.6 * y)], "audio" if y > 0 else "video", 7, arrow=False)
    d.path(_curve(lambda t: math.exp(-((t - 0.56) ** 2) / 0.045), 684, 290, 240, 150), "text", 3, arrow=False)
    d.path([(722, 306), (918, 306)], "strong", 4, arrow=False)
    return d


def lengths() -> Drawing:
    """Draw pairs, steps, and the time of both against the length, on logarithmic axes."""
    d = Drawing(960, 370, """
        T 160,28 attention: all pairs; T 480,28 scan: a state walks; T 800,28 time, axes logarithmic
        t 76,300 4 tokens|16 pairs; t 214,300 8 tokens|64 pairs; l 680,290 936,290; l 680,290 680,70
        t 480,300 twice the tokens, twice the steps|the state stays n numbers a channel; t 744,222 overhead
        t> 892,108 attention; t> 936,196 scan""")  # fmt: skip
    for left, side, count in ((46, 60, 4), (146, 136, 8)):
        _grid(d, left, 230 - side, side, "text", count)
        d.row(left + side / count / 2, 250, ["text"] * count, step=side / count, size=min(6, side / count / 3))
    for y, count in ((106, 4), (206, 8)):
        for k in range(count):
            x = 370 + 32 * k
            d.box(x - 11, y - 12, 22, 24, "", "audio")
            d.token(x, y + 40, "text", size=6)
            d.draw(f"a {x},{y + 32} {x},{y + 12}; a {x + 11},{y} {x + 24},{y}")

    def height(power: float, start: float) -> Callable[[float], float]:
        return lambda t: start + math.log1p(math.exp(9 * (t - 0.55) * power)) / 11

    attention, walk = height(2.0, 0.1), height(1.0, 0.22)
    meet = next(t / 100 for t in range(100) if attention(t / 100) > walk(t / 100))
    d.path(_curve(attention, 680, 290, 250, 210), "text", 3.5, arrow=False)
    d.path(_curve(walk, 680, 290, 250, 210), "audio", 3.5, arrow=False)
    d.path(
        [(680 + 250 * meet, 300), (680 + 250 * meet, 290 - 210 * walk(meet))], "strong", 1.5, arrow=False, dashed=True
    )
    d.text(680 + 250 * meet, 330, "from here on\nthe scan is faster")
    return d


def neighbours() -> Drawing:
    """Draw what UMAP keeps, who is near whom, and what it does not: widths and gaps; and what can be counted."""
    d = Drawing(960, 350, """
        T 160,28 where they are; T 480,28 as UMAP draws them; T 800,28 what can be counted
        b- 24,52,280,220; b- 344,52,280,220; b- 664,52,280,220; a 308,162 340,162
        t 164,302 one wide, one far away; t 164,328 lines: nearest neighbours
        t 484,302 the lines are kept,; t 484,328 widths and gaps are not
        t 804,302 of a token’s 7 nearest,; t 804,328 5 are of its own kind""")  # fmt: skip
    shape = [(0, 0), (1, 0.2), (0.4, 0.9), (-0.7, 0.6), (-0.6, -0.5), (0.5, -0.8)]
    before = {"text": (64, 118, 9), "audio": (112, 206, 34), "video": (268, 96, 9)}
    after = {"text": (408, 126, 26), "audio": (444, 214, 28), "video": (556, 150, 27)}
    for clouds in (before, after):
        for kind, (x, y, width) in clouds.items():
            points = [(x + width * a, y + width * b) for a, b in shape]
            for i in range(6):
                for j in sorted(range(6), key=lambda j, i=i: math.dist(shape[i], shape[j]))[1:3]:
                    d.path([points[i], points[j]], "edge", 1.5, arrow=False)
            for px, py in points:
                d.token(px, py, kind, size=5)
    d.path(_circle(804, 162, 74), arrow=False, dashed=True)
    near = ((-40, -22), (28, -44), (48, 14), (-14, 52), (-52, 20), (8, -62), (30, 46))
    far = ((-110, -70), (104, -66), (96, 70), (-96, 78), (-118, 8), (116, 4))
    for i, (x, y) in enumerate((*near, *far)):
        d.token(804 + x, 162 + y, "text" if i in (0, 1, 2, 3, 4, 8, 11) else "audio", size=7)
    d.token(804, 162, "text", size=11)
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "architecture": architecture,
    **{f"architecture-{step}": (lambda step=step: architecture(step)) for step in STEPS},
    **{f.__name__: f for f in (scan, block, experts, transport, kernels, splits, batches, cameras, patches)},
    **{f.__name__: f for f in (paired, lengths, neighbours, missing)},
}


def drawn() -> dict[str, str]:
    """Return the text of every file, by its name."""
    return {f"{name}.svg": make().svg() for name, make in DRAWINGS.items()}


def main(argv: Sequence[str] = ()) -> None:
    argparse.ArgumentParser(prog="python -m tools drawings", description=__doc__).parse_args(argv)
    for name, text in drawn().items():
        write_text(FOLDER / name, text)
        print(f"{FOLDER / name}: {len(text) / 1000:.1f} kB")
