"""A second model for tests, made of the bundled one: the same weights, of which only the first layers are computed."""

import json
from pathlib import Path

from aviary.embedder import model_folder


def cut_model(folder: Path, layers: int = 2) -> Path:
    """A folder with a model of so many layers; the files that stay the same are links."""
    folder.mkdir(parents=True)
    bundled = model_folder()
    for name in ("model.safetensors", "tokenizer.json", "sentence_bert_config.json", "1_Pooling"):
        (folder / name).symlink_to(bundled / name)
    config = json.loads((bundled / "config.json").read_text()) | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
